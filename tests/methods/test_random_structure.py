"""Random structure: exact densities, graphs that are really those asked for, masks that stay."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from l0rnn.methods import random_structure
from l0rnn.methods.random_graphs import random_graph
from l0rnn.methods.random_structure import RandomStructure, crossing_mask, neighbours_for, recurrent_mask
from l0rnn.recurrent.names import gates_of_weight
from tests.methods.loops import traced
from tests.networks import CELLS, TiedLanguageModel, TwoReaders, WordTagger

KINDS: tuple[Any, ...] = ("watts_strogatz", "barabasi_albert")


def attached(network: Any, **options: Any) -> RandomStructure:
    method = RandomStructure(**{"density": 0.4, **options})
    method.attach(network, traced(network))
    return method


def unit_masks(method: RandomStructure) -> dict[str, Tensor]:
    """The mask of each matrix without its gates, once it is known that all gates have the same."""
    masks = {}
    for name, mask in method.masks().items():
        gates = gates_of_weight(method._network[0], name)
        parts = mask.reshape(gates, mask.shape[0] // gates, mask.shape[1])
        assert (parts == parts[0]).all()
        masks[name] = parts[0]
    return masks


def is_recurrent(name: str, mask: Tensor) -> bool:
    return "weight_hh" in name and mask.shape[0] == mask.shape[1]


# ---------------------------------------------------------------------------------------------------------------------
# the masks of a network


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("density", [0.2, 0.37, 0.5, 0.9, 1.0])
def test_every_matrix_has_the_density_and_no_unit_is_cut_off(cell: str, kind: str, density: float) -> None:
    network = WordTagger(cell, num_layers=2, bidirectional=True, hidden=11, embedding=13)
    network.decoder = nn.Linear(network.decoder.in_features, 17)
    if cell == "LSTM_projected":
        density = max(density, 0.25)  # its 4 projected units allow no less
    method = attached(network, graph=kind, density=density)
    masks = unit_masks(method)
    matrices = {"weight_ih", "weight_hh", *({"weight_hr"} if cell == "LSTM_projected" else ())}
    assert {name.split(".")[1].rsplit("_l", 1)[0] for name in masks} == matrices | {"weight"}
    assert len(masks) == 4 * len(matrices) + 1
    for name, mask in masks.items():
        asked = round(density * mask.numel())
        assert abs(int(mask.sum()) - asked) <= (1 if is_recurrent(name, mask) else 0), name
        assert mask.any(0).all(), name
        assert mask.any(1).all(), name
        if is_recurrent(name, mask):
            assert torch.equal(mask, mask.T)
            assert mask.diagonal().all()
    assert method.kept_fraction() == pytest.approx(density, abs=0.01)
    assert method.figures()["density"] == pytest.approx(method.kept_fraction())
    for name, parameter in method.targets().items():
        assert torch.equal(parameter != 0, method.masks()[name])


@pytest.mark.parametrize("network", [TwoReaders, TiedLanguageModel])
def test_joined_and_tied_units(network: Any) -> None:
    net = network()
    masks = unit_masks(attached(net, density=0.4))
    assert all(int(mask.sum()) == round(0.4 * mask.numel()) for name, mask in masks.items() if "hh" not in name)
    assert set(masks) == {
        name for name, weight in net.named_parameters(remove_duplicate=False) if weight.dim() == 2
    } - ({"decoder.weight"} if network is TiedLanguageModel else {"embedding.weight"})


def test_the_weights_that_stay_are_left_as_they_are() -> None:
    network = WordTagger("GRU", num_layers=2)
    before = copy.deepcopy(network.state_dict())
    method = attached(network)
    masks = method.masks()
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, before[name] * masks[name] if name in masks else before[name])


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides(kind: str) -> None:
    first, again, other = (
        attached(WordTagger("LSTM", num_layers=2), graph=kind, seed=seed).masks() for seed in (5, 5, 6)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(not torch.equal(first[name], other[name]) for name in first)
    layers = [first["encoder.weight_hh_l0"], first["encoder.weight_hh_l1"]]
    assert not torch.equal(*layers)  # each layer has a graph of its own
    deeper = attached(WordTagger("LSTM", num_layers=3), graph=kind, seed=5).masks()
    assert all(torch.equal(first[name], deeper[name]) for name in first)


def test_random_numbers_of_others_are_left_alone() -> None:
    units = traced(network := WordTagger("LSTM"))
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    RandomStructure(density=0.4).attach(network, units)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


# ---------------------------------------------------------------------------------------------------------------------
# the masks alone


@pytest.mark.parametrize(("kind", "neighbours"), [("watts_strogatz", 6), ("barabasi_albert", 5)])
def test_a_recurrent_mask_is_a_graph(kind: Any, neighbours: int) -> None:
    """Where the density is one that the graphs have, nothing is added or dropped."""
    generator = np.random.default_rng(3)
    graph = random_graph(kind, 40, int(generator.integers(2**31)), neighbours, connected=False)
    density = (40 + 2 * graph.number_of_edges()) / 40**2
    labels = generator.permutation(40)
    expected = np.eye(40, dtype=bool)
    for source, target in graph.edges:
        expected[labels[source], labels[target]] = expected[labels[target], labels[source]] = True
    assert (recurrent_mask(40, density, kind, np.random.default_rng(3)) == expected).all()


@pytest.mark.parametrize("density", [0.05, 0.1, 0.2])
def test_barabasi_albert_graphs_have_hubs_in_every_matrix(density: float) -> None:
    spread = {}
    for kind in KINDS:
        generator = np.random.default_rng(0)
        masks = [recurrent_mask(150, density, kind, generator), crossing_mask(100, 120, density, kind, generator)]
        spread[kind] = [mask.sum(1).var() / mask.sum(1).mean() for mask in masks]
    assert all(hubs > 3 * even for even, hubs in zip(*spread.values(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sides", [(1, 1), (1, 5), (5, 1), (2, 2), (2, 9), (9, 2), (7, 7), (30, 4)])
def test_crossing_masks_of_every_density_that_covers_the_units(kind: Any, sides: tuple[int, int]) -> None:
    rows, columns = sides
    for entries in range(max(rows, columns), rows * columns + 1):
        mask = crossing_mask(rows, columns, entries / (rows * columns), kind, np.random.default_rng(entries))
        assert mask.shape == sides
        assert mask.sum() == entries
        assert mask.any(0).all()
        assert mask.any(1).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("units", [1, 2, 3, 8])
def test_recurrent_masks_of_every_density(kind: Any, units: int) -> None:
    for entries in range(units, units**2 + 1):
        mask = recurrent_mask(units, entries / units**2, kind, np.random.default_rng(entries))
        assert abs(int(mask.sum()) - entries) <= 1
        assert (mask == mask.T).all()
        assert mask.diagonal().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nodes", [2, 3, 7, 30])
def test_neighbours_come_closest_to_the_density(kind: Any, nodes: int) -> None:
    possible = range(2, nodes + 1, 2) if kind == "watts_strogatz" else range(1, nodes // 2 + 1)

    def distance(neighbours: int, density: float) -> float:
        edges = nodes * neighbours / 2 if kind == "watts_strogatz" else neighbours * (nodes - neighbours)
        return abs(edges / (nodes * (nodes - 1) / 2) - density)

    for density in np.linspace(0.01, 0.5, 30):
        chosen = neighbours_for(kind, nodes, float(density))
        random_graph(kind, nodes, 0, chosen, connected=False)  # it can be drawn
        # m(n-m) is not linear, so the nearest m may miss the nearest density by a little
        slack = 0.0 if kind == "watts_strogatz" else 1 / nodes**2
        best = min(distance(neighbours, density) for neighbours in possible)
        assert distance(chosen, density) <= best + slack + 1e-9


def test_large_matrices_get_rows_of_fixed_degree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_structure, "MOST_NODES", 50)
    monkeypatch.setattr(random_structure, "random_graph", lambda *_, **__: pytest.fail("a graph was drawn"))
    generator = np.random.default_rng(0)
    for rows, columns, density in ((30, 40, 0.21), (40, 30, 0.2), (200, 20, 0.3), (20, 40, 1.0)):
        mask = crossing_mask(rows, columns, density, "watts_strogatz", generator)
        assert mask.sum() == round(density * rows * columns)
        assert mask.any(0).all()
        degrees = mask.sum(1)
        assert degrees.max() - degrees.min() <= 1
    mask = recurrent_mask(60, 0.2, "barabasi_albert", generator)
    assert mask.sum() == 720
    assert (mask == mask.T).all()
    monkeypatch.setattr(random_structure, "MOST_NODES", 70)
    with pytest.raises(pytest.fail.Exception, match="a graph was drawn"):
        crossing_mask(30, 40, 0.2, "watts_strogatz", generator)


# ---------------------------------------------------------------------------------------------------------------------
# training, checkpoints, settings


@pytest.mark.parametrize("kind", KINDS)
def test_masks_survive_training(kind: str) -> None:
    network = WordTagger("LSTM", num_layers=2)
    method = attached(network, graph=kind)
    method.begin(total_steps=6)
    masks = {name: mask.clone() for name, mask in method.masks().items()}
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05, weight_decay=0.1)
    for step in range(1, 7):
        optimizer.zero_grad()
        logits, _ = network(torch.randint(11, (5, 4)))
        (logits.square().sum() + method.penalty()).backward()
        optimizer.step()
        method.after_step(step)
        for name, parameter in method.targets().items():
            assert not parameter[~masks[name]].any()
    for name, parameter in method.targets().items():
        assert torch.equal(method.masks()[name], masks[name])
        assert bool((parameter != before[name])[masks[name]].all())
    assert method.progress == 1.0
    assert method.gates() == {}


# ---------------------------------------------------------------------------------------------------------------------
# errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"graph": "ring"}, "`graph` must be .watts_strogatz. or .barabasi_albert., got .ring."),
        ({"density": 0.0}, r"`density` must be in \(0, 1\], got 0.0"),
        ({"density": 1.01}, r"`density` must be in \(0, 1\], got 1.01"),
        ({"density": float("nan")}, "`density` must be finite, got nan"),
        ({"seed": -1}, "`seed` must be ≥ 0, got -1"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomStructure(**{"density": 0.5, **arguments})


def test_a_density_that_cuts_units_off_is_refused_before_anything_changes() -> None:
    network = WordTagger("LSTM")
    before = copy.deepcopy(network.state_dict())
    message = (
        r"must be at least 1/5 for every unit of 'decoder.weight' \(5 units that read 7\) .*, got 0.18; .* `fixed`"
    )
    with pytest.raises(ValueError, match=message):
        attached(network, density=0.18)
    assert all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items())
    assert attached(network, density=1 / 5).kept_fraction() == pytest.approx(0.2, abs=0.01)


def test_the_way_out_is_a_layer_that_is_fixed() -> None:
    network = WordTagger("LSTM")
    method = RandomStructure(density=0.18)
    method.attach(network, traced(network, fixed=["decoder"]))
    assert set(method.masks()) == {"encoder.weight_ih_l0", "encoder.weight_hh_l0"}
    assert network.decoder.weight.all()
