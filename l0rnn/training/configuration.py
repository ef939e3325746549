"""Model, data and Trainer from a YAML configuration, by Lightning's own command line."""

from __future__ import annotations

import shlex
import sys
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


class Sitting(Callback):
    """What somebody before a terminal wants of a training: how long it still takes, and where it can go on.

    Attributes:
        checkpoint: path of the newest checkpoint when Ctrl-C ended the training, else None.

    Example:
        >>> Sitting().checkpoint is None
        True
    """

    def __init__(self) -> None:
        self.checkpoint: str | None = None
        self._began = (0.0, 0)  # clock and step

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from here: a training that goes on knows nothing of the speed before."""
        self._began = (time.perf_counter(), trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Show the minutes left in the progress bar."""
        done, steps = trainer.global_step - self._began[1], trainer.estimated_stepping_batches
        if done > 0 and steps != float("inf") and trainer.progress_bar_callback is not None:
            minutes = (time.perf_counter() - self._began[0]) / done * (steps - trainer.global_step) / 60
            pl_module.log("minutes left", round(minutes, 1), prog_bar=True, logger=False, batch_size=1)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Note the newest checkpoint, which a message may name."""
        paths = [
            Path(path)
            for callback in trainer.checkpoint_callbacks
            for path in (getattr(callback, "last_model_path", ""), getattr(callback, "best_model_path", ""))
            if path and Path(path).exists()
        ]
        self.checkpoint = str(max(paths, key=lambda path: path.stat().st_mtime)) if paths else None


def run_command(arguments: Sequence[str]) -> int:
    """A command of Lightning's from a terminal: 0, or 130 after Ctrl-C, with what to type to go on.

    Args:
        arguments: as on the command line, the subcommand first.
    """
    sitting = Sitting()
    try:
        lightning_cli(arguments, callbacks=[sitting])
    except BaseException as end:
        # Lightning ends the process after Ctrl-C, and torch makes an error of its own of one while a file is written
        reasons: list[BaseException | None] = [end]
        while reasons[-1] is not None:
            reasons.append(reasons[-1].__cause__ or reasons[-1].__context__)
        if not any(isinstance(reason, KeyboardInterrupt) for reason in reasons):
            raise
        command, checkpoint = ["l0rnn", *arguments], sitting.checkpoint
        command += [] if checkpoint is None else ["--ckpt_path", checkpoint]  # the last of several is what counts
        does = "to begin again" if checkpoint is None else "to go on from the last checkpoint"
        print(f"\nl0rnn {arguments[0]}: stopped; {does}: {shlex.join(command)}", file=sys.stderr)
        return 130
    return 0


def lightning_cli(arguments: Sequence[str], *, run: bool = True, callbacks: Sequence[Callback] = ()) -> Any:
    """Lightning's own command line over any `PrunableModule` and any data module, by class path in the YAML.

    Args:
        arguments: as on the command line; without a subcommand if ``run`` is False.
        run: whether to run the subcommand, or only to build trainer, model and data.
        callbacks: go to the Trainer beside those of the configuration.

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
            trainer_defaults={"callbacks": [WriteReport(), *callbacks]} if run else None,
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
