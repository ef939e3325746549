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
from torch import Tensor, nn

from l0rnn.layered_graph import GraphKind, LayeredGraph, graph_properties, random_graph
from l0rnn.layers.graph_rnn import GraphRNN
from recipes.reber.data import Batches, Example
from recipes.reber.depth_rnn import DepthRNN
from recipes.reber.network import CLASSES, CODES, MODES, Plateau, accuracy, at_step, check_cell, fit

if TYPE_CHECKING:
    import networkx

KINDS: tuple[GraphKind, ...] = ("barabasi_albert", "watts_strogatz")
MOST_DRAWS = 100  # Watts–Strogatz graphs of few nodes are often not connected


class GraphClassifier(nn.Module):
    """Embedding of as many units as the first layer has, then the graph's layers, then a Linear on the last of them.

    Args:
        cell: ``"tanh"``, ``"relu"``, ``"lstm"`` or ``"gru"``.
        graph: the structure.
    """

    def __init__(self, cell: str, graph: LayeredGraph) -> None:
        super().__init__()
        check_cell(cell)
        first, last = graph.layer_sizes[0], graph.layer_sizes[-1]
        self.embedding = nn.Embedding(CODES, first)
        self.encoder = DepthRNN(GraphRNN(MODES[cell], first, graph))
        self.decoder = nn.Linear(last, CLASSES)

    def forward(self, codes: Tensor, last: Tensor | None = None) -> Tensor:
        """Scores `(batch, class)` of codes `(time, batch)`, read at the step ``last`` of each, or at the last."""
        return self.decoder(at_step(self.encoder(self.embedding(codes)), last))


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


def train_structure(
    train: list[Example], test: list[Example], *, cell: str, kind: GraphKind, seed: int, config: Mapping[str, Any]
) -> dict[str, Any]:
    """Draw a graph, train the network with its structure, and note the accuracy and the graph's properties."""
    graph = draw_graph(kind, seed, config["nodes"])
    torch.manual_seed(seed)
    network = GraphClassifier(cell, LayeredGraph.from_networkx(graph))
    evaluation = Batches(test, 500, config["readout"])
    plateau = Plateau(1.0, config["stop_after_perfect"])

    def is_done(epoch: int) -> bool:
        # evaluation takes a quarter of the time: only where it can end the training, and at the end
        if config["stop_after_perfect"] == 0 and epoch < config["epochs"]:
            return False
        return plateau(accuracy(network, evaluation))

    fit(
        network,
        Batches(train[: config["train_strings"]], config["batch_size"], config["readout"], seed),
        epochs=config["epochs"],
        learning_rate=config["learning_rate"],
        after_epoch=is_done,
    )
    return {
        "cell": cell,
        "graph": kind,
        "seed": seed,
        "accuracy": plateau.history[-1],
        "recurrent_weights": network.encoder.connections(),
        "history": plateau.history,
        "properties": graph_properties(graph),
    }


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
        rows: results of `train_structure` of one cell.
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
