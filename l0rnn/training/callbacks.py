"""Lightning callbacks that suit pruning."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import nn


class ScaleDropout(Callback):
    """Lets dropout fall with the network: from its own rate when dense to ``final`` when nothing is left.

    Dropout that suits the big network starves the small one that is left, so the rate follows the density:
    ``p = final + (initial - final) * density``. It acts on every nn.Dropout and on the dropout between the layers of
    recurrent modules, after each training batch, and needs a method that reports a density.

    Args:
        final: dropout probability as the density goes to 0, in [0, 1).

    Raises:
        ValueError: if ``final`` is out of range.

    Example:
        >>> ScaleDropout(0.2).rate(initial=0.5, density=0.0)
        0.2
    """

    def __init__(self, final: float) -> None:
        if not 0 <= final < 1:
            raise ValueError(f"`final` must be in [0, 1), got {final}")
        self.final = final
        self._initial: dict[str, float] = {}

    def rate(self, *, initial: float, density: float) -> float:
        """Dropout probability at a density, never above the initial one."""
        return min(initial, self.final + (initial - self.final) * density)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the rates the network was built with, unless a checkpoint told them."""
        if not self._initial:
            self._initial = {name: _dropout(module) for name, module in _with_dropout(pl_module)}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the rates for this batch."""
        density = pl_module.method.figures().get("density")  # type: ignore[union-attr, operator]
        if density is None:
            return
        for name, module in _with_dropout(pl_module):
            _set_dropout(module, self.rate(initial=self._initial[name], density=density))

    def state_dict(self) -> dict[str, Any]:
        """The initial rates, so that a resumed run knows them."""
        return {"initial": self._initial}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the initial rates."""
        self._initial = dict(state_dict["initial"])


def _with_dropout(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [
        (name, child)
        for name, child in module.named_modules()
        if isinstance(child, nn.Dropout) or (isinstance(child, nn.RNNBase) and child.num_layers > 1)
    ]


def _dropout(module: nn.Module) -> float:
    return float(module.p if isinstance(module, nn.Dropout) else module.dropout)  # type: ignore[arg-type]


def _set_dropout(module: nn.Module, rate: float) -> None:
    setattr(module, "p" if isinstance(module, nn.Dropout) else "dropout", rate)
