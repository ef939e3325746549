"""Removes units that are closed for good while the training goes on, so that all the rest of a step shrinks too."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor, nn
from torch.optim import Optimizer

from l0rnn.arguments import checked
from l0rnn.cost.cost import CostOf
from l0rnn.gates.gates import Gates
from l0rnn.methods.units import unit_method
from l0rnn.surgery.removal import buildable
from l0rnn.surgery.states import check_optimizer_state
from l0rnn.tracing.units import Units
from l0rnn.training.module import PrunableModule
from l0rnn.training.optimizer import single_optimizers

log = logging.getLogger(__name__)


@checked
class RemoveClosedUnits(Callback):
    """Takes units that are closed for good out of the network during training.

    Closed units are not computed in any case; their weights are still there to be gathered from, to be read by
    embedding and decoder, and to be stepped by the optimiser. Every so many optimiser steps this callback looks for
    units that are closed and will stay so: those of frozen gates at once, those of gates that learn when P(gate ≠ 0)
    has been below ``threshold`` in ``patience`` looks in a row. When removing them is worth the while, they are cut
    out of weights, gates, optimiser state and carried state, in place. In evaluation the network computes what it did
    before; its densities stay fractions of the original network. A torch stack has one ``hidden_size``, so each of its
    layers and directions keeps as many units as the one with most; `shrink` makes them unequal in the end.

    A checkpoint knows which units are left, and a module built of the same arguments loads it.

    Args:
        threshold: largest P(gate ≠ 0) of a closed unit that will hardly open again, in (0, 1).
        patience: looks in a row at which a unit must be below it, ≥ 1.
        every: optimiser steps from one look to the next, ≥ 1. The first is before the first step.
        least: smallest share of the current parameters or multiply-adds that a removal must save, in [0, 1).

    Raises:
        ValueError: if an argument is out of range. When the training starts, if the method does not close units, the
            optimiser's state cannot be cut, or the training averages its weights.

    Example:
        >>> callback = RemoveClosedUnits(patience=2)
        >>> gates = Gates(3, open_probability=0.9)
        >>> gates.log_alpha.data[1] = -9.0
        >>> callback.look(gates), callback.look(gates)
        (tensor([True, True, True]), tensor([ True, False,  True]))

    Reference:
        Wen et al. 2019 (arXiv 1906.06847) for the gates, which there stay in the network until the end.
    """

    def __init__(self, threshold: float = 0.01, patience: int = 2, every: int = 200, least: float = 0.05) -> None:
        if not 0 < threshold < 1:
            raise ValueError(f"`threshold` must be in (0, 1), got {threshold}")
        for name, value in {"patience": patience, "every": every}.items():
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}")
        if not 0 <= least < 1:
            raise ValueError(f"`least` must be in [0, 1), got {least}")
        self.threshold, self.patience, self.every, self.least = threshold, patience, every, least
        self._looks: Tensor | None = None  # looks in a row at which each unit was closed for good
        self._looked_at = -1  # with accumulated gradients, several batches end at one step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a training from which no unit can be removed, before anything is changed."""
        if stage != "fit":
            return
        if not isinstance(pl_module, PrunableModule):
            raise ValueError(
                f"RemoveClosedUnits needs a PrunableModule, got {type(pl_module).__name__}; in another LightningModule "
                "closed units stay until `Prune.shrink` takes them out at the end"
            )
        unit_method(pl_module.method)
        averaging = [c for c in trainer.callbacks if isinstance(c, (StochasticWeightAveraging, WeightAveraging))]  # type: ignore[attr-defined]
        if averaging:
            raise ValueError(
                f"RemoveClosedUnits cannot be combined with {type(averaging[0]).__name__}, whose averages keep the "
                "shapes of the whole network; leave one of the two out"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse an optimiser whose state cannot be cut, as far as that shows before its first step."""
        kinds = {type(part) for optimizer in trainer.optimizers for part in single_optimizers(optimizer)}
        check_kind_of_optimizer(pl_module.make_optimizer, kinds)  # type: ignore[arg-type]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the looks of a training before."""
        if trainer.global_step == 0:
            self._looks, self._looked_at = None, -1

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove what a method has closed before the training; by now it has forgotten one before."""
        if trainer.global_step == 0:
            self.remove_(pl_module, trainer.optimizers, trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Look for closed units, if it is time."""
        if trainer.global_step % self.every == 0 and trainer.global_step > max(0, self._looked_at):
            self.remove_(pl_module, trainer.optimizers, trainer.global_step)

    def remove_(self, module: Any, optimizers: Iterable[Optimizer], step: int) -> bool:
        """Look for closed units, and remove them if that is worth the while.

        Args:
            module: the `PrunableModule`.
            optimizers: of its parameters.
            step: optimiser steps so far.

        Returns:
            Whether there are fewer units now.
        """
        self._looked_at = step
        units: Units = module.units
        keep = self.look(module.method.own_gates)
        for axis in units.axes.values():
            if not bool(keep[axis.units].any()):
                scores = module.method.own_gates.log_alpha.detach().cpu()
                keep[axis.start + scores[axis.units].argmax()] = True
        keep = buildable(module.network, units, keep)
        saved = share_saved(units, keep)
        if saved == 0 or saved < self.least:
            return False
        module.remove_units_(keep, optimizers)
        self._looks = None if self._looks is None else self._looks[keep]
        widths = [f"{name} {len(kept)} → {int(kept.sum())}" for name, kept in units.by_axis(keep).items()]
        log.info("step %d: removed closed units, %.0f %% saved: %s", step, 100 * saved, ", ".join(widths))
        return True

    @torch.no_grad()
    def look(self, gates: Gates) -> Tensor:
        """Count the looks at which each unit was closed for good, and say which units to keep, bool `(unit,)`."""
        score = (gates.deterministic() if gates.is_frozen else gates.open_probability()).cpu()
        closed = ~gates.keep().cpu() & (score < self.threshold)
        before = torch.zeros(gates.units, dtype=torch.int64) if self._looks is None else self._looks
        self._looks = torch.where(closed, self.patience if gates.is_frozen else before + 1, 0)
        return self._looks < self.patience

    def state_dict(self) -> dict[str, Any]:
        """The looks so far."""
        return {"looks": self._looks, "looked_at": self._looked_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting from there."""
        self._looks, self._looked_at = state_dict["looks"], state_dict["looked_at"]


def share_saved(units: Units, keep: Tensor) -> float:
    """Share of the parameters or of the multiply-adds that go with the other units, whichever is larger.

    Example:
        >>> from l0rnn.tracing import trace
        >>> units = trace(nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10)), torch.arange(10))
        >>> share_saved(units, torch.tensor([True, True, False, False]))
        0.5
    """
    own = CostOf(units)
    whole, left = own.kept(), own.kept(units.by_axis(keep))
    return max(1 - left[kind] / whole[kind] for kind in ("parameters", "multiply_adds"))


def check_kind_of_optimizer(make: Callable[[list[nn.Parameter]], Optimizer], kinds: set[type[Optimizer]]) -> None:
    """Take one step with a small parameter of its own, and refuse an optimiser whose state cannot be cut.

    Args:
        make: parameters → optimiser.
        kinds: the optimisers in use; another one tells nothing about them.

    Raises:
        ValueError: if its state cannot be cut along with the parameter.

    Example:
        >>> check_kind_of_optimizer(lambda parameters: torch.optim.SGD(parameters, lr=1.0), {torch.optim.SGD})
    """
    parameter = nn.Parameter(torch.zeros(2, 3))
    optimizer = make([parameter])
    owned = {id(own) for group in optimizer.param_groups for own in group["params"]}
    if type(optimizer) not in kinds or owned != {id(parameter)}:
        return

    def closure() -> float:
        parameter.grad = torch.ones_like(parameter)
        return 0.0

    optimizer.step(closure)
    check_optimizer_state(optimizer)
