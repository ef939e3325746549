"""Runs a function in several processes that know of each other, and gives what each returned."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing


def in_processes(count: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Call ``function(rank, *args)`` in so many new processes, joined by gloo; what they return, in order of rank.

    An error in one of them is raised here, with its traceback.
    """
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(
            _one, (count, Path(folder), function, args), nprocs=count, start_method="spawn"
        )
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(count)]


def in_lightning(rank: int, count: int) -> None:
    """Let a Trainer in this process know that `in_processes` has started it beside others."""
    os.environ.update(
        TORCHELASTIC_RUN_ID="tests",
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(count),
        LOCAL_WORLD_SIZE=str(count),
        GROUP_RANK="0",
        MASTER_ADDR="localhost",
        MASTER_PORT="0",
    )


def _one(rank: int, count: int, folder: Path, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    try:
        torch.save(function(rank, *args), folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def message_of(function: Callable[[], Any]) -> str:
    """What an error says, or nothing."""
    try:
        function()
    except (RuntimeError, ValueError) as error:
        return str(error)
    return ""
