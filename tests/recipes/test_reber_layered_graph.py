"""Layers of a graph against a search for the longest path, and the properties of graphs against Darji's."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pytest

from l0rnn.methods.random_graphs import random_graph
from recipes.reber.layered_graph import LayeredGraph, graph_properties

DRAWN = [
    *(("watts_strogatz", nodes, seed) for nodes in (2, 3, 9, 10, 17, 33, 50) for seed in (0, 1)),
    *(("barabasi_albert", nodes, seed) for nodes in (2, 3, 9, 10, 17, 33, 50) for seed in (0, 1)),
]


def longest_path_to(node: int, edges: list[tuple[int, int]]) -> int:
    """Edges of the longest path that ends in a node, found by walking all of them."""
    return max((1 + longest_path_to(source, edges) for source, target in edges if target == node), default=0)


def edges_in_the_masks(graph: LayeredGraph) -> list[tuple[int, int]]:
    """All edges that the masks and skips hold, each as often as it is there."""
    blocks = {(depth, depth + 1): mask for depth, mask in enumerate(graph.masks)} | graph.skips
    return [
        (graph.layers[lower][column], graph.layers[upper][row])
        for (lower, upper), mask in blocks.items()
        for row, column in np.argwhere(mask)
    ]


# ---------------------------------------------------------------------------------------------------------------------
# layers


@pytest.mark.parametrize("seed", range(20))
def test_a_layer_is_the_longest_path(seed: int) -> None:
    generator = np.random.default_rng(seed)
    nodes = int(generator.integers(2, 11))
    edges = [(a, b) for a in range(nodes) for b in range(a + 1, nodes) if generator.random() < 0.35] or [(0, 1)]
    shuffled = [edges[i][:: generator.choice([-1, 1])] for i in generator.permutation(len(edges))]
    graph = LayeredGraph(nodes, shuffled + shuffled[:2])
    depths = [longest_path_to(node, edges) for node in range(nodes)]
    assert graph.layers == [[v for v in range(nodes) if depths[v] == depth] for depth in range(max(depths) + 1)]
    assert graph.layer_sizes == [depths.count(depth) for depth in range(max(depths) + 1)]
    assert graph.edges == sorted(edges)


@pytest.mark.parametrize(("kind", "nodes", "seed"), DRAWN)
def test_masks_and_skips_hold_every_edge_once(kind: Any, nodes: int, seed: int) -> None:
    drawn = random_graph(kind, nodes, seed)
    graph = LayeredGraph.from_networkx(drawn)
    assert sorted(edges_in_the_masks(graph)) == sorted(tuple(sorted(edge)) for edge in drawn.edges)
    assert len(graph.masks) == len(graph.layers) - 1
    sizes = graph.layer_sizes
    assert all(mask.shape == (sizes[depth + 1], sizes[depth]) for depth, mask in enumerate(graph.masks))
    assert all(mask.shape == (sizes[upper], sizes[lower]) for (lower, upper), mask in graph.skips.items())
    assert all(mask.any(axis=1).all() for mask in graph.masks)  # what makes a node's layer is a parent just before it
    assert all(upper - lower >= 2 and mask.any() for (lower, upper), mask in graph.skips.items())
    assert list(graph.skips) == sorted(graph.skips, key=lambda layers: (layers[1], layers[0]))
    assert all(mask.dtype == bool for mask in [*graph.masks, *graph.skips.values()])


def test_the_order_in_which_networkx_lists_the_nodes_directs_the_edges() -> None:
    drawn = nx.Graph()
    drawn.add_nodes_from(["last", 7, "first"])
    drawn.add_edges_from([("first", 7), ("first", "last")])
    graph = LayeredGraph.from_networkx(drawn)
    assert graph.edges == [(0, 2), (1, 2)]
    assert graph.layers == [[0, 1], [2]]


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        (1, [], r"`nodes` must be at least 2, since one node alone has no layers, got 1"),
        (3, [], r"`edges` must not be empty: a graph with no path to the output is no network"),
        (3, [(0, 1), (2, 2)], r"`edges` must join different nodes, got a loop from 2 to itself"),
        (3, [(0, 3)], r"`edges` must join nodes from 0 to 2, got \(0, 3\)"),
        (3, [(1, -1)], r"`edges` must join nodes from 0 to 2, got \(-1, 1\)"),
    ],
)
def test_graphs_that_are_no_network_are_refused(nodes: int, edges: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LayeredGraph(nodes, edges)


def test_directed_graphs_are_refused() -> None:
    with pytest.raises(ValueError, match="`graph` must be undirected, got a directed one"):
        LayeredGraph.from_networkx(nx.DiGraph([(0, 1)]))
    with pytest.raises(ValueError, match="`graph` must be undirected, got a directed one"):
        graph_properties(nx.DiGraph([(0, 1), (1, 2), (2, 0)]))


# ---------------------------------------------------------------------------------------------------------------------
# properties


# nodes, edges and, for Barabási–Albert graphs, nodes of the first layer, from Darji's table of results for the GRU
@pytest.mark.parametrize(
    ("kind", "nodes", "edges", "sources"),
    [
        ("barabasi_albert", 27, 50, 2),
        ("barabasi_albert", 41, 148, 4),
        ("barabasi_albert", 12, 11, 1),
        ("barabasi_albert", 37, 102, 3),
        ("watts_strogatz", 33, 99, None),
        ("watts_strogatz", 16, 16, None),
        ("watts_strogatz", 44, 176, None),
        ("watts_strogatz", 50, 250, None),
        ("watts_strogatz", 10, 10, None),
    ],
)
def test_graphs_have_the_sizes_that_darji_reports(kind: Any, nodes: int, edges: int, sources: int | None) -> None:
    for seed in range(5):
        properties = graph_properties(random_graph(kind, nodes, seed))
        assert (properties["nodes"], properties["edges"]) == (nodes, edges)
        assert sources is None or properties["source_nodes"] == sources


# results/structure/gru.csv of Darji's repository, the row barabasi_albert 30. A tree of 11 nodes and diameter 3 is two
# joined stars, and its average path says that they have 8 leaves and 1; layers, sources and sinks fix the numbers.
DOUBLE_STAR = [(0, 1), (1, 2), (2, 3), *((1, leaf) for leaf in range(4, 11))]
REPORTED = {
    "layers": 4,
    "nodes": 11,
    "edges": 10,
    "source_nodes": 1,
    "sink_nodes": 1,
    "diameter": 3,
    "density": 0.09090909090909091,
    "average_shortest_path_length": 1.9636363636363636,
    "eccentricity_mean": 2.8181818181818183,
    "eccentricity_var": 0.16363636363636364,
    "eccentricity_std": 0.40451991747794525,
    "degree_mean": 0.18181818181818182,
    "degree_var": 0.057636363636363645,
    "degree_std": 0.24007574562284223,
    "closeness_mean": 0.5304560759106214,
    "closeness_var": 0.017704233437321897,
    "closeness_std": 0.13305725623701212,
    "nodes_betweenness_mean": 0.10707070707070708,
    "nodes_betweenness_var": 0.08699438832772168,
    "nodes_betweenness_std": 0.29494811124623543,
    "edge_betweenness_mean": 0.19636363636363638,
    "edge_betweenness_var": 0.0021157024793388426,
    "edge_betweenness_std": 0.04599676596608551,
}


def test_properties_are_those_that_darji_reports() -> None:
    properties = graph_properties(nx.Graph(DOUBLE_STAR))
    assert list(properties) == list(REPORTED)
    assert properties == pytest.approx(REPORTED, rel=1e-12)


def test_graphs_without_properties_are_refused() -> None:
    with pytest.raises(ValueError, match="`graph` must have at least 3 nodes to have variances, got 2"):
        graph_properties(nx.path_graph(2))
    with pytest.raises(ValueError, match="`graph` must be connected to have a diameter"):
        graph_properties(nx.Graph([(0, 1), (2, 3)]))
