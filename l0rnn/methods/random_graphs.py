"""Random graphs, as the structure of a network.

Reference:
    Darji, Investigating Sparsity in Recurrent Neural Networks (2024), arXiv 2407.20601, the chapter on random
    structures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from l0rnn.extras import require

if TYPE_CHECKING:
    import networkx

GraphKind = Literal["watts_strogatz", "barabasi_albert"]
GRAPH_KINDS: tuple[str, ...] = get_args(GraphKind)


def random_graph(
    kind: GraphKind,
    nodes: int,
    seed: int,
    neighbours: int | None = None,
    rewiring: float = 1.0,
    *,
    connected: bool = True,
    tries: int = 10,
) -> networkx.Graph:
    """A random graph as Darji draws it.

    A Barabási–Albert graph starts from a star whose centre is the last of its nodes, as networkx did until it turned
    the numbers round: those of the first ``neighbours`` nodes then read no other, as in Darji's results, and not one.

    Args:
        kind: ``"watts_strogatz"``, a ring whose edges are rewired at random, or ``"barabasi_albert"``, in which new
            nodes prefer to join those with many edges.
        nodes: number of nodes, at least 2.
        seed: the same number draws the same graph.
        neighbours: Watts–Strogatz: nodes that each one is joined with in the ring, an odd number counting as the even
            one below; Barabási–Albert: nodes that each new one is joined with. None for Darji's: a fifth and a tenth
            of the nodes, but not less than 2 and 1.
        rewiring: Watts–Strogatz: probability that an edge is rewired; 1 rewires all, as Darji does.
        connected: Watts–Strogatz: draw again while the graph is not connected.
        tries: how often to draw at most.

    Raises:
        ValueError: if an argument is out of its range, or no try gave a connected graph.
        ModuleNotFoundError: if networkx is not installed.

    Example:
        >>> random_graph("barabasi_albert", 27, seed=0).number_of_edges()
        50

    Reference:
        Darji 2024 (arXiv 2407.20601); Watts and Strogatz 1998; Barabási and Albert 1999.
    """
    if kind not in GRAPH_KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(GRAPH_KINDS)}, got {kind!r}")
    if nodes < 2:
        raise ValueError(f"`nodes` must be at least 2, got {nodes}")
    fewest, share, most = (2, 5, nodes) if kind == "watts_strogatz" else (1, 10, nodes - 1)
    degree = max(fewest, nodes // share) if neighbours is None else neighbours
    if not fewest <= degree <= most:
        raise ValueError(
            f"`neighbours` must be from {fewest} to {most} in a {kind} graph of {nodes} nodes, got {degree}"
        )
    if not 0 <= rewiring <= 1:
        raise ValueError(f"`rewiring` must be in [0, 1], got {rewiring}")
    if tries < 1:
        raise ValueError(f"`tries` must be at least 1, got {tries}")
    nx = require("networkx", "graphs")
    if kind == "barabasi_albert":
        star = nx.empty_graph(degree)
        star.add_edges_from((node, degree) for node in range(degree))
        return nx.barabasi_albert_graph(nodes, degree, seed=seed, initial_graph=star)
    if not connected:
        return nx.watts_strogatz_graph(nodes, degree, rewiring, seed=seed)
    try:
        return nx.connected_watts_strogatz_graph(nodes, degree, rewiring, tries=tries, seed=seed)
    except nx.NetworkXError as error:
        raise ValueError(
            f"`neighbours` must be enough to connect {nodes} nodes, got {degree} and no connected graph in {tries} "
            "tries; take more neighbours, more `tries`, or `connected=False`"
        ) from error
