"""A vector of hard-concrete gates, one per unit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from l0rnn.hard_concrete import HardConcrete


class Gates(nn.Module):
    """One trainable hard-concrete gate per unit.

    `draw` makes one vector of gates and keeps it as `value` until the next draw, so that everything that reads these
    units in one forward pass sees the same gates: random in training, deterministic in evaluation and once frozen.

    Args:
        units: number of gates, > 0.
        open_probability: initial P(gate ≠ 0), in [0, 1]. 1 means gates that are exactly 1 and stay so.
        distribution: the hard concrete distribution; its defaults are the paper's.
        device: device of the parameter.
        dtype: dtype of the parameter.

    Raises:
        ValueError: if ``units`` or ``open_probability`` is outside its range.

    Example:
        >>> gates = Gates(3, open_probability=1.0)
        >>> gates.draw()
        tensor([1., 1., 1.], grad_fn=<ClampBackward1>)
        >>> gates.keep()
        tensor([True, True, True])

    Reference:
        Wen et al., Structured Pruning of Recurrent Neural Networks through Neuron Selection (2019), arXiv 1906.06847.
    """

    frozen: Tensor
    fixed: Tensor

    def __init__(
        self,
        units: int,
        *,
        open_probability: float = 0.93,
        distribution: HardConcrete | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if units <= 0:
            raise ValueError(f"`units` must be > 0, got {units}")
        if not 0 <= open_probability <= 1:
            raise ValueError(f"`open_probability` must be in [0, 1], got {open_probability}")
        self.units = units
        self.distribution = distribution or HardConcrete()
        start = self._start(open_probability)
        self.log_alpha = nn.Parameter(torch.full((units,), start, device=device, dtype=dtype))
        self.register_buffer("frozen", torch.tensor(False, device=device))
        self.register_buffer("fixed", torch.zeros(units, device=device, dtype=dtype))
        self._is_frozen = False  # the buffer's value on the host, so that a forward pass never waits for the device
        self._value: Tensor | None = None

    def _start(self, open_probability: float) -> float:
        """The ``log_alpha`` of a P(gate ≠ 0), as a number, on the CPU whatever device torch makes tensors on."""
        return self.distribution.log_alpha(torch.tensor(open_probability, dtype=torch.float64, device="cpu")).item()

    def draw(self) -> Tensor:
        """Draw the gates of one forward pass, keep them as `value`, and return them: `(unit,)`."""
        if self._is_frozen:
            self._value = self.fixed
        elif self.training:
            self._value = self.distribution.sample(self.log_alpha)
        else:
            self._value = self.deterministic()
        return self._value

    @property
    def value(self) -> Tensor:
        """The gates last drawn, `(unit,)`; drawn now if there are none yet."""
        return self.draw() if self._value is None else self._value

    def forget(self) -> None:
        """Let go of the gates last drawn, so that the next to read `value` draws afresh."""
        self._value = None

    def deterministic(self) -> Tensor:
        """The gates of evaluation, `(unit,)`: the ones that surgery folds into the weights."""
        return self.fixed if self._is_frozen else self.distribution.deterministic(self.log_alpha)

    def open_probability(self) -> Tensor:
        """P(gate ≠ 0) of each unit, `(unit,)`."""
        return self.distribution.open_probability(self.log_alpha)

    def keep(self) -> Tensor:
        """Which units survive, bool `(unit,)`: those whose deterministic gate is not 0."""
        return self.deterministic().detach() > 0

    @property
    def is_frozen(self) -> bool:
        """Whether the gates are fixed."""
        return self._is_frozen

    @torch.no_grad()
    def freeze_(self, keep: Tensor | None = None) -> None:
        """Fix the gates from now on, in training too; they get no gradient any more.

        A unit that is kept gets the mean of its gate while it is open, E[gate] / P(gate ≠ 0); the others get 0. The
        deterministic gate would not do: for a unit that is open every other time it is close to 0.

        Args:
            keep: bool `(unit,)`, the units that stay open; those whose deterministic gate is not 0 if None.
        """
        keep = self.keep() if keep is None else keep.to(self.log_alpha.device)
        while_open = (self.distribution.mean(self.log_alpha) / self.open_probability()).clamp(0, 1)
        self.fixed.copy_(torch.where(keep, while_open, 0.0))
        self.frozen.fill_(True)
        self._is_frozen = True
        self.log_alpha.requires_grad_(False)
        self.log_alpha.grad = None  # a gradient of zeros would let an optimiser's momentum go on
        self._value = None

    @torch.no_grad()
    def thaw_(self, open_probability: float) -> None:
        """Let the gates learn again, from a P(gate ≠ 0)."""
        self.log_alpha.fill_(self._start(open_probability))
        self.fixed.zero_()
        self.frozen.fill_(False)
        self._is_frozen = False
        self.log_alpha.requires_grad_(True)
        self._value = None

    def extra_repr(self) -> str:
        """The number of units, for `print`."""
        return f"{self.units}"

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._is_frozen = bool(self.frozen)
        self.log_alpha.requires_grad_(not self._is_frozen)
        self._value = None

    def __getstate__(self) -> dict[str, object]:
        # a drawn value hangs on an autograd graph, which neither copy nor pickle can take along
        return {**self.__dict__, "_value": None}


def draw_together(gates: Sequence[Gates]) -> None:
    """`draw` of all of them, by one sample for those that are random and alike.

    Example:
        >>> few, many = Gates(1, open_probability=1.0), Gates(2, open_probability=1.0)
        >>> draw_together([few, many])
        >>> few.value.tolist(), many.value.tolist()
        ([1.0], [1.0, 1.0])
    """
    alike: dict[object, list[Gates]] = {}
    for one in gates:
        if one.training and not one.is_frozen:
            alike.setdefault((one.distribution, one.log_alpha.dtype, one.log_alpha.device), []).append(one)
        else:
            one.draw()
    for group in alike.values():
        values = group[0].distribution.sample(torch.cat([one.log_alpha for one in group]))
        for one, value in zip(group, values.split([one.units for one in group]), strict=True):
            one._value = value
