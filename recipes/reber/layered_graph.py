"""Graphs as the structure of a network: their nodes in layers, and their edges as masks between the layers.

An undirected graph becomes a directed one without circles when every edge points from the earlier node to the later
one. The layer of a node is then the length of the longest path that ends there.

Reference:
    Darji, Investigating Sparsity in Recurrent Neural Networks (2024), arXiv 2407.20601, the chapter on random
    structures; its code takes the layers from pypaddle, which is deepstruct today.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from l0rnn.extras import require

if TYPE_CHECKING:
    import networkx
    from numpy.typing import NDArray


class LayeredGraph:
    """A directed graph without circles, in layers: layer(v) = 1 + the largest layer of v's parents, or 0 without any.

    The numbers of the nodes decide the direction of the edges, and so the layers: every edge points to the higher one.

    Args:
        nodes: number of nodes; they are called 0, 1, 2 and so on.
        edges: pairs of nodes, in either order; a pair given twice is one edge.

    Attributes:
        layers: the nodes of each layer, in order of their numbers.
        masks: for each layer but the last, which nodes of the next one read which of its own: bool `(unit of layer
            l+1, unit of layer l)`.
        skips: (source layer, target layer) → the edges that skip layers, bool `(unit of target, unit of source)`; in
            order of the target, then of the source.

    Raises:
        ValueError: if there are fewer than two nodes, no edge, an edge from a node to itself or to an unknown node.

    Example:
        >>> graph = LayeredGraph(4, [(0, 1), (1, 3), (2, 3), (0, 3)])
        >>> graph.layers
        [[0, 2], [1], [3]]
        >>> graph.masks[0].tolist(), graph.masks[1].tolist()
        ([[True, False]], [[True]])
        >>> {layers: mask.tolist() for layers, mask in graph.skips.items()}
        {(0, 2): [[True, True]]}

    Reference:
        Darji 2024 (arXiv 2407.20601).
    """

    def __init__(self, nodes: int, edges: Iterable[Sequence[int]]) -> None:
        if nodes < 2:
            raise ValueError(f"`nodes` must be at least 2, since one node alone has no layers, got {nodes}")
        self.nodes = nodes
        self.edges = sorted({self._checked(edge) for edge in edges})
        if not self.edges:
            raise ValueError("`edges` must not be empty: a graph with no path to the output is no network; add an edge")
        depths = [0] * nodes
        for source, target in self.edges:  # sorted, so the depth of a source is final once its edges come
            depths[target] = max(depths[target], depths[source] + 1)
        self.layers: list[list[int]] = [[] for _ in range(max(depths) + 1)]
        for node, depth in enumerate(depths):
            self.layers[depth].append(node)
        places = {node: (depth, unit) for depth, layer in enumerate(self.layers) for unit, node in enumerate(layer)}
        between: dict[tuple[int, int], NDArray[np.bool_]] = {}
        for source, target in self.edges:
            (lower, column), (upper, row) = places[source], places[target]
            shape = len(self.layers[upper]), len(self.layers[lower])
            between.setdefault((lower, upper), np.zeros(shape, dtype=bool))[row, column] = True
        self.masks = [between.pop((depth, depth + 1)) for depth in range(len(self.layers) - 1)]
        self.skips = dict(sorted(between.items(), key=lambda item: item[0][::-1]))

    def _checked(self, edge: Sequence[int]) -> tuple[int, int]:
        source, target = sorted(edge)
        if source == target:
            raise ValueError(f"`edges` must join different nodes, got a loop from {source} to itself; remove it")
        if source < 0 or target >= self.nodes:
            raise ValueError(f"`edges` must join nodes from 0 to {self.nodes - 1}, got ({source}, {target})")
        return source, target

    @classmethod
    def from_networkx(cls, graph: networkx.Graph) -> LayeredGraph:
        """The layers of an undirected graph, whose nodes count in the order in which networkx lists them.

        Raises:
            ValueError: if the graph is directed, or cannot be layered as the class says.

        Example:
            >>> import networkx
            >>> LayeredGraph.from_networkx(networkx.path_graph(["a", "b", "c"])).layers
            [[0], [1], [2]]
        """
        _undirected(graph)
        numbers = {node: number for number, node in enumerate(graph.nodes)}
        return cls(len(numbers), [(numbers[source], numbers[target]) for source, target in graph.edges()])

    @property
    def layer_sizes(self) -> list[int]:
        """Number of nodes of each layer."""
        return [len(layer) for layer in self.layers]

    def __repr__(self) -> str:
        return f"LayeredGraph(nodes={self.nodes}, edges={len(self.edges)}, layers={self.layer_sizes})"


def graph_properties(graph: networkx.Graph) -> dict[str, float]:
    """The 23 properties of a graph that Darji relates to the accuracy of the network built from it.

    ``source_nodes`` and ``sink_nodes`` are the sizes of the first and the last layer, ``density`` is edges / (n(n-1)),
    half of what is usual for undirected graphs, and variances are those of samples: all as in the thesis.

    Args:
        graph: a connected, undirected graph of at least 3 nodes.

    Returns:
        The properties under the names of Darji's tables, in their order.

    Raises:
        ValueError: if the graph is directed, too small or not connected.
        ModuleNotFoundError: if networkx is not installed.

    Example:
        >>> import networkx
        >>> properties = graph_properties(networkx.path_graph(20))
        >>> properties["edges"], properties["layers"], len(properties)
        (19, 20, 23)

    Reference:
        Darji 2024 (arXiv 2407.20601), the chapter on random structures.
    """
    nx = require("networkx", "graphs")
    _undirected(graph)
    nodes, edges = graph.number_of_nodes(), graph.number_of_edges()
    if nodes < 3:
        raise ValueError(f"`graph` must have at least 3 nodes to have variances, got {nodes}")
    if not nx.is_connected(graph):
        raise ValueError("`graph` must be connected to have a diameter; draw it with `connected=True`")
    layers = LayeredGraph.from_networkx(graph).layer_sizes
    eccentricity = nx.eccentricity(graph)
    properties: dict[str, float] = {
        "layers": len(layers),
        "nodes": nodes,
        "edges": edges,
        "source_nodes": layers[0],
        "sink_nodes": layers[-1],
        "diameter": max(eccentricity.values()),
        "density": edges / (nodes * (nodes - 1)),
        "average_shortest_path_length": nx.average_shortest_path_length(graph),
    }
    distributions = {
        "eccentricity": eccentricity,
        "degree": nx.degree_centrality(graph),
        "closeness": nx.closeness_centrality(graph),
        "nodes_betweenness": nx.betweenness_centrality(graph),
        "edge_betweenness": nx.edge_betweenness_centrality(graph),
    }
    for name, of_each in distributions.items():
        values = [float(value) for value in of_each.values()]
        properties[f"{name}_mean"] = statistics.mean(values)
        properties[f"{name}_var"] = statistics.variance(values)
        properties[f"{name}_std"] = statistics.stdev(values)
    return properties


def _undirected(graph: Any) -> None:
    if graph.is_directed():
        raise ValueError("`graph` must be undirected, got a directed one; the order of its nodes directs the edges")
