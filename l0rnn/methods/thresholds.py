"""Rules that say how much is pruned when, and which weights that are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from l0rnn.extras import require
from l0rnn.foreign_text import printable

Scope = Literal["matrix", "network"]


def start_slope(q: float, start: float, ramp: float, end: float, freq: float) -> float:
    """First slope of `two_slope_threshold`, with which a second slope of 1.5 times as much ends at q.

    ``theta = 2 * q * freq / (2 * (ramp - start) + 3 * (end - ramp))``

    Args:
        q: threshold to reach, in units of the weights.
        start: step at which pruning starts.
        ramp: step from which the second slope holds.
        end: step at which pruning ends, after ``start``.
        freq: steps between two updates of the threshold.

    Returns:
        How much the threshold rises from one update to the next, before the ramp.

    Example:
        >>> start_slope(0.35, start=0, ramp=200, end=300, freq=100)
        0.1

    Reference:
        Narang et al., Exploring Sparsity in Recurrent Neural Networks (2017), arXiv 1704.05119, equation 1.
    """
    return 2 * q * freq / (2 * (ramp - start) + 3 * (end - ramp))


def two_slope_threshold(
    step: float, start: float, ramp: float, end: float, theta: float, phi: float, freq: float
) -> float:
    """Threshold that rises from 0, with one slope up to the ramp and another one from there to the end.

    It is ``theta * (step - start) / freq`` up to the ramp and ``(theta * (ramp - start) + phi * (step - ramp)) / freq``
    after it: 0 until the start, and held after the end.

    Args:
        step: optimiser steps done.
        start: step at which pruning starts.
        ramp: step from which the second slope holds.
        end: step at which pruning ends.
        theta: rise per ``freq`` steps before the ramp; see `start_slope`.
        phi: rise per ``freq`` steps after it.
        freq: steps between two updates of the threshold.

    Example:
        >>> [round(two_slope_threshold(step, 0, 200, 300, 0.1, 0.15, 100), 2) for step in (0, 100, 200, 300, 400)]
        [0.0, 0.1, 0.2, 0.35, 0.35]

    Reference:
        Narang et al. 2017 (arXiv 1704.05119), Algorithm 1, where iterations count from 0: iteration i is step i + 1
        here. From the ramp on, Algorithm 1 adds 1 in both terms, and so is larger by theta / freq; left out here, the
        threshold has no jump and ends exactly at the q of equation 1.
    """
    step = min(step, end)
    rise = theta * (min(step, ramp) - start) + phi * max(0.0, step - ramp)
    return rise / freq if step > start else 0.0


def magnitude_quantile(weight: Tensor, density: float) -> float:
    """Absolute value that a fraction ``density`` of the weights reach: the 90th percentile for a density of 0.1.

    Args:
        weight: any shape.
        density: fraction of the weights at or above the result, in (0, 1], up to rounding to whole weights.

    Example:
        >>> magnitude_quantile(torch.tensor([[1.0, -4.0], [2.0, -3.0]]), 0.5)
        3.0

    Reference:
        Narang et al. 2017 (arXiv 1704.05119): q is the 90th percentile of a trained dense model's absolute weights.
    """
    below = min(round((1 - density) * weight.numel()), weight.numel() - 1)
    return float(weight.detach().double().abs().flatten().kthvalue(below + 1).values)


def largest_within(
    scores: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    sizes: Mapping[str, Tensor],
    density: float,
    scope: Scope = "matrix",
) -> dict[str, Tensor]:
    """The groups of weights with the largest scores, as many as fit into a density, at least one.

    Args:
        scores: matrix → score of each group.
        kept: matrix → whether a group is still there, bool; the others are never chosen.
        sizes: matrix → number of weights of each group, int64.
        density: fraction of all weights that may be kept.
        scope: whether to choose for each ``"matrix"`` by itself or over the whole ``"network"``.

    Returns:
        Matrix → which groups are chosen, bool. The first that does not fit, and all that come after it, are not.

    Example:
        >>> scores = {"a": torch.tensor([1.0, 4.0]), "b": torch.tensor([3.0, 2.0])}
        >>> whole, ones = (
        ...     {name: torch.ones(2).bool() for name in scores},
        ...     {name: torch.ones(2).long() for name in scores},
        ... )
        >>> largest_within(scores, whole, ones, 0.75, "network")
        {'a': tensor([False,  True]), 'b': tensor([True, True])}
    """
    parts = [list(scores)] if scope == "network" else [[name] for name in scores]
    chosen: dict[str, Tensor] = {}
    for names in parts:
        there = torch.cat([kept[name].flatten() for name in names])
        ranked = torch.cat([scores[name].flatten() for name in names]).masked_fill(~there, -math.inf)
        size = torch.cat([sizes[name].flatten() for name in names])
        limit = math.floor(round(density * int(size.sum()), 6))
        if int(size.min()) == int(size.max()):  # as for single weights, where a whole sort takes several times as long
            best = ranked.topk(max(1, limit // int(size[0])), sorted=False).indices
        else:
            order = ranked.argsort(descending=True, stable=True)
            best = order[: max(1, int((size[order].cumsum(0) <= limit).sum()))]
        first = torch.zeros_like(there).index_fill_(0, best, True) & there
        counts = [scores[name].numel() for name in names]
        for name, part in zip(names, first.split(counts), strict=True):
            chosen[name] = part.view(scores[name].shape)
    return chosen


def step_of(fraction: float, total_steps: int) -> int:
    """The first optimiser step, counted from 1, at which a fraction of the training is done.

    Example:
        >>> [step_of(fraction, 10) for fraction in (0.0, 0.3, 0.31, 1.0)]
        [1, 3, 4, 10]
    """
    return max(1, math.ceil(round(fraction * total_steps, 6)))  # rounded: 0.07 * 100 is a little more than 7


def check_density(density: float | None) -> None:
    """Raise ValueError unless a density is in (0, 1], or None.

    Example:
        >>> check_density(0.1)
    """
    if density is not None and not 0 < density <= 1:
        raise ValueError(f"`density` must be in (0, 1], the fraction of weights to keep, got {density}")


def read_dense(path: str | Path, matrices: Mapping[str, tuple[tuple[str, ...], torch.Size]]) -> dict[str, Tensor]:
    """Read some matrices of a trained dense model from a safetensors file; nothing is unpickled.

    Args:
        path: a directory with ``model.safetensors``, as `l0rnn.export.save_dense` writes it, or such a file.
        matrices: name → the names it may have in the file, more than one where a weight is tied, and its shape.

    Returns:
        Name → matrix.

    Raises:
        FileNotFoundError: if there is no such file.
        ModuleNotFoundError: if the package safetensors is not installed.
        ValueError: if it is not a safetensors file, or a matrix is missing in it or has another shape.

    Example:
        >>> import tempfile
        >>> from safetensors.torch import save_file
        >>> path = tempfile.mkdtemp() + "/model.safetensors"
        >>> save_file({"decoder.weight": torch.ones(3, 2)}, path)
        >>> read_dense(path, {"decoder.weight": (("decoder.weight",), torch.Size([3, 2]))})["decoder.weight"].sum()
        tensor(6.)
    """
    file = Path(path) / "model.safetensors" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"`dense` must be a directory that save_dense wrote, or a .safetensors file; {file} does not exist"
        )
    safetensors = require("safetensors", "export")
    found: dict[str, Tensor] = {}
    try:
        with safetensors.safe_open(file, framework="pt") as stored:
            present = set(stored.keys())
            for name, (aliases, shape) in matrices.items():
                there = next((alias for alias in aliases if alias in present), None)
                if there is None:
                    raise ValueError(f"`dense` must be a model of the network's layers; {file} has no {name!r}")
                size = tuple(stored.get_slice(there).get_shape())
                if size != tuple(shape):
                    raise ValueError(
                        f"`dense` must be a model of the network's size; {name!r} is {size} in {file} and "
                        f"{tuple(shape)} in the network"
                    )
                found[name] = stored.get_tensor(there)
    except safetensors.SafetensorError as error:
        raise ValueError(f"`dense` must be a safetensors file, {file} is none: {printable(error)}") from error
    return found
