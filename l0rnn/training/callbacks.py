"""Lightning callbacks that suit pruning."""

from __future__ import annotations

import json
import time
from pathlib import Path
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


class TrainingTime(Callback):
    """Counts the seconds of a training over all resumes: by the clock, and of this process on all its cores.

    Trainings side by side slow each other down by the clock; the processor's seconds are nearer to what each costs.

    Example:
        >>> TrainingTime().seconds()
        {'wall': 0.0, 'processor': 0.0}
    """

    def __init__(self) -> None:
        self._before = {"wall": 0.0, "processor": 0.0}
        self._started: dict[str, float] | None = None

    def seconds(self) -> dict[str, float]:
        """Seconds so far."""
        now = _clocks()
        running = self._started or now
        return {name: self._before[name] + now[name] - running[name] for name in now}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting."""
        self._started = _clocks()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop counting."""
        self._before, self._started = self.seconds(), None

    def state_dict(self) -> dict[str, Any]:
        """The seconds so far."""
        return self.seconds()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._before = dict(state_dict)


class WriteProgress(Callback):
    """Writes how far a training is to a small JSON file, for whoever watches several runs at once.

    The file holds ``step``, ``steps`` and ``epoch``, and is replaced as a whole, so that a reader never sees half.

    Args:
        path: the file.
        every: seconds between two writes.

    Example:
        >>> import tempfile
        >>> WriteProgress(Path(tempfile.mkdtemp()) / "progress.json").every
        2.0
    """

    def __init__(self, path: str | Path, every: float = 2.0) -> None:
        self.path = Path(path)
        self.every = every
        self._written = float("-inf")

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Write, if it is time."""
        if time.monotonic() - self._written >= self.every:
            self._written = time.monotonic()
            steps = int(trainer.estimated_stepping_batches)
            progress = {"step": trainer.global_step, "steps": steps, "epoch": trainer.current_epoch}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            aside = self.path.with_suffix(".new")
            aside.write_text(json.dumps(progress))
            aside.replace(self.path)


def _clocks() -> dict[str, float]:
    return {"wall": time.perf_counter(), "processor": time.process_time()}


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
