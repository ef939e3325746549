"""The figures of the study, drawn from its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.reber.published import CORRELATIONS

COLOURS = {"both": "#222222", "i2h": "#2171b5", "h2h": "#d95f0e"}
GRAPH_COLOURS = {"barabasi_albert": "#d95f0e", "watts_strogatz": "#2171b5"}


def draw(summary: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw every figure that the summary has results for; returns the files."""
    import matplotlib

    matplotlib.use("Agg")
    figures = {"pruning": _pruning, "recovery": _recovery, "structures": _structures, "selection": _selection}
    paths = []
    for name, figure in figures.items():
        drawn = figure(summary)
        if drawn is not None:
            paths.append(folder / f"{name}.png")
            drawn.savefig(paths[-1], dpi=120)
            _pyplot().close(drawn)
    return paths


def _pruning(summary: Mapping[str, Any]) -> Any:
    """Accuracy right after the cut: a row for each set of wrong strings, a panel for each cell."""
    rows = summary["pruned"]
    if not rows:
        return None
    sets, cells = _values(rows, "data"), _values(rows, "cell")
    figure, axes = _panels(len(sets), len(cells))
    for data, line in zip(sets, axes, strict=True):
        for cell, axis in zip(cells, line, strict=True):
            for kind in _values(rows, "kind"):
                own = [row for row in rows if (row["data"], row["cell"], row["kind"]) == (data, cell, kind)]
                x, right = [row["percentage"] for row in own], [row["right_after"] for row in own]
                axis.plot(x, right, "o-", markersize=3, color=COLOURS[kind], label=f"{kind}, right after")
                first = [row["history"][0] for row in own]
                axis.plot(x, first, "--", linewidth=1, color=COLOURS[kind], label=f"{kind}, one epoch later")
            axis.set_title(f"{cell}, {data} strings", fontsize=10)
            axis.set_xlabel("% of the weights cut")
    axes[0][0].set_ylabel("test accuracy")
    axes[0][0].legend(fontsize=7)
    return figure


def _recovery(summary: Mapping[str, Any]) -> Any:
    """Accuracy over the epochs of retraining, a line for each percentage."""
    data = next(iter(_values(summary["pruned"], "data")), None)
    rows = [row for row in summary["pruned"] if row["data"] == data and row["kind"] == "both"]
    if not rows:
        return None
    cells = _values(rows, "cell")
    colours = _pyplot().get_cmap("viridis_r")
    figure, axes = _panels(1, len(cells))
    for cell, axis in zip(cells, axes[0], strict=True):
        for row in rows:
            if row["cell"] == cell:
                heights = [row["right_after"], *row["history"]]
                label = f"{row['percentage']} %"
                axis.plot(range(len(heights)), heights, "o-", markersize=3, color=colours(row["percentage"] / 100))
                axis.lines[-1].set_label(label)
        axis.set_title(f"{cell}, {data} strings", fontsize=10)
        axis.set_xlabel("epochs of retraining")
    axes[0][0].set_ylabel("test accuracy")
    axes[0][-1].legend(fontsize=7, title="cut", title_fontsize=7)
    return figure


def _structures(summary: Mapping[str, Any]) -> Any:
    """Accuracy by sources of the graph, and the correlations beside the published ones."""
    rows = summary["structures"]
    if not rows:
        return None
    cells = _values(rows, "cell")
    figure, axes = _panels(2, len(cells))
    for cell, upper, lower in zip(cells, *axes, strict=True):
        for kind, colour in GRAPH_COLOURS.items():
            own = [row for row in rows if (row["cell"], row["graph"]) == (cell, kind)]
            x = [row["properties"]["source_nodes"] for row in own]
            upper.scatter(x, [row["accuracy"] for row in own], s=8, color=colour, label=kind.replace("_", " "))
        upper.set_title(cell, fontsize=10)
        upper.set_xlabel("source nodes")
        ours = [summary["correlations"][cell][name] or 0.0 for name in CORRELATIONS]
        theirs = [published[cell] for published in CORRELATIONS.values()]
        places = range(len(CORRELATIONS))
        lower.barh([place - 0.2 for place in places], ours, 0.4, color="#08519c", label="here")
        lower.barh([place + 0.2 for place in places], theirs, 0.4, color="#bdbdbd", label="published")
        lower.set_yticks(list(places), list(CORRELATIONS) if lower is axes[1][0] else [], fontsize=7)
        lower.set_ylim(len(CORRELATIONS) - 0.4, -0.6)
        lower.set_xlim(-1, 1)
        lower.set_xlabel("correlation with accuracy")
    axes[0][0].set_ylabel("test accuracy")
    axes[0][0].legend(fontsize=7)
    axes[1][0].legend(fontsize=7)
    return figure


def _selection(summary: Mapping[str, Any]) -> Any:
    """Test accuracy against multiply-adds: networks that gates left, and networks from scratch."""
    rows = summary["gated"]
    if not rows:
        return None
    cells = _values(rows, "cell")
    figure, axes = _panels(1, len(cells))
    for cell, axis in zip(cells, axes[0], strict=True):
        for name, marker, colour in (("gated", "o", "#08519c"), ("controls", "x", "#d95f0e")):
            own = [row for row in summary[name] if row["cell"] == cell]
            label = {"gated": "selected by gates", "controls": "from scratch"}[name]
            heights = [row["test_accuracy"] for row in own]
            axis.scatter([row["multiply_adds"] for row in own], heights, s=18, marker=marker, color=colour, label=label)
        axis.set_xscale("log")
        axis.set_title(cell, fontsize=10)
        axis.set_xlabel("multiply-adds per symbol")
    axes[0][0].set_ylabel("test accuracy")
    axes[0][0].legend(fontsize=7)
    return figure


def _panels(rows: int, columns: int) -> tuple[Any, Any]:
    size = (3.1 * columns + 0.8, 2.9 * rows)
    figure, axes = _pyplot().subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _values(rows: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in rows))


def _pyplot() -> Any:
    from matplotlib import pyplot

    return pyplot
