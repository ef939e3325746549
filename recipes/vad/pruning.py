"""Prune the published network while it goes on learning, and cut out what is closed.

Its units are the frequencies of the spectrum, the channels of the convolutions and the units of the LSTM, all found by
l0rnn in a run of the network. A frequency is two rows of the spectrum's fixed basis and what the first convolution
reads of them, so it leaves as one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from l0rnn import Budget, L0Gates, Pruner
from l0rnn.methods import Method, StructuredMagnitude
from recipes.vad.data import Streams
from recipes.vad.network import CHUNK, VoiceDetector
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
        return L0Gates(Budget(density, start=0.0, ramp=0.6), open_probability=0.99, freeze=1.0)
    return StructuredMagnitude(density, start=0.0, end=1.0, frequency=25)


def pruned(
    network: VoiceDetector,
    density: float,
    data: dict[Split, Streams],
    course: Course,
    *,
    out: Path,
    method: MethodName = "gates",
) -> tuple[VoiceDetector, list[dict[str, float]]]:
    """A network with a share of the multiply-adds, and what was learned on the way.

    Args:
        network: the published one.
        density: share of the multiply-adds to keep.
        data: to learn from.
        course: how long and how fast.
        out: folder for what is needed to go on.
        method: see `method_of`.
    """
    example = data["train"].sound(slice(0, 2))[:, : 8 * CHUNK]
    pruner = Pruner(network, method_of(method, density), example, steps=course.steps(data["train"]))
    history = teach(
        network, data["train"], data["validation"], course, out=out / "pruning.pt", pruner=pruner, title="pruning"
    )
    small = pruner.shrink()
    assert isinstance(small, VoiceDetector)
    return small, history
