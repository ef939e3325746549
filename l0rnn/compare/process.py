"""The process of one run: what it is told, which trainer it calls, and that nobody else works in its folder."""

from __future__ import annotations

import ctypes
import fcntl
import importlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from l0rnn.compare.engines.engine import PAUSED, RESULT
from l0rnn.compare.outcome import write_json
from l0rnn.training.resuming import Paused

ORDER, LOCK = "run.json", "lock"
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
WAIT = 30.0  # seconds that a run waits for another process that is just leaving its folder, as on a node that died


class FolderInUseError(RuntimeError):
    """Another process works in the folder."""


def write_order(
    folder: Path,
    trainer: str,
    config: Mapping[str, Any],
    *,
    quality: str = "",
    final: str = "",
    key: str = "",
    extra: Sequence[str] = (),
) -> None:
    """Say what the process of a run has to do.

    Args:
        folder: of the run.
        trainer: ``module:function`` that trains, with the arguments of `l0rnn.compare.task_run.train_run`.
        config: the whole configuration.
        quality: name of the figure of validation.
        final: name of the figure of the test.
        key: what identifies the configuration.
        extra: arguments that are the machine's and not the experiment's.
    """
    order = {"trainer": trainer, "quality": quality, "final": final, "key": key, "extra": list(extra)}
    write_json({**order, "config": dict(config)}, folder / ORDER)


def main(arguments: Sequence[str], wait: float = WAIT) -> int:
    """Train what a folder's order says; the exit status is `PAUSED` if told to stop.

    Args:
        arguments: the folder; and ``--with-parent`` to be asked to stop, too, when the process that started this dies.
        wait: seconds to wait for another process to leave it.
    """
    folder = Path(arguments[0])
    if "--with-parent" in arguments:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    order = json.loads((folder / ORDER).read_text(encoding="utf-8"))
    with locked(folder, wait=wait):
        if (folder / RESULT).is_file():  # by the process it has waited for
            return 0
        train = named(order.pop("trainer"))
        try:
            train(order.pop("config"), folder, **order)
        except Paused:
            return PAUSED
    return 0


def named(path: str) -> Callable[..., Any]:
    """What ``module:name`` names.

    Raises:
        ValueError: if there is nothing of that name.

    Example:
        >>> named("math:floor")(2.5)
        2
    """
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{path!r} must be `module:name` of something that can be imported: {error}") from error


@contextmanager
def locked(folder: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Inside the block no other process gets into such a block of the folder; the system frees it when this one dies.

    Args:
        folder: made if it is not there.
        wait: seconds to wait for another process.

    Raises:
        FolderInUseError: if another one is still there then; it says which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() >= deadline:
                    file.seek(0)
                    raise FolderInUseError(
                        f"{folder} is in use by {file.read().strip() or 'another process'}; wait for it, stop it, or "
                        "take another folder"
                    ) from error
                time.sleep(0.2)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
