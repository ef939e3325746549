"""Networks with the structure of a graph against a loop over time steps, nodes and edges."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from l0rnn.methods.graph_rnn import GraphRNN, MaskedRecurrence
from l0rnn.methods.layered_graph import LayeredGraph, random_graph
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.recurrent.single_steps import onednn
from l0rnn.training.module import detached

MODES = ("LSTM", "GRU", "RNN_TANH", "RNN_RELU")
INPUT, TIME, BATCH = 3, 4, 3
GRAPHS = {
    "small": LayeredGraph(6, [(0, 2), (1, 2), (1, 3), (2, 4), (0, 4), (3, 5), (4, 5), (0, 5), (1, 5)]),
    "no skips": LayeredGraph(5, [(0, 2), (1, 3), (2, 4), (3, 4)]),
    "watts_strogatz": LayeredGraph.from_networkx(random_graph("watts_strogatz", 11, 1, neighbours=4)),
    "barabasi_albert": LayeredGraph.from_networkx(random_graph("barabasi_albert", 9, 0, neighbours=2)),
}


def network(mode: str, graph: str = "small", **options: Any) -> GraphRNN:
    return GraphRNN(mode, INPUT, GRAPHS[graph], **options)


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
        if "bias_ih_l0" in weights:
            of_input, of_state = of_input + weights["bias_ih_l0"][row], of_state + weights["bias_hh_l0"][row]
        return torch.as_tensor(of_input, dtype=torch.float64), torch.as_tensor(of_state, dtype=torch.float64)

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


def slow_network(rnn: GraphRNN, data: Tensor, state: Any = None) -> Tensor:
    """`(time, batch, feature)` in, `(time, batch, unit)` out, for a state in the form of the network or None."""
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
    outputs = torch.zeros(len(data), data.size(1), rnn.output_size, dtype=torch.float64)
    for item in range(data.size(1)):
        zeros = [list(torch.zeros(module.hidden_size, dtype=torch.float64)) for module in modules]
        h, c = copy.copy(zeros), copy.copy(zeros)
        if state is not None:
            hidden, cells = state if rnn.mode == "LSTM" else (state, state)
            h, c = [list(part[item]) for part in hidden], [list(part[item]) for part in cells]
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
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_those_of_a_loop_over_nodes(mode: str, graph: str, *, bias: bool) -> None:
    rnn = network(mode, graph, bias=bias, dtype=torch.float64)
    data = torch.randn(TIME, 2, INPUT, dtype=torch.float64)
    _, state = rnn(torch.randn(2, 2, INPUT, dtype=torch.float64))
    state = detached(state)
    for given in (None, state):
        expected = slow_network(rnn, data, given)
        output, _ = rnn(data, given)
        torch.testing.assert_close(output, expected)
        direction = torch.linspace(-1, 2, output.numel(), dtype=torch.float64).reshape(output.shape)
        parameters = list(rnn.parameters())
        gradients = torch.autograd.grad((output * direction).sum(), parameters)
        wanted = torch.autograd.grad((expected * direction).sum(), parameters, allow_unused=True)
        for gradient, want, parameter in zip(gradients, wanted, parameters, strict=True):
            torch.testing.assert_close(gradient, torch.zeros_like(parameter) if want is None else want)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("use_onednn", [True, False])
def test_with_all_edges_between_neighbouring_layers_it_is_an_ordinary_stack(mode: str, *, use_onednn: bool) -> None:
    sizes = [[2], [4], [3]]
    layers = [[0, 1], [2, 3, 4, 5], [6, 7, 8]]
    edges = [pair for lower, upper in itertools.pairwise(layers) for pair in itertools.product(lower, upper)]
    rnn, stack = GraphRNN(mode, INPUT, LayeredGraph(9, edges)), RaggedRNN(mode, INPUT, sizes)
    for parameter, other in zip(rnn.parameters(), stack.parameters(), strict=True):
        parameter.data.copy_(other.data)
    data = torch.randn(TIME, BATCH, INPUT)
    with onednn(use_onednn):
        output, state = rnn(data)
        torch.testing.assert_close((output, state), stack(data))
        torch.testing.assert_close(rnn(data, state), stack(data, state))


# ---------------------------------------------------------------------------------------------------------------------
# forms of input and state


@pytest.mark.parametrize("mode", MODES)
def test_forms_of_the_input(mode: str) -> None:
    rnn, batch_first = network(mode), network(mode, batch_first=True)
    batch_first.load_state_dict(rnn.state_dict())
    data = torch.randn(TIME, BATCH, INPUT)
    _, start = rnn(torch.randn(2, BATCH, INPUT))
    for given in (None, start):
        output, state = rnn(data, given)
        other, other_state = batch_first(data.transpose(0, 1), given)
        torch.testing.assert_close((other.transpose(0, 1), other_state), (output, state))
        for item in range(BATCH):
            alone, alone_state = rnn(data[:, item], part_of(given, item))
            torch.testing.assert_close((alone, alone_state), (output[:, item], part_of(state, item)))


def part_of(state: Any, item: int) -> Any:
    """The state of one sequence of a batch, in any nesting of tuples."""
    if isinstance(state, tuple):
        return tuple(part_of(part, item) for part in state)
    return None if state is None else state[item]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lengths", [[4, 3, 1], [1, 4, 3]])
def test_packed_sequences_are_as_if_each_ran_alone(mode: str, lengths: list[int]) -> None:
    rnn = network(mode)
    _, start = rnn(torch.randn(2, BATCH, INPUT))
    sequences = [torch.randn(length, INPUT) for length in lengths]
    for given in (None, start):
        packed, state = rnn(pack_sequence(sequences, enforce_sorted=lengths == [4, 3, 1]), given)
        padded, found_lengths = pad_packed_sequence(packed)
        assert found_lengths.tolist() == lengths
        for item, sequence in enumerate(sequences):
            alone, alone_state = rnn(sequence, part_of(given, item))
            found = padded[: lengths[item], item], part_of(state, item)
            torch.testing.assert_close(found, (alone, alone_state))


@pytest.mark.parametrize("mode", MODES)
def test_two_halves_are_the_whole(mode: str) -> None:
    rnn = network(mode, "watts_strogatz")
    data = torch.randn(6, BATCH, INPUT)
    whole, last = rnn(data)
    first, state = rnn(data[:3])
    second, end = rnn(data[3:], detached(state))
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(end, last)
    rows = len(rnn.layers) + len(rnn.skips)
    assert [len(part) for part in end] == [rows, rows] if mode == "LSTM" else len(end) == rows


# ---------------------------------------------------------------------------------------------------------------------
# masks


@pytest.mark.parametrize("mode", MODES)
def test_masked_weights_have_no_effect_and_no_gradient(mode: str) -> None:
    rnn = network(mode, "watts_strogatz", dtype=torch.float64)  # in float64 a relu seldom dies altogether
    data = torch.randn(20, 8, INPUT, dtype=torch.float64)
    output, _ = rnn(data)
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
    torch.testing.assert_close(rnn(data)[0], output, rtol=0, atol=0)
    for module in masked:
        module.reset_parameters()
        assert not module.weight_ih_l0[~module.mask].any()
        assert module.weight_ih_l0[module.mask].all()


def test_masked_weights_stay_0_under_momentum_and_weight_decay() -> None:
    rnn = network("GRU")
    optimizer = torch.optim.AdamW(rnn.parameters(), lr=0.1, weight_decay=0.1)
    before = copy.deepcopy(rnn.state_dict())
    for _ in range(3):
        optimizer.zero_grad()
        rnn(torch.randn(TIME, BATCH, INPUT))[0].square().sum().backward()
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


@pytest.mark.parametrize("mode", MODES)
def test_copies_pickles_and_checkpoints_compute_the_same(mode: str) -> None:
    rnn = network(mode, "barabasi_albert")
    data = torch.randn(TIME, BATCH, INPUT)
    loaded = network(mode, "barabasi_albert")
    assert not torch.equal(loaded(data)[0], rnn(data)[0])
    loaded.load_state_dict(rnn.state_dict())
    for other in (copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn)), loaded):
        torch.testing.assert_close(other(data), rnn(data))
    assert repr(rnn).startswith(f"GraphRNN(\n  {mode}, {INPUT}, LayeredGraph(nodes=9, edges=14, ")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", MODES)
def test_a_cuda_device_computes_the_same(mode: str) -> None:
    rnn = network(mode, dtype=torch.float64)
    data = torch.randn(TIME, BATCH, INPUT, dtype=torch.float64)
    output, state = rnn(data)
    on_device, device_state = copy.deepcopy(rnn).cuda()(data.cuda())
    torch.testing.assert_close(on_device.cpu(), output)
    hidden = device_state[0] if mode == "LSTM" else device_state
    torch.testing.assert_close(tuple(part.cpu() for part in hidden), state[0] if mode == "LSTM" else state)
    assert GraphRNN(mode, INPUT, GRAPHS["small"], device="cuda")(data.float().cuda())[0].device.type == "cuda"


# ---------------------------------------------------------------------------------------------------------------------
# errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("CFC", 3), "`mode` must be one of LSTM, GRU, RNN_TANH, RNN_RELU, got 'CFC'"),
        (("LSTM", 0), "`input_size` must be > 0, got 0"),
    ],
)
def test_bad_arguments_are_refused(arguments: tuple[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GraphRNN(*arguments, GRAPHS["small"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(2, 2, 4), "`input` must have 3 units in its last dimension, got 4"),
        (pack_sequence([torch.zeros(2, 4)]), "`input` must have 3 units in its last dimension, got 4"),
        (torch.zeros(3), r"`input` must have 2 dimensions \(unbatched\) or 3 \(batched\), got 1"),
        (torch.zeros(1, 2, 2, 3), "or 3 .batched., got 4"),
        (torch.zeros(2, 2, 3).double(), "`input` must have the dtype of the weights, torch.float32, got torch.float64"),
    ],
)
def test_bad_inputs_are_refused(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network("LSTM")(data)


def test_states_of_another_network_or_batch_are_refused() -> None:
    data = torch.randn(TIME, BATCH, INPUT)
    rnn = network("LSTM", "no skips")
    h, c = rnn(data)[1]
    sizes = r"\[\(3, 2\), \(3, 2\), \(3, 1\)\]"
    for bad in ((h, c[:-1]), (h[::-1], c[::-1]), (h,), part_of((h, c), 0), network("LSTM")(data)[1]):
        with pytest.raises(ValueError, match=rf"`state` must have 2 parts of 3 tensors with the shapes {sizes}, got"):
            rnn(data, bad)
    with pytest.raises(ValueError, match=r"`state` must have 1 part of 3 tensors .* pass on what `forward` returned"):
        network("GRU", "no skips")(data[:, :2], h)
    with pytest.raises(ValueError, match=r"shapes \[\(2,\), \(2,\), \(1,\)\]"):
        rnn(data[:, 0], (h, c))


def test_a_network_around_it_trains() -> None:
    """Every parameter of an embedding, the structure and a classifier gets a gradient."""
    rnn = network("GRU", "watts_strogatz", batch_first=True)
    model = nn.ModuleList([nn.Embedding(5, INPUT), rnn, nn.Linear(rnn.output_size, 2)])
    logits = model[2](rnn(model[0](torch.randint(5, (BATCH, TIME))))[0][:, -1])
    logits.square().sum().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in model.parameters())
