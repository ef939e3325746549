"""Sums of squares of the weights of each unit, against loops over units in torch's own parameter layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l0rnn.methods.group_norms import group_entries, group_sizes, relative_root_mean_squares, unit_square_sums
from tests.methods.loops import Loop, traced
from tests.networks import TiedLanguageModel, TwoReaders, WordTagger

GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1}
Groups = dict[str, list[list[Tensor]]]  # axis → of each unit the weights that write or read it


def own_weights(layer: Any, key: str, unit: int) -> list[Tensor]:
    """Rows of a unit in each gate block of both matrices of its layer, and the column that reads it there."""
    w_ih, w_hh = getattr(layer, f"weight_ih{key}"), getattr(layer, f"weight_hh{key}")
    gates = GATES[layer.mode] if isinstance(layer, nn.RNNBase) else 4
    rows = [gate * layer.hidden_size + unit for gate in range(gates)]
    return [part for row in rows for part in (w_ih[row], w_hh[row])] + [w_hh[:, unit]]


def of_tagger(network: Any) -> Groups:
    encoder, size = network.encoder, network.encoder.hidden_size
    suffixes = ["", "_reverse"] if encoder.bidirectional else [""]
    inputs = [getattr(encoder, f"weight_ih_l0{s}") for s in suffixes]
    groups: Groups = {"embedding": [[w[:, i] for w in inputs] for i in range(encoder.input_size)]}
    for depth in range(encoder.num_layers):
        above = [getattr(encoder, f"weight_ih_l{depth + 1}{s}", None) for s in suffixes]
        readers = [network.decoder.weight] if above[0] is None else above
        for place, suffix in enumerate(suffixes):
            groups[f"encoder.l{depth}{suffix}"] = [
                [*own_weights(encoder, f"_l{depth}{suffix}", j), *(r[:, place * size + j] for r in readers)]
                for j in range(size)
            ]
    return groups


def of_tied(network: Any) -> Groups:
    """The units of the last layer are those of the embedding: the first layer reads them too."""
    encoder, decoder = network.encoder, network.decoder
    units = range(encoder.hidden_size)
    return {
        "embedding": [
            [*own_weights(encoder, "_l1", j), encoder.weight_ih_l0[:, j], decoder.weight[:, j]] for j in units
        ],
        "encoder.l0": [[*own_weights(encoder, "_l0", j), encoder.weight_ih_l1[:, j]] for j in units],
    }


def of_two_readers(network: Any) -> Groups:
    """The join reads both directions of the left encoder, the right one, and the left one once more."""
    left, right, top, join = network.left, network.right, network.top, network.join.weight
    inputs = (left.weight_ih_l0, left.weight_ih_l0_reverse, right.weight_ih_l0)
    return {
        "embedding": [[w[:, j] for w in inputs] for j in range(6)],
        "left.l0": [[*own_weights(left, "_l0", j), join[:, j], join[:, 14 + j]] for j in range(5)],
        "left.l0_reverse": [[*own_weights(left, "_l0_reverse", j), join[:, 5 + j], join[:, 19 + j]] for j in range(5)],
        "right.l0": [[*own_weights(right, "_l0", j), join[:, 10 + j]] for j in range(4)],
        "join": [[join[j], top.weight_ih_l0[:, j]] for j in range(8)],
        "top.l0": [[*own_weights(top, "_l0", j), network.decoder.weight[:, j]] for j in range(5)],
    }


def of_projected(network: Any) -> Groups:
    encoder, decoder = network.encoder, network.decoder
    w_ih, w_hh, w_hr = encoder.weight_ih_l0, encoder.weight_hh_l0, encoder.weight_hr_l0
    return {
        "embedding": [[w_ih[:, j]] for j in range(6)],
        "encoder.l0_cell": [[*(w[7 * g + j] for w in (w_ih, w_hh) for g in range(4)), w_hr[:, j]] for j in range(7)],
        "encoder.l0": [[w_hr[j], w_hh[:, j], decoder.weight[:, j]] for j in range(4)],
    }


def of_loop(network: Any) -> Groups:
    gru, cell = network.encoder, network.cell
    return {
        "convolution": [[network.convolution.weight[j], gru.weight_ih_l0[:, j]] for j in range(8)],
        "encoder.l0": [[*own_weights(gru, "_l0", j), cell.weight_ih[:, j]] for j in range(10)],
        "cell": [[*own_weights(cell, "", j), network.decoder.weight[:, j]] for j in range(9)],
    }


NETWORKS: dict[str, tuple[Callable[[], Any], Callable[[Any], Groups]]] = {
    **{cell: (lambda cell=cell: WordTagger(cell), of_tagger) for cell in GATES},
    "two layers": (lambda: WordTagger("GRU", num_layers=2, bias=False), of_tagger),
    "bidirectional": (lambda: WordTagger("LSTM", num_layers=2, bidirectional=True), of_tagger),
    "LayerNorm": (lambda: WordTagger("LSTM", normalise=True), of_tagger),
    "projected": (lambda: WordTagger("LSTM_projected"), of_projected),
    "concatenated readers": (TwoReaders, of_two_readers),
    "tied": (TiedLanguageModel, of_tied),
    "loop": (Loop, of_loop),
}


def slow_sums(groups: Groups) -> Tensor:
    return torch.stack([sum((part**2).sum() for part in group) for units in groups.values() for group in units])  # type: ignore[misc]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_sums_sizes_and_gradients_are_those_of_loops_over_units(name: str, dtype: torch.dtype) -> None:
    build, groups_of = NETWORKS[name]
    network = build().to(dtype)
    units = traced(network, torch.randn(4, 3, 6, dtype=dtype) if name == "loop" else None)
    groups = groups_of(network)
    assert list(units.axes) == list(groups)
    sums, slow = unit_square_sums(network, units), slow_sums(groups)
    torch.testing.assert_close(sums, slow)
    assert group_sizes(units).tolist() == [sum(p.numel() for p in group) for part in groups.values() for group in part]
    parameters = list(network.parameters())
    prices = torch.linspace(1, 2, units.count, dtype=dtype)
    gradients, slow_gradients = (
        torch.autograd.grad(prices @ (v + 1e-8).sqrt(), parameters, allow_unused=True) for v in (sums, slow)
    )
    for gradient, slow_gradient in zip(gradients, slow_gradients, strict=True):
        assert (gradient is None) == (slow_gradient is None)
        torch.testing.assert_close(gradient, slow_gradient)
    relative = units.by_axis(relative_root_mean_squares(network, units, torch.ones(units.count) > 0))
    roots = units.by_axis((slow / group_sizes(units)).sqrt())
    torch.testing.assert_close(relative, {axis: root.detach() / root.mean().detach() for axis, root in roots.items()})


def test_an_embedding_counts_when_asked_for_and_a_tied_one_in_any_case() -> None:
    network: Any = WordTagger("LSTM")
    units = traced(network)
    own = network.embedding.weight.square().sum(0)
    expected = slow_sums(of_tagger(network)) + torch.cat([own, torch.zeros(7)])
    torch.testing.assert_close(unit_square_sums(network, units, embedding=True), expected)
    assert group_sizes(units, embedding=True)[:6].tolist() == [28 + 11] * 6
    tied = TiedLanguageModel()
    assert torch.equal(unit_square_sums(tied, traced(tied)), unit_square_sums(tied, traced(tied), embedding=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_from_and_to_units_that_are_left_out_do_not_count(name: str) -> None:
    build, groups_of = NETWORKS[name]
    network = build()
    units = traced(network, torch.randn(4, 3, 6) if name == "loop" else None)
    open = torch.rand(units.count) < 0.6
    with torch.no_grad():  # 1 for a weight that counts, so that sums are sizes
        for weight in units.weights.values():
            if weight.is_parameter:
                parameter = network.get_parameter(weight.name).fill_(1.0)
                for dimension, numbers in enumerate(weight.units):
                    closed = (numbers >= 0) & ~open[numbers.clamp(min=0)]
                    parameter.index_fill_(dimension, closed.nonzero().squeeze(1), 0.0)
    expected = slow_sums(groups_of(network)).detach()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0)
    sums = unit_square_sums(network, units, open=open).detach()
    torch.testing.assert_close(sums, expected)
    torch.testing.assert_close(group_sizes(units, open=open)[open].float(), expected[open])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_entries_are_the_weights_of_all_groups(name: str) -> None:
    build, groups_of = NETWORKS[name]
    network = build()
    units = traced(network, torch.randn(4, 3, 6) if name == "loop" else None)
    with torch.no_grad():
        for view in group_entries(network, units):
            view.fill_(7.0)
    in_groups = {
        id(part._base if part._base is not None else part) for g in groups_of(network).values() for u in g for part in u
    }
    for parameter in network.parameters():
        assert bool((parameter == 7.0).all()) == (id(parameter) in in_groups)
        assert bool((parameter == 7.0).any()) == (id(parameter) in in_groups)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    network = WordTagger("LSTM")
    units = traced(network)
    sums = unit_square_sums(network.to(dtype), units)
    assert sums.dtype == torch.float32
    torch.testing.assert_close(sums, unit_square_sums(network.float(), units))
    network.to(dtype)
    unit_square_sums(network, units).sum().backward()
    assert network.encoder.weight_hh_l0.grad.dtype == dtype
