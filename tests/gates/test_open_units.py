"""Leaving out closed units changes neither outputs nor gradients, only the state of the units left out."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from l0rnn.blueprint import draw_blueprint
from l0rnn.gates import GatedGRU, GatedLSTM, GatedRecurrence, GatedRNN, Gates
from l0rnn.gates.network import gate_network_
from l0rnn.gates.open_units import OpenUnits, open_positions
from l0rnn.recurrent.single_steps import onednn
from tests.networks import TwoReaders, WordTagger

LAYERS: dict[str, Any] = {"LSTM": GatedLSTM, "GRU": GatedGRU, "RNN": GatedRNN}
STACKS = list(itertools.product(LAYERS, (1, 2, 3), (False, True), (True, False), (False, True), ("padded", "packed")))


def close_gates(module: nn.Module, share_open: float, seed: int) -> None:
    """Gates that are exactly 0, exactly 1 or soft, whatever the noise."""
    generator = torch.Generator().manual_seed(seed)
    for gates in module.modules():
        if isinstance(gates, Gates):
            is_open = torch.rand(gates.units, generator=generator) < share_open
            soft = torch.empty(gates.units).uniform_(-1.5, 3, generator=generator)
            gates.log_alpha.data = torch.where(is_open, soft, torch.tensor(-50.0))


def run(layer: Any, inputs: Any, state: Any, *, skip: bool) -> tuple[Tensor, Any, dict[str, Tensor], dict[str, Tensor]]:
    """Output, state, all gradients and the open units of one pass, random gates drawn from the same seed."""
    layer = copy.deepcopy(layer)
    layer.skips_closed_units = skip
    leaf = inputs.data.clone().requires_grad_()
    inputs = inputs._replace(data=leaf) if isinstance(inputs, PackedSequence) else leaf
    torch.manual_seed(3)
    output, final = layer(inputs, state)
    output = output.data if isinstance(output, PackedSequence) else output
    weights = torch.linspace(-1, 1, output.numel()).reshape(output.shape)
    (output * weights).sum().backward()
    gradients = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    is_open = {key: gates.value != 0 for key, gates in layer.gates.items()}
    return output.detach(), final, {**gradients, "input": leaf.grad}, is_open


@pytest.mark.parametrize(("cell", "layers", "bidirectional", "bias", "batch_first", "form"), STACKS)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_outputs_and_gradients_are_those_of_folding(
    cell: str, layers: int, bidirectional: bool, bias: bool, batch_first: bool, form: str, training: bool
) -> None:
    seed = STACKS.index((cell, layers, bidirectional, bias, batch_first, form))
    torch.manual_seed(seed)
    layer = LAYERS[cell](5, 9, layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional).train(training)
    close_gates(layer, 0.4, seed)
    inputs: Any = torch.randn(4, 4, 5)
    if form == "packed":
        inputs = pack_padded_sequence(inputs, torch.tensor([2, 4, 1, 4]), batch_first, enforce_sorted=False)
    rows = layers * (2 if bidirectional else 1)
    state: Any = torch.randn(rows, 4, 9)
    state = (state, torch.randn(rows, 4, 9)) if cell == "LSTM" else state
    layer.eval() if not training else layer.train()
    for gates in layer.gates.values():
        gates.draw()
    assert OpenUnits(layer, layer.gates["input"].value).share_of_work() < 0.85, "the fast path must be taken"
    expected, expected_state, expected_gradients, is_open_by_key = run(layer, inputs, state, skip=False)
    got, got_state, got_gradients, _ = run(layer, inputs, state, skip=True)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    assert got_gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(got_gradients[name], gradient, atol=2e-5, rtol=1e-5, msg=name)
    starts = state if cell == "LSTM" else (state,)
    ends = zip(
        got_state if cell == "LSTM" else (got_state,),
        expected_state if cell == "LSTM" else (expected_state,),
        starts,
        strict=True,
    )
    for ours, folded, start in ends:
        for row, key in enumerate(layer.layer_keys()):
            is_open = is_open_by_key[key]
            torch.testing.assert_close(ours[row][:, is_open], folded[row][:, is_open], atol=1e-5, rtol=0)
            stale = (ours[row] == start[row]).all(0)
            computed = torch.isclose(ours[row], folded[row], atol=1e-5).all(0)
            assert (stale | computed)[~is_open].all()


def test_state_of_a_unit_left_out_stays_and_goes_on_when_it_opens() -> None:
    """Two segments of truncated back-propagation: unit 1 is closed in the first and open in the second."""
    torch.manual_seed(0)
    layer = GatedLSTM(3, 4, gates="hidden").eval()
    first, second, start = torch.randn(5, 2, 3), torch.randn(5, 2, 3), (torch.randn(1, 2, 4), torch.randn(1, 2, 4))
    layer.gates["l0"].log_alpha.data = torch.tensor([50.0, -50.0, -50.0, -50.0])
    _, (h, c) = layer(first, start)
    torch.testing.assert_close(h[..., 1:], start[0][..., 1:], atol=0, rtol=0)
    torch.testing.assert_close(c[..., 1:], start[1][..., 1:], atol=0, rtol=0)
    layer.gates["l0"].log_alpha.data[1] = 50.0
    output, _ = layer(second, (h, c))
    layer.skips_closed_units = False
    again, _ = layer(second, (h, c))
    torch.testing.assert_close(output, again, atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", range(6))
def test_whole_networks(seed: int) -> None:
    torch.manual_seed(seed)
    network: Any = TwoReaders() if seed % 2 else WordTagger("LSTM", normalise=seed % 4 == 0, num_layers=2, hidden=12)
    gate_network_(network, draw_blueprint(network, network.wiring))
    close_gates(network, 0.4, seed)
    words = torch.randint(11, (5, 3))
    results = []
    for skip in (False, True):
        copied = copy.deepcopy(network).train()
        for module in copied.modules():
            if isinstance(module, GatedRecurrence):
                module.skips_closed_units = skip
        torch.manual_seed(1)
        output = copied(words)
        output = output[0] if isinstance(output, tuple) else output
        output.square().sum().backward()
        results.append((output, {n: p.grad for n, p in copied.named_parameters()}))
    (expected, folded), (got, skipped) = results
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    for name, gradient in folded.items():
        if gradient is not None:
            torch.testing.assert_close(skipped[name], gradient, atol=2e-5, rtol=1e-5, msg=name)


def test_fewer_units_are_fewer_operations() -> None:
    """The kernel is called on matrices of the open units: seen in the work that torch counts on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode

    counts = []
    for share in (1.0, 0.25):
        layer = GatedLSTM(64, 64, gates="hidden").eval()
        layer.gates["l0"].log_alpha.data = torch.where(torch.arange(64) < 64 * share, 50.0, -50.0)
        with FlopCounterMode(display=False) as counter, onednn(False):
            layer(torch.randn(3, 2, 64))
        counts.append(counter.get_total_flops())
    assert counts[1] == counts[0] * (0.25 * 64 + 0.25 * 16) / (64 + 64)


def test_open_positions_fill_up_with_closed_units() -> None:
    values = torch.tensor([0.0, 0.2, 0.0, 1.0])
    assert open_positions(values).tolist() == [1, 3]
    assert open_positions(values, at_least=3).tolist() == [1, 3, 0]
    assert open_positions(torch.zeros(2)).tolist() == [0]
