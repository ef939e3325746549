"""Structured magnitude pruning and random units; and what all methods that close units of a fixed density share."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l0rnn.blueprint import draw_blueprint
from l0rnn.cost.cost import cost
from l0rnn.cost.schedule import cubic_density
from l0rnn.methods.group_lasso import GroupLasso
from l0rnn.methods.random_units import RandomUnits
from l0rnn.methods.structured_magnitude import StructuredMagnitude
from l0rnn.methods.units import UnitMethod, check_density
from l0rnn.surgery.shrink import operate
from l0rnn.training.settings import from_settings, settings_of
from tests.networks import CELLS, TiedLanguageModel, TwoReaders, WordTagger

STEPS = 30
CLASSES = {"GroupLasso": GroupLasso, "StructuredMagnitude": StructuredMagnitude, "RandomUnits": RandomUnits}
METHODS: dict[str, Callable[[float], UnitMethod]] = {
    "group lasso": lambda density: GroupLasso(1e-3, density=density, frequency=4),
    "structured magnitude": lambda density: StructuredMagnitude(density, frequency=4),
    "one shot": lambda density: StructuredMagnitude(density, start=0.5, end=0.5),
    "random units": lambda density: RandomUnits(density, seed=3),
}


def wide(cell: str = "LSTM", **options: Any) -> Any:
    return WordTagger(cell, hidden=40, embedding=20, num_layers=2, **options)


def attached(network: Any, method: UnitMethod, steps: int = STEPS) -> UnitMethod:
    method.attach(network, network.wiring)
    method.begin(steps)
    return method


def train(
    network: Any,
    method: UnitMethod,
    steps: range = range(1, STEPS + 1),
    *,
    optimizer: torch.optim.Optimizer | None = None,
    after: Callable[[int], None] = lambda step: None,
) -> None:
    """Tag each word with its remainder by 5, on data that depend on the step alone."""
    optimizer = optimizer or torch.optim.SGD(network.parameters(), lr=0.5)
    for step in steps:
        words = torch.randint(11, (6, 8), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(words)[0].flatten(0, 1), (words % 5).flatten())
        (loss + method.penalty()).backward()
        optimizer.step()
        method.after_step(step)
        after(step)


def share(method: UnitMethod) -> float:
    return method.kept_cost().multiply_adds / method.dense.multiply_adds


# ---------------------------------------------------------------------------------------------------------------------
# all methods with a density


@pytest.mark.parametrize("density", [0.15, 0.5, 1.0])
@pytest.mark.parametrize("name", METHODS)
def test_training_ends_just_within_the_density_and_never_reopens_a_unit(name: str, density: float) -> None:
    network = wide()
    method = attached(network, METHODS[name](density))
    open = [method.open_units()]
    train(network, method, after=lambda step: open.append(method.open_units()))
    for before, after in zip(open, open[1:], strict=False):
        assert not any(bool((after[axis] & ~before[axis]).any()) for axis in before)
    assert 0.9 * density < share(method) <= density
    assert all(bool(units.any()) for units in open[-1].values())
    exact = cost(draw_blueprint(network, network.wiring), open[-1])
    assert method.figures()["density"] == exact.multiply_adds / method.dense.multiply_adds == share(method)
    assert all(set(gate.tolist()) <= {0.0, 1.0} for gate in method.gates().values())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"normalise": True}])
def test_the_trained_network_shrinks_to_an_equal_one(name: str, dtype: torch.dtype, options: dict[str, bool]) -> None:
    network = wide(**options).to(dtype)
    method = attached(network, METHODS[name](0.3))
    train(network, method, optimizer=torch.optim.Adam(network.parameters(), lr=0.01))
    network.eval()
    words = torch.randint(11, (7, 3))
    surgery = operate(network, network.wiring, method.gates(), example_inputs=words)
    small: Any = surgery.network
    torch.testing.assert_close(small(words)[0], network(words)[0], atol=1e-5, rtol=0)
    assert cost(draw_blueprint(small, network.wiring)).multiply_adds == method.kept_cost().multiply_adds
    assert method.kept_cost().multiply_adds <= 0.3 * method.dense.multiply_adds


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_reaches_the_density(name: str, cell: str) -> None:
    network = WordTagger(cell, num_layers=2, hidden=12)
    method = attached(network, METHODS[name](0.4))
    for step in range(1, STEPS + 1):
        method.after_step(step)
    assert 0.25 < share(method) <= 0.4
    words = torch.randint(11, (5, 2))
    small: Any = operate(network.eval(), network.wiring, method.gates(), example_inputs=words).network
    torch.testing.assert_close(small(words)[0], network(words)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("build", [TwoReaders, TiedLanguageModel])
def test_concatenated_and_tied_units_reach_the_density(name: str, build: Callable[[], Any]) -> None:
    network = build()
    method = attached(network, METHODS[name](0.5))
    for step in range(1, STEPS + 1):
        method.after_step(step)
    assert share(method) <= 0.5
    words = torch.randint(11, (5, 2))
    operate(network.eval(), network.wiring, method.gates(), example_inputs=words)  # proves itself equal


@pytest.mark.parametrize("name", METHODS)
def test_a_checkpoint_half_way_goes_on_as_if_nothing_had_happened(name: str) -> None:
    """At step 16 the one-shot method has pruned, the gradual one is at it, the lasso is still penalising."""
    network = wide()
    method = attached(network, METHODS[name](0.3))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.9)
    train(network, method, range(1, 17), optimizer=optimizer)
    saved = copy.deepcopy([part.state_dict() for part in (network, method, optimizer)])
    train(network, method, range(17, STEPS + 1), optimizer=optimizer)

    torch.manual_seed(5)
    other = wide()
    resumed = METHODS[name](0.3)
    resumed.attach(other, other.wiring)
    second = torch.optim.SGD(other.parameters(), lr=0.5, momentum=0.9)
    for part, state in zip((other, resumed, second), saved, strict=True):
        part.load_state_dict(state)
    train(other, resumed, range(17, STEPS + 1), optimizer=second)
    for key, value in network.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
    for key, value in method.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    assert share(resumed) == share(method) <= 0.3


@pytest.mark.parametrize("name", METHODS)
def test_a_finished_run_stays_finished_when_the_training_is_made_longer(name: str) -> None:
    network = wide()
    method = attached(network, METHODS[name](0.3))
    train(network, method)
    before = method.gates()
    method.begin(10 * STEPS)
    train(network, method, range(STEPS + 1, STEPS + 10))
    assert all(torch.equal(gate, before[axis]) for axis, gate in method.gates().items())
    assert method.penalty().item() == 0.0


@pytest.mark.parametrize("name", METHODS)
def test_weights_of_closed_units_have_no_effect_whatever_becomes_of_them(name: str) -> None:
    network = wide()
    method = attached(network, METHODS[name](0.3))
    train(network, method)
    words = torch.randint(11, (5, 3))
    expected = network(words)[0].detach()
    closed = ~method.open_units()["encoder.l0"]
    with torch.no_grad():
        network.encoder.weight_hh_l0[:, closed] += 1.0
        network.encoder.weight_ih_l1[:, closed] -= 1.0
        network.encoder.weight_ih_l0[closed.repeat(4)] += 1.0
    torch.testing.assert_close(network(words)[0], expected)
    network(words)[0].sum().backward()
    assert bool((network.encoder.weight_hh_l0.grad[:, closed] == 0).all())
    assert bool((network.encoder.weight_ih_l0.grad[closed.repeat(4)] == 0).all())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("density", [0.0, -0.1, 1.1, float("nan")])
def test_a_density_out_of_range_is_refused(name: str, density: float) -> None:
    with pytest.raises(ValueError, match=rf"`density` must be in \(0, 1\], got {density}"):
        METHODS[name](density)


@pytest.mark.parametrize("name", METHODS)
def test_a_density_below_one_unit_per_layer_is_refused_before_anything_is_changed(name: str) -> None:
    network = wide()
    with pytest.raises(ValueError, match=r"`density` = 0.0001 asks for .* but one unit per layer already costs"):
        attached(network, METHODS[name](0.0001))
    assert type(network.encoder) is nn.LSTM
    assert type(network.decoder) is nn.Linear


@pytest.mark.parametrize("name", METHODS)
def test_the_least_density_leaves_one_unit_per_axis(name: str) -> None:
    network = wide()
    method = attached(network, METHODS[name](1.0))
    one = {axis: torch.arange(gates.units) == 0 for axis, gates in method._gates.items()}
    least = cost(method.blueprint, one).multiply_adds / method.dense.multiply_adds
    network = wide()
    method = attached(network, METHODS[name](least * 1.0001))
    train(network, method)
    assert {axis: int(units.sum()) for axis, units in method.open_units().items()} == dict.fromkeys(one, 1)


@pytest.mark.parametrize("name", METHODS)
def test_units_of_no_known_kind_are_refused(name: str) -> None:
    settings = {**settings_of(METHODS[name](0.5)), "units": "output"}
    network = wide()
    with pytest.raises(ValueError, match="`units` must be 'input', 'hidden' or 'both', got 'output'"):
        attached(network, from_settings(settings, CLASSES))
    assert type(network.encoder) is nn.LSTM


@pytest.mark.parametrize(
    "method",
    [
        GroupLasso(1e-3),
        GroupLasso(
            2e-3,
            units="both",
            threshold=0.0,
            density=0.4,
            freeze=0.5,
            ramp=0.25,
            scale_by_size=True,
            embedding=True,
            frequency=7,
        ),
        StructuredMagnitude(0.3, start=0.2, end=0.4, frequency=9, units="hidden", embedding=True),
        RandomUnits(0.6, seed=11, units="input"),
    ],
    ids=lambda method: type(method).__name__,
)
def test_settings_describe_the_method_in_plain_data(method: UnitMethod) -> None:
    settings = settings_of(method)
    again = from_settings(json.loads(json.dumps(settings)), CLASSES)
    assert type(again) is type(method)
    assert settings_of(again) == settings


def test_closing_within_a_density_keeps_the_best_unit_of_each_axis_and_closed_units_closed() -> None:
    network = wide()
    method = attached(network, RandomUnits(1.0))
    closed = torch.arange(40) < 5
    method.close_({"encoder.l0": ~closed})
    scores: dict[str, Tensor] = {axis: torch.rand(gates.units) for axis, gates in method._gates.items()}
    scores["encoder.l0"][:5] = 9.0  # of no use to those that are closed
    scores["encoder.l1"] -= 9.0  # all worth less than any other
    method.close_within_(scores, 0.2)
    assert 0.18 < share(method) <= 0.2
    open = method.open_units()
    assert not bool(open["encoder.l0"][:5].any())
    assert open["encoder.l1"].nonzero().item() == scores["encoder.l1"].argmax()
    assert scores["encoder.l0"][open["encoder.l0"]].min() > scores["encoder.l0"][~open["encoder.l0"] & ~closed].max()
    method.close_within_({axis: torch.rand(len(values)) for axis, values in scores.items()}, 1.0)  # nothing is due
    assert all(torch.equal(units, open[axis]) for axis, units in method.open_units().items())


def test_a_density_is_checked_against_a_network_once_that_is_known() -> None:
    blueprint = draw_blueprint(network := wide(), network.wiring)
    dense = cost(blueprint)
    check_density(0.5)
    check_density(1.0, dense, dense)
    with pytest.raises(ValueError, match="but one unit per layer already costs"):
        check_density(0.5, dense, dense)


# ---------------------------------------------------------------------------------------------------------------------
# structured magnitude


@torch.no_grad()
def slow_scores(network: Any, open: dict[str, Tensor]) -> dict[str, Tensor]:
    """Root mean square of the weights between a unit and the open ones, for a tagger with two LSTM layers."""
    encoder = network.encoder
    matrices = [  # columns of one matrix read the units of one axis, its rows write those of another
        (encoder.weight_ih_l0, "encoder.l0", "embedding"),
        (encoder.weight_hh_l0, "encoder.l0", "encoder.l0"),
        (encoder.weight_ih_l1, "encoder.l1", "encoder.l0"),
        (encoder.weight_hh_l1, "encoder.l1", "encoder.l1"),
        (network.decoder.weight, None, "encoder.l1"),
    ]
    entries: dict[str, list[list[float]]] = {axis: [[] for _ in units] for axis, units in open.items()}
    for matrix, writes, reads in matrices:
        size = len(matrix) if writes is None else len(open[writes])
        for row in range(len(matrix)):
            for column in range(matrix.size(1)):
                is_open = bool(open[reads][column]) and (writes is None or bool(open[writes][row % size]))
                if is_open:
                    entries[reads][column].append(float(matrix[row, column]))
                    if writes is not None:
                        entries[writes][row % size].append(float(matrix[row, column]))
    return {
        axis: torch.tensor([(sum(w * w for w in unit) / len(unit)) ** 0.5 if unit else 0.0 for unit in units])
        for axis, units in entries.items()
    }


def test_the_units_with_the_smallest_root_mean_square_close() -> None:
    network = WordTagger("LSTM", num_layers=2)
    method = attached(network, StructuredMagnitude(0.5, start=0.0, end=0.0))
    assert isinstance(method, StructuredMagnitude)
    some_closed = {axis: torch.arange(gates.units) != 2 for axis, gates in method._gates.items()}
    method.close_(some_closed)
    squares = slow_scores(network, some_closed)
    expected = {axis: values / values[some_closed[axis]].mean() for axis, values in squares.items()}
    for axis, values in method.scores().items():
        torch.testing.assert_close(values, expected[axis])
    method.after_step(1)
    open = method.open_units()
    best = {axis: values.argmax() for axis, values in expected.items()}
    ranked = [
        (float(value), bool(open[axis][unit]))
        for axis, values in expected.items()
        for unit, value in enumerate(values)
        if unit not in (2, best[axis])
    ]
    ranked.sort()
    kept = [is_open for _, is_open in ranked]
    assert kept == sorted(kept)  # all closed ones come first
    assert 0 < sum(kept) < len(kept)


def test_an_axis_is_not_lost_because_all_its_weights_are_small() -> None:
    """The scale of a layer's weights says nothing about which of its units are worth most."""
    network = WordTagger("LSTM", hidden=60, embedding=60)
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    network.encoder.weight_ih_l0.data.mul_(0.01)
    method = attached(network, StructuredMagnitude(0.4, start=0.0, end=0.0))
    method.after_step(1)
    kept = {axis: float(gates.mean()) for axis, gates in method.gates().items()}
    assert min(kept.values()) > 0.3
    assert max(kept.values()) < 0.8


