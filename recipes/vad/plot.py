"""The picture of a small network: what it says of real recordings, beside the original."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from l0rnn.extras import require
from recipes.vad.network import CHUNK, RATE, VoiceDetector, probabilities

SECONDS = 30


def plot(network: VoiceDetector, original: VoiceDetector, recordings: Mapping[str, Tensor], path: Path) -> None:
    """Probabilities of both over the first half minute of each recording."""
    require("matplotlib", "plot").use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(recordings), 1, figsize=(12, 2.4 * len(recordings)), layout="constrained", squeeze=False
    )
    for axis, (name, sound) in zip(axes[:, 0], recordings.items(), strict=True):
        part = sound[None, : SECONDS * RATE]
        wave = part[0].numpy()
        time = np.arange(len(wave)) / RATE
        axis.fill_between(
            time[::40], 0.5 + 0.45 * wave[::40] / max(1e-6, np.abs(wave).max()), 0.5, color="#d9d9d9", lw=0
        )
        for what, colour, label in ((original, "#8c8c8c", "silero-vad"), (network, "#08519c", "pruned")):
            said = probabilities(what, part)[0].numpy()
            axis.plot((np.arange(len(said)) + 1) * CHUNK / RATE, said, color=colour, lw=1.1, label=label)
        axis.axhline(0.5, color="black", lw=0.5, ls=":")
        axis.set(title=name, ylim=(-0.02, 1.02), xlim=(0, time[-1]), ylabel="probability")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    axes[-1, 0].set_xlabel("seconds")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
