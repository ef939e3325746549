"""The shrunken network gives the outputs of the gated one, and costs what was counted: for random networks."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from l0rnn.cost.cost import CostOf, cost
from l0rnn.gates import Gates, readers
from l0rnn.gates.network import gate_network_, network_gates
from l0rnn.surgery.removal import remove_units_
from l0rnn.surgery.shrink import operate
from l0rnn.tracing import trace
from l0rnn.tracing.trace import describe
from l0rnn.tracing.units import STAYS, Units
from tests.strategies import holds_for, networks, set_gates, traced_networks

Traced = tuple[nn.Module, Tensor, Units, Tensor]


def outputs(network: nn.Module, inputs: Tensor, units: Units | None = None, keep: Tensor | None = None) -> Any:
    """All tensors that a network returns; of those that follow the widths, the units that are kept, row by row."""
    decoded, handed_out, states = network(inputs)
    found = flattened([decoded, handed_out, list(states.values())])
    if units is None or keep is None:
        return found
    for number, numbers in enumerate(units.outputs):
        if numbers is not None:
            found[number] = found[number][((numbers == STAYS) | keep[numbers.clamp(min=0)]).expand(found[number].shape)]
    return found


def flattened(parts: Any) -> list[Tensor]:
    return [parts] if isinstance(parts, Tensor) else [tensor for part in parts for tensor in flattened(part)]


@holds_for(traced_networks(), few=25)
def test_the_shrunken_network_gives_every_output_and_costs_what_was_counted(traced: Traced) -> None:
    network, inputs, units, gates = traced
    plain, names = copy.deepcopy(network), [name for name, _ in network.named_parameters()]
    set_gates(gate_network_(network, units), gates)
    small = operate(network, example_inputs=inputs, units=units)
    keep = torch.zeros(units.count, dtype=torch.bool)
    for name, axis in units.axes.items():
        own = gates[axis.units] > 0
        width = small.widths[name][0]
        assert width >= max(1, int(own.sum()))
        keep[axis.units] = own | (~own & ((~own).cumsum(0) <= width - int(own.sum())))
    for module in network.modules():
        if hasattr(module, "skips_closed_units"):
            module.skips_closed_units = False  # so that states of closed units are computed too
    found, expected = flattened(outputs(small.network, inputs)), outputs(network, inputs, units, keep)
    found, expected = (torch.cat([part.reshape(-1) for part in parts]) for parts in (found, expected))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    counted = cost(units, units.by_axis(keep))
    assert counted.parameters == sum(parameter.numel() for parameter in small.network.parameters())
    assert counted.multiply_adds == cost(trace(small.network, inputs)).multiply_adds
    assert sorted(name for name, _ in plain.named_parameters()) == sorted(names)
    torch.testing.assert_close(
        float(CostOf(units).expected(keep.double()).multiply_adds), float(counted.multiply_adds), rtol=1e-6, atol=0.5
    )


@holds_for(networks(), few=10)
def test_the_axes_that_are_explained_can_each_be_cut_alone(traced: tuple[nn.Module, Tensor]) -> None:
    network, inputs = traced
    units = trace(network.eval(), inputs)
    text = describe(units)
    for name, axis in units.axes.items():
        assert f"{name}: {axis.size} units" in text
        gates = {name: (torch.arange(axis.size) % 2).float()}
        surgery = operate(network, gates, example_inputs=inputs, units=units)
        assert surgery.widths[name][0] < axis.size or any(name in units.axes_of(c) for _, c in units.projections)
        assert all(kept == full for other, (kept, full) in surgery.widths.items() if other != name)
    assert all(f"{name}: {why}" in text for name, why in units.whole.items())


@holds_for(traced_networks(), few=10)
def test_fast_ways_of_reading_give_the_same_gradients(traced: Traced) -> None:
    """Closed units left out by Linear, norms and recurrent layers, against folding and masking all of them."""
    network, inputs, units, values = traced
    set_gates(gate_network_(network, units), values)
    results = []
    before = readers.WORTH_SKIPPING, readers._OverKeptUnits.normalised
    for is_fast in (True, False):
        twin = copy.deepcopy(network).eval()
        readers.WORTH_SKIPPING = 1.0 if is_fast else -1.0
        if not is_fast:
            readers._OverKeptUnits.normalised = lambda self, x: self._masked(x, self.input_gates.value)  # type: ignore
        try:
            for module in twin.modules():
                if hasattr(module, "skips_closed_units"):
                    module.skips_closed_units = is_fast or None if is_fast else False
            decoded = twin(inputs)[0]
            decoded.square().sum().backward()
        finally:
            readers.WORTH_SKIPPING, readers._OverKeptUnits.normalised = before
        results.append((decoded, {name: p.grad for name, p in twin.named_parameters()}))
    (fast, fast_gradients), (slow, slow_gradients) = results
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    for name, gradient in slow_gradients.items():
        if gradient is not None:
            torch.testing.assert_close(fast_gradients[name], gradient, atol=1e-4, rtol=1e-3, msg=name)


@holds_for(traced_networks(), st.booleans(), few=10)
def test_a_network_goes_on_training_after_units_were_removed(traced: Traced, has_stepped: bool) -> None:
    network, inputs, units, values = traced
    network = network.double()
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    gates = gate_network_(network, units)
    gates.freeze_(values > 0)
    gates.fixed.mul_(values.double().clamp(min=0.3))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01, amsgrad=True)
    if has_stepped:
        network(inputs)[0].square().sum().backward()
        optimizer.step()
    whole = copy.deepcopy(network)
    before = operate(network, example_inputs=inputs, units=units)
    keep = values > 0
    for axis in units.axes.values():
        keep[axis.start] |= not bool(keep[axis.units].any())
    live = network(inputs)[0].sum()  # a graph that is alive while its parameters are cut
    left, _ = remove_units_(network, units, keep, optimizers=[optimizer])
    assert left.count == network_gates(network).units  # type: ignore[union-attr]
    assert live.requires_grad
    after, expected = network(inputs)[0], whole(inputs)[0]
    torch.testing.assert_close(after, expected, atol=1e-9, rtol=1e-9)
    for twin, output in ((network, after), (whole, expected)):
        twin.zero_grad()
        output.square().sum().backward()
    lost = {name: p.grad.square().sum() for name, p in whole.named_parameters() if p.grad is not None}
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.shape == parameter.shape
            torch.testing.assert_close(parameter.grad.square().sum(), lost[name], atol=1e-8, rtol=1e-6, msg=name)
        for value in optimizer.state.get(parameter, {}).values():
            assert value.dim() == 0 or value.shape == parameter.shape
    optimizer.step()
    again = operate(network.eval(), example_inputs=inputs, units=left)
    assert {n: kept for n, (kept, _) in again.widths.items()} == {n: kept for n, (kept, _) in before.widths.items()}
    plain = [p for p in network.parameters() if p is not gates.log_alpha]
    assert cost(left).parameters == sum(p.numel() for p in plain)


def test_the_expected_cost_is_the_average_over_all_subsets() -> None:
    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(4, 2)
            self.encoder, self.cell = nn.LSTM(2, 2, bidirectional=True), nn.GRUCell(4, 2)
            self.norm, self.decoder = nn.LayerNorm(2), nn.Linear(2, 3)

        def forward(self, words: Tensor) -> Tensor:
            state = None
            for x in self.encoder(self.embedding(words))[0]:
                state = self.cell(x, state)
            return self.decoder(self.norm(state))

    units = trace(Tiny(), torch.tensor([[1, 2], [0, 3]]))
    assert units.count == 8
    open = torch.rand(8, dtype=torch.float64, requires_grad=True)
    counted, total = CostOf(units), torch.zeros(3, dtype=torch.float64)
    kinds = ("parameters", "embedding_parameters", "multiply_adds")
    for subset in itertools.product((False, True), repeat=8):
        keep = torch.tensor(subset)
        exact = counted.kept(units.by_axis(keep))
        total = total + torch.where(keep, open, 1 - open).prod() * torch.tensor([float(exact[kind]) for kind in kinds])
    for kind, average in zip(kinds, total, strict=True):
        found = counted.expected(open)[kind]
        torch.testing.assert_close(found, average)
        gradients = [torch.autograd.grad(value, open, retain_graph=True)[0] for value in (found, average)]
        torch.testing.assert_close(*gradients)


def test_gates_are_found_in_a_network_by_their_name() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    assert network_gates(network) is None
    gates = gate_network_(network, trace(network, torch.randn(2, 3)))
    assert network_gates(network) is gates
    assert isinstance(network.unit_gates, Gates)
