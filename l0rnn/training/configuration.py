"""Model, data and Trainer from a YAML configuration, by Lightning's own command line."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import LightningDataModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from l0rnn.training.callbacks import TrainingTime
from l0rnn.training.module import PrunableModule


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
            run=run,
            args=list(arguments),
        )


def build_run(
    config: Path, out: Path, *, extra: Sequence[str] = (), tensorboard: bool = False
) -> tuple[Any, Any, Trainer]:
    """Model, data module and Trainer of a configuration, with logs and checkpoints in one folder.

    Args:
        config: YAML as ``l0rnn fit`` takes it.
        out: folder for logs (CSV) and ``checkpoints``; a `TrainingTime` among the callbacks counts the seconds.
        extra: further arguments of the command line, such as ``--trainer.max_epochs=2``.
        tensorboard: whether to write logs for TensorBoard too.
    """
    cli = lightning_cli([f"--config={config}", f"--trainer.default_root_dir={out}", *extra], run=False)
    trainer: Trainer = cli.trainer
    trainer.loggers = [CSVLogger(out, name="logs"), *([TensorBoardLogger(out, name="logs")] if tensorboard else [])]
    for callback in trainer.checkpoint_callbacks:
        callback.dirpath = str(out / "checkpoints")  # type: ignore[attr-defined]
    trainer.callbacks.append(TrainingTime())  # type: ignore[attr-defined]
    return cli.model, cli.datamodule, trainer


def last_checkpoint(out: Path) -> str | None:
    """Path of the checkpoint that a run in this folder goes on from, or None."""
    last = out / "checkpoints" / "last.ckpt"
    return str(last) if last.exists() else None


def training_seconds(trainer: Trainer) -> dict[str, float]:
    """Seconds of training over all resumes, ``wall`` and ``processor``, of a Trainer that `build_run` made."""
    times = [callback for callback in trainer.callbacks if isinstance(callback, TrainingTime)]  # type: ignore[attr-defined]
    return {name: round(seconds, 1) for name, seconds in times[0].seconds().items()}
