"""From the published network to a smaller one: units and features are chosen while it goes on learning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from l0rnn import Budget, L0Gates, Pruner
from recipes.g2p.lessons import Lessons
from recipes.g2p.network import G2P
from recipes.g2p.training import Run, Settings

_SEEN = {"enc": slice(2, None), "dec": [2, *range(4, 74)]}  # symbols that the GRUs read: no padding, no end of phonemes


def pruned(
    network: G2P, lessons: Lessons, settings: Settings, density: float, checkpoint: Path, *, quiet: bool = False
) -> G2P:
    """Choose what to keep of letter features, phoneme features and units, while the network learns, and cut it out.

    Tracing finds these three axes: the decoder goes on from the encoder's state, so the units of both are one.

    Args:
        network: the trained network.
        lessons: what it goes on learning.
        settings: how.
        density: share of its multiply-adds for a letter and a phoneme that may be left, in (0, 1].
        checkpoint: file to go on from.
        quiet: without a progress bar.
    """
    budget = int(density * multiply_adds_of_a_step(network.arrays()))
    network = G2P.from_arrays(turned(network.arrays()))
    batch = lessons.examples.batch(torch.arange(2))
    objective = Budget(multiply_adds=budget, start=0.0, ramp=0.5, relative=False)
    method = L0Gates(objective, open_probability=0.93, noise=True, repair=False, freeze=0.7)
    pruner = Pruner(network, method, (batch.letters, batch.lengths, batch.phonemes), gate_learning_rate=0.03)
    run = Run(network, lessons.examples, settings, invented=lessons.invented, pruner=pruner)
    run.train(checkpoint, title="choosing units", quiet=quiet)
    small = pruner.shrink()
    assert isinstance(small, G2P)
    return G2P.from_arrays(small.arrays())


def multiply_adds_of_a_step(arrays: Mapping[str, np.ndarray]) -> int:
    """Multiply-adds for one letter and one phoneme."""
    return sum(arrays[name].size for name in ("enc_w_ih", "enc_w_hh", "dec_w_ih", "dec_w_hh", "fc_w"))


def turned(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same network with features that are as few as can be, the most telling first.

    What a letter adds to the gates is a matrix of 27 letters: 27 features say all of it, where 256 were learnt. Its
    singular vectors are those features.
    """
    found = dict(arrays)
    for side, rows in _SEEN.items():
        features, weights = arrays[f"{side}_emb"], arrays[f"{side}_w_ih"]
        _, sizes, directions = np.linalg.svd(features[rows] @ weights.T, full_matrices=False)
        kept = sizes > 1e-6 * sizes[0]
        scale = np.sqrt(sizes[kept])
        found[f"{side}_w_ih"] = (directions[kept] * scale[:, None]).T.astype(np.float32)
        found[f"{side}_emb"] = (features @ weights.T @ (directions[kept] / scale[:, None]).T).astype(np.float32)
    return found
