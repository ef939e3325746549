"""Neuron selection: which units get gates, when they freeze, and where a budget settles them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from l0rnn.cost.budget import Budget
from l0rnn.cost.cost import CostOf, cost
from l0rnn.cost.objective import Objective, Penalty
from l0rnn.gates.hard_concrete import HardConcrete
from l0rnn.methods import L0Gates
from l0rnn.surgery.shrink import operate
from l0rnn.tracing.units import Units
from tests.methods import loops
from tests.methods.loops import traced
from tests.networks import CELLS, StateClassifier, TiedLanguageModel, TwoReaders, WordTagger

FEATURES = torch.zeros(5, 2, 3)


def attached(network: Any, objective: Objective | None = None, inputs: Any = None, **options: Any) -> L0Gates:
    return loops.attached(network, L0Gates(objective or Penalty(0.1), **options), inputs, steps=10)


def set_gates(method: L0Gates, seed: int = 0, low: float = -5.0, high: float = 4.0) -> Tensor:
    locations = method.own_gates.log_alpha.data
    locations.uniform_(low, high, generator=torch.Generator().manual_seed(seed))
    return locations.clone()


def price(method: L0Gates) -> float:
    return float(method.objective.state_dict()["price"])


def share(method: L0Gates) -> float:
    return method.kept_cost().multiply_adds / method.dense.multiply_adds


# ---------------------------------------------------------------------------------------------------------------------
# attaching

HIDDEN = {"encoder.l0": 7, "encoder.l0_reverse": 7, "encoder.l1": 7, "encoder.l1_reverse": 7}
JOINED = {"left.l0": 5, "left.l0_reverse": 5, "right.l0": 4, "top.l0": 5}


@pytest.mark.parametrize(
    ("make", "units", "axes"),
    [
        (lambda: WordTagger("GRU", num_layers=2, bidirectional=True), "input", {"embedding": 6}),
        (lambda: WordTagger("GRU", num_layers=2, bidirectional=True), "hidden", HIDDEN),
        (lambda: WordTagger("GRU", num_layers=2, bidirectional=True), "both", {"embedding": 6, **HIDDEN}),
        (lambda: WordTagger("LSTM_projected"), "hidden", {"encoder.l0": 4, "encoder.l0_cell": 7}),
        (TwoReaders, "input", {"embedding": 6, "join": 8}),  # both are read by recurrent layers
        (TwoReaders, "hidden", JOINED),
        (TwoReaders, "all", {"embedding": 6, "join": 8, **JOINED}),
        (TiedLanguageModel, "both", {"embedding": 6, "encoder.l0": 6}),  # the embedding has the units of layer 1
    ],
)
def test_gates_are_on_the_axes_asked_for(make: Callable[[], Any], units: Any, axes: dict[str, int]) -> None:
    network = make()
    before = dict(network.named_parameters())
    method = attached(network, units=units)
    assert {axis: len(gate) for axis, gate in method.gates().items()} == axes
    assert method.own_gates.units == sum(axes.values())
    after = dict(network.named_parameters())
    assert [id(p) for p in method.gate_parameters()] == [id(network.unit_gates.log_alpha)]
    assert {name: id(p) for name, p in after.items()} == {name: id(p) for name, p in before.items()}
    assert all(name in method.traced.whole for name in method.traced.axes.keys() ^ axes.keys())


def test_other_units_get_gates_unless_only_those_of_recurrent_layers_are_asked_for() -> None:
    x = torch.randn(4, 3, 6)
    kinds = {"all": {"convolution", "encoder.l0", "cell"}, "hidden": {"encoder.l0", "cell"}, "input": {"convolution"}}
    for units, axes in kinds.items():
        assert attached(loops.Loop(), inputs=x, units=units).gates().keys() == axes


def test_gates_start_at_the_open_probability_with_the_spread() -> None:
    network = WordTagger("LSTM", hidden=4000, embedding=2)
    method = attached(network, open_probability=0.8, spread=0.1, distribution=HardConcrete(beta=0.5))
    locations = method.own_gates.log_alpha.detach()
    middle = HardConcrete(beta=0.5).log_alpha(torch.tensor(0.8)).item()
    assert locations.mean().item() == pytest.approx(middle, abs=0.01)
    assert locations.std().item() == pytest.approx(0.1, abs=0.01)
    alike = attached(WordTagger("LSTM"), open_probability=0.8, spread=0.0).own_gates
    torch.testing.assert_close(alike.open_probability(), torch.full((13,), 0.8))


def test_a_loss_that_calls_parts_of_the_network_draws_once_per_penalty() -> None:
    network: Any = WordTagger("LSTM").train()
    method = attached(network, Budget(density=0.5), noise=True)
    draws = []
    for _ in range(2):
        output, _ = network.encoder(network.embedding(torch.randint(11, (4, 2))))
        draws.append(method.own_gates.value.detach())
        (network.decoder(output).square().mean() + method.penalty()).backward()  # a second time through one draw fails
    assert not torch.equal(*draws)


# ---------------------------------------------------------------------------------------------------------------------
# refusals


def test_nothing_to_gate_is_refused_with_every_reason() -> None:
    with pytest.raises(ValueError, match="`units` must be 'input', 'hidden', 'both' or 'all', got 'output'"):
        L0Gates(Penalty(0.1), units="output")  # type: ignore[arg-type]
    message = "no units of the kind `units='input'` .*classifier: it is an output.*encoder.l0: `units='input'` leaves"
    with pytest.raises(ValueError, match=message):
        attached(StateClassifier(), inputs=FEATURES, units="input")


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("units", ["input", "hidden", "both"])
def test_the_least_budget_accepted_is_the_cost_of_the_smallest_network(cell: str, units: Any) -> None:
    network = WordTagger(cell, num_layers=2)
    method = attached(network, Budget(density=0.99), units=units)
    method.own_gates.log_alpha.data.fill_(-9.0)
    small = operate(network.eval(), example_inputs=torch.randint(11, (5, 2)), units=method.traced).network
    least = cost(traced(small)).multiply_adds
    assert method.kept_cost().multiply_adds == least
    attached(WordTagger(cell, num_layers=2), Budget(multiply_adds=int(least)), units=units)
    network = WordTagger(cell, num_layers=2)
    kind = type(network.encoder)
    with pytest.raises(ValueError, match=f"but one unit per layer already costs {least:.0f}"):
        attached(network, Budget(multiply_adds=int(least) - 1), units=units)
    assert type(network.encoder) is kind  # nothing has been changed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"open_probability": 0.0}, r"`open_probability` must be in \(0, 1\) for gates that learn, got 0.0"),
        ({"open_probability": 1.0}, r"`open_probability` must be in \(0, 1\)"),
        ({"freeze": 0.0}, r"`freeze` must be a fraction of the training in \(0, 1\], got 0.0"),
        ({"freeze": 1.2}, r"`freeze` must be a fraction of the training in \(0, 1\], got 1.2"),
        ({"freeze": 0.3}, "`freeze` must be after the `start` of the objective, 0.3, got 0.3"),
        ({"spread": -0.1}, "`spread` must be >= 0, got -0.1"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        L0Gates(Budget(density=0.5), **options)


# ---------------------------------------------------------------------------------------------------------------------
# training


def test_the_penalty_is_the_objective_on_the_expected_cost() -> None:
    method = attached(WordTagger("GRU", num_layers=2), Penalty(0.5, ramp=0.0))
    assert method.penalty().item() == 0.0  # the price starts at 0
    method.after_step(1)
    set_gates(method)
    expected = CostOf(method.traced).expected(method.own_gates.open_probability())
    assert torch.equal(method.expected_cost().multiply_adds, expected.multiply_adds)  # type: ignore[arg-type]
    part = expected.multiply_adds.item() / method.dense.multiply_adds
    assert method.penalty().item() == pytest.approx(0.5 * part, rel=1e-5)
    method.penalty().backward()
    (gradient,) = (parameter.grad for parameter in method.gate_parameters())
    assert bool((gradient > 0).all())  # type: ignore[operator]  # a step downhill closes every gate


@pytest.mark.parametrize(
    ("freeze", "total", "step"), [(0.6, 10, 6), (0.5, 7, 4), (1.0, 5, 5), (0.01, 10, 1), (0.34, 3, 2)]
)
def test_gates_freeze_at_the_step_asked_for_and_stay(freeze: float, total: int, step: int) -> None:
    network = WordTagger("LSTM")
    method = attached(network, Budget(density=0.6, start=0.0, ramp=0.0), freeze=freeze)
    method.begin(total)
    optimizer = torch.optim.Adam(method.gate_parameters(), lr=0.1)  # its momentum must not move frozen gates
    (locations,) = method.gate_parameters()
    for now in range(1, total + 2):
        is_frozen = now > step
        assert method.is_frozen == method.own_gates.is_frozen == method.has_chosen == is_frozen
        assert method.penalty().requires_grad == locations.requires_grad == (not is_frozen)
        before, before_price = locations.detach().clone(), price(method)
        optimizer.zero_grad(set_to_none=False)
        (network(torch.randint(11, (5, 2)))[0].sum() + method.penalty()).backward()
        optimizer.step()
        assert torch.equal(locations, before) == is_frozen
        method.after_step(now)
        assert (price(method) == before_price) == is_frozen
        assert method.progress == pytest.approx(min(1.0, now / total))


def test_the_price_follows_the_expected_cost() -> None:
    """All gates are closed as they stand, and yet often open when they are drawn: the budget is not met."""
    method = attached(WordTagger("LSTM"), Budget(density=0.05, start=0.0, ramp=0.0, rate=1.0), freeze=1.0)
    method.own_gates.log_alpha.data.fill_(method.distribution.closing_log_alpha - 0.01)
    method.after_step(1)
    expected = method.expected_cost().multiply_adds.item() / method.dense.multiply_adds  # type: ignore[union-attr]
    assert expected > share(method) + 0.05
    assert price(method) == pytest.approx(expected - 0.05, rel=1e-5)


def test_without_a_number_of_steps_nothing_freezes() -> None:
    network = WordTagger("LSTM")
    method = L0Gates(Penalty(0.1), freeze=0.11)
    method.attach(network, traced(network))
    for step in range(1, 5):
        method.after_step(step)
    assert (method.progress, method.is_frozen) == (0.0, False)


def test_figures_tell_density_price_and_units() -> None:
    method = attached(WordTagger("LSTM"), Budget(density=0.3))
    set_gates(method, seed=1)
    keep = {axis: gate > 0 for axis, gate in method.gates().items()}
    exact = cost(method.traced, keep)
    expected = {f"kept/{axis}": float(units.sum()) for axis, units in keep.items()}
    expected |= {"density": exact.multiply_adds / method.dense.multiply_adds, "price": 0.0}
    assert all(expected.values()) or expected["price"] == 0.0
    assert method.figures() == {**expected, "parameters": exact.parameters}


# ---------------------------------------------------------------------------------------------------------------------
# settling on a budget


def keeping(units: Units, locations: Tensor, count: int) -> dict[str, Tensor]:
    """The slow way to keep a number of units: those with the largest log_alpha anywhere, and one per axis."""
    keep = torch.zeros(len(locations), dtype=torch.bool)
    keep[locations.argsort(descending=True)[:count]] = True
    for axis in units.axes.values():
        if not bool(keep[axis.units].any()):
            keep[axis.start + locations[axis.units].argmax()] = True
    return units.by_axis(keep)


BUDGETS = [
    {"density": 0.1},
    {"density": 0.35},
    {"density": 0.8},
    {"parameters": 320},
    {"multiply_adds": 150},
    {"density": 0.25, "parameters": 320},  # which of the two stops it depends on the network and the seed
]


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", [TwoReaders, lambda: WordTagger("LSTM", num_layers=2)])
def test_settling_lands_just_within_the_limit(budget: dict[str, Any], seed: int, make: Callable[[], Any]) -> None:
    method = attached(make(), Budget(**budget))
    shift = (-8.0, 0.0, 8.0)[seed]  # almost all closed, a mixture, almost all open
    locations = set_gates(method, seed, shift - 4, shift + 4)
    method.settle_()
    assert torch.equal(method.own_gates.log_alpha, locations)
    limits = method.objective.limits(method.dense)
    assert limits.keys() == {"parameters" if name == "parameters" else "multiply_adds" for name in budget}

    def is_within(count: int) -> bool:
        kept = cost(method.traced, keeping(method.traced, locations, count))
        return all(kept[kind] <= limit for kind, limit in limits.items())

    # the largest number of units that the limit allows, found by trying them all
    most = max(count for count in range(1, len(locations) + 1) if is_within(count))
    slow = keeping(method.traced, locations, most)
    assert all(torch.equal(slow[axis], gate > 0) for axis, gate in method.gates().items())
    assert all(method.kept_cost()[kind] <= limit for kind, limit in limits.items())
    assert most == len(locations) or not is_within(most + 1)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("seed", range(3))
def test_the_shrunken_network_costs_what_was_settled(cell: str, seed: int) -> None:
    network = WordTagger(cell, num_layers=2)
    method = attached(network, Budget(density=0.3))
    set_gates(method, seed)
    method.settle_()
    small = operate(network.eval(), example_inputs=torch.randint(11, (5, 2)), units=method.traced).network
    kept = cost(traced(small)).multiply_adds
    assert kept == method.kept_cost().multiply_adds
    assert kept <= 0.3 * method.dense.multiply_adds


def test_settled_gates_are_the_mean_of_their_samples_while_open() -> None:
    method = attached(WordTagger("LSTM"), Budget(density=0.5), noise=True)
    set_gates(method)
    locations = method.own_gates.log_alpha.detach()
    drawn = method.distribution.sample(locations.expand(40_000, -1), generator=torch.Generator().manual_seed(1))
    method.settle_()
    fixed = method.own_gates.deterministic()
    is_kept = fixed > 0
    while_open = drawn.sum(0) / (drawn != 0).sum(0)
    torch.testing.assert_close(fixed[is_kept], while_open[is_kept], atol=0.02, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gates_that_are_all_alike_settle_close_to_the_budget(dtype: torch.dtype) -> None:
    """Nothing tells them apart, yet a budget of one half must not end near nothing."""
    network = WordTagger("LSTM", num_layers=2, hidden=40)
    units = traced(network)
    method = L0Gates(Budget(density=0.5), spread=0.0)
    method.attach(network.to(dtype), units)
    method.settle_()
    assert 0.45 <= share(method) <= 0.5


def test_without_noise_a_network_trains_with_the_gates_it_is_evaluated_with_and_goes_on_with_them() -> None:
    network = StateClassifier()
    method = attached(network, Budget(density=0.3), FEATURES, noise=False)
    locations = set_gates(method, low=-2.0, high=2.0)  # all open, most of them not fully
    gates = method.distribution.deterministic(locations)
    network.train()
    for _ in range(2):
        network(FEATURES)
        assert torch.equal(method.own_gates.value, gates)
    method.settle_()
    fixed = method.own_gates.deterministic()
    is_kept = fixed > 0
    assert 0 < is_kept.sum() < len(gates)
    assert torch.equal(fixed[is_kept], gates[is_kept])


def test_without_noise_a_unit_that_is_kept_closed_opens_as_far_as_it_would_be_while_open() -> None:
    method = attached(WordTagger("LSTM"), Budget(density=0.3), noise=False)
    method.own_gates.log_alpha.data.fill_(method.distribution.closing_log_alpha - 0.1)
    method.settle_()
    fixed = method.own_gates.deterministic()
    assert fixed[fixed > 0].numel() > 0
    assert fixed[fixed > 0].min() > 0.1


def test_a_penalty_settles_on_the_gates_that_are_open_and_one_per_axis() -> None:
    method = attached(WordTagger("LSTM"), Penalty(0.1))
    locations = set_gates(method)
    method.own_gates.log_alpha.data[method.traced.axes["embedding"].units] -= 9.0
    method.settle_()
    gates = method.gates()
    assert (gates["embedding"] > 0).nonzero().item() == locations[:6].argmax()
    assert torch.equal(gates["encoder.l0"] > 0, method.distribution.deterministic(locations[6:]) > 0)
