"""Prune the published network while it goes on learning, and cut out what is closed.

Its units are the frequencies of the spectrum, the channels of the convolutions and the units of the LSTM. A frequency
is two rows of the spectrum's fixed basis and what the first convolution reads of them, so it leaves as one.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

import l0rnn
from recipes.vad.data import Streams
from recipes.vad.network import VoiceDetector
from recipes.vad.train import Course, Extras, teach
from recipes.vad.words import Split


def pruned(
    network: VoiceDetector, density: float, data: dict[Split, Streams], course: Course, *, example: Tensor, out: Path
) -> tuple[VoiceDetector, list[dict[str, float]]]:
    """A network with a share of the multiply-adds, and what was learned on the way.

    Args:
        network: the published one.
        density: share of the multiply-adds to keep.
        data: to learn from.
        course: how long and how fast.
        example: streams to run the network on.
        out: folder for what is needed to go on.
    """
    method = l0rnn.L0Gates(l0rnn.Budget(density))
    pruner = l0rnn.Pruner(network, method, example, steps=course.steps(data["train"]))  # type: ignore[attr-defined]
    extras = Extras(
        penalty=pruner.penalty,
        after_step=pruner.step,
        kept={"pruner": pruner},
        parameters=tuple(pruner.parameters()),
    )
    history = teach(
        network, data["train"], data["validation"], course, out=out / "pruning.pt", extras=extras, title="pruning"
    )
    return pruner.shrink(), history
