"""Networks side by side: the numbers of each are those it has alone, whatever happens to the others."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from recipes.reber import stack as stack_module
from recipes.reber.data import Batches, Example, make_examples
from recipes.reber.grammar import read_grammar
from recipes.reber.layered_graph import LayeredGraph
from recipes.reber.members import GraphClassifier, member_of, member_of_graph
from recipes.reber.network import MODES, Classifier, accuracy, fit, loss_of, recurrent_weights
from recipes.reber.pruning import KINDS, magnitude_masks
from recipes.reber.side_by_side import accuracies, fit_side_by_side, losses_of
from recipes.reber.stack import Stack
from recipes.reber.structures import draw_graph
from recipes.reber.time_loops import GruLoop, LstmLoop, SimpleLoop

CELLS = list(MODES)
CLIP = 0.05  # small enough that every gradient here is clipped


@pytest.fixture(scope="module")
def strings() -> list[Example]:
    return make_examples(read_grammar(), 60, 0, negatives="hard")


def graph_networks(cell: str) -> list[GraphClassifier]:
    """Networks of different depths, one of which has no skip connections."""
    torch.manual_seed(5)
    graphs = [LayeredGraph(2, [(0, 1)]), LayeredGraph(5, [(0, 2), (1, 2), (2, 3), (2, 4), (0, 4), (1, 4)])]
    graphs += [
        LayeredGraph.from_networkx(draw_graph(kind, 2, [12, 20])) for kind in ("barabasi_albert", "watts_strogatz")
    ]
    assert len({len(graph.layers) for graph in graphs}) > 2
    return [GraphClassifier(cell, graph).double() for graph in graphs]


def batches(strings: list[Example]) -> Batches:
    return Batches(strings, 8, "last_symbol", 3)


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for name, weight in one.named_parameters():
        torch.testing.assert_close(weight, other.get_parameter(name), rtol=1e-9, atol=1e-12, msg=name)


def written_back(stack: Stack, number: int, network: Any) -> Any:
    found = copy.deepcopy(network)
    take = member_of_graph if isinstance(found, GraphClassifier) else member_of
    stack.write_back_(number, take(found))
    return found


@pytest.mark.parametrize("steps", [1, 6])
@pytest.mark.parametrize("cell", CELLS)
def test_time_loops_are_torchs_recurrences(cell: str, steps: int):
    torch.manual_seed(0)
    kind, options = {"lstm": (nn.LSTM, {}), "gru": (nn.GRU, {})}.get(cell, (nn.RNN, {"nonlinearity": cell}))
    layers: list[Any] = [kind(4, 5, dtype=torch.double, **options) for _ in range(3)]
    inputs = [torch.randn(steps, 2, 4, dtype=torch.double) for _ in layers]
    projected = (
        torch.stack(
            [
                nn.functional.linear(
                    input, layer.weight_ih_l0, layer.bias_ih_l0 + (0 if cell == "gru" else layer.bias_hh_l0)
                )
                .flatten(0, 1)
                .t()
                for input, layer in zip(inputs, layers, strict=True)
            ]
        )
        .detach()
        .requires_grad_()
    )
    weight = torch.stack([layer.weight_hh_l0 for layer in layers]).detach().requires_grad_()
    bias = torch.stack([layer.bias_hh_l0 for layer in layers]).unsqueeze(2).detach().requires_grad_()

    def loop(projected: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Any:
        if cell == "gru":
            return GruLoop.apply(projected, weight, bias, steps)
        if cell == "lstm":
            return LstmLoop.apply(projected, weight, steps)
        return SimpleLoop.apply(projected, weight, steps, cell)

    wanted = torch.stack([layer(input)[0].flatten(0, 1).t() for input, layer in zip(inputs, layers, strict=True)])
    torch.testing.assert_close(loop(projected, weight, bias), wanted)
    bias.requires_grad_(cell == "gru")
    assert torch.autograd.gradcheck(loop, (projected, weight, bias))


@pytest.mark.parametrize("most_rows", [1, 1000])
@pytest.mark.parametrize("cell", CELLS)
def test_scores_and_gradients_are_those_of_each_graph_rnn(
    cell: str, most_rows: int, strings: list[Example], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(stack_module, "MOST_ROWS", most_rows)  # 1: each layer is a group of its own
    networks = graph_networks(cell)
    stack = Stack([member_of_graph(network) for network in networks])
    batch = next(iter(batches(strings)))
    scores, losses = stack(*batch[:2]), losses_of(stack, batch)
    losses.sum().backward()
    with torch.no_grad():
        for weight, mask in zip(stack.weights, stack.masks, strict=True):
            weight.sub_(weight.grad if mask is None else weight.grad * mask)
    for number, network in enumerate(networks):
        torch.testing.assert_close(scores[number].t(), network(*batch[:2]), rtol=1e-10, atol=1e-12)
        loss = loss_of(network, batch)
        torch.testing.assert_close(losses[number], loss)
        loss.backward()
        with torch.no_grad():
            for weight in network.parameters():
                weight.sub_(weight.grad)
        assert_same(written_back(stack, number, network), network)


@pytest.mark.parametrize("cell", CELLS)
def test_networks_learn_side_by_side_as_alone(cell: str, strings: list[Example]):
    networks = graph_networks(cell)
    stack = Stack([member_of_graph(network) for network in networks])
    assert fit_side_by_side(stack, batches(strings), epochs=2, learning_rate=0.01, clip=CLIP) == {}
    found = accuracies(stack, Batches(strings, 7, "last_symbol"))
    for number, network in enumerate(networks):
        start = copy.deepcopy(network)
        fit(network, batches(strings), epochs=2, learning_rate=0.01, clip=CLIP)
        assert_same(written_back(stack, number, start), network)
        assert found[number] == accuracy(network, Batches(strings, 7, "last_symbol"))


@pytest.mark.parametrize("cell", CELLS)
def test_a_network_that_leaves_changes_no_other(cell: str, strings: list[Example]):
    networks = graph_networks(cell)
    leaving = {1: [3], 2: [0, 2]}  # the deepest ones and others
    stack = Stack([member_of_graph(network) for network in networks])

    def after_epoch(epoch: int) -> list[int]:
        return leaving.get(epoch, [])

    fit_side_by_side(stack, batches(strings), epochs=3, learning_rate=0.01, clip=CLIP, after_epoch=after_epoch)
    assert stack.numbers == [1]
    start = copy.deepcopy(networks[1])
    fit(networks[1], batches(strings), epochs=3, learning_rate=0.01, clip=CLIP)
    assert_same(written_back(stack, 1, start), networks[1])


def test_the_last_networks_stay_to_be_read(strings: list[Example]):
    stack = Stack([member_of(Classifier("tanh", 4, (5,))) for _ in range(2)])
    seen = []

    def after_epoch(epoch: int) -> list[int]:
        seen.append(epoch)
        return [0, 1] if epoch == 2 else []

    fit_side_by_side(stack, batches(strings), epochs=9, after_epoch=after_epoch)
    assert (seen, stack.numbers) == ([1, 2], [0, 1])


@pytest.mark.parametrize("cell", CELLS)
def test_a_loss_that_is_no_number_harms_no_other(cell: str, strings: list[Example]):
    networks = [Classifier(cell, 4, (5, 5)).double() for _ in range(3)]
    networks[1].decoder.bias.data.fill_(math.nan)
    stack = Stack([member_of(network) for network in networks])
    failed = fit_side_by_side(stack, batches(strings), epochs=2, learning_rate=0.01, clip=CLIP)
    assert failed == {1: "the loss became nan in epoch 1; lower the learning rate"}
    assert stack.numbers == [0, 2]
    for number in (0, 2):
        start = copy.deepcopy(networks[number])
        fit(networks[number], batches(strings), epochs=2, learning_rate=0.01, clip=CLIP)
        assert_same(written_back(stack, number, start), networks[number])


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("cell", CELLS)
def test_masked_gradients_are_masks_in_the_forward_pass(cell: str, kind: str, strings: list[Example]):
    """The thesis multiplies masks into the weights in every pass; here zeros are kept by masked gradients."""
    torch.manual_seed(3)
    network = Classifier(cell, 4, (5, 5)).double()
    masks = [magnitude_masks(recurrent_weights(network, KINDS[kind]), percentage) for percentage in (30, 80)]
    stack = Stack([member_of(network, own) for own in masks])
    fit_side_by_side(stack, batches(strings), epochs=1, learning_rate=0.01, clip=CLIP)
    for number, own in enumerate(masks):
        reference = copy.deepcopy(network)
        optimizer = torch.optim.Adam(reference.parameters(), lr=0.01)
        for codes, last, labels in batches(strings):
            optimizer.zero_grad()
            masked = {name: reference.get_parameter(name) * mask for name, mask in own.items()}
            scores = torch.func.functional_call(reference, masked, (codes, last))
            nn.functional.cross_entropy(scores, labels).backward()
            nn.utils.clip_grad_norm_(reference.parameters(), CLIP)
            optimizer.step()
        with torch.no_grad():
            for name, mask in own.items():
                reference.get_parameter(name).mul_(mask)
        trained = written_back(stack, number, network)
        assert not any(bool(trained.get_parameter(name)[~mask].any()) for name, mask in own.items())
        pairs = [(trained.get_parameter(name)[mask], network.get_parameter(name)[mask]) for name, mask in own.items()]
        assert not all(torch.equal(after, before) for after, before in pairs)
        assert_same(trained, reference)


def test_padding_never_moves(strings: list[Example]):
    stack = Stack([member_of_graph(network) for network in graph_networks("gru")])
    fit_side_by_side(stack, batches(strings), epochs=1, learning_rate=0.1)
    padded = 0
    for weight, mask in zip(stack.weights, stack.masks, strict=True):
        if mask is not None:
            assert not weight[mask == 0].any()
            padded += int((mask == 0).sum())
    assert padded > 0
