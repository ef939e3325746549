"""Cost against what is really there: parameters of built networks, torch's flop counter, and averages over draws."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from l0rnn.blueprint import Blueprint, draw_blueprint
from l0rnn.cost.cost import Cost, cost
from l0rnn.surgery.shrink import build
from l0rnn.wiring import OUTSIDE, Wiring, reads
from tests.networks import CELLS, STACKS, StateClassifier, TiedLanguageModel, TwoReaders, WordTagger

KINDS = ("parameters", "embedding_parameters", "parameters_without_embedding", "multiply_adds")


def tagger(cell: str, stack: int) -> Any:
    return WordTagger(cell, normalise=stack % 3 == 0, **STACKS[stack])


NETWORKS = {
    "state": StateClassifier,
    "state, both directions": lambda: StateClassifier("GRU", num_layers=2, bidirectional=True),
    "tied": TiedLanguageModel,
    "two readers": TwoReaders,
}


def random_keep(blueprint: Blueprint, generator: torch.Generator) -> dict[str, Tensor]:
    """Some units of every prunable axis, at least one, and more cells than projected units."""
    keep: dict[str, Tensor] = {}
    for axis in blueprint.prunable():
        least = int(keep[axis.name.removesuffix("_cell")].sum()) + 1 if axis.name.endswith("_cell") else 1
        units = int(torch.randint(least, axis.size + 1, (), generator=generator))
        keep[axis.name] = torch.zeros(axis.size, dtype=torch.bool)
        keep[axis.name][torch.randperm(axis.size, generator=generator)[:units]] = True
    return keep


def built(network: Any, blueprint: Blueprint, keep: dict[str, Tensor]) -> nn.Module:
    every = {name: torch.ones(axis.size, dtype=torch.bool) for name, axis in blueprint.axes.items()}
    return build(network, blueprint, {}, {**every, **keep})


def assert_cost_is_exact(network: Any, generator: torch.Generator, *, draws: int = 3) -> None:
    blueprint = draw_blueprint(network, network.wiring)
    keeps = [{}, *(random_keep(blueprint, generator) for _ in range(draws))]
    for keep in keeps:
        small = built(network, blueprint, keep)
        counted = cost(blueprint, keep)
        assert counted.parameters == sum(parameter.numel() for parameter in small.parameters())
        untied = [module.weight.numel() for module in small.modules() if isinstance(module, nn.Embedding)]
        assert counted.embedding_parameters == (0 if blueprint.tied else sum(untied))
        assert counted == cost(draw_blueprint(small, network.wiring))
        assert all(isinstance(counted[kind], int) for kind in KINDS)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("stack", range(len(STACKS)))
def test_exact_cost_of_a_tagger_is_the_parameters_of_the_built_network(cell: str, stack: int) -> None:
    torch.manual_seed(0)
    assert_cost_is_exact(tagger(cell, stack), torch.Generator().manual_seed(stack))


@pytest.mark.parametrize("name", NETWORKS)
def test_exact_cost_is_the_parameters_of_the_built_network(name: str) -> None:
    torch.manual_seed(0)
    assert_cost_is_exact(NETWORKS[name](), torch.Generator().manual_seed(0), draws=10)


def test_parameters_outside_the_wiring_are_counted() -> None:
    network = WordTagger("GRU")
    before = cost(draw_blueprint(network, network.wiring))
    network.extra = nn.Conv1d(3, 5, 2)
    network.scale = nn.Parameter(torch.ones(7))
    after = cost(draw_blueprint(network, network.wiring))
    assert after.parameters == before.parameters + 3 * 5 * 2 + 5 + 7
    assert after.multiply_adds == before.multiply_adds


def multiply_adds(network: nn.Module, *inputs: Tensor) -> float:
    """Those of one run on the meta device, as torch counts them."""
    network.to("meta")
    with FlopCounterMode(display=False) as counter:
        network(*(tensor.to("meta") for tensor in inputs))
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("stack", range(0, len(STACKS), 3))
def test_multiply_adds_are_those_of_the_flop_counter(cell: str, stack: int) -> None:
    torch.manual_seed(0)
    network = tagger(cell, stack)
    blueprint = draw_blueprint(network, network.wiring)
    generator = torch.Generator().manual_seed(stack)
    one_step = torch.zeros(1, 1, dtype=torch.int64)  # (time, batch)
    for keep in ({}, random_keep(blueprint, generator), random_keep(blueprint, generator)):
        assert cost(blueprint, keep).multiply_adds == multiply_adds(built(network, blueprint, keep), one_step)


@pytest.mark.parametrize(
    ("name", "inputs"),
    [("state", torch.zeros(1, 1, 3)), ("tied", torch.zeros(1, 1).long()), ("two readers", torch.zeros(1, 1).long())],
)
def test_multiply_adds_of_other_networks_are_those_of_the_flop_counter(name: str, inputs: Tensor) -> None:
    network: Any = NETWORKS[name]()
    blueprint = draw_blueprint(network, network.wiring)
    keep = random_keep(blueprint, torch.Generator().manual_seed(0))
    for kept in ({}, keep):
        assert cost(blueprint, kept).multiply_adds == multiply_adds(built(network, blueprint, kept), inputs)


# ---------------------------------------------------------------------------------------------------------------------
# expected cost


def small_networks() -> dict[str, tuple[nn.Module, Wiring]]:
    """Few enough units to go through every one of their 2ⁿ states."""
    stack = nn.Module()
    stack.embedding, stack.encoder, stack.decoder = nn.Embedding(4, 2), nn.LSTM(2, 3, 2), nn.Linear(3, 2)
    both = nn.Module()
    both.encoder, both.norm, both.decoder = nn.GRU(2, 2, 2, bidirectional=True), nn.LayerNorm(4), nn.Linear(4, 2)
    projected = nn.Module()
    projected.encoder, projected.decoder = nn.LSTM(2, 3, 2, proj_size=1), nn.Linear(1, 2)
    repeated = nn.Module()
    repeated.left, repeated.right, repeated.join = nn.RNN(2, 3), nn.GRU(2, 2), nn.Linear(3 + 2 + 3 + 3, 3)
    repeated.top, repeated.decoder = nn.LSTM(3, 2), nn.Linear(2, 2)
    outside = reads(OUTSIDE)
    return {
        "stack": (stack, Wiring({"encoder": reads("embedding"), "decoder": reads("encoder")})),
        "both": (both, Wiring({"encoder": outside, "norm": reads("encoder"), "decoder": reads("norm")})),
        "projected": (projected, Wiring({"encoder": outside, "decoder": reads("encoder")})),
        "repeated": (
            repeated,
            Wiring(
                {
                    "left": outside,
                    "right": outside,
                    "join": reads("left", "right", "left", "left"),
                    "top": reads("join"),
                    "decoder": reads("top"),
                }
            ),
        ),
    }


def probabilities(blueprint: Blueprint, generator: torch.Generator) -> dict[str, Tensor]:
    return {axis.name: torch.rand(axis.size, dtype=torch.float64, generator=generator) for axis in blueprint.prunable()}


@pytest.mark.parametrize("name", ["stack", "both", "projected", "repeated"])
def test_expected_cost_is_the_average_over_all_states(name: str) -> None:
    network, wiring = small_networks()[name]
    blueprint = draw_blueprint(network, wiring)
    open = probabilities(blueprint, torch.Generator().manual_seed(0))
    flat = torch.cat(list(open.values()))
    average = dict.fromkeys(KINDS, 0.0)
    weight = 0.0
    for state in itertools.product((False, True), repeat=len(flat)):
        keep = torch.tensor(state)
        chance = torch.where(keep, flat, 1 - flat).prod().item()
        exact = cost(blueprint, dict(zip(open, keep.split([len(p) for p in open.values()]), strict=True)))
        weight += chance
        for kind in KINDS:
            average[kind] += chance * exact[kind]
    assert weight == pytest.approx(1)
    expected = cost(blueprint, open)
    for kind in KINDS:
        assert float(expected[kind]) == pytest.approx(average[kind], rel=1e-12)


@pytest.mark.parametrize("name", ["tagger", "tied", "two readers"])
def test_expected_cost_is_the_mean_over_random_keeps(name: str) -> None:
    network: Any = WordTagger("LSTM", num_layers=2, bidirectional=True) if name == "tagger" else NETWORKS[name]()
    blueprint = draw_blueprint(network, network.wiring)
    generator = torch.Generator().manual_seed(0)
    open = probabilities(blueprint, generator)
    draws = 2000
    exact = [
        cost(blueprint, {axis: torch.rand(len(p), generator=generator) < p for axis, p in open.items()})
        for _ in range(draws)
    ]
    expected = cost(blueprint, open)
    for kind in KINDS:
        drawn = torch.tensor([float(one[kind]) for one in exact], dtype=torch.float64)
        standard_error = drawn.std().item() / math.sqrt(draws)
        assert abs(drawn.mean().item() - float(expected[kind])) <= 4 * standard_error


def test_the_diagonal_of_a_recurrent_weight_carries_one_gate() -> None:
    """By hand: 3 units at probability 1/2 leave 3·½ + 6·¼ = 3 of 9 entries, not 9·¼."""
    network = nn.Module()
    network.encoder, network.decoder = nn.RNN(1, 3, bias=False), nn.Linear(3, 1, bias=False)
    blueprint = draw_blueprint(network, Wiring({"encoder": reads(OUTSIDE), "decoder": reads("encoder")}))
    expected = cost(blueprint, {"encoder.l0": torch.full((3,), 0.5)})
    assert float(expected.multiply_adds) == 3 * 0.5 + 3 + 3 * 0.5  # weight_ih, weight_hh, decoder


def test_probabilities_of_0_and_1_give_the_exact_cost() -> None:
    network = WordTagger("GRU", num_layers=2, bidirectional=True)
    blueprint = draw_blueprint(network, network.wiring)
    keep = random_keep(blueprint, torch.Generator().manual_seed(0))
    exact, expected = cost(blueprint, keep), cost(blueprint, {name: k.double() for name, k in keep.items()})
    for kind in KINDS:
        assert float(expected[kind]) == exact[kind]


def test_the_gradient_is_the_difference_between_open_and_closed() -> None:
    """The expectation is linear in each probability, so its slope is that difference, exactly."""
    network = TwoReaders()
    blueprint = draw_blueprint(network, network.wiring)
    open = {name: p.requires_grad_() for name, p in probabilities(blueprint, torch.Generator().manual_seed(0)).items()}
    for kind in ("parameters", "multiply_adds"):
        gradients = torch.autograd.grad(cost(blueprint, open)[kind], list(open.values()))
        for (name, p), gradient in zip(open.items(), gradients, strict=True):
            for unit in range(len(p)):
                ends = []
                for end in (0.0, 1.0):
                    moved = p.detach().clone()
                    moved[unit] = end
                    ends.append(cost(blueprint, {**open, name: moved})[kind])
                assert gradient[unit].item() == pytest.approx(float((ends[1] - ends[0]).detach()), rel=1e-9)
                assert gradient[unit] > 0


def test_kept_and_probable_axes_mix() -> None:
    network = WordTagger("LSTM")
    blueprint = draw_blueprint(network, network.wiring)
    keep = {"embedding": torch.tensor([True, False, True, True, False, False])}
    mixed = cost(blueprint, {**keep, "encoder.l0": torch.ones(7)})
    assert float(mixed.parameters) == cost(blueprint, keep).parameters


def test_cost_is_read_by_kind() -> None:
    counted = Cost(100, 40, 60)
    assert [counted[kind] for kind in KINDS] == [100, 40, 60, 60]


def test_an_unknown_axis_is_refused() -> None:
    network = WordTagger("LSTM")
    blueprint = draw_blueprint(network, network.wiring)
    with pytest.raises(ValueError, match="`open` names 'encoder', which is none of the axes embedding, encoder.l0"):
        cost(blueprint, {"encoder": torch.ones(7)})


@pytest.mark.parametrize("shape", [(6,), (7, 1), (), (8,)])
def test_a_vector_of_another_size_is_refused(shape: tuple[int, ...]) -> None:
    network = WordTagger("LSTM")
    blueprint = draw_blueprint(network, network.wiring)
    with pytest.raises(ValueError, match=r"`open` must have shape \(7,\) for 'encoder.l0', got \("):
        cost(blueprint, {"encoder.l0": torch.ones(shape)})
