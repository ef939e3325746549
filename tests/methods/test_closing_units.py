"""Structured magnitude pruning and random units; and what all methods that close units within a density share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l0rnn.cost.cost import cost
from l0rnn.cost.schedule import cubic_density
from l0rnn.methods import GroupLasso, RandomOrder, RandomUnits, StructuredMagnitude
from l0rnn.methods.units import UnitMethod, check_density
from l0rnn.surgery.shrink import operate
from tests.methods.loops import STEPS, attached, traced
from tests.networks import CELLS, TiedLanguageModel, TwoReaders, WordTagger

METHODS: dict[str, Callable[[float], UnitMethod]] = {
    "group lasso": lambda density: GroupLasso(1e-3, density=density, frequency=4),
    "structured magnitude": lambda density: StructuredMagnitude(density, frequency=4),
    "one shot": lambda density: StructuredMagnitude(density, start=0.5, end=0.5),
    "random units": lambda density: RandomUnits(density, seed=3),
    "random order": lambda density: RandomOrder(density, seed=3, frequency=4),
}
every_method = pytest.mark.parametrize("name", METHODS)


def wide(cell: str = "LSTM", **options: Any) -> Any:
    return WordTagger(cell, hidden=40, embedding=20, num_layers=2, **options)


def share(method: UnitMethod) -> float:
    return method.kept_cost().multiply_adds / method.dense.multiply_adds


def stepped(method: Any, steps: int = STEPS) -> Any:
    for step in range(1, steps + 1):
        method.after_step(step)
    return method


# ---------------------------------------------------------------------------------------------------------------------
# all methods with a density


@every_method
@pytest.mark.parametrize("density", [0.15, 0.5, 1.0])
def test_the_density_is_just_met(name: str, density: float) -> None:
    method = stepped(attached(wide(), METHODS[name](density)))
    assert 0.9 * density < share(method) <= density
    open = method.open_units()
    assert all(bool(units.any()) for units in open.values())
    exact = cost(method.traced, open)
    assert method.figures()["density"] == exact.multiply_adds / method.dense.multiply_adds == share(method)
    assert all(set(gate.tolist()) <= {0.0, 1.0} for gate in method.gates().values())


@every_method
@pytest.mark.parametrize(
    "make",
    [lambda cell=cell: WordTagger(cell, num_layers=2, hidden=12) for cell in CELLS]
    + [TwoReaders, TiedLanguageModel, lambda: wide(bidirectional=True), lambda: wide(normalise=True).double()],
)
def test_every_network_shrinks_to_an_equal_one_within_the_density(name: str, make: Callable[[], Any]) -> None:
    network = make()
    method = stepped(attached(network, METHODS[name](0.4)))
    assert share(method) <= 0.4
    words = torch.randint(11, (5, 2))
    small = operate(network.eval(), method.gates(), example_inputs=words, units=method.traced).network
    assert cost(traced(small)).multiply_adds == method.kept_cost().multiply_adds


@every_method
def test_a_density_out_of_reach_is_refused_before_anything_is_changed(name: str) -> None:
    for density in (0.0, -0.1, 1.1):
        with pytest.raises(ValueError, match=rf"`density` must be in \(0, 1\], got {density}"):
            METHODS[name](density)
    network = wide()
    with pytest.raises(ValueError, match=r"`density` = 0.0001 asks for .* but one unit per layer already costs"):
        attached(network, METHODS[name](0.0001))
    assert (type(network.encoder), type(network.decoder)) == (nn.LSTM, nn.Linear)


@every_method
def test_the_least_density_leaves_one_unit_per_axis(name: str) -> None:
    method = attached(wide(), METHODS[name](1.0))
    one = {axis: torch.arange(len(units)) == 0 for axis, units in method.open_units().items()}
    least = cost(method.traced, one).multiply_adds / method.dense.multiply_adds
    method = stepped(attached(wide(), METHODS[name](least * 1.0001)))
    assert {axis: int(units.sum()) for axis, units in method.open_units().items()} == dict.fromkeys(one, 1)


def test_closing_within_a_density_starves_no_axis_and_keeps_closed_units_closed() -> None:
    method = attached(wide(), RandomUnits(1.0))
    first, last = (method.traced.axes[axis] for axis in ("encoder.l0", "encoder.l1"))
    keep = torch.ones(method.traced.count, dtype=torch.bool)
    keep[first.start : first.start + 5] = False
    method.close_(keep)
    scores = torch.rand(method.traced.count)
    scores[~keep] = 9.0  # of no use to those that are closed
    scores[last.units] -= 9.0  # all worth less than any other
    method.close_within_(scores, 0.2)
    assert 0.18 < share(method) <= 0.2
    open = method.own_gates.keep()
    assert not bool(open[~keep].any())
    alike = attached(wide(), RandomUnits(0.2)).open_units()["encoder.l1"].sum()  # all axes lose the same share
    left = int(open[last.units].sum())
    assert 2 <= left == alike // 2
    assert set(open[last.units].nonzero().squeeze(1).tolist()) == set(scores[last.units].topk(left).indices.tolist())
    assert scores[first.units][open[first.units]].min() > scores[first.units][~open[first.units]][5:].max()
    method.close_within_(torch.rand(len(scores)), 1.0)  # nothing is due
    assert torch.equal(method.own_gates.keep(), open)


def test_a_density_is_checked_against_a_network_once_that_is_known() -> None:
    dense = cost(traced(wide()))
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
                if bool(open[reads][column]) and (writes is None or bool(open[writes][row % size])):
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
    starts = [axis.start for axis in method.traced.axes.values()]
    keep = torch.ones(method.traced.count, dtype=torch.bool)
    keep[[start + 2 for start in starts]] = False
    method.close_(keep)
    slow = slow_scores(network, method.open_units())
    open = method.traced.by_axis(keep)
    expected = {axis: torch.where(open[axis], v, 0.0) / v[open[axis]].mean() for axis, v in slow.items()}
    scores = method.scores()
    torch.testing.assert_close(method.traced.by_axis(scores), expected)
    method.after_step(1)
    best = [axis.start + int(scores[axis.units].argmax()) for axis in method.traced.axes.values()]
    others = [unit for unit in scores.argsort().tolist() if keep[unit] and unit not in best]
    kept = [bool(method.own_gates.keep()[unit]) for unit in others]
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
    kept = [float(gates.mean()) for gates in method.gates().values()]
    assert 0.3 < min(kept) <= max(kept) < 0.8


def test_the_density_follows_the_cubic_curve_and_units_are_ranked_only_when_some_are_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method = attached(wide(), StructuredMagnitude(0.2, start=0.2, end=0.7, frequency=10), steps=100)
    ranked: list[int] = []
    scores = method.scores
    monkeypatch.setattr(method, "scores", lambda: ranked.append(int(method.steps)) or scores())
    shares = [1.0]
    for step in range(1, 101):
        method.after_step(step)
        shares.append(share(method))
    assert ranked == [30, 40, 50, 60, 70]  # at step 20 nothing is due yet
    assert shares[:30] == [1.0] * 30
    for step in range(30, 70):
        target = cubic_density(step // 10 / 10, 0.2, 0.7, 0.2)
        assert 0.95 * target < shares[step] <= target
    assert all(0.19 < now <= 0.2 for now in shares[70:])


@pytest.mark.parametrize(("start", "end", "frequency"), [(0.0, 0.0, 1), (0.5, 0.5, 1), (1.0, 1.0, 1), (0.0, 0.5, 1000)])
def test_the_end_is_met_between_two_prunings_and_in_one_shot(start: float, end: float, frequency: int) -> None:
    network = wide()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    method = attached(network, StructuredMagnitude(0.2, start=start, end=end, frequency=frequency), steps=20)
    for step in range(1, 21):
        assert share(method) == (1.0 if step - 1 < max(1, end * 20) else pytest.approx(0.195, abs=0.005))
        method.after_step(step)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())


@pytest.mark.parametrize("steps", [100, 450, 3000])
def test_a_training_of_any_length_is_pruned_little_by_little(steps: int) -> None:
    method = attached(wide(), StructuredMagnitude(0.2, start=0.1, end=0.6), steps=steps)
    shares = []
    for step in range(1, steps + 1):
        method.after_step(step)
        shares.append(share(method))
    assert len(set(shares)) > 20
    assert max(before - after for before, after in zip(shares, shares[1:], strict=False)) < 0.15
    assert shares[-1] <= 0.2


@pytest.mark.parametrize(("start", "end"), [(-0.1, 0.5), (0.5, 0.4), (0.5, 1.1)])
def test_a_schedule_out_of_order_is_refused(start: float, end: float) -> None:
    with pytest.raises(ValueError, match=f"`start` and `end` must be fractions .* got {start} and {end}"):
        StructuredMagnitude(0.5, start=start, end=end)
    with pytest.raises(ValueError, match="`frequency` must be a fraction of the training in .*, got 0"):
        StructuredMagnitude(0.5, frequency=0)


# ---------------------------------------------------------------------------------------------------------------------
# random units


def test_random_units_close_at_once_and_in_proportion() -> None:
    method = attached(wide(bidirectional=True), RandomUnits(0.3))
    fractions = [float(units.float().mean()) for units in method.open_units().values()]
    assert 0.28 < share(method) <= 0.3
    assert max(fractions) - min(fractions) <= 1 / 20


def test_the_seed_alone_decides_which_units_close() -> None:
    network = wide()

    def closed(seed: int) -> list[float]:
        return attached(wide(), RandomUnits(0.5, seed=seed)).own_gates.deterministic().tolist()

    torch.manual_seed(1)
    first = closed(0)
    torch.manual_seed(2)
    assert closed(0) == first != closed(1)
    units, state = traced(network), torch.get_rng_state()
    RandomUnits(0.5).attach(network, units)
    assert torch.equal(torch.get_rng_state(), state)  # nothing else was drawn


def test_every_unit_is_as_likely_to_stay_as_any_other() -> None:
    kept = torch.zeros(40)
    for seed in range(200):
        kept += attached(wide(), RandomUnits(0.25, seed=seed)).gates()["encoder.l0"]
    expected = float(kept.mean())
    assert float((kept - expected).abs().max()) < 4.5 * (expected * (1 - expected / 200)) ** 0.5


# ---------------------------------------------------------------------------------------------------------------------
# a random order


def test_a_random_order_ends_with_the_units_that_are_random_from_the_start_and_passes_through_more_of_them() -> None:
    end = attached(wide(), RandomUnits(0.2, seed=5)).own_gates.keep()
    method = attached(wide(), RandomOrder(0.2, seed=5, start=0.0, end=0.5, frequency=3))
    before = torch.ones_like(end)
    for step in range(1, STEPS + 1):
        method.after_step(step)
        open = method.own_gates.keep()
        assert not bool((open & ~before).any()), "a unit that has closed is open again"
        assert not bool((end & ~open).any()), "a unit is closed that is among the last"
        if method.comes_round(3) and step < 10:
            assert 0.9 * cubic_density(step / STEPS, 0.0, 0.5, 0.2) < share(method) < share_of(method, before)
        before = open
    assert torch.equal(before, end)
    assert not torch.equal(end, attached(wide(), RandomUnits(0.2, seed=6)).own_gates.keep())


def share_of(method: UnitMethod, keep: Tensor) -> float:
    return cost(method.traced, method.traced.by_axis(keep)).multiply_adds / method.dense.multiply_adds
