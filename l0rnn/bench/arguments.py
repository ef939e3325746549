"""What a benchmark is asked for, checked before anything is changed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn.parameter import is_lazy


def check_numbers(grid: Sequence[tuple[int, int]], threads: Sequence[int], *, seconds: float, rounds: int) -> None:
    """Raises ValueError for numbers that are missing or ≤ 0."""
    if not grid or any(len(size) != 2 or min(size) <= 0 for size in grid):
        raise ValueError(f"`grid` must hold pairs (batch, steps), both > 0, got {grid}; for example [(1, 1), (10, 30)]")
    if not threads or min(threads) <= 0:
        raise ValueError(f"`threads` must hold thread counts > 0, got {threads}; for example [1, {os.cpu_count()}]")
    for name, value in {"seconds": seconds, "rounds": rounds}.items():
        if not value > 0:
            raise ValueError(f"`{name}` must be > 0, got {value}")


def checked_device(device: str | torch.device) -> torch.device:
    """The device, with its number if it is a GPU; raises ValueError if it is not there."""
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"`device` must be 'cpu' or 'cuda', got {device!r}") from error
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"`device` must be 'cpu' or 'cuda', got {str(device)!r}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found.type == "cuda" and (found.index or 0) >= count:
        raise ValueError(
            f"`device` must be one that torch finds here, got {str(device)!r} with {count} CUDA GPUs; use 'cpu'"
        )
    if found.type == "cuda" and found.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return found


def check_networks(networks: Mapping[str, nn.Module], device: torch.device) -> None:
    """Raises ValueError if there are no networks, or one is elsewhere or has no weights yet."""
    if not networks:
        raise ValueError("`networks` must hold at least one network, got none; give a dict of name → module")
    for name, network in networks.items():
        for tensor in (*network.parameters(), *network.buffers()):
            if is_lazy(tensor):
                raise ValueError(f"`networks` must have their weights, but {name!r} is lazy; call it once on an input")
            if tensor.device != device:
                raise ValueError(
                    f"`networks` must be on `device`, {device}, but {name!r} has weights on {tensor.device}; "
                    f"move it with `.to({str(device)!r})`"
                )
