"""Model, data and Trainer from a YAML configuration, by Lightning's own command line."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from l0rnn.training.callbacks import WriteReport
from l0rnn.training.module import PrunableModule


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
        """Start counting, from 0 unless a checkpoint told what there was before."""
        if trainer.global_step == 0:
            self._before = {"wall": 0.0, "processor": 0.0}
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


def lightning_cli(arguments: Sequence[str], *, run: bool = True) -> Any:
    """Lightning's own command line over any `PrunableModule` and any data module, by class path in the YAML.

    Args:
        arguments: as on the command line; without a subcommand if ``run`` is False.
        run: whether to run the subcommand, or only to build trainer, model and data.

    Raises:
        ModuleNotFoundError: if jsonargparse is not installed; it says which extra brings it.
    """
    try:
        from lightning.pytorch.cli import LightningCLI
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}; install the extra with: pip install 'l0rnn[cli]'") from error
    with warnings.catch_warnings():
        # Lightning suspects a mistake when it is given arguments while the process has its own, as a recipe has
        warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
        return LightningCLI(
            PrunableModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"callbacks": [WriteReport()]} if run else None,
            run=run,
            args=list(arguments),
        )


def build_run(
    config: Path, out: Path, *, extra: Sequence[str] = (), tensorboard: bool = False, report: bool = False
) -> tuple[Any, Any, Trainer]:
    """Model, data module and Trainer of a configuration, with logs and checkpoints in one folder.

    Args:
        config: YAML as ``l0rnn fit`` takes it.
        out: folder for logs (CSV) and ``checkpoints``; a `TrainingTime` among the callbacks counts the seconds.
        extra: further arguments of the command line, such as ``--trainer.max_epochs=2``.
        tensorboard: whether to write logs for TensorBoard too.
        report: whether the training ends in ``report.html``, a page about it.
    """
    cli = lightning_cli([f"--config={config}", f"--trainer.default_root_dir={out}", *extra], run=False)
    trainer: Trainer = cli.trainer
    trainer.loggers = [CSVLogger(out, name="logs"), *([TensorBoardLogger(out, name="logs")] if tensorboard else [])]
    for callback in trainer.checkpoint_callbacks:
        callback.dirpath = str(out / "checkpoints")  # type: ignore[attr-defined]
        # else a run that goes on in a folder that was moved, or from a pause, writes last-v1.ckpt beside last.ckpt
        callback._enable_version_counter = False  # type: ignore[attr-defined]
    trainer.callbacks.append(TrainingTime())  # type: ignore[attr-defined]
    if report:
        trainer.callbacks.append(WriteReport(out / "report.html"))  # type: ignore[attr-defined]
    return cli.model, cli.datamodule, trainer


def last_checkpoint(out: Path) -> str | None:
    """Path of the checkpoint that a run in this folder goes on from, or None."""
    last = out / "checkpoints" / "last.ckpt"
    return str(last) if last.exists() else None


def training_seconds(trainer: Trainer) -> dict[str, float]:
    """Seconds of training over all resumes, ``wall`` and ``processor``, of a Trainer that `build_run` made."""
    times = [callback for callback in trainer.callbacks if isinstance(callback, TrainingTime)]  # type: ignore[attr-defined]
    return {name: round(seconds, 1) for name, seconds in times[0].seconds().items()}


def _clocks() -> dict[str, float]:
    return {"wall": time.perf_counter(), "processor": time.process_time()}
