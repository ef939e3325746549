"""What the thesis reports, for the tables that stand beside ours.

Reference:
    Darji, Investigating Sparsity in Recurrent Neural Networks, arXiv 2407.20601, and the result files in its
    repository, harshildarji/thesis. Safe percentages, correlations and R² are its tables; accuracies are read from its
    result files.
"""

from __future__ import annotations

# percentage that can be cut without retraining: kind of weights → cell
SAFE_PERCENTAGES: dict[str, dict[str, int]] = {
    "both": {"tanh": 80, "relu": 70, "lstm": 60, "gru": 80},
    "i2h": {"tanh": 70, "relu": 70, "lstm": 70, "gru": 80},
    "h2h": {"tanh": 80, "relu": 70, "lstm": 90, "gru": 90},
}
BASE_ACCURACY = {"tanh": 0.937, "relu": 1.0, "lstm": 1.0, "gru": 1.0}
# (kind, percentage) → cell → accuracy right after the cut, and after one epoch of retraining
ACCURACIES: dict[tuple[str, int], dict[str, tuple[float, float]]] = {
    ("both", 70): {"tanh": (0.933, 0.937), "relu": (0.986, 1.0), "lstm": (0.803, 1.0), "gru": (0.998, 1.0)},
    ("both", 80): {"tanh": (0.919, 0.933), "relu": (0.549, 1.0), "lstm": (0.668, 1.0), "gru": (0.994, 1.0)},
    ("both", 90): {"tanh": (0.656, 0.925), "relu": (0.503, 1.0), "lstm": (0.495, 1.0), "gru": (0.551, 1.0)},
    ("i2h", 80): {"tanh": (0.814, 0.935), "relu": (0.950, 1.0), "lstm": (0.946, 1.0), "gru": (0.997, 1.0)},
    ("i2h", 90): {"tanh": (0.494, 0.739), "relu": (0.905, 1.0), "lstm": (0.621, 1.0), "gru": (0.876, 1.0)},
    ("h2h", 90): {"tanh": (0.720, 0.937), "relu": (0.464, 1.0), "lstm": (0.953, 1.0), "gru": (0.951, 1.0)},
    ("h2h", 100): {"tanh": (0.494, 0.518), "relu": (0.506, 0.516), "lstm": (0.521, 0.988), "gru": (0.573, 0.974)},
}
# mean test accuracy: kind of graph → cell
STRUCTURE_ACCURACY: dict[str, dict[str, float]] = {
    "barabasi_albert": {"tanh": 0.842, "relu": 0.728, "lstm": 0.916, "gru": 0.928},
    "watts_strogatz": {"tanh": 0.893, "relu": 0.829, "lstm": 0.976, "gru": 0.984},
}
_CORRELATION_ROWS = {
    "layers": (0.25, 0.30, 0.28, 0.34),
    "nodes": (0.40, 0.44, 0.44, 0.49),
    "edges": (0.38, 0.43, 0.42, 0.49),
    "source_nodes": (0.35, 0.47, 0.57, 0.74),
    "diameter": (-0.23, -0.27, -0.32, -0.20),
    "density": (0.29, 0.15, 0.29, 0.34),
    "average_shortest_path_length": (-0.27, -0.25, -0.36, -0.23),
    "eccentricity_var": (-0.22, -0.24, -0.30, -0.21),
    "degree_var": (-0.28, -0.26, -0.39, -0.58),
    "closeness_var": (-0.46, -0.39, -0.51, -0.67),
    "nodes_betweenness_var": (-0.49, -0.41, -0.56, -0.52),
    "edge_betweenness_var": (-0.34, -0.30, -0.44, -0.26),
}
CELL_ORDER = ("tanh", "relu", "lstm", "gru")
CORRELATIONS = {name: dict(zip(CELL_ORDER, row, strict=True)) for name, row in _CORRELATION_ROWS.items()}
_R2_ROWS = {
    "BayesianRidge": (0.47919, 0.36075, 0.37206, 0.67224),
    "RandomForest": (0.43163, 0.61504, 0.57933, 0.87635),
    "AdaBoost": (0.35698, 0.53469, 0.59514, 0.78313),
}
R2 = {name: dict(zip(CELL_ORDER, row, strict=True)) for name, row in _R2_ROWS.items()}
