"""Cost against what torch counts, by hand, and its refusals; random networks are in tests/surgery/test_equality.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from l0rnn.cost.cost import Cost, CostOf, cost, masked_cost
from l0rnn.tracing import trace
from tests.networks import CELLS, StateClassifier, TiedLanguageModel, TwoReaders, WordTagger

WORDS = torch.zeros(1, 1, dtype=torch.int64)  # (time, batch): one step
NETWORKS: dict[str, Any] = {
    **{cell: lambda cell=cell: WordTagger(cell, num_layers=2, bidirectional=True) for cell in CELLS},
    "tied": TiedLanguageModel,
    "two readers": TwoReaders,
    "state": lambda: StateClassifier("GRU", num_layers=2, bidirectional=True),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_multiply_adds_of_one_step_are_those_of_the_flop_counter(name: str) -> None:
    network = NETWORKS[name]()
    inputs = torch.zeros(1, 1, 3) if name == "state" else WORDS
    counted = cost(trace(network, inputs))
    assert counted.parameters == sum(parameter.numel() for parameter in network.parameters())
    network.to("meta")  # which unties what is tied
    with FlopCounterMode(display=False) as counter:
        network(inputs.to("meta"))
    assert counted.multiply_adds == counter.get_total_flops() / 2
    untied = [m.weight.numel() for m in network.modules() if isinstance(m, nn.Embedding)]
    assert counted.embedding_parameters == (0 if name == "tied" else sum(untied))
    assert counted.parameters_without_embedding == counted.parameters - counted.embedding_parameters


def test_the_cost_of_a_step_does_not_depend_on_how_many_there_are() -> None:
    network = WordTagger("LSTM")
    assert cost(trace(network, WORDS)) == cost(trace(network, WORDS.expand(7, 5)))


def test_the_diagonal_of_a_recurrent_weight_carries_one_gate() -> None:
    """By hand: 3 units at probability 1/2 leave 3·½ + 6·¼ = 3 of 9 entries, not 9·¼."""
    network = nn.Sequential(nn.RNNCell(1, 3, bias=False), nn.Linear(3, 1, bias=False))
    expected = CostOf(trace(network, torch.zeros(2, 1))).expected(torch.full((3,), 0.5))
    assert float(expected.multiply_adds) == 3 * 0.5 + 3 + 3 * 0.5  # weight_ih, weight_hh, decoder


def test_it_follows_the_dtype_and_opening_any_unit_costs_something() -> None:
    counted = CostOf(trace(TwoReaders(), WORDS))
    open = torch.rand(sum(counted._sizes), dtype=torch.float64, requires_grad=True)
    expected = counted.expected(open)
    assert expected.parameters.dtype == torch.float64
    for kind in ("parameters", "multiply_adds"):
        assert bool((torch.autograd.grad(expected[kind], open, retain_graph=True)[0] > 0).all())
    assert counted.expected(open.float()).parameters.dtype == torch.float32


def test_zeros_in_a_network_of_full_width_are_not_counted() -> None:
    network = WordTagger("GRU")
    units = trace(network, WORDS)
    whole, mask = cost(units), torch.ones(21, 7).tril() > 0
    found = masked_cost(units, {"encoder.weight_hh_l0": mask, "embedding.weight": torch.zeros(11, 6) > 0})
    zeros = int((~mask).sum())
    assert found == Cost(whole.parameters - zeros - 66, 0, whole.multiply_adds - zeros)


def test_kept_units_that_do_not_fit_are_refused() -> None:
    units = trace(WordTagger("LSTM"), WORDS)
    with pytest.raises(ValueError, match="`keep` names 'encoder', which is none of the axes embedding, encoder.l0"):
        cost(units, {"encoder": torch.ones(7)})
    for shape in ((6,), (7, 1), (), (8,)):
        with pytest.raises(ValueError, match=r"`keep` must have shape \(7,\) for 'encoder.l0', got \("):
            cost(units, {"encoder.l0": torch.ones(shape)})
