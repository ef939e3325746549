"""Prune the published network while it goes on learning, and cut out what is closed.

Its units are the frequencies of the spectrum, the channels of the convolutions and the units of the LSTM, all found by
l0rnn in a run of the network. A frequency is two rows of the spectrum's fixed basis and what the first convolution
reads of them, so it leaves as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from l0rnn import Budget, L0Gates, Pruner
from l0rnn.methods import Method, StructuredMagnitude
from recipes.vad.data import Streams
from recipes.vad.network import CHUNK, VoiceDetector, Widths, widths_of
from recipes.vad.onnx_file import multiply_adds
from recipes.vad.train import Course, teach
from recipes.vad.words import Split

MethodName = Literal["gates", "magnitude"]
METHODS: tuple[MethodName, ...] = get_args(MethodName)


def method_of(name: MethodName, density: float) -> Method:
    """A method that has a share of the multiply-adds left at the end.

    Args:
        name: ``gates``: a gate on every unit learns with the weights under a falling budget. They start open, since
            the published weights are good as they are. ``magnitude``: units with the smallest weights are closed.
        density: the share.
    """
    if name == "gates":
        objective = Budget(density, start=0.0, ramp=0.6, relative=False)
        return L0Gates(objective, open_probability=0.99, noise=True, repair=False, freeze=1.0)
    return StructuredMagnitude(density, start=0.0, end=1.0, frequency=25, repair=False)


def pruned(
    network: VoiceDetector,
    density: float,
    data: dict[Split, Streams],
    course: Course,
    *,
    out: Path,
    method: MethodName = "gates",
    bins: int | None = None,
) -> tuple[VoiceDetector, list[dict[str, float]]]:
    """A network with a share of the multiply-adds, and what was learned on the way.

    Args:
        network: the published one.
        density: share of the multiply-adds to keep.
        data: to learn from.
        course: how long and how fast.
        out: folder for what is needed to go on.
        method: see `method_of`.
        bins: frequencies to keep. They are chosen first, in a course of a third of the length, and stay. None: they are
            chosen with all else, for the price alone.

    Raises:
        ValueError: if ``bins`` is not fewer than the network has, or leaves nothing for the rest.
    """
    widths, history, fixed = widths_of(network), [], ()
    if bins is not None:
        share = _share_of_bins(widths, bins, density)
        first = replace(course, epochs=max(1, course.epochs // 3))
        fixed = ("spectrum.basis",)
        others = ("encoder.2", "encoder.4", "encoder.6", "lstm")  # the channels of encoder.0 are what encoder.2 reads
        network, history = _stage(network, share, data, first, out / "frequencies.pt", method, others)
    left = multiply_adds(widths_of(network)) / multiply_adds(widths)
    if left <= density:
        return network, history
    network, more = _stage(network, density / left, data, course, out / "pruning.pt", method, fixed)
    return network, [*history, *({**row, "density": row["density"] * left} for row in more)]


def _share_of_bins(widths: Widths, bins: int, density: float) -> float:
    """Share of the multiply-adds that is left with so many frequencies, all else whole."""
    if not 0 < bins < widths.bins:
        raise ValueError(f"`bins` must be at least 1 and fewer than the {widths.bins} frequencies, got {bins}")
    least = multiply_adds(Widths(bins, (1, 1, 1, 1), 1)) / multiply_adds(widths)
    if least > density:
        raise ValueError(
            f"`bins` must leave multiply-adds for the rest: {bins} frequencies alone are {least:.1%} of the network, "
            f"and `density` is {density:.1%}; ask for fewer, or for a higher density"
        )
    return multiply_adds(replace(widths, bins=bins)) / multiply_adds(widths)


def _stage(
    network: VoiceDetector,
    density: float,
    data: dict[Split, Streams],
    course: Course,
    out: Path,
    method: MethodName,
    fixed: Sequence[str],
) -> tuple[VoiceDetector, list[dict[str, float]]]:
    example = data["train"].sound(slice(0, 2))[:, : 8 * CHUNK]
    steps = course.steps(data["train"])
    pruner = Pruner(network, method_of(method, density), example, steps=steps, fixed=fixed)
    history = teach(network, data["train"], data["validation"], course, out=out, pruner=pruner, title=out.stem)
    small = pruner.shrink()
    assert isinstance(small, VoiceDetector)
    return small, history
