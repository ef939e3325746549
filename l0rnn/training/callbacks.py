"""Lightning callbacks that suit pruning."""

from __future__ import annotations

import copy
import json
import logging
import signal
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn

from l0rnn.arguments import checked
from l0rnn.bench.measure import benchmark
from l0rnn.bench.report import BenchReport
from l0rnn.gates.network import ungate_network_
from l0rnn.methods.method import Method
from l0rnn.methods.units import UnitMethod
from l0rnn.report import MOST_POINTS, History, write_training_report
from l0rnn.surgery.shrink import Surgery, operate
from l0rnn.training.resuming import Paused

log = logging.getLogger(__name__)


@checked
class ScaleDropout(Callback):
    """Lets dropout fall with the network: from its own rate when dense to ``final`` when nothing is left.

    Dropout that suits the big network starves the small one that is left, so the rate follows the density:
    ``p = final + (initial - final) * density``. It acts on every nn.Dropout and on the dropout between the layers of
    recurrent modules, and needs a method that reports a density.

    Args:
        final: dropout probability as the density goes to 0, in [0, 1).
        every: steps between two looks at the density, which moves slowly and takes a while to count.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> ScaleDropout(0.2).rate(initial=0.5, density=0.0)
        0.2
    """

    def __init__(self, final: float, every: int = 10) -> None:
        if not 0 <= final < 1:
            raise ValueError(f"`final` must be in [0, 1), got {final}")
        if every < 1:
            raise ValueError(f"`every` must be at least 1, got {every}")
        self.final = final
        self.every = every
        self._initial: dict[str, float] = {}
        self._density: float | None = None  # when last looked at
        self._is_set = False  # by this object: a resumed run has to set the rates at once
        self._is_restored = False  # from a checkpoint, for the training that follows
        self._scaled: weakref.ref[LightningModule] | None = None  # the module whose rates it has changed

    def rate(self, *, initial: float, density: float) -> float:
        """Dropout probability at a density, never above the initial one."""
        return min(initial, self.final + (initial - self.final) * density)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the rates the network was built with, unless a checkpoint told them."""
        is_known = self._is_restored or (self._scaled is not None and self._scaled() is pl_module)
        if not self._is_restored:
            self._density, self._is_set = None, False
        self._is_restored, self._scaled = False, weakref.ref(pl_module)
        if not is_known:
            self._initial = {name: _dropout(module) for name, module in _with_dropout(pl_module)}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the rates, if it is time."""
        if self._density is None or trainer.global_step % self.every == 0:
            self.scale_(pl_module)
        elif not self._is_set:
            self._set(pl_module)

    def scale_(self, module: Any, *, look: bool = True) -> None:
        """Look at the density of a `PrunableModule`, unless told not to, and set the rates that go with it."""
        if look:
            self._density = module.method.figures().get("density")
        self._set(module)

    def _set(self, module: nn.Module) -> None:
        if self._density is None:
            return
        self._is_set = True
        for name, child in _with_dropout(module):
            _set_dropout(child, self.rate(initial=self._initial[name], density=self._density))

    def state_dict(self) -> dict[str, Any]:
        """The initial rates and the density last looked at, so that a resumed run knows them."""
        return {"initial": self._initial, "density": self._density}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the initial rates and the density."""
        self._is_restored = True
        self._initial = dict(state_dict["initial"])
        self._density = state_dict.get("density")


class WriteProgress(Callback):
    """Writes how far a training is to a small JSON file, for whoever watches several runs at once.

    The file holds ``step``, ``steps``, ``epoch``, ``steps_per_second`` and, where there is one, ``loss`` (nats per
    target), ``quality`` (the last figure of validation) and ``density``. It is replaced as a whole, so that a reader
    never sees half.

    Args:
        path: the file.
        every: seconds between two writes.
        quality: name of the logged figure of validation.

    Example:
        >>> import tempfile
        >>> WriteProgress(Path(tempfile.mkdtemp()) / "progress.json").every
        2.0
    """

    def __init__(self, path: str | Path, every: float = 2.0, quality: str = "valid/loss") -> None:
        self.path = Path(path)
        self.every = every
        self.quality = quality
        self._written = (float("-inf"), 0)  # when, and at which step

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write after the first step of every training."""
        self._written = (float("-inf"), trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Write, if it is time."""
        now, step = time.monotonic(), trainer.global_step
        if now - self._written[0] >= self.every and trainer.is_global_zero:
            rate = (step - self._written[1]) / (now - self._written[0])
            self._written = (now, step)
            figures = {
                "loss": trainer.callback_metrics.get("train/loss"),
                "quality": trainer.callback_metrics.get(self.quality),
                "density": _density(trainer, pl_module),
            }
            known = {name: float(figure) for name, figure in figures.items() if figure is not None}
            place = {"step": step, "steps": int(trainer.estimated_stepping_batches), "epoch": trainer.current_epoch}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            aside = self.path.with_suffix(".new")
            aside.write_text(json.dumps({**place, "steps_per_second": rate, **known}))
            aside.replace(self.path)


@checked
class WriteReport(Callback):
    """Ends a training in one HTML page: units, density, price and quality over time, what was not pruned, the proof.

    Args:
        path: of the page; ``report.html`` among the Trainer's logs if None.
        seconds: of measuring each latency; 0 for no latencies.

    Raises:
        ValueError: if ``seconds`` is negative.

    Example:
        >>> WriteReport("out/report.html").path.name
        'report.html'
    """

    def __init__(self, path: str | Path | None = None, *, seconds: float = 0.2) -> None:
        if not seconds >= 0:
            raise ValueError(f"`seconds` must be >= 0, got {seconds}")
        self.path = None if path is None else Path(path)
        self.seconds = seconds
        self.history = History()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start a new history, unless the training goes on."""
        if trainer.global_step == 0:
            self.history = History()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Look at the figures, a few hundred times in a training."""
        every = max(1, int(trainer.estimated_stepping_batches) // MOST_POINTS)
        if trainer.global_step % every == 0:
            losses = {name: value for name, value in trainer.callback_metrics.items() if name == "train/loss"}
            figures: Any = pl_module.method.figures()  # type: ignore[union-attr, operator]
            self.history.record(trainer.global_step, {**figures, **losses})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the figures of a validation."""
        if not trainer.sanity_checking:
            found = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("valid/")}
            self.history.record(trainer.global_step, found)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shrink, measure and write."""
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        module: Any = pl_module
        self.history.record(trainer.global_step, module.method.figures())
        path = self.path or Path(trainer.log_dir or trainer.default_root_dir) / "report.html"
        with torch.random.fork_rng():  # whatever follows the training draws what it would have drawn
            surgery = _operated(module)
            bench = self._latencies(module, surgery)
        name = type(module).__name__
        title = f"{name} under {type(module.method).__name__}"
        write_training_report(path, self.history, title=title, surgery=surgery, bench=bench)
        log.info("what the training did, as a page: %s", path)

    def _latencies(self, module: Any, surgery: Surgery | str) -> BenchReport | str:
        if isinstance(surgery, str) or self.seconds == 0:
            return "nothing was shrunk" if self.seconds else "none was asked for"
        before = ungate_network_(copy.deepcopy(module.network)).eval()
        networks = {"before the cut": before, "shrunk": copy.deepcopy(surgery.network).eval()}
        try:
            return benchmark(
                networks,
                module.inputs_of_size,
                grid=((1, 1), (1, 35)),
                device=next(module.network.parameters()).device,
                seconds=self.seconds,
            )
        except (ValueError, RuntimeError) as error:
            return f"the networks cannot be timed at other sizes: {error}"

    def state_dict(self) -> dict[str, Any]:
        """The history."""
        return {"rows": self.history.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.history = History(dict(state_dict["rows"]))


def _operated(module: Any) -> Surgery | str:
    """The shrunken network of a module, or why there is none."""
    if not isinstance(module.method, UnitMethod):
        return f"{type(module.method).__name__} closes no units"
    if not module.method.has_chosen:
        return "the method had not chosen what to keep when the training ended"
    try:
        return operate(module)
    except (ValueError, RuntimeError) as error:
        return str(error)


class PauseOnSignal(Callback):
    """Writes a checkpoint after the current step and ends the training when asked to: by SIGTERM, SIGINT or `ask`.

    It has to be the last of the Trainer's callbacks, so that the others have done their part of the step. The end of
    the training has a checkpoint too, so that what comes after it can be repeated without training again.

    Args:
        checkpoint: the file, replaced as a whole.

    Example:
        >>> PauseOnSignal("last.ckpt").is_asked
        False
    """

    def __init__(self, checkpoint: str | Path) -> None:
        self.checkpoint = Path(checkpoint)
        self.is_asked = False
        self._before: dict[signal.Signals, Any] = {}

    def ask(self, *signal_and_frame: Any) -> None:
        """Let the training pause after its current step."""
        self.is_asked = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals; here and not earlier, since Lightning takes them over too."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self.ask) for number in (signal.SIGTERM, signal.SIGINT)}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Raise `Paused` after writing the checkpoint, if asked to, and not between two gradients that are added up."""
        # nor after the last step of an epoch: validation, scheduler and the new state of the next one belong to it
        is_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and not trainer.is_last_batch
        if trainer.world_size > 1 and is_step:  # any of the processes may be the one that was asked
            self.is_asked = trainer.strategy.reduce_boolean_decision(self.is_asked, all=False)
        if self.is_asked and is_step:
            self._save(trainer)
            raise Paused(f"paused after step {trainer.global_step}; {self.checkpoint} goes on from there")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last checkpoint."""
        self._give_back()
        self._save(trainer)

    def on_exception(self, *args: Any) -> None:
        """Give the signals back."""
        self._give_back()

    def _give_back(self) -> None:
        self.is_asked = False  # the next training has not been asked
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _save(self, trainer: Trainer) -> None:
        aside = self.checkpoint.with_name(f"{self.checkpoint.name}.new")
        trainer.save_checkpoint(aside)
        if trainer.is_global_zero:
            aside.replace(self.checkpoint)


def _density(trainer: Trainer, module: LightningModule) -> float | None:
    """Of a `PrunableModule`, or of what a `Prune` prunes."""
    owners = (module, *trainer.callbacks)  # type: ignore[attr-defined]
    methods = [owner.__dict__.get("method") or getattr(owner, "_modules", {}).get("method") for owner in owners]
    figures = [method.figures() for method in methods if isinstance(method, Method)]
    return next((found["density"] for found in figures if "density" in found), None)


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
