"""A network with new weights at the widths it has."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from l0rnn import shrink
from l0rnn.surgery.fresh import fresh, started_otherwise, without_reset


class Tagger(nn.Module):
    def __init__(self, hidden: int = 64, tied: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, hidden)
        self.encoder = nn.LSTM(hidden, hidden, num_layers=2)
        self.norm = nn.LayerNorm(hidden)
        self.decoder = nn.Linear(hidden, 30)
        if tied:
            self.decoder.weight = self.embedding.weight

    def forward(self, x):
        return self.decoder(self.norm(self.encoder(self.embedding(x))[0]))


def test_a_narrow_layer_starts_as_a_narrow_one_and_not_as_a_part_of_a_wide_one() -> None:
    network = Tagger()
    gates = {"encoder.l0": (torch.arange(64) < 4).float(), "encoder.l1": (torch.arange(64) < 9).float()}
    small = shrink(network, gates, example_inputs=torch.zeros(3, 2, dtype=torch.int64))
    cut = {name: weight.clone() for name, weight in small.named_parameters()}
    new = fresh(small)
    assert {name: weight.shape for name, weight in new.named_parameters()} == {n: w.shape for n, w in cut.items()}
    bounds = {name: float(weight.detach().abs().max()) for name, weight in new.named_parameters()}
    assert all(torch.equal(cut[name], weight) for name, weight in small.named_parameters())
    # torch draws the weights of an LSTM from U(-1/sqrt(h), 1/sqrt(h)), h = 4 and 9 here and 64 before
    first = [bound for name, bound in bounds.items() if name.startswith("encoder.layers.0")]
    second = [bound for name, bound in bounds.items() if name.startswith("encoder.layers.1")]
    assert first, list(bounds)
    assert all(0.125 < bound <= 1 / 2 for bound in first)
    assert all(0.125 < bound <= 1 / 3 for bound in second)
    with torch.no_grad():
        assert new(torch.zeros(3, 2, dtype=torch.int64)).shape == (3, 2, 30)


def test_a_shared_weight_starts_as_in_its_first_module() -> None:
    new = fresh(Tagger(tied=True))
    assert new.decoder.weight is new.embedding.weight
    assert 0.9 < float(new.embedding.weight.detach().std()) < 1.1  # an embedding's, not a Linear's


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(4, 4), nn.Parameter(torch.full((4,), 3.0))

    def forward(self, x):
        return self.layer(x) * self.scale


def test_parameters_that_nobody_can_draw_are_named_and_may_be_set() -> None:
    network = Scaled()
    assert without_reset(network) == ["scale"]
    with pytest.raises(ValueError, match="`initialise` must be given: scale belong to modules without"):
        fresh(network)
    new = fresh(network, lambda net: net.scale.fill_(2.0))
    assert torch.equal(new.scale, torch.full((4,), 2.0))
    assert torch.equal(network.scale, torch.full((4,), 3.0))
    assert not torch.equal(new.layer.weight, network.layer.weight)


def test_a_start_of_ones_own_is_seen_and_torchs_own_is_not() -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        assert started_otherwise(Tagger()) == {}
        assert started_otherwise(nn.Linear(4, 1)) == {}  # a single number is not a constant
    network = Tagger()
    nn.init.uniform_(network.encoder.weight_hh_l0, -0.02, 0.02)
    nn.init.zeros_(network.decoder.bias)
    assert set(started_otherwise(network)) == {"encoder.weight_hh_l0", "decoder.bias"}
