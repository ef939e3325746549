"""The picture of a comparison: quality against latency, and against weights."""

from __future__ import annotations

from pathlib import Path

from l0rnn.compare.report import Comparison, Row


def plot_comparison(comparison: Comparison, path: Path) -> None:
    """Two panels, one point per run, and the line, with names, of those that no other run beats in both.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed; it says which extra brings it.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}; install the extra with: pip install 'l0rnn[plot]'") from error

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D
    from matplotlib.ticker import ScalarFormatter

    rows = [row for row in comparison.rows if row.error is None]
    methods = list(dict.fromkeys(row.method for row in rows))
    colours = dict(zip(methods, pyplot.get_cmap("tab20").colors * 2, strict=False))  # type: ignore[attr-defined]
    markers = dict(zip(methods, "osD^vP*Xh<>dp8" * 2, strict=False))
    panels = [("multiply-adds, fraction of dense", lambda row: row.density)]
    if any(row.milliseconds for row in rows):
        panels.insert(0, (f"milliseconds per call, batch x steps {comparison.headline}", _latency(comparison)))
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(6.5 * len(panels), 5), layout="constrained", sharey=True, squeeze=False
    )
    for axis, (title, of) in zip(axes[0], panels, strict=True):
        for row in rows:
            axis.scatter(of(row), row.quality, color=colours[row.method], marker=markers[row.method], s=46, zorder=3)
            if row.spread:
                axis.errorbar(of(row), row.quality, yerr=row.spread, color=colours[row.method], linewidth=1, zorder=2)
        sign = -1 if comparison.higher_is_better else 1
        best = [(x, sign * y) for x, y in pareto([(of(row), sign * row.quality) for row in rows])]
        for row in rows:
            if (of(row), row.quality) in best:
                axis.annotate(row.name, (of(row), row.quality), xytext=(5, 4), textcoords="offset points", fontsize=7)
        axis.step(*zip(*best, strict=True), where="post", color="#bbbbbb", linewidth=1, zorder=1)
        is_ratio = not comparison.higher_is_better and all(row.quality > 0 for row in rows)  # twice as much is a step
        axis.set(xscale="log", yscale="log" if is_ratio else "linear", xlabel=title)
        axis.yaxis.set_major_formatter(ScalarFormatter())
        axis.yaxis.set_minor_formatter(ScalarFormatter())
        axis.grid(alpha=0.25, which="both")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel(f"{comparison.quality}, {'higher' if comparison.higher_is_better else 'lower'} is better")
    handles = [
        Line2D([], [], color=colours[method], marker=markers[method], linestyle="", label=method) for method in methods
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), fontsize=8, frameon=False)
    figure.savefig(path, dpi=140)
    pyplot.close(figure)


def pareto(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats in both coordinates, from left to right.

    Example:
        >>> pareto([(1, 5), (2, 6), (3, 4), (3, 9)])
        [(1, 5), (3, 4)]
    """
    best: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not best or y < best[-1][1]:
            best.append((x, y))
    return best


def _latency(comparison: Comparison):  # noqa: ANN202 - a function of a row
    def milliseconds(row: Row) -> float:
        return row.milliseconds[comparison.headline]

    return milliseconds
