"""The expected cost as a polynomial is that of the walk over all weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from l0rnn.blueprint import draw_blueprint
from l0rnn.cost.cost import ExpectedCost, cost
from l0rnn.wiring import Wiring
from recipes.squad.network import WIRING, Bidaf


def language_model(cell: type[nn.RNNBase], *, bidirectional: bool, tied: bool, extra: bool) -> nn.Module:
    network = nn.Module()
    network.embedding = nn.Embedding(11, 6)
    network.encoder = cell(6, 6, 2, bidirectional=bidirectional)
    network.norm = nn.LayerNorm(12 if bidirectional else 6)
    network.decoder = nn.Linear(12 if bidirectional else 6, 11)
    if tied and not bidirectional:
        network.decoder.weight = network.embedding.weight
    if extra:
        network.scale = nn.Parameter(torch.ones(5))
    return network


NETWORKS = [
    language_model(cell, bidirectional=bidirectional, tied=tied, extra=tied)
    for cell in (nn.LSTM, nn.GRU, nn.RNN)
    for bidirectional in (False, True)
    for tied in (False, True)
]
CHAIN = Wiring({"encoder": ["embedding"], "norm": ["encoder"], "decoder": ["norm"]})
CASES = [*((network, CHAIN) for network in NETWORKS), (Bidaf(5, vectors=4, filters=3, characters=7), WIRING)]


@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("which", ["all", "some"])
def test_it_is_the_cost_with_the_same_gradients(case: int, which: str) -> None:
    network, wiring = CASES[case]
    blueprint = draw_blueprint(network, wiring)
    axes = [axis.name for axis in blueprint.prunable()]
    axes = axes if which == "all" else axes[::2]
    generator = torch.Generator().manual_seed(case)
    sizes = [blueprint.axes[axis].size for axis in axes]
    open = torch.rand(sum(sizes), generator=generator, dtype=torch.float64, requires_grad=True)
    found = ExpectedCost(blueprint, axes)(open)
    expected = cost(blueprint, dict(zip(axes, open.split(sizes), strict=True)))
    for kind in ("parameters", "embedding_parameters", "multiply_adds", "parameters_without_embedding"):
        wanted = torch.as_tensor(expected[kind], dtype=torch.float64)
        torch.testing.assert_close(found[kind], wanted)
        if wanted.requires_grad:
            (gradient,) = torch.autograd.grad(found[kind], open, retain_graph=True)
            (wanted_gradient,) = torch.autograd.grad(wanted, open, retain_graph=True)
            torch.testing.assert_close(gradient, wanted_gradient)


def test_it_follows_the_dtype() -> None:
    network, wiring = CASES[0]
    expected_cost = ExpectedCost(draw_blueprint(network, wiring), ["encoder.l0"])
    whole = expected_cost(torch.ones(6, dtype=torch.float64))
    assert whole.multiply_adds.dtype == torch.float64
    assert int(expected_cost(torch.ones(6)).multiply_adds) == int(whole.multiply_adds) == 2 * 4 * 6 * 12 + 6 * 11
