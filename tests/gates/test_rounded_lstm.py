"""The LSTM layer with rounded products is torch's but for the rounding, and runs only where it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from l0rnn.gates import GatedGRU, GatedLSTM, kernels, rounded_lstm
from l0rnn.language.language_model import LanguageModel
from tests.networks import skip_without_bfloat16

SIZES = [(1, 1, 8, 9), (2, 1, 3, 12), (7, 4, 6, 3), (12, 3, 1, 9)]  # steps, sequences, features, units


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A CPU that is asked to round, and gains by it at any width."""
    monkeypatch.setattr(rounded_lstm, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(rounded_lstm, "WIDE", 1)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of units in each call of the layer."""
    found: list[int] = []
    original = kernels.rounded_lstm

    def counted(data: torch.Tensor, state: Any, weights: Any) -> Any:
        found.append(weights[1].size(1))
        return original(data, state, weights)

    monkeypatch.setattr(kernels, "rounded_lstm", counted)
    return found


def outputs_and_gradients(run: Any, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Of a sum in which each output and each part of the state has its own weight."""
    output, (h, c) = run()
    told = [output * torch.linspace(-1, 1, output.numel()).view_as(output), h.square(), c.pow(3)]
    gradients = torch.autograd.grad(sum(part.sum() for part in told), inputs)
    return [output, h, c, *gradients]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("is_rounded", [False, True])
def test_it_is_torchs_layer(size: Any, bias: bool, is_rounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_rounded:  # then it is exact
        monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)
    steps, batch, features, units = size
    torch.manual_seed(sum(size))
    layer = nn.LSTM(features, units, bias=bias)
    data = torch.randn(steps, batch, features, requires_grad=True)
    state = tuple(torch.randn(1, batch, units, requires_grad=True) for _ in range(2))
    weights = list(layer.parameters())
    inputs = [data, *state, *weights]
    wanted = outputs_and_gradients(lambda: layer(data, state), inputs)
    found = outputs_and_gradients(lambda: rounded_lstm.rounded_lstm(data, state, weights), inputs)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.float32
        assert one.shape == other.shape
        error = (one - other).norm() / other.norm()
        assert error < (0.02 if is_rounded else 1e-5)


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    layer, data = nn.LSTM(3, 5), torch.randn(4, 2, 3)
    layer.weight_ih_l0.requires_grad_(False)
    state = (torch.zeros(1, 2, 5), torch.zeros(1, 2, 5))
    output, _ = rounded_lstm.rounded_lstm(data, state, list(layer.parameters()))
    output.sum().backward()
    assert data.grad is None
    assert layer.weight_ih_l0.grad is None
    assert layer.weight_hh_l0.grad is not None


def test_gradients_of_gradients_are_refused() -> None:
    layer, data = nn.LSTM(3, 5), torch.randn(4, 2, 3)
    state = (torch.zeros(1, 2, 5), torch.zeros(1, 2, 5))
    output, _ = rounded_lstm.rounded_lstm(data, state, list(layer.parameters()))
    (gradient,) = torch.autograd.grad(output.square().sum(), layer.weight_hh_l0, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("make", "data", "units"),
    [
        (lambda: GatedLSTM(3, 6, 2), torch.randn(5, 2, 3), [6, 6]),
        (lambda: GatedLSTM(3, 6, 2, batch_first=True), torch.randn(5, 2, 3), []),
        (lambda: GatedLSTM(3, 6, 2, bidirectional=True), torch.randn(5, 2, 3), []),
        (lambda: GatedLSTM(3, 6, proj_size=2), torch.randn(5, 2, 3), []),
        (lambda: GatedLSTM(3, 6, 2).double(), torch.randn(5, 2, 3).double(), []),
        (lambda: GatedGRU(3, 6, 2), torch.randn(5, 2, 3), []),
        (lambda: GatedLSTM(3, 6, 2), nn.utils.rnn.pack_sequence([torch.randn(5, 3), torch.randn(2, 3)]), []),
    ],
)
@pytest.mark.usefixtures("rounds")
def test_gated_layers_that_may_run_it_do(make: Any, data: Any, units: list[int], calls: list[int]) -> None:
    layer = make()
    layer(data)
    assert calls == units


@pytest.mark.usefixtures("rounds")
def test_open_units_alone_are_computed(calls: list[int]) -> None:
    layer = GatedLSTM(4, 8, 2)
    for gates in layer.gates.values():
        gates.freeze_(torch.arange(gates.units) % 2 == 0)
    data = torch.randn(5, 2, 4)
    found, _ = layer(data)
    assert calls == [4, 4]
    torch.set_float32_matmul_precision("highest")
    wanted, _ = layer(data)
    assert calls == [4, 4]
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0.02)
    assert not torch.equal(found, wanted)


@pytest.mark.parametrize("hidden", [6, [6, 4]])
@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
@pytest.mark.usefixtures("rounds")
def test_a_language_model_runs_it_in_training_alone(hidden: Any, cell: Any, calls: list[int]) -> None:
    network = LanguageModel(11, 3, hidden, cell=cell)
    tokens = torch.randint(11, (5, 2))
    found = network(tokens)
    assert calls == ([6, hidden[1] if isinstance(hidden, list) else 6] if cell == "LSTM" else [])
    calls.clear()
    with torch.no_grad():
        network(tokens)
    network.eval()
    wanted = network(tokens)
    assert calls == []
    for one, other in zip(tree_leaves(found), tree_leaves(wanted), strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, atol=0.02, rtol=0.02)


@pytest.mark.usefixtures("rounds")
def test_dropout_between_layers_stays(calls: list[int]) -> None:
    network = LanguageModel(11, 3, 6, dropout=0.5)
    tokens = torch.randint(11, (5, 2))
    assert not torch.equal(network(tokens)[0], network(tokens)[0])
    network.weight_dropout = 1.0
    network.locked_dropout = True
    network(tokens)
    assert calls == [6] * 6


@pytest.mark.usefixtures("rounds")
def test_other_encoders_run_as_they_are(calls: list[int]) -> None:
    network = LanguageModel(11, 3, 6)
    network.encoder = nn.LSTM(3, 3, 2, bidirectional=True)
    network(torch.randint(11, (5, 2)))
    assert calls == []


@pytest.mark.parametrize("asked", ["highest", "high"])
@pytest.mark.usefixtures("rounds")
def test_nobody_gets_it_unasked(asked: str, calls: list[int]) -> None:
    torch.set_float32_matmul_precision(asked)
    GatedLSTM(3, 6)(torch.randn(5, 2, 3))
    assert calls == []


@pytest.mark.usefixtures("rounds")
def test_autocast_is_left_to_torch(calls: list[int]) -> None:
    skip_without_bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        GatedLSTM(3, 6)(torch.randn(5, 2, 3))
    assert calls == []


@pytest.mark.parametrize("limit", ["WIDE", "multiplies_bfloat16"])
@pytest.mark.usefixtures("rounds")
def test_nobody_gets_it_who_would_lose_by_it(limit: str, calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounded_lstm, limit, 7 if limit == "WIDE" else lambda: False)
    GatedLSTM(3, 6)(torch.randn(5, 2, 3))
    assert calls == []