def test_the_density_follows_the_cubic_curve() -> None:
    network = wide()
    method = attached(network, StructuredMagnitude(0.2, start=0.2, end=0.7, frequency=10), steps=100)
    shares = [1.0]
    for step in range(1, 101):
        method.after_step(step)
        shares.append(share(method))
    assert all(now == 1.0 for now in shares[:30])  # at step 20 nothing is due yet, and then every ten steps
    for step in range(30, 70):
        target = cubic_density(step // 10 / 10, 0.2, 0.7, 0.2)
        assert 0.95 * target < shares[step] <= target
    assert all(0.19 < now <= 0.2 for now in shares[70:])
    assert len(set(shares)) == 6


@pytest.mark.parametrize("point", [0.0, 0.5, 1.0])
def test_one_shot_closes_everything_in_one_step(point: float) -> None:
    network = wide()
    method = attached(network, StructuredMagnitude(0.2, start=point, end=point, frequency=1), steps=20)
    for step in range(1, 21):
        assert (share(method) < 1) == (step - 1 >= max(1, point * 20))
        method.after_step(step)
    assert 0.19 < share(method) <= 0.2


def test_an_end_between_two_prunings_is_met_all_the_same() -> None:
    network = wide()
    method = attached(network, StructuredMagnitude(0.2, start=0.0, end=0.5, frequency=1000), steps=20)
    for step in range(1, 21):
        method.after_step(step)
        assert (share(method) <= 0.2) == (step >= 10)


def test_units_are_ranked_only_when_some_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    method = attached(wide(), StructuredMagnitude(0.2, start=0.25, end=0.6, frequency=5), steps=60)
    assert isinstance(method, StructuredMagnitude)
    ranked, scores = [], method.scores
    monkeypatch.setattr(method, "scores", lambda: ranked.append(int(method.steps)) or scores())
    for step in range(1, 61):
        method.after_step(step)
    assert ranked == [20, 25, 30, 35, 36]


def test_pruning_by_magnitude_leaves_the_weights_alone() -> None:
    network = wide()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    method = attached(network, StructuredMagnitude(0.2, frequency=1))
    for step in range(1, STEPS + 1):
        method.after_step(step)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())


