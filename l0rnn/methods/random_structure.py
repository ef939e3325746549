"""Random structure: the connections of random graphs, fixed before the training starts."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from l0rnn.arguments import checked
from l0rnn.extras import require
from l0rnn.methods.masks import MaskMethod
from l0rnn.methods.random_graphs import GraphKind, random_graph
from l0rnn.recurrent.names import gates_of_weight
from l0rnn.tracing.units import Units

# Beyond so many nodes a graph takes longer to draw than its structure is worth, and edges are drawn one by one.
MOST_NODES = 2000
# A Barabási–Albert graph has no more than half of all edges; a Watts–Strogatz graph with more takes long to draw.
GREATEST_GRAPH_DENSITY = 0.5

Mask = NDArray[np.bool_]


@checked
class RandomStructure(MaskMethod):
    """Leaves the connections of random graphs in a network, chosen when it is attached and never changed.

    Removes: single weights. Rule: the edges of a random graph stay. Cost at run time: that of the dense network, unless
    a sparse kernel runs it. What a method that learns where to prune has to beat.

    Hidden-to-hidden matrices get the edges of one graph over the
    units of their layer, in both directions, and their diagonal; a matrix between two sets of units gets those edges of
    a graph over both sets, in random order, that cross from one set to the other. Edges are then added or dropped at
    random until each matrix has the density, to the nearest entry of a gate. Every unit of every matrix keeps at least
    one connection; all gates of a unit have the same ones. Beyond 2,000 nodes no graph is drawn: units of two sets read
    equally many others, those of one layer are joined at random.

    The weights that stay keep the initial values they have: they are not scaled up for the inputs that are missing.
    Darji masks input-to-hidden matrices alone, and adds connections that skip layers: see recipes/reber/graph_rnn.py.

    Args:
        graph: ``"watts_strogatz"``, with every edge rewired, or ``"barabasi_albert"``.
        density: fraction of every matrix to keep, in (0, 1].
        seed: the same number gives the same masks, as long as names and widths of the layers are the same.

    Raises:
        ValueError: if ``graph`` is unknown, or ``density`` or ``seed`` is outside its range.

    Example:
        >>> from l0rnn.tracing import trace
        >>> network = nn.Sequential(nn.Linear(20, 10))
        >>> method = RandomStructure("barabasi_albert", density=0.25)
        >>> method.attach(network, trace(network, torch.ones(1, 20)))
        >>> method.kept_fraction(), int((network[0].weight != 0).sum())
        (0.25, 50)

    Reference:
        Darji, Investigating Sparsity in Recurrent Neural Networks (2024), arXiv 2407.20601, the chapter on random
        structures, from which the graphs are.
    """

    def __init__(self, graph: GraphKind = "watts_strogatz", *, density: float, seed: int = 0) -> None:
        super().__init__()
        if not 0 < density <= 1:
            raise ValueError(f"`density` must be in (0, 1], got {density}")
        if seed < 0:
            raise ValueError(f"`seed` must be ≥ 0, got {seed}")
        self.graph: GraphKind = graph
        self.density = density
        self.seed = seed

    def attach(self, network: nn.Module, units: Units) -> None:
        """Draw the masks, and set the weights that they leave out to 0.

        Raises:
            ValueError: if the density is too low for every unit to keep a connection.
            ModuleNotFoundError: if networkx is not installed.
        """
        super().attach(network, units)
        for name, parameter in self.targets().items():
            generator = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
            gates = gates_of_weight(network, name)
            rows, columns = parameter.shape[0] // gates, parameter.shape[1]
            if "weight_hh" in name and rows == columns:
                mask = recurrent_mask(rows, self.density, self.graph, generator)
            else:
                mask = crossing_mask(rows, columns, self.density, self.graph, generator)
            self.masks()[name].copy_(torch.from_numpy(mask).repeat(gates, 1))
        self.apply_masks_()
        self.choose_()

    def check(self, network: nn.Module, targets: Mapping[str, Tensor]) -> None:
        """Refuse a density at which a unit would lose its last connection, and find out whether networkx is there."""
        require("networkx", "graphs")
        for name, parameter in targets.items():
            self._check_density(name, parameter.shape[0] // gates_of_weight(network, name), parameter.shape[1])

    def _check_density(self, name: str, rows: int, columns: int) -> None:
        if round(self.density * rows * columns) < max(rows, columns):
            raise ValueError(
                f"`density` must be at least 1/{min(rows, columns)} for every unit of {name!r} ({rows} units that read "
                f"{columns}) to keep a connection, got {self.density}; raise it, or leave the layer whole by "
                "`fixed`"
            )


def recurrent_mask(units: int, density: float, kind: GraphKind, generator: np.random.Generator) -> Mask:
    """Which units of a layer read which of one another: a graph in both directions, and each unit itself.

    Args:
        units: units of the layer.
        density: fraction of the entries to keep, at least 1 / ``units``.
        kind: the kind of graph.
        generator: where chance comes from.

    Returns:
        Symmetric, with a full diagonal, bool `(unit, unit)`; its entries are ``density * units²`` to the nearest one
        that a symmetric mask can have.

    Example:
        >>> mask = recurrent_mask(10, 0.3, "watts_strogatz", np.random.default_rng(0))
        >>> int(mask.sum()), bool((mask == mask.T).all()), bool(mask.diagonal().all())
        (30, True, True)
    """
    edges = round((round(density * units**2) - units) / 2)
    possible = np.triu(np.ones((units, units), dtype=bool), 1)
    pairs = np.zeros_like(possible)
    graph_density = edges / max(1, int(possible.sum()))  # the diagonal is none of the graph's
    source, target = _graph_edges(units, graph_density, kind, generator).T
    pairs[np.minimum(source, target), np.maximum(source, target)] = True
    pairs = _with_entries(pairs, possible, edges, generator)
    return pairs | pairs.T | np.eye(units, dtype=bool)


def crossing_mask(rows: int, columns: int, density: float, kind: GraphKind, generator: np.random.Generator) -> Mask:
    """Which of a set of units read which of another set: the edges of a graph over both that cross.

    Args:
        rows: units that read.
        columns: units that are read.
        density: fraction of the entries to keep, enough for one in each row and column.
        kind: the kind of graph.
        generator: where chance comes from.

    Returns:
        No row or column is empty, bool `(row, column)`; its entries are ``density * rows * columns``, rounded.

    Example:
        >>> mask = crossing_mask(10, 20, 0.1, "barabasi_albert", np.random.default_rng(0))
        >>> int(mask.sum()), int(mask.any(0).sum()), int(mask.any(1).sum())
        (20, 20, 10)
    """
    entries = round(density * rows * columns)
    if rows + columns > MOST_NODES:
        drawn = _rows_of_fixed_degree(rows, columns, entries, generator)
    else:
        drawn = np.zeros((rows, columns), dtype=bool)
        edges = np.sort(_graph_edges(rows + columns, density, kind, generator))
        row, column = edges[(edges[:, 0] < rows) & (edges[:, 1] >= rows)].T
        drawn[row, column - rows] = True
    cover = _cover(drawn, generator) if rows >= columns else _cover(drawn.T, generator).T
    return cover | _with_entries(drawn & ~cover, ~cover, entries - int(cover.sum()), generator)


def _graph_edges(nodes: int, density: float, kind: GraphKind, generator: np.random.Generator) -> NDArray[np.int64]:
    """Edges of a random graph of about this density, its nodes in random order, `(edge, 2)`; none for a large one."""
    if not 1 < nodes <= MOST_NODES:
        return np.zeros((0, 2), dtype=np.int64)
    degree = neighbours_for(kind, nodes, min(density, GREATEST_GRAPH_DENSITY))
    graph = random_graph(kind, nodes, int(generator.integers(2**31)), degree, connected=False)
    return generator.permutation(nodes)[np.array(graph.edges)]


def neighbours_for(kind: GraphKind, nodes: int, density: float) -> int:
    """The argument of `random_graph` that comes closest to a density: edges / (n(n-1)/2).

    A Watts–Strogatz graph of k neighbours has n·k/2 edges, a Barabási–Albert graph of m has m(n-m).

    Example:
        >>> neighbours_for("watts_strogatz", 101, 0.2), neighbours_for("barabasi_albert", 100, 0.1818)
        (20, 10)
    """
    if kind == "watts_strogatz":
        return 2 * max(1, round(density * (nodes - 1) / 2))
    below_the_root = nodes**2 - 2 * density * nodes * (nodes - 1)
    return max(1, min(round((nodes - math.sqrt(max(0.0, below_the_root))) / 2), nodes // 2))


def _rows_of_fixed_degree(rows: int, columns: int, entries: int, generator: np.random.Generator) -> Mask:
    """Equally many random entries in each row, or one more in some, `(row, column)`."""
    order = np.argsort(generator.random((rows, columns), dtype=np.float32), axis=1)
    degree, rest = divmod(entries, rows)
    drawn = np.zeros((rows, columns), dtype=bool)
    np.put_along_axis(drawn, order[:, :degree], True, axis=1)
    more = generator.permutation(rows)[:rest]
    if rest:
        drawn[more, order[more, degree]] = True
    return drawn


def _cover(drawn: Mask, generator: np.random.Generator) -> Mask:
    """One entry in each row, such that no column is empty: drawn ones where there are any. Needs rows ≥ columns."""
    cover = np.zeros_like(drawn)
    free = np.ones(len(drawn), dtype=bool)
    for column in np.argsort(drawn.sum(0), kind="stable"):  # those with few entries choose first
        candidates = np.flatnonzero(drawn[:, column] & free)
        row = generator.choice(candidates if len(candidates) else np.flatnonzero(free))
        cover[row, column] = True
        free[row] = False
    for row in np.flatnonzero(free):
        candidates = np.flatnonzero(drawn[row])
        cover[row, generator.choice(candidates if len(candidates) else drawn.shape[1])] = True
    return cover


def _with_entries(mask: Mask, possible: Mask, entries: int, generator: np.random.Generator) -> Mask:
    """A mask with so many entries: some of its own at random, or all of them and other possible ones at random."""
    own = np.flatnonzero(mask)
    if len(own) >= entries:
        chosen = generator.choice(own, entries, replace=False)
    else:
        others = np.flatnonzero(possible & ~mask)
        chosen = np.concatenate([own, generator.choice(others, entries - len(own), replace=False)])
    result = np.zeros_like(mask)
    result.flat[chosen] = True
    return result
