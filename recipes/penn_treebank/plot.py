"""The pictures of the recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PANELS = (
    ("validation perplexity", "valid_perplexity", "{:.0f}"),
    ("parameters, millions", "parameters", "{:.2f}"),
    ("multiply-adds per word, millions", "multiply_adds", "{:.2f}"),
    ("milliseconds per sentence of 35 words", "latency_ms", "{:.2f}"),
)
COLOURS = {"dense": "#8c8c8c", "gated": "#9ecae1", "shrunk": "#08519c"}


def plot_demo(result: dict[str, Any], path: Path) -> None:
    """Dense, gated and shrunken side by side, one panel per quantity."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(13, 3.4), layout="constrained")
    for axis, (title, key, form) in zip(axes, PANELS, strict=True):
        scale = 1e6 if "millions" in title else 1
        heights = [result[name][key] / scale for name in COLOURS]
        bars = axis.bar(list(COLOURS), heights, color=list(COLOURS.values()), width=0.65)
        axis.bar_label(bars, labels=[form.format(height) for height in heights], padding=2)
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(y=0.15)
    widths = ", ".join(f"{name} {width['kept']}/{width['of']}" for name, width in result["widths"].items())
    figure.suptitle(f"Penn Treebank, {result['epochs']} epochs. Units kept: {widths}", fontsize=11)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
