"""What pruning leaves of the network, and the change of basis before it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from recipes.g2p.batches import Examples
from recipes.g2p.lessons import Lessons
from recipes.g2p.network import G2P
from recipes.g2p.pruning import multiply_adds_of_a_step, pruned, turned
from recipes.g2p.training import Settings

WORDS = {
    "a": [("AH0",), ("EY1",)],
    "ab": [("AE1", "B")],
    "bab": [("B", "AE1", "B")],
    "baba": [("B", "AE1", "B", "AH0")],
    "abba": [("AE1", "B", "AH0")],
}


def test_turned_features_are_fewer_and_say_the_same() -> None:
    network = G2P(40, 90, 12).eval()
    small = G2P.from_arrays(turned(network.arrays())).eval()
    assert (small.encoder.input_size, small.decoder.input_size) == (27, 36)  # no more than there are gates
    batch = Examples(WORDS).batch(torch.arange(6))
    inputs = (batch.letters, batch.lengths, batch.phonemes)
    with torch.no_grad():
        torch.testing.assert_close(small(*inputs), network(*inputs), rtol=1e-4, atol=1e-4)


def test_what_is_left_costs_no_more_than_it_may(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, lessons = G2P(8, 8, 16), Lessons(Examples(WORDS), None)
    settings = Settings(epochs=30, batch_size=3, average=0)
    small = pruned(network, lessons, settings, 0.5, tmp_path / "pruning.ckpt", quiet=True)
    before, after = (multiply_adds_of_a_step(some.arrays()) for some in (network, small))
    assert 0.3 * before < after <= 0.5 * before
    assert small.encoder.hidden_size == small.decoder.hidden_size < 16
    again = pruned(network, lessons, settings, 0.5, tmp_path / "pruning.ckpt", quiet=True)
    for name, array in small.arrays().items():
        np.testing.assert_array_equal(array, again.arrays()[name])
