"""Train somebody's LightningModule under a pruning method in a folder, where it goes on if it was stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from l0rnn.methods.method import Method
from l0rnn.training.callbacks import PauseOnSignal, WriteProgress
from l0rnn.training.configuration import TrainingTime, last_checkpoint, training_seconds
from l0rnn.training.prune import Prune
from l0rnn.training.pruner import Pruner
from l0rnn.training.resuming import seed_all

QUIET = {"enable_progress_bar": False, "enable_model_summary": False}


class SeedEpochs(Callback):
    """Lets the random numbers of each epoch follow from the seed and its number, whatever was drawn before.

    So trainings of one seed see the same batches. One that goes on in the middle of an epoch draws their order again
    and passes over those that it had, where Lightning would begin with the first; `Prune` then goes on with the random
    numbers of the step.

    Args:
        seed: of the training.

    Example:
        >>> SeedEpochs(seed=1).state_dict()
        {'epoch': 0, 'batch': 0}
    """

    def __init__(self, seed: int) -> None:
        self.seed, self.epoch, self.batch = seed, 0, 0

    def follow_(self, data: LightningDataModule) -> None:
        """Seed the training loader of a data module, and let it pass over batches; not one of several loaders."""
        own = data.train_dataloader

        def train_dataloader() -> Any:
            loader = own()
            return loader if isinstance(loader, (Mapping, list, tuple)) else _Rest(loader, self)

        data.train_dataloader = train_dataloader

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The next epoch begins with its first batch."""
        self.epoch, self.batch = trainer.current_epoch + 1, 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batches of the epoch."""
        self.batch = batch_idx + 1

    def state_dict(self) -> dict[str, Any]:
        """Epoch and batch, which Lightning tells later than they are needed."""
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.epoch, self.batch = int(state_dict["epoch"]), int(state_dict["batch"])


class _Rest:
    """What an epoch has left of a loader."""

    def __init__(self, loader: Any, seeds: SeedEpochs) -> None:
        self._loader, self._seeds = loader, seeds

    def __iter__(self) -> Iterator[Any]:
        seed_all(self._seeds.seed, self._seeds.epoch, self._loader)
        batches = iter(self._loader)
        for _ in range(self._seeds.batch):
            next(batches)
        return batches

    def __len__(self) -> int:
        return len(self._loader)


@dataclass(frozen=True)
class Trained:
    """A training that has ended.

    Attributes:
        pruner: of the callback that pruned.
        figures: what the module logged in validation and test.
        told: epochs, steps, seconds and device.
    """

    pruner: Pruner
    figures: dict[str, float]
    told: dict[str, Any]


def train_in_folder(
    module: LightningModule,
    data: LightningDataModule,
    method: Method,
    folder: Path,
    *,
    seed: int,
    settings: Mapping[str, Any],
    quality: str,
    progress: Path,
) -> Trained:
    """Train, validate and test; a checkpoint is written after each epoch, and when a signal asks to stop.

    Args:
        module: what is trained.
        data: its data.
        method: the pruning method; `Dense` prunes nothing.
        folder: for logs and checkpoints.
        seed: of the order of batches, dropout and gates.
        settings: arguments of the Trainer.
        quality: name of the logged figure of validation, for the line of progress.
        progress: file for that, see `WriteProgress`.

    Raises:
        Paused: if the process was asked to stop.
        ValueError: if an argument of the Trainer is unknown, or nothing can be pruned.
    """
    prune, seeds = Prune(method), SeedEpochs(seed)
    seeds.follow_(data)
    checkpoints = folder / "checkpoints"
    callbacks = [
        ModelCheckpoint(dirpath=checkpoints, save_last=True, save_top_k=0, save_on_train_epoch_end=True),
        prune,
        seeds,
        TrainingTime(),
        WriteProgress(progress, quality=quality),
        PauseOnSignal(checkpoints / "last.ckpt"),  # the last, after all others have done their part
    ]
    trainer = _trainer(settings, callbacks=callbacks, logger=CSVLogger(folder, name="logs"), default_root_dir=folder)
    trainer.fit(module, datamodule=data, ckpt_path=last_checkpoint(folder))
    figures = dict(trainer.validate(module, datamodule=data, verbose=False)[0])
    if any("test_dataloader" in kind.__dict__ for kind in type(data).__mro__ if kind is not LightningDataModule):
        figures |= trainer.test(module, datamodule=data, verbose=False)[0]
    told = {
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "training_seconds": training_seconds(trainer),
        "device": trainer.strategy.root_device,
    }
    return Trained(_known(prune), {name: float(figure) for name, figure in figures.items()}, told)


def pruned_at_once(module: LightningModule, data: LightningDataModule, method: Method) -> tuple[nn.Module, Pruner]:
    """The module that a method leaves which closes units before the first step, after one step.

    Args:
        module: what is pruned.
        data: for a batch.
        method: such a method.
    """
    prune = Prune(method)
    limits = {"max_steps": 1, "limit_train_batches": 1, "limit_val_batches": 0, "accelerator": "cpu"}
    trainer = _trainer(limits, callbacks=[prune], logger=False, enable_checkpointing=False)
    trainer.fit(module, datamodule=data)
    return prune.shrink(loss=False), _known(prune)


def _trainer(settings: Mapping[str, Any], **own: Any) -> Trainer:
    try:
        return Trainer(**{**QUIET, "accelerator": "cpu", "devices": 1, **settings, **own})
    except TypeError as error:
        raise ValueError(f"`trainer` must have arguments of Lightning's Trainer: {error}") from error


def _known(prune: Prune) -> Pruner:
    if prune.pruner is None:
        raise RuntimeError("the training has not been set up")
    return prune.pruner
