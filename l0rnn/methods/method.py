"""The one interface of all pruning methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.tracing.units import Units


class Method(nn.Module, ABC):
    """Prunes a network while somebody else trains it.

    The training loop calls, in this order: `attach` once, before the optimiser is made; `begin` once, when the number
    of steps is known; then `penalty`, added to every loss, and `after_step` after every optimiser step. At the end
    surgery asks for `gates`; a method that leaves zeros in its weights instead says by `masks` where. By then the
    network itself must compute with them, since surgery proves the shrunken network equal to it. A method is a module,
    so all that it must remember across a checkpoint is a parameter or a buffer, and moves with the device.
    """

    total_steps: Tensor
    steps: Tensor
    chosen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total_steps", torch.tensor(0))
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("chosen", torch.tensor(False))
        # the buffers as the host knows them, so that it never waits for a device
        self._total, self._step, self._step_before, self._has_chosen = 0, 0, 0, False
        self._network: tuple[nn.Module, ...] = ()  # in a tuple: torch would register the network a second time

    @abstractmethod
    def attach(self, network: nn.Module, units: Units) -> None:
        """Make the network ready to be pruned, in place. Subclasses call this when nothing is left to be refused.

        Args:
            network: modules of plain torch.
            units: its units, as `l0rnn.tracing.trace` finds them.

        Raises:
            ValueError: if the method cannot do what it was asked with this network, or has one already.
        """
        self.refuse_second_network()
        self._network = (network,)

    def refuse_second_network(self) -> None:
        """Raise ValueError if the method prunes a network already: what it remembers is of that one."""
        if self._network:
            raise ValueError(
                f"`method` must be new, got a {type(self).__name__} that prunes a network already; make another one"
            )

    def begin(self, total_steps: int) -> None:
        """Learn how many optimiser steps the training has, which schedules are fractions of."""
        self.total_steps.fill_(total_steps)
        self._total = total_steps

    def start_afresh_(self) -> None:
        """Forget what a training before has chosen, and start as `attach` left it; called before `begin`.

        A training that goes on does not call it. Weights stay as they are, and units that were cut out stay out. A
        subclass that chooses in the course of a training calls this first and gives back what it had closed; one that
        chooses in `attach` has nothing to forget.
        """
        self.steps.zero_()
        self._step, self._step_before = 0, 0

    def forget_choice_(self) -> None:
        """Note that nothing is fixed any more; for `start_afresh_`."""
        self.chosen.fill_(False)
        self._has_chosen = False

    def penalty(self) -> Tensor:
        """What is added to the loss of this step: a scalar."""
        return torch.zeros((), device=self.steps.device)

    def after_step(self, step: int) -> None:
        """Follow an optimiser step, the ``step``-th, counted from 1. Subclasses call this first."""
        self.steps.fill_(step)
        self._step_before, self._step = self._step, step

    def follow_(self, progress: float) -> None:
        """The part of `after_step` that every step needs and that a device can do without its host.

        A loop that runs many steps on a GPU without looking at them has this in each of them, and calls `after_step`,
        which contains it, now and then.

        Args:
            progress: fraction of the optimiser steps done.
        """

    @abstractmethod
    def gates(self) -> dict[str, Tensor]:
        """Axis → gate of each unit, `(unit,)` in [0, 1]; 0 is closed, an absent axis is whole."""

    def masks(self) -> dict[str, Tensor]:
        """Parameter name → which of its entries are kept, bool, in its shape; an absent parameter is whole."""
        return {}

    def gate_parameters(self) -> Iterable[nn.Parameter]:
        """Parameters that belong to the method, to be trained with its own settings and no weight decay."""
        return ()

    def measured(self) -> list[Tensor]:
        """What each process measures on batches of its own, and goes on with as the mean of all; buffers."""
        return []

    def gate_learning_rate(self, steps: int) -> float:
        """Learning rate of Adam for `gate_parameters` in a training of so many steps, where nobody says another."""
        return 0.03

    def figures(self) -> dict[str, float]:
        """What to log: density, kept units per axis and the like."""
        return {}

    @property
    def has_chosen(self) -> bool:
        """Whether what is kept is fixed for the rest of the training."""
        return self._has_chosen

    def choose_(self) -> None:
        """Note that what is kept is fixed from now on."""
        self.chosen.fill_(True)
        self._has_chosen = True

    def comes_round(self, every: int, first: int = 0) -> bool:
        """Whether it is time for something that is done at the steps ``first``, ``first + every`` and so on.

        It is if the last step is one of these, or if one was passed since the call of `after_step` before. There is no
        step 0.

        Args:
            every: steps from one time to the next, > 0.
            first: step of the first time.
        """
        before, now = self._step_before - first, self._step - first
        return self._step > 0 and now >= 0 and (before < 0 or now // every > before // every)

    def steps_between(self, frequency: float) -> int:
        """The optimiser steps of a `frequency`, see `check_frequency`."""
        return max(1, round(frequency * self._total if frequency < 1 else frequency))

    @property
    def progress(self) -> float:
        """Fraction of the optimiser steps done."""
        return min(1.0, self._step / self._total) if self._total else 0.0

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._total, self._step, self._has_chosen = int(self.total_steps), int(self.steps), bool(self.chosen)
        self._step_before = self._step


def check_frequency(frequency: float) -> None:
    """Refuse what is neither a fraction of the training below 1, nor a whole number of optimiser steps.

    Raises:
        ValueError: and says what it may be.

    Example:
        >>> check_frequency(0.01), check_frequency(100)
        (None, None)
    """
    if not (0 < frequency < 1 or (frequency >= 1 and frequency == int(frequency))):
        raise ValueError(
            "`frequency` must be a fraction of the training in (0, 1), or a whole number of optimiser steps, got "
            f"{frequency}"
        )
