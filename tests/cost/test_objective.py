"""How cost is priced: dual ascent by hand, ramps, and targets that cannot be met."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from l0rnn.cost.budget import Budget
from l0rnn.cost.cost import Cost, CostOf, cost
from l0rnn.cost.objective import Objective, Penalty
from l0rnn.cost.schedule import ramp_done
from l0rnn.gates.hard_concrete import HardConcrete
from l0rnn.methods import METHODS, Dense, L0Gates
from l0rnn.models import CLASSES
from l0rnn.tracing import trace
from l0rnn.training.settings import from_settings, settings_of
from tests.networks import WordTagger

DENSE = Cost(parameters=200, embedding_parameters=50, multiply_adds=100)


def costing(multiply_adds: Any, parameters: float = 0.0, embedding_parameters: float = 0.0) -> Cost:
    return Cost(parameters, embedding_parameters, multiply_adds)


def state(objective: Objective, name: str) -> float:
    return float(objective.state_dict()[name])


# ---------------------------------------------------------------------------------------------------------------------
# Budget


def test_dual_ascent_by_hand() -> None:
    budget = Budget(density=0.4, rate=0.1, stiffness=4.0, start=0.2, ramp=0.4)
    assert (state(budget, "price"), state(budget, "target")) == (0.0, 1.0)
    steps = [
        # progress, expected cost, target, price
        (0.00, 100, 1.00, 0.0),  # before the start nothing is asked for
        (0.19, 100, 1.00, 0.0),
        (0.20, 100, 1.00, 0.0),
        (0.40, 90, 0.70, 0.02),  # half of the ramp: 1 - 0.6 / 2; 0.1 · (0.9 - 0.7)
        (0.60, 80, 0.40, 0.06),  # end of the ramp: 0.02 + 0.1 · (0.8 - 0.4)
        (0.75, 50, 0.40, 0.07),
        (0.80, 10, 0.40, 0.04),  # below the target the price falls again
        (0.90, 0, 0.40, 0.00),  # exactly to zero
        (1.00, 0, 0.40, 0.00),  # and never below
        (1.00, 60, 0.40, 0.02),
    ]
    for progress, cost_now, target, price in steps:
        budget.after_step(costing(torch.tensor(float(cost_now))), DENSE, progress=progress)
        assert state(budget, "target") == pytest.approx(target)
        assert state(budget, "price") == pytest.approx(price, abs=1e-9)
        expected = costing(torch.tensor(70.0, requires_grad=True))
        term = budget.term(expected, DENSE)
        assert term.dtype == torch.float32
        assert term.shape == ()
        excess = 0.7 - target
        square = 4.0 / 2 * max(0.0, excess) ** 2
        assert term.item() == pytest.approx(price * excess + square, abs=1e-6)
        (slope,) = torch.autograd.grad(term, expected.multiply_adds)
        assert slope.item() == pytest.approx((price + 4.0 * max(0.0, excess)) / 100, abs=1e-7)


def test_without_start_and_ramp_the_whole_budget_is_asked_for_at_once() -> None:
    budget = Budget(density=0.25, rate=1.0, start=0.0, ramp=0.0)
    budget.after_step(costing(100), DENSE, progress=0.0)
    assert state(budget, "target") == 0.25
    assert state(budget, "price") == 0.75


@pytest.mark.parametrize(
    ("start", "ramp", "done"),
    [
        (0.0, 0.0, {0.0: 1.0, 0.5: 1.0, 1.0: 1.0}),
        (0.3, 0.0, {0.0: 0.0, 0.29: 0.0, 0.3: 1.0, 1.0: 1.0}),
        (0.0, 1.0, {0.0: 0.0, 0.25: 0.25, 1.0: 1.0}),
        (0.2, 0.8, {0.2: 0.0, 0.6: 0.5, 1.0: 1.0}),
        (1.0, 0.0, {0.99: 0.0, 1.0: 1.0}),
    ],
)
def test_a_ramp_rises_from_its_start_to_its_end(start: float, ramp: float, done: dict[float, float]) -> None:
    for progress, value in done.items():
        assert ramp_done(progress, start, ramp) == pytest.approx(value)


@pytest.mark.parametrize(("progress", "target"), [(0.1, 1.0), (0.4, 0.3 + 0.7 / 8), (0.6, 0.3), (1.0, 0.3)])
def test_a_cubic_target_leaves_more_time_for_the_last_units(progress: float, target: float) -> None:
    budget = Budget(density=0.3, start=0.2, ramp=0.4, curve="cubic")
    budget.after_step(DENSE, DENSE, progress=progress)
    assert budget.target.item() == pytest.approx(target)
    assert budget.price.item() == pytest.approx(budget.rate * (1 - target))


@pytest.mark.parametrize(
    ("options", "kind", "limit"),
    [
        ({"density": 0.3}, "multiply_adds", 30.0),
        ({"parameters": 120}, "parameters", 120.0),
        ({"multiply_adds": 45}, "multiply_adds", 45.0),
        ({"density": 1.0}, "multiply_adds", 100.0),
    ],
)
def test_each_budget_is_a_limit_of_its_kind(options: dict[str, Any], kind: str, limit: float) -> None:
    budget = Budget(**options, start=0.0, ramp=0.0, rate=1.0)
    assert budget.limits(DENSE) == {kind: limit}
    assert isinstance(budget.limits(DENSE)[kind], float)
    budget.after_step(DENSE, DENSE, progress=1.0)
    fraction = limit / DENSE[kind]
    assert state(budget, "target") == pytest.approx(fraction)
    assert state(budget, "price") == pytest.approx(1 - fraction)


def test_each_of_several_budgets_has_its_target_and_its_price() -> None:
    options: dict[str, Any] = {"rate": 0.1, "stiffness": 4.0, "start": 0.2, "ramp": 0.4}
    both = Budget(parameters=50, density=0.4, **options)
    alone = {"multiply_adds": Budget(density=0.4, **options), "parameters": Budget(parameters=50, **options)}
    assert both.limits(DENSE) == {"multiply_adds": 40.0, "parameters": 50.0}
    for progress, multiply_adds, parameters in ((0.1, 100, 200), (0.4, 90, 190), (0.6, 80, 70), (0.8, 20, 60)):
        now = costing(torch.tensor(float(multiply_adds)), torch.tensor(float(parameters)))  # type: ignore[arg-type]
        for budget in (both, *alone.values()):
            budget.after_step(now, DENSE, progress=progress)
        expected = costing(torch.tensor(70.0), torch.tensor(150.0))  # type: ignore[arg-type]
        terms = [float(budget.term(expected, DENSE)) for budget in alone.values()]
        assert float(both.term(expected, DENSE)) == pytest.approx(sum(terms))
        for kind, budget in alone.items():
            assert both.figures()[f"price/{kind}"] == budget.figures()["price"]
        assert both.target.tolist() == [float(budget.target) for budget in alone.values()]
    assert len(set(both.price.tolist())) == 2  # else the test could not tell them apart


def test_a_budget_above_the_dense_cost_asks_for_nothing() -> None:
    budget = Budget(parameters=10**9, ramp=0.0)
    budget.check(costing(1, 1), DENSE)
    for _ in range(5):
        budget.after_step(DENSE, DENSE, progress=1.0)
    assert state(budget, "target") == 1.0
    assert state(budget, "price") == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"density": 0.05},
            r"`density` = 0.05 asks for 5 multiply-adds, but one unit per layer already costs 8 \(density 0.0800\)",
        ),
        ({"multiply_adds": 7}, "`multiply_adds` asks for 7 multiply-adds, but one unit per layer already costs 8"),
        ({"parameters": 59}, r"`parameters` asks for 59 parameters, but .* already costs 60 \(density 0.3000\)"),
        ({"density": 0.5, "parameters": 59}, r"`parameters` asks for 59 parameters, but .* already costs 60"),
        ({"density": 0.05, "parameters": 90}, r"`density` = 0.05 asks for 5 multiply-adds, but .* already costs 8"),
    ],
)
def test_a_budget_below_the_minimum_is_refused(options: dict[str, Any], message: str) -> None:
    minimum = costing(8, 60)
    with pytest.raises(ValueError, match=message):
        Budget(**options).check(minimum, DENSE)


def test_a_budget_at_the_minimum_is_accepted() -> None:
    minimum = costing(8, 60)
    for budget in (Budget(density=0.08), Budget(multiply_adds=8), Budget(parameters=60)):
        budget.check(minimum, DENSE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "at least one of `density`, `parameters`, `multiply_adds` must be given, got none"),
        (
            {"density": 0.5, "multiply_adds": 9},
            "`density` and `multiply_adds` are two .* got 0.5 and 9; give one of them",
        ),
        ({"density": 0.5, "parameters": 100, "multiply_adds": 9}, "`density` and `multiply_adds` are two budgets"),
        ({"density": 0.0}, r"`density` must be in \(0, 1\], got 0.0; use the method `Dense`"),
        ({"density": -0.1}, r"`density` must be in \(0, 1\]"),
        ({"density": 1.5}, r"`density` must be in \(0, 1\], got 1.5"),
        ({"density": math.nan}, "`density` must be finite, got nan"),
        ({"parameters": 0}, "`parameters` must be > 0, got 0"),
        ({"multiply_adds": -5}, "`multiply_adds` must be > 0, got -5"),
        ({"density": 0.5, "parameters": 0}, "`parameters` must be > 0, got 0"),
        ({"density": 0.5, "rate": 0.0}, "`rate` must be > 0, got 0.0"),
        ({"density": 0.5, "stiffness": -1.0}, "`stiffness` must be >= 0, got -1.0"),
        ({"density": 0.5, "ramp": 1.1}, "`start` and `ramp` must be fractions .*, got 0.3 and 1.1"),
        ({"density": 0.5, "ramp": -0.1}, "`start` and `ramp` must be fractions .*, got 0.3 and -0.1"),
        ({"density": 0.5, "start": -0.1}, "`start` and `ramp` must be fractions .*, got -0.1 and 0.2"),
        ({"density": 0.5, "start": 0.6, "ramp": 0.5}, "together at most 1, got 0.6 and 0.5"),
        ({"density": 0.5, "start": math.nan}, "`start` must be finite, got nan"),
        ({"density": 0.5, "curve": "square"}, "`curve` must be 'linear' or 'cubic', got 'square'"),
    ],
)
def test_a_budget_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Budget(**options)


# ---------------------------------------------------------------------------------------------------------------------
# Penalty


@pytest.mark.parametrize("kind", ["multiply_adds", "parameters", "parameters_without_embedding"])
def test_the_price_of_a_penalty_rises_along_the_ramp(kind: str) -> None:
    penalty = Penalty(0.3, kind=kind, start=0.1, ramp=0.2)
    assert penalty.limits(DENSE) == {}
    penalty.check(DENSE, DENSE)  # any price can be paid
    whole = DENSE[kind]
    half = Cost(
        DENSE.parameters / 2, torch.tensor(DENSE.embedding_parameters / 2), torch.tensor(DENSE.multiply_adds / 2)
    )
    for progress, price in ((0.0, 0.0), (0.1, 0.0), (0.15, 0.075), (0.2, 0.15), (0.3, 0.3), (0.7, 0.3), (1.0, 0.3)):
        penalty.after_step(costing(0), DENSE, progress=progress)  # what it costs makes no difference
        assert state(penalty, "price") == pytest.approx(price)
        assert float(penalty.term(half, DENSE)) == pytest.approx(price * float(half[kind]) / whole, abs=1e-7)
        assert float(penalty.term(half, DENSE)) == pytest.approx(price / 2, abs=1e-7)


def test_a_penalty_without_a_ramp_is_there_after_the_first_step() -> None:
    penalty = Penalty(0.3, ramp=0.0)
    penalty.after_step(DENSE, DENSE, progress=0.0)
    assert state(penalty, "price") == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 0.0}, "`weight` must be > 0, got 0.0; use the method `Dense` for an unpruned run"),
        ({"weight": -1.0}, "`weight` must be > 0"),
        ({"weight": math.nan}, "`weight` must be finite, got nan"),
        ({"weight": 1.0, "kind": "flops"}, "`kind` must be one of multiply_adds, parameters, .*, got 'flops'"),
        ({"weight": 1.0, "ramp": 2.0}, "`start` and `ramp` must be fractions of the training, .*, got 0.0 and 2.0"),
        ({"weight": 1.0, "start": 0.95}, "together at most 1, got 0.95 and 0.1"),
    ],
)
def test_a_penalty_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Penalty(**options)


# ---------------------------------------------------------------------------------------------------------------------
# all objectives

OBJECTIVES: list[Callable[[], Objective]] = [
    lambda: Budget(density=0.3, rate=0.2, start=0.05, ramp=0.4),
    lambda: Budget(parameters=150, curve="cubic"),
    lambda: Budget(multiply_adds=70, ramp=0.0),
    lambda: Budget(density=0.4, parameters=150),
    lambda: Penalty(0.2),
    lambda: Penalty(1.5, kind="parameters_without_embedding", ramp=0.3),
]


@pytest.mark.parametrize("make", OBJECTIVES)
def test_a_state_dict_takes_the_price_along(make: Callable[[], Objective]) -> None:
    first, resumed = make(), make()
    for step in range(6):
        first.after_step(costing(90, 180, 50), DENSE, progress=step / 10)
    assert "price" in first.state_dict()
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    for objective in (first, resumed):
        objective.after_step(costing(80, 170, 40), DENSE, progress=0.6)
    assert bool((first.state_dict()["price"] > 0).any())
    assert torch.equal(first.state_dict()["price"], resumed.state_dict()["price"])
    expected = costing(torch.tensor(60.0), 100, 20)  # type: ignore[arg-type]
    assert torch.equal(first.term(expected, DENSE), resumed.term(expected, DENSE))


@pytest.mark.parametrize("make", OBJECTIVES)
def test_the_term_is_a_differentiable_number_on_a_real_network(make: Callable[[], Objective]) -> None:
    network = WordTagger("LSTM")
    units = trace(network, torch.zeros(2, 1, dtype=torch.int64))
    dense = cost(units)
    objective = make()
    objective.after_step(dense, dense, progress=0.5)
    open = torch.full((units.count,), 0.9, requires_grad=True)
    (gradient,) = torch.autograd.grad(objective.term(CostOf(units).expected(open), dense), open)
    assert bool((objective.state_dict()["price"] > 0).all())
    assert bool((gradient > 0).all())  # opening any unit costs something


# ---------------------------------------------------------------------------------------------------------------------
# settings


def methods() -> list[Any]:
    """Every method, with every objective where it takes one."""
    made = []
    for kind in METHODS.values():
        arguments = inspect.signature(kind).parameters
        needed = {name for name, p in arguments.items() if p.default is inspect.Parameter.empty}
        assert needed <= {"objective", "density", "weight"}, f"say in this test how to make a {kind.__name__}: {needed}"
        numbers = dict.fromkeys((needed | (arguments.keys() & {"density"})) - {"objective"}, 0.5)
        objectives = [{"objective": make()} for make in OBJECTIVES] if "objective" in needed else [{}]
        made += [kind(**numbers, **objective) for objective in objectives]
    distribution = HardConcrete(beta=0.5, gamma=-0.2, zeta=1.2)
    made.append(L0Gates(Penalty(0.1), units="hidden", open_probability=0.8, freeze=0.9, distribution=distribution))
    return made


@pytest.mark.parametrize("method", methods(), ids=lambda method: type(method).__name__)
def test_settings_build_the_same_method_again(method: Any) -> None:
    settings = settings_of(method)
    assert settings["class"] == type(method).__name__
    again = from_settings(copy.deepcopy(settings), CLASSES)
    assert type(again) is type(method)
    assert settings_of(again) == settings
    given = inspect.signature(type(method)).parameters
    plain = [name for name in given if isinstance(getattr(method, name, None), (int, float, str))]
    assert all(getattr(again, name) == getattr(method, name) for name in plain)
    assert set(given) == set(settings) - {"class"}


@pytest.mark.parametrize("make", OBJECTIVES)
def test_settings_build_the_same_objective_again(make: Callable[[], Objective]) -> None:
    objective = make()
    again = from_settings(settings_of(objective), CLASSES)
    assert type(again) is type(objective)
    assert settings_of(again) == settings_of(objective)
    assert again.limits(DENSE) == objective.limits(DENSE)


def test_the_settings_of_a_method_hold_those_of_its_parts() -> None:
    settings = settings_of(L0Gates(Budget(density=0.2), freeze=0.7))
    assert settings["class"] == "L0Gates"
    assert settings["freeze"] == 0.7
    assert settings["objective"]["class"] == "Budget"
    assert settings["objective"]["density"] == 0.2
    assert settings["objective"]["parameters"] is None
    assert settings["distribution"] == {"class": "HardConcrete", "beta": 2 / 3, "gamma": -0.1, "zeta": 1.1}
    assert from_settings(settings, CLASSES).distribution == HardConcrete()
    assert settings_of(Dense()) == {"class": "Dense"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class": "Popen", "args": "ls"}, "`class` of .* must be one of .*Budget.*, got 'Popen'"),
        ({"density": 0.5}, "`class` of .* must be one of .*, got '?None"),
        ({"class": "Budget", "density": 0.5, "speed": 1, "art": 2}, "Budget has no argument art, speed"),
        ({"class": "L0Gates", "objective": {"class": "Popen"}}, "`class` of .* must be one of .*, got 'Popen'"),
        ({"class": "Budget", "density": 3.0}, "`density` must be in"),
    ],
)
def test_settings_that_describe_nothing_known_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_settings(settings, CLASSES)


def test_every_method_and_objective_can_be_built_from_settings() -> None:
    assert {kind.__name__ for kind in METHODS.values()} <= set(CLASSES)
    assert {kind.__name__ for kind in Objective.__subclasses__()} <= set(CLASSES)
