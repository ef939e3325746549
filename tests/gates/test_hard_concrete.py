"""The hard concrete distribution: closed forms against draws, gradients against differences, and the ends."""

from __future__ import annotations

import ast
import copy
import math
import sys
from pathlib import Path

import pytest
import torch

from l0rnn.gates import Gates, hard_concrete
from l0rnn.gates.hard_concrete import LOG_ALPHA_LIMIT, HardConcrete

DISTRIBUTIONS = [
    HardConcrete(),
    HardConcrete(beta=0.2),
    HardConcrete(beta=1.5),
    HardConcrete(gamma=-0.5, zeta=1.05),
    HardConcrete(gamma=-0.01, zeta=1.8),
]
LOCATIONS = (-4.0, -1.0, 0.0, 0.3, 2.5)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
DRAWS = 200_000


def draws(distribution: HardConcrete, location: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return distribution.sample(torch.full((DRAWS,), location, dtype=torch.float64), generator=generator)


def assert_within_standard_errors(measured: torch.Tensor, expected: float, *, errors: float = 5.0) -> None:
    """The mean of a sample is within some standard errors of what it should be."""
    allowed = errors * measured.double().std().item() / math.sqrt(len(measured)) + 1e-4
    assert abs(measured.double().mean().item() - expected) < allowed


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("location", LOCATIONS)
def test_draws_follow_the_closed_forms(distribution: HardConcrete, location: float) -> None:
    gates = draws(distribution, location)
    log_alpha = torch.tensor(location, dtype=torch.float64)
    assert gates.min() >= 0
    assert gates.max() <= 1
    # P(gate = 0) is the mass of s below -gamma / (zeta - gamma), P(gate = 1) that above (1 - gamma) / (zeta - gamma)
    closed = 1 / (1 + math.exp(location - distribution.beta * math.log(-distribution.gamma / distribution.zeta)))
    fully_open = 1 / (
        1 + math.exp(distribution.beta * math.log((1 - distribution.gamma) / (distribution.zeta - 1)) - location)
    )
    assert_within_standard_errors(gates == 0, closed)
    assert_within_standard_errors(gates == 1, fully_open)
    assert_within_standard_errors(gates, distribution.mean(log_alpha).item())
    assert distribution.open_probability(log_alpha).item() == pytest.approx(1 - closed, abs=1e-12)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_mean_is_that_of_a_fine_grid_of_uniform_numbers(distribution: HardConcrete) -> None:
    locations = torch.linspace(-8, 8, 33, dtype=torch.float64)
    uniform = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    slow = distribution.sample(locations[:, None].expand(-1, 20_000), uniform=uniform.expand(33, -1)).mean(-1)
    torch.testing.assert_close(distribution.mean(locations), slow, atol=1e-5, rtol=0)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_gradients_are_those_of_finite_differences(distribution: HardConcrete) -> None:
    generator = torch.Generator().manual_seed(1)
    uniform = torch.rand(40, dtype=torch.float64, generator=generator)
    log_alpha = torch.empty(40, dtype=torch.float64).uniform_(-3, 3, generator=generator).requires_grad_()
    functions = {
        "sample": lambda a: distribution.sample(a, uniform=uniform),
        "deterministic": distribution.deterministic,
        "open_probability": distribution.open_probability,
        "mean": distribution.mean,
    }
    for name, function in functions.items():
        assert torch.autograd.gradcheck(function, (log_alpha,)), name
    gates = functions["sample"](log_alpha)
    (gradient,) = torch.autograd.grad(gates.sum(), log_alpha)
    inside = (gates > 0) & (gates < 1)
    assert 0 < inside.sum() < 40
    assert bool((gradient[inside] > 0).all())
    assert bool((gradient[~inside] == 0).all())


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_log_alpha_is_the_inverse_of_open_probability(distribution: HardConcrete) -> None:
    locations = torch.linspace(-14, 14, 57, dtype=torch.float64)
    back = distribution.log_alpha(distribution.open_probability(locations))
    torch.testing.assert_close(back, locations, atol=1e-7, rtol=0)
    probabilities = torch.linspace(0, 1, 101)
    forth = distribution.open_probability(distribution.log_alpha(probabilities))
    torch.testing.assert_close(forth, probabilities, atol=1e-6, rtol=0)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_autocast", [False, True])
def test_nothing_overflows_at_the_ends(distribution: HardConcrete, dtype: torch.dtype, *, is_autocast: bool) -> None:
    tiny = torch.finfo(dtype).tiny
    ends = torch.tensor([-LOG_ALPHA_LIMIT, -1.0, 0.0, 1.0, LOG_ALPHA_LIMIT], dtype=dtype)
    uniform = torch.tensor([0.0, tiny, 0.5, 1.0 - torch.finfo(dtype).eps, 1.0], dtype=dtype)
    log_alpha, uniform = (pair.flatten() for pair in torch.meshgrid(ends, uniform, indexing="ij"))
    functions = (
        lambda a: distribution.sample(a, uniform=uniform),
        distribution.deterministic,
        distribution.open_probability,
        distribution.mean,
    )
    for function in functions:
        leaf = log_alpha.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
            gates = function(leaf)
        (gradient,) = torch.autograd.grad(gates.float().sum(), leaf)
        assert gates.dtype == dtype
        assert gates.shape == log_alpha.shape
        assert bool(gates.isfinite().all())
        assert bool(gradient.isfinite().all())
        assert bool(((gates >= 0) & (gates <= 1)).all())
    at_the_ends = distribution.sample(log_alpha, uniform=uniform)[log_alpha.abs() == LOG_ALPHA_LIMIT]
    assert torch.equal(at_the_ends, (log_alpha[log_alpha.abs() == LOG_ALPHA_LIMIT] > 0).to(dtype))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_deterministic_gate_closes_at_the_closing_log_alpha(distribution: HardConcrete) -> None:
    around = distribution.closing_log_alpha + torch.tensor([-1.0, -1e-6, 1e-6, 1.0], dtype=torch.float64)
    assert (distribution.deterministic(around) > 0).tolist() == [False, False, True, True]


def test_a_generator_makes_draws_repeatable() -> None:
    log_alpha = torch.zeros(50)
    first, again = (HardConcrete().sample(log_alpha, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, HardConcrete().sample(log_alpha, generator=torch.Generator().manual_seed(4)))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("open_probability", "value"), [(1.0, 1.0), (0.0, 0.0)])
def test_gates_at_the_ends_are_exact_in_training_and_evaluation(
    distribution: HardConcrete, dtype: torch.dtype, open_probability: float, value: float
) -> None:
    torch.manual_seed(0)
    gates = Gates(2000, open_probability=open_probability, distribution=distribution, dtype=dtype)
    assert bool((gates.draw() == value).all())
    assert bool((gates.eval().draw() == value).all())
    assert bool((gates.keep() == bool(value)).all())


@pytest.mark.parametrize("open_probability", [0.05, 0.5, 0.93])
def test_gates_start_at_the_open_probability_asked_for(open_probability: float) -> None:
    torch.manual_seed(0)
    gates = Gates(DRAWS, open_probability=open_probability)
    torch.testing.assert_close(gates.open_probability(), torch.full((DRAWS,), open_probability), atol=1e-6, rtol=0)
    assert_within_standard_errors(gates.draw() != 0, open_probability)


def test_gates_keep_one_draw_until_the_next() -> None:
    torch.manual_seed(0)
    gates = Gates(30, open_probability=0.5)
    first = gates.value  # there is none yet, so this draws
    assert gates.value is first
    assert not torch.equal(gates.draw(), first)
    gates.eval()
    assert torch.equal(gates.draw(), gates.deterministic())
    assert gates.extra_repr() == "30"
    assert torch.equal(copy.deepcopy(gates).log_alpha, gates.log_alpha)


def test_the_module_needs_torch_alone() -> None:
    tree = ast.parse(Path(hard_concrete.__file__).read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0]
    assert not [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level]
    outside = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert outside == {"torch"}


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("beta", 0.0, "`beta` must be > 0, got 0.0"),
        ("beta", -1.0, "`beta` must be > 0, got -1.0"),
        ("beta", math.nan, "`beta` must be > 0, got nan"),
        ("gamma", 0.0, "`gamma` must be < 0 so that a gate can close, got 0.0"),
        ("gamma", 0.1, "`gamma` must be < 0"),
        ("zeta", 1.0, "`zeta` must be > 1 so that a gate can be fully open, got 1.0"),
        ("zeta", 0.5, "`zeta` must be > 1"),
    ],
)
def test_a_parameter_out_of_range_is_refused(argument: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HardConcrete(**{argument: value})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"units": 0}, "`units` must be > 0, got 0"),
        ({"units": -3}, "`units` must be > 0, got -3"),
        ({"units": 3, "open_probability": 1.5}, r"`open_probability` must be in \[0, 1\], got 1.5"),
        ({"units": 3, "open_probability": -0.1}, r"`open_probability` must be in \[0, 1\], got -0.1"),
    ],
)
def test_gates_out_of_range_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Gates(**arguments)  # type: ignore[arg-type]
