"""Random graphs against what Darji says of his, and what cannot be drawn."""

from __future__ import annotations

import sys
from typing import Any

import networkx as nx
import pytest

from l0rnn.methods.random_graphs import random_graph

DRAWN = [
    *(("watts_strogatz", nodes, seed) for nodes in (2, 3, 9, 10, 17, 33, 50) for seed in (0, 1)),
    *(("barabasi_albert", nodes, seed) for nodes in (2, 3, 9, 10, 17, 33, 50) for seed in (0, 1)),
]


@pytest.mark.parametrize(("kind", "nodes", "seed"), DRAWN)
def test_graphs_have_darjis_numbers_of_neighbours(kind: Any, nodes: int, seed: int) -> None:
    graph = random_graph(kind, nodes, seed)
    assert list(graph.nodes) == list(range(nodes))
    assert nx.is_connected(graph)
    if kind == "watts_strogatz":
        neighbours = max(2, nodes // 5)
        edges = nodes * (neighbours // 2) if neighbours < nodes else nodes * (nodes - 1) // 2
    else:
        neighbours = max(1, nodes // 10)
        edges = neighbours * (nodes - neighbours)
        assert not any(graph.has_edge(a, b) for a in range(neighbours) for b in range(a))  # no hub among them
    assert graph.number_of_edges() == edges
    assert sorted(random_graph(kind, nodes, seed).edges) == sorted(graph.edges)
    if nodes >= 10:
        assert sorted(random_graph(kind, nodes, seed + 100).edges) != sorted(graph.edges)


def test_neighbours_and_rewiring() -> None:
    ring = random_graph("watts_strogatz", 8, 0, neighbours=4, rewiring=0.0)
    assert all(sorted((v - w) % 8 for w in ring[v]) == [1, 2, 6, 7] for v in ring)
    star = random_graph("barabasi_albert", 6, 0, neighbours=5)
    assert sorted(degree for _, degree in star.degree()) == [1, 1, 1, 1, 1, 5]
    loose = [random_graph("watts_strogatz", 60, seed, neighbours=2, connected=False) for seed in range(30)]
    assert not all(nx.is_connected(graph) for graph in loose)
    assert all(graph.number_of_edges() == 60 for graph in loose)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "erdos_renyi"}, "`kind` must be one of watts_strogatz, barabasi_albert, got 'erdos_renyi'"),
        ({"nodes": 1}, "`nodes` must be at least 2"),
        ({"neighbours": 1}, "`neighbours` must be from 2 to 10 in a watts_strogatz graph of 10 nodes, got 1"),
        ({"neighbours": 11}, "`neighbours` must be from 2 to 10"),
        ({"kind": "barabasi_albert", "neighbours": 0}, "`neighbours` must be from 1 to 9"),
        ({"kind": "barabasi_albert", "neighbours": 10}, "`neighbours` must be from 1 to 9"),
        ({"rewiring": 1.5}, r"`rewiring` must be in \[0, 1\], got 1.5"),
        ({"tries": 0}, "`tries` must be at least 1, got 0"),
        (
            {"nodes": 1000, "neighbours": 2, "tries": 3},
            "`neighbours` must be enough to connect 1000 nodes, got 2 and no connected graph in 3 tries",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random_graph(**{"kind": "watts_strogatz", "nodes": 10, "seed": 0, **arguments})


def test_without_networkx_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(ModuleNotFoundError, match=r"'networkx' is not installed; .* pip install 'l0rnn\[graphs\]'"):
        random_graph("watts_strogatz", 10, 0)


def test_another_package_that_is_missing_is_not_taken_for_networkx(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "networkx":
                raise ModuleNotFoundError("no other", name="other")

    monkeypatch.delitem(sys.modules, "networkx")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match="^no other$"):
        random_graph("watts_strogatz", 10, 0)
