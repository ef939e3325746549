"""Checkpoints that are written as a whole, on whatever file system they are."""

from __future__ import annotations

import glob
import os
import secrets
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

_ASIDE = ".partial"


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint aside, in the folder where it shall be, and moves it to its place when it is on the disk.

    Lightning writes it to the folder for temporary files and moves it from there: between two file systems that is
    copying, and a kill leaves half of it under the name of the whole. What an earlier kill left aside is cleared away.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "last.ckpt"
        >>> WholeCheckpoints().save_checkpoint({"step": 1}, path)
        >>> [found.name for found in path.parent.iterdir()], torch.load(path)
        (['last.ckpt'], {'step': 1})
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """See the class; paths of stores elsewhere (``s3://…``) are left to Lightning.

        Raises:
            OSError: if it cannot be written; it names the file, which is as it was before.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        for left in place.parent.glob(f".{glob.escape(place.name)}.*{_ASIDE}"):
            left.unlink(missing_ok=True)
        aside = place.with_name(f".{place.name}.{secrets.token_hex(4)}{_ASIDE}")
        try:
            with aside.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, place)
            _sync_folder(place.parent)
        except (OSError, RuntimeError) as error:  # torch says that the disk is full by the latter
            raise OSError(
                f"the checkpoint {place} could not be written, and is as it was before: {error}; look for the room "
                "that is left on its disk, and for the right to write there"
            ) from error
        finally:
            aside.unlink(missing_ok=True)


def write_whole_checkpoints_(trainer: Any) -> None:
    """Let a Trainer write its checkpoints so, unless it was given a way of its own."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpoints()


def _sync_folder(folder: Path) -> None:
    """Let the new name last through a failure of power, where folders can be synchronised."""
    if sys.platform == "win32":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
