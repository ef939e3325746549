"""Networks with the structure of a graph against a loop over time steps, nodes and edges."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from l0rnn.methods.random_graphs import random_graph
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from recipes.reber.graph_rnn import GraphRNN, MaskedRecurrence
from recipes.reber.layered_graph import LayeredGraph

MODES = ("LSTM", "GRU", "RNN_TANH", "RNN_RELU")
INPUT, TIME, BATCH = 3, 4, 3
GRAPHS = {
    "small": LayeredGraph(6, [(0, 2), (1, 2), (1, 3), (2, 4), (0, 4), (3, 5), (4, 5), (0, 5), (1, 5)]),
    "no skips": LayeredGraph(5, [(0, 2), (1, 3), (2, 4), (3, 4)]),
    "watts_strogatz": LayeredGraph.from_networkx(random_graph("watts_strogatz", 11, 1, neighbours=4)),
    "barabasi_albert": LayeredGraph.from_networkx(random_graph("barabasi_albert", 9, 0, neighbours=2)),
}


def network(mode: str, graph: str = "small") -> GraphRNN:
    return GraphRNN(mode, INPUT, GRAPHS[graph]).double()


# ---------------------------------------------------------------------------------------------------------------------
# the slow reference: numbers and edges alone


def slow_node(
    mode: str, weights: dict[str, Tensor], unit: int, units: int, inputs: dict[int, Tensor], h: list[Tensor], c: Any
) -> tuple[Tensor, Any]:
    """One unit in one time step, from the features that it reads and all units of its layer one step before."""

    def read(gate: int) -> tuple[Tensor, Tensor]:
        row = gate * units + unit
        of_input = sum(weights["weight_ih_l0"][row, feature] * value for feature, value in inputs.items())
        of_state = sum(weights["weight_hh_l0"][row, other] * value for other, value in enumerate(h))
        return of_input + weights["bias_ih_l0"][row], of_state + weights["bias_hh_l0"][row]

    if mode == "LSTM":
        i, f, g, o = (sum(read(gate)) for gate in range(4))
        cell = torch.sigmoid(f) * c[unit] + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell), cell
    if mode == "GRU":
        reset, update = (torch.sigmoid(sum(read(gate))) for gate in range(2))
        of_input, of_state = read(2)
        new = torch.tanh(of_input + reset * of_state)
        return (1 - update) * new + update * h[unit], None
    return (torch.tanh if mode == "RNN_TANH" else torch.relu)(sum(read(0))), None


def slow_layer(
    mode: str, layer: Any, reads: list[list[int]], features: list[Tensor], h: list[Tensor], c: Any
) -> tuple[list[Tensor], Any]:
    weights = dict(layer.named_parameters())
    nodes = [
        slow_node(mode, weights, unit, len(reads), {feature: features[feature] for feature in reads[unit]}, h, c)
        for unit in range(len(reads))
    ]
    return [value for value, _ in nodes], [cell for _, cell in nodes]


def slow_network(rnn: GraphRNN, data: Tensor) -> Tensor:
    """`(time, batch, feature)` in, `(time, batch, unit)` out."""
    graph = rnn.graph
    edges = set(graph.edges)
    pairs = sorted(
        {
            (upper, lower)
            for lower, upper in itertools.combinations(range(len(graph.layers)), 2)
            for source, target in edges
            if upper - lower > 1 and source in graph.layers[lower] and target in graph.layers[upper]
        }
    )

    def reads(lower: int, upper: int) -> list[list[int]]:
        sources = graph.layers[lower]
        return [[i for i, source in enumerate(sources) if (source, v) in edges] for v in graph.layers[upper]]

    modules = [*rnn.layers, *rnn.skips]
    outputs = torch.zeros(len(data), data.size(1), graph.layer_sizes[-1], dtype=torch.float64)
    for item in range(data.size(1)):
        zeros = [list(torch.zeros(module.hidden_size, dtype=torch.float64)) for module in modules]
        h, c = copy.copy(zeros), copy.copy(zeros)
        for time, row in enumerate(data[:, item]):
            values: list[list[Tensor]] = []
            for depth, units in enumerate(graph.layers):
                below = values[-1] if depth else list(row)
                sources = reads(depth - 1, depth) if depth else [list(range(len(row)))] * len(units)
                h[depth], c[depth] = slow_layer(rnn.mode, rnn.layers[depth], sources, below, h[depth], c[depth])
                total = h[depth]
                for number, (upper, lower) in enumerate(pairs):
                    if upper == depth:
                        place = len(graph.layers) + number
                        h[place], c[place] = slow_layer(
                            rnn.mode, rnn.skips[number], reads(lower, upper), values[lower], h[place], c[place]
                        )
                        total = [a + b for a, b in zip(total, h[place], strict=True)]
                values.append(total)
            outputs[time, item] = torch.stack(values[-1])
    return outputs


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("graph", GRAPHS)
def test_outputs_and_gradients_are_those_of_a_loop_over_nodes(mode: str, graph: str) -> None:
    rnn = network(mode, graph)
    data = torch.randn(TIME, 2, INPUT, dtype=torch.float64)
    expected, output = slow_network(rnn, data), rnn(data)
    torch.testing.assert_close(output, expected)
    direction = torch.linspace(-1, 2, output.numel(), dtype=torch.float64).reshape(output.shape)
    parameters = list(rnn.parameters())
    gradients = torch.autograd.grad((output * direction).sum(), parameters)
    wanted = torch.autograd.grad((expected * direction).sum(), parameters, allow_unused=True)
    for gradient, want, parameter in zip(gradients, wanted, parameters, strict=True):
        torch.testing.assert_close(gradient, torch.zeros_like(parameter) if want is None else want)


@pytest.mark.parametrize("mode", MODES)
def test_with_all_edges_between_neighbouring_layers_it_is_an_ordinary_stack(mode: str) -> None:
    layers = [[0, 1], [2, 3, 4, 5], [6, 7, 8]]
    edges = [pair for lower, upper in itertools.pairwise(layers) for pair in itertools.product(lower, upper)]
    rnn, stack = GraphRNN(mode, INPUT, LayeredGraph(9, edges)), RaggedRNN(mode, INPUT, [[2], [4], [3]])
    for parameter, other in zip(rnn.parameters(), stack.parameters(), strict=True):
        parameter.data.copy_(other.data)
    data = torch.randn(TIME, BATCH, INPUT)
    torch.testing.assert_close(rnn(data), stack(data)[0])


# ---------------------------------------------------------------------------------------------------------------------
# masks


@pytest.mark.parametrize("mode", MODES)
def test_masked_weights_have_no_effect_and_no_gradient(mode: str) -> None:
    rnn = network(mode, "watts_strogatz")  # in float64 a relu seldom dies altogether
    data = torch.randn(20, 8, INPUT, dtype=torch.float64)
    output = rnn(data)
    output.square().sum().backward()
    masked = [module for module in rnn.modules() if isinstance(module, MaskedRecurrence) and module.mask is not None]
    assert len(masked) == len(rnn.layers) - 1 + len(rnn.skips)
    edges = 0
    gates = {"LSTM": 4, "GRU": 3}.get(mode, 1)
    for module in masked:
        assert module.mask.shape == module.weight_ih_l0.shape
        assert not module.weight_ih_l0.grad[~module.mask].any()
        assert not module.weight_ih_l0[~module.mask].any()
        edges += int(module.mask.sum())
        module.weight_ih_l0.data[~module.mask] = 1e6
    assert any(bool(module.weight_ih_l0.grad[module.mask].any()) for module in masked)
    assert edges == gates * len(rnn.graph.edges)
    torch.testing.assert_close(rnn(data), output, rtol=0, atol=0)


def test_masked_weights_stay_0_under_momentum_and_weight_decay() -> None:
    rnn = network("GRU")
    optimizer = torch.optim.AdamW(rnn.parameters(), lr=0.1, weight_decay=0.1)
    before = copy.deepcopy(rnn.state_dict())
    for _ in range(3):
        optimizer.zero_grad()
        rnn(torch.randn(TIME, BATCH, INPUT, dtype=torch.float64)).square().sum().backward()
        optimizer.step()
    masks = {name: mask for name, mask in rnn.state_dict().items() if name.endswith("mask")}
    assert len(masks) == len(rnn.layers) - 1 + len(rnn.skips)
    for name, mask in masks.items():
        weight = name.replace("mask", "weight_ih_l0")
        assert torch.equal(mask, before[name])
        assert not rnn.state_dict()[weight][~mask].any()
        assert bool((rnn.state_dict()[weight] != before[weight])[mask].all())


def test_the_first_layer_reads_everything() -> None:
    rnn = network("LSTM")
    assert rnn.layers[0].mask is None
    assert rnn.layers[0].weight_ih_l0.all()
    assert all(module.weight_hh_l0.all() for module in rnn.modules() if isinstance(module, MaskedRecurrence))