@pytest.mark.parametrize(("start", "end"), [(-0.1, 0.5), (0.5, 0.4), (0.5, 1.1), (float("nan"), 0.5)])
def test_a_schedule_out_of_order_is_refused(start: float, end: float) -> None:
    with pytest.raises(ValueError, match=f"`start` and `end` must be fractions .* got {start} and {end}"):
        StructuredMagnitude(0.5, start=start, end=end)


def test_a_frequency_below_one_step_is_refused() -> None:
    with pytest.raises(ValueError, match="`frequency` must be at least 1 optimiser step, got 0"):
        StructuredMagnitude(0.5, frequency=0)


# ---------------------------------------------------------------------------------------------------------------------
# random units


def test_random_units_close_at_once_and_in_proportion() -> None:
    network = wide(bidirectional=True)
    method = attached(network, RandomUnits(0.3))
    fractions = [float(units.float().mean()) for units in method.open_units().values()]
    assert 0.28 < share(method) <= 0.3
    assert max(fractions) - min(fractions) <= 1 / 20
    before = method.gates()
    train(network, method)
    assert all(torch.equal(gate, before[axis]) for axis, gate in method.gates().items())


def test_the_seed_alone_decides_which_units_close() -> None:
    def closed(seed: int) -> dict[str, list[float]]:
        network = wide()
        return {axis: gate.tolist() for axis, gate in attached(network, RandomUnits(0.5, seed=seed)).gates().items()}

    torch.manual_seed(1)
    first, state = closed(0), torch.get_rng_state()
    torch.manual_seed(2)
    assert closed(0) == first
    assert closed(1) != first
    torch.manual_seed(1)
    wide()
    assert torch.equal(torch.get_rng_state(), state)  # nothing else was drawn


def test_every_unit_is_as_likely_to_stay_as_any_other() -> None:
    kept = torch.zeros(40)
    for seed in range(200):
        network = wide()
        kept += attached(network, RandomUnits(0.25, seed=seed)).gates()["encoder.l0"]
    expected = float(kept.mean())
    assert float((kept - expected).abs().max()) < 4.5 * (expected * (1 - expected / 200)) ** 0.5
