"""Part 2: networks with the structure of random graphs, and what properties of a graph tell about their accuracy.

Reference:
    Darji, Investigating Sparsity in Recurrent Neural Networks (2024), arXiv 2407.20601, the chapter on random
    structures.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from l0rnn.methods.random_graphs import GraphKind, random_graph
from recipes.reber.data import Batches, Example
from recipes.reber.layered_graph import LayeredGraph, graph_properties
from recipes.reber.members import GraphClassifier, member_of_graph
from recipes.reber.network import Plateau
from recipes.reber.side_by_side import accuracies, fit_side_by_side
from recipes.reber.stack import Stack

if TYPE_CHECKING:
    import networkx

KINDS: tuple[GraphKind, ...] = ("barabasi_albert", "watts_strogatz")
SIDE_BY_SIDE = 100  # graphs of about one size whose networks train as one stack
MOST_DRAWS = 100  # Watts–Strogatz graphs of few nodes are often not connected


def draw_graph(kind: GraphKind, seed: int, nodes: Sequence[int]) -> networkx.Graph:
    """A connected random graph of a random number of nodes, as the thesis draws them.

    Args:
        kind: ``"barabasi_albert"`` or ``"watts_strogatz"``.
        seed: the same number draws the same graph.
        nodes: least and largest number of nodes.

    Raises:
        ValueError: if ``nodes`` is not a pair with 3 ≤ least ≤ largest, or no draw is connected.
    """
    fewest, most = nodes
    if not 3 <= fewest <= most:
        raise ValueError(
            f"`nodes` must be the least and the largest number of nodes, 3 <= least <= largest, got {list(nodes)}; "
            "a graph of fewer has no layers to connect, or no properties to compare"
        )
    generator = random.Random(f"{kind} {seed}")
    refused: ValueError | None = None
    for _ in range(MOST_DRAWS):
        try:
            return random_graph(kind, generator.randint(fewest, most), seed=generator.getrandbits(30))
        except ValueError as error:
            refused = error
    raise ValueError(f"`nodes` = {list(nodes)} gave no connected graph in {MOST_DRAWS} draws") from refused


def by_size(graphs: Sequence[tuple[GraphKind, int]], nodes: Sequence[int]) -> list[tuple[GraphKind, int]]:
    """Graphs, as kind and seed, in order of their numbers of layers and of the units of all recurrent layers."""

    def size(one: tuple[GraphKind, int]) -> tuple[int, int]:
        graph = LayeredGraph.from_networkx(draw_graph(*one, nodes))
        return len(graph.layers), graph.nodes + sum(graph.layer_sizes[target] for _, target in graph.skips)

    return sorted(graphs, key=size)


def train_structures(
    train: list[Example],
    test: list[Example],
    members: Sequence[Mapping[str, Any]],
    *,
    cell: str,
    seed: int,
    config: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Draw graphs, train the networks with their structures, and note the accuracies and the graphs' properties.

    ``members`` have ``kind`` and ``seed`` each, and train side by side on the same batches, in the order of ``seed``.
    """
    graphs = [draw_graph(member["kind"], member["seed"], config["nodes"]) for member in members]
    networks = []
    for member, graph in zip(members, graphs, strict=True):
        torch.manual_seed(member["seed"])
        networks.append(GraphClassifier(cell, LayeredGraph.from_networkx(graph)))
    stack = Stack([member_of_graph(network) for network in networks])
    evaluation = Batches(test, 500, config["readout"])
    plateaus = {number: Plateau(1.0, config["stop_after_perfect"]) for number in stack.numbers}

    def done(epoch: int) -> set[int]:
        # evaluation takes a quarter of the time: only where it can end the training, and at the end
        if config["stop_after_perfect"] == 0 and epoch < config["epochs"]:
            return set()
        return {number for number, value in accuracies(stack, evaluation).items() if plateaus[number](value)}

    failed = fit_side_by_side(
        stack,
        Batches(train[: config["train_strings"]], config["batch_size"], config["readout"], seed),
        epochs=config["epochs"],
        learning_rate=config["learning_rate"],
        after_epoch=done,
    )
    return [
        {"cell": cell, "failed": failed[number]}
        if number in failed
        else {
            "cell": cell,
            "graph": member["kind"],
            "seed": member["seed"],
            "accuracy": plateaus[number].history[-1],
            "recurrent_weights": network.connections(),
            "history": plateaus[number].history,
            "properties": graph_properties(graph),
        }
        for number, (member, network, graph) in enumerate(zip(members, networks, graphs, strict=True))
    ]


def correlations(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Pearson correlation of each property with the accuracy; None where one of the two does not vary."""
    accuracies = np.array([row["accuracy"] for row in rows])
    found: dict[str, float | None] = {}
    for name in rows[0]["properties"]:
        values = np.array([row["properties"][name] for row in rows], dtype=float)
        varies = len(rows) > 1 and values.std() > 0 and accuracies.std() > 0
        found[name] = float(np.corrcoef(values, accuracies)[0, 1]) if varies else None
    return found


def regressions(rows: Sequence[Mapping[str, Any]], *, folds: int = 10, repeats: int = 5) -> dict[str, dict[str, Any]]:
    """R² of three regressors that predict the accuracy from all properties, on graphs that they have not seen.

    Each repetition divides the graphs anew, predicts every graph from the other folds, and takes one R² over all.
    ``one_split`` is the thesis's own estimate, from a tenth of the graphs, which depends much on which ones these are;
    None if that is one graph.

    Args:
        rows: results of `train_structures` of one cell.
        folds: number of parts.
        repeats: number of repetitions.

    Returns:
        Regressor → ``mean`` and ``std`` over the repetitions, ``one_split``; for the forest, its ``most_important``
        property, too.

    Raises:
        ValueError: if there are fewer than two graphs for each fold.
    """
    if len(rows) < 2 * folds:
        raise ValueError(f"`folds` must leave two graphs or more for each, got {folds} for {len(rows)} graphs")
    from sklearn.ensemble import AdaBoostRegressor, RandomForestRegressor
    from sklearn.linear_model import BayesianRidge
    from sklearn.metrics import r2_score
    from sklearn.model_selection import KFold, cross_val_predict, train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler

    names = list(rows[0]["properties"])
    features = np.array([[row["properties"][name] for name in names] for row in rows], dtype=float)
    accuracies = np.array([row["accuracy"] for row in rows])
    regressors: dict[str, Any] = {
        "BayesianRidge": BayesianRidge(),
        "RandomForest": RandomForestRegressor(random_state=0),
        "AdaBoost": AdaBoostRegressor(random_state=0),
    }
    found: dict[str, dict[str, Any]] = {}
    for name, regressor in regressors.items():
        model: Any = make_pipeline(MinMaxScaler(), regressor)
        scores = []
        for repeat in range(repeats):
            parts = KFold(folds, shuffle=True, random_state=repeat)
            scores.append(r2_score(accuracies, cross_val_predict(model, features, accuracies, cv=parts)))
        found[name] = {"mean": float(np.mean(scores)), "std": float(np.std(scores)), "one_split": None}
        x, x_test, y, y_test = train_test_split(features, accuracies, test_size=0.1, random_state=7)
        if len(y_test) > 1:
            found[name]["one_split"] = float(r2_score(y_test, model.fit(x, y).predict(x_test)))
        if name == "RandomForest":
            importance = model.fit(features, accuracies)[-1].feature_importances_
            best = int(np.argmax(importance))
            found[name]["most_important"] = {"property": names[best], "share": float(importance[best])}
    return found
