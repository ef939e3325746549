"""Sums of squares of the weights of each unit, against loops over units in torch's own parameter layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l0rnn.axes import Blueprint
from l0rnn.blueprint import draw_blueprint
from l0rnn.methods.group_norms import group_entries, group_sizes, root_mean_squares, unit_square_sums
from l0rnn.wiring import Wiring, reads
from tests.networks import TiedLanguageModel, TwoReaders, WordTagger

GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1}


def squares(*parts: Tensor) -> Tensor:
    return sum((part**2).sum() for part in parts)  # type: ignore[return-value]


def own_weights(layer: Any, key: str, unit: int) -> list[Tensor]:
    """Rows of a unit in each gate block of both matrices of its layer, and the column that reads it there."""
    w_ih, w_hh = getattr(layer, f"weight_ih_{key}"), getattr(layer, f"weight_hh_{key}")
    rows = [gate * layer.hidden_size + unit for gate in range(GATES[layer.mode])]
    return [part for row in rows for part in (w_ih[row], w_hh[row])] + [w_hh[:, unit]]


def slow_tagger(network: Any) -> dict[str, Tensor]:
    encoder, size = network.encoder, network.encoder.hidden_size
    suffixes = ["", "_reverse"] if encoder.bidirectional else [""]
    sums = {}
    for depth in range(encoder.num_layers):
        for place, suffix in enumerate(suffixes):
            values = []
            for unit in range(size):
                column = place * size + unit
                above = [getattr(encoder, f"weight_ih_l{depth + 1}{s}", None) for s in suffixes]
                readers = [network.decoder.weight] if above[0] is None else above
                parts = own_weights(encoder, f"l{depth}{suffix}", unit)
                values.append(squares(*parts, *(reader[:, column] for reader in readers)))
            sums[f"encoder.l{depth}{suffix}"] = torch.stack(values)
    inputs = [getattr(encoder, f"weight_ih_l0{s}") for s in suffixes]
    sums["embedding"] = torch.stack([squares(*(w[:, i] for w in inputs)) for i in range(encoder.input_size)])
    return sums


def slow_tied(network: Any) -> dict[str, Tensor]:
    """The units of the last layer are those of the embedding: the first layer reads them too."""
    encoder, decoder = network.encoder, network.decoder
    units = range(encoder.hidden_size)
    first = [squares(*own_weights(encoder, "l0", j), encoder.weight_ih_l1[:, j]) for j in units]
    last = [squares(*own_weights(encoder, "l1", j), encoder.weight_ih_l0[:, j], decoder.weight[:, j]) for j in units]
    return {"encoder.l0": torch.stack(first), "encoder.l1": torch.stack(last)}


def slow_two_readers(network: Any) -> dict[str, Tensor]:
    """The join reads both directions of the left encoder, the right one, and the left one once more."""
    left, right, top, join = network.left, network.right, network.top, network.join.weight
    sums = {
        "left.l0": [squares(*own_weights(left, "l0", j), join[:, j], join[:, 14 + j]) for j in range(5)],
        "left.l0_reverse": [
            squares(*own_weights(left, "l0_reverse", j), join[:, 5 + j], join[:, 19 + j]) for j in range(5)
        ],
        "right.l0": [squares(*own_weights(right, "l0", j), join[:, 10 + j]) for j in range(4)],
        "top.l0": [squares(*own_weights(top, "l0", j), network.decoder.weight[:, j]) for j in range(5)],
        "join": [squares(join[j], top.weight_ih_l0[:, j]) for j in range(8)],
        "embedding": [
            squares(left.weight_ih_l0[:, j], left.weight_ih_l0_reverse[:, j], right.weight_ih_l0[:, j])
            for j in range(6)
        ],
    }
    return {axis: torch.stack(values) for axis, values in sums.items()}


def slow_projected(network: Any) -> dict[str, Tensor]:
    encoder, decoder = network.encoder, network.decoder
    w_ih, w_hh, w_hr = encoder.weight_ih_l0, encoder.weight_hh_l0, encoder.weight_hr_l0
    units = [squares(w_hr[j], w_hh[:, j], decoder.weight[:, j]) for j in range(4)]
    cells = [squares(*(w[7 * g + j] for w in (w_ih, w_hh) for g in range(4)), w_hr[:, j]) for j in range(7)]
    return {"encoder.l0": torch.stack(units), "encoder.l0_cell": torch.stack(cells)}


NETWORKS: dict[str, tuple[Callable[[], Any], Callable[[Any], dict[str, Tensor]]]] = {
    **{cell: (lambda cell=cell: WordTagger(cell), slow_tagger) for cell in ("LSTM", "GRU", "RNN_TANH")},
    "two layers": (lambda: WordTagger("GRU", num_layers=2, bias=False), slow_tagger),
    "bidirectional": (lambda: WordTagger("LSTM", num_layers=2, bidirectional=True), slow_tagger),
    "LayerNorm": (lambda: WordTagger("LSTM", normalise=True), slow_tagger),
    "projected": (lambda: WordTagger("LSTM_projected"), slow_projected),
    "concatenated readers": (TwoReaders, slow_two_readers),
    "tied": (TiedLanguageModel, slow_tied),
}


def drawn(network: Any) -> Blueprint:
    return draw_blueprint(network, network.wiring)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_sums_and_their_gradients_are_those_of_loops_over_units(name: str, dtype: torch.dtype) -> None:
    build, slow = NETWORKS[name]
    network = build().to(dtype)
    expected = slow(network)
    sums = unit_square_sums(network, drawn(network), list(expected))
    assert sums.keys() == expected.keys()
    for axis, values in expected.items():
        torch.testing.assert_close(sums[axis], values)
    parameters = list(network.parameters())
    price = sum(torch.linspace(1, 2, len(v), dtype=dtype) @ (v + 1e-8).sqrt() for v in sums.values())
    slow_price = sum(torch.linspace(1, 2, len(v), dtype=dtype) @ (v + 1e-8).sqrt() for v in expected.values())
    gradients = torch.autograd.grad(price, parameters, allow_unused=True)  # type: ignore[arg-type]
    slow_gradients = torch.autograd.grad(slow_price, parameters, allow_unused=True)  # type: ignore[arg-type]
    for gradient, slow_gradient in zip(gradients, slow_gradients, strict=True):
        assert (gradient is None) == (slow_gradient is None)
        torch.testing.assert_close(gradient, slow_gradient)


@pytest.mark.parametrize("axis", ["embedding", "encoder.l0", "encoder.l1"])
def test_one_axis_alone_has_the_sums_it_has_among_others(axis: str) -> None:
    network: Any = WordTagger("LSTM", num_layers=2)
    sums = unit_square_sums(network, drawn(network), [axis])
    assert list(sums) == [axis]
    torch.testing.assert_close(sums[axis], slow_tagger(network)[axis])


def test_an_embedding_counts_when_asked_for() -> None:
    network: Any = WordTagger("LSTM")
    sums = unit_square_sums(network, drawn(network), ["embedding", "encoder.l0"], embedding=True)
    expected = slow_tagger(network)
    torch.testing.assert_close(sums["encoder.l0"], expected["encoder.l0"])
    own = torch.stack([(network.embedding.weight[:, i] ** 2).sum() for i in range(6)])
    torch.testing.assert_close(sums["embedding"], expected["embedding"] + own)
    sizes = group_sizes(drawn(network), ["embedding"]), group_sizes(drawn(network), ["embedding"], embedding=True)
    assert sizes == ({"embedding": 28}, {"embedding": 28 + 11})


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("some_closed", [False, True])
def test_the_size_of_a_group_is_its_sum_when_all_weights_are_one(name: str, *, some_closed: bool) -> None:
    build, slow = NETWORKS[name]
    network = build()
    blueprint, axes = drawn(network), list(slow(network))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0)
    open = {axis: torch.arange(blueprint.axes[axis].size) % 3 != 1 for axis in axes[:2]} if some_closed else {}
    sums = unit_square_sums(network, blueprint, axes, open=open)
    sizes = group_sizes(blueprint, axes, open=open)
    if not some_closed:
        assert all(torch.equal(sums[axis], slow(network)[axis]) for axis in axes)
    for axis in axes:
        left = open.get(axis, torch.ones(blueprint.axes[axis].size, dtype=torch.bool))
        assert sums[axis].tolist() == [float(sizes[axis]) if is_open else 0.0 for is_open in left]


@pytest.mark.parametrize("name", NETWORKS)
def test_closed_units_count_as_if_their_weights_were_zero(name: str) -> None:
    build, slow = NETWORKS[name]
    network = build()
    blueprint, axes = drawn(network), list(slow(network))
    open = {axis: torch.rand(blueprint.axes[axis].size) < 0.6 for axis in axes}
    sums = unit_square_sums(network, blueprint, axes, open=open)
    means = root_mean_squares(network, blueprint, axes, open=open)
    sizes = group_sizes(blueprint, axes, open=open)
    with torch.no_grad():  # every weight that writes or reads a closed unit is found as the gradient of its sum
        for axis, units in open.items():
            with torch.enable_grad():
                closed = slow(network)[axis][~units].sum()
            gradients = torch.autograd.grad(closed, list(network.parameters()), allow_unused=True)
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                if gradient is not None:
                    parameter[gradient != 0] = 0.0
        for axis, values in slow(network).items():
            torch.testing.assert_close(sums[axis], values)
            torch.testing.assert_close(means[axis], (values / sizes[axis]).sqrt())
    assert any(not bool(units.all()) for units in open.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single_precision(dtype: torch.dtype) -> None:
    network: Any = WordTagger("LSTM").to(dtype)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1e-4)  # its square is 0 in float16
    sums = unit_square_sums(network, drawn(network), ["encoder.l0"])["encoder.l0"]
    assert sums.dtype == torch.float32
    exact = float(torch.tensor(1e-4, dtype=dtype)) ** 2
    torch.testing.assert_close(sums, torch.full((7,), exact * (4 * (6 + 7) + 28 + 5)))
    sums.sum().backward()
    gradient = network.decoder.weight.grad
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, torch.full((5, 7), 2e-4, dtype=dtype))


def test_the_entries_of_groups_are_those_that_the_sums_depend_on() -> None:
    class Skipping(nn.Module):
        wiring = Wiring({"encoder": reads("embedding"), "decoder": reads("encoder", "embedding", "encoder")})

        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.encoder, self.decoder = nn.Embedding(9, 3), nn.GRU(3, 4), nn.Linear(11, 5)

    network: Any = Skipping()
    for axes in (["encoder.l0"], ["embedding"], ["encoder.l0", "embedding"]):
        sums = unit_square_sums(network, drawn(network), axes, embedding=True)
        parameters = dict(network.named_parameters())
        total = torch.stack([values.sum() for values in sums.values()]).sum()
        gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
        before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        with torch.no_grad():
            for view in group_entries(network, drawn(network), axes, embedding=True):
                view.fill_(9.0)
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
            is_entry = torch.zeros_like(parameter, dtype=torch.bool) if gradient is None else gradient != 0
            assert torch.equal(parameter == 9.0, is_entry), name
            with torch.no_grad():
                parameter.copy_(before[name])


@pytest.mark.parametrize("function", [unit_square_sums, root_mean_squares, group_entries])
def test_an_unknown_axis_is_refused(function: Any) -> None:
    network: Any = WordTagger("LSTM")
    message = "`axes` names 'encoder.l7', which is none of the axes embedding, encoder.l0"
    with pytest.raises(ValueError, match=message):
        list(function(network, drawn(network), ["encoder.l7"]))
    with pytest.raises(ValueError, match=message):
        group_sizes(drawn(network), ["encoder.l7"])


def test_an_axis_without_matrices_has_empty_groups() -> None:
    network: Any = WordTagger("LSTM")
    assert unit_square_sums(network, drawn(network), ["embedding.words"])["embedding.words"].tolist() == [0.0] * 11
    assert root_mean_squares(network, drawn(network), ["embedding.words"])["embedding.words"].tolist() == [0.0] * 11
    assert group_sizes(drawn(network), ["embedding.words"]) == {"embedding.words": 0}
