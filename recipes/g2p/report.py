"""What a network is worth: errors, size and speed, as figures, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from l0rnn.extras import require
from recipes.g2p.evaluate import evaluate
from recipes.g2p.files import rounded, save_arrays, save_int8, unrounded
from recipes.g2p.network import G2P
from recipes.g2p.sizes import multiply_adds, paired_times
from recipes.g2p.words import Dictionary, Side

_TIMED_WORDS = 300

COLUMNS = {
    "word_error": "word error",
    "phoneme_error": "phoneme error",
    "later_word_error": "later words: word error",
    "later_phoneme_error": "phoneme error",
    "int8_word_error": "int8: word error",
    "density": "multiply-adds",
    "bytes": "bytes",
    "int8_bytes": "bytes in int8",
    "milliseconds": "ms",
    "speedup": "times faster",
    "pure_numpy_speedup": "by NumPy alone",
}


def figures(
    arrays: Mapping[str, np.ndarray],
    published: Mapping[str, np.ndarray],
    sides: Mapping[Side, Dictionary],
    folder: Path,
) -> dict[str, Any]:
    """Errors on the words held out, size, and time in the package's own code beside that of the published weights.

    Args:
        arrays: weights with the package's names.
        published: those to compare with.
        sides: the words; those of `test` and, if there are any, of `later` are pronounced.
        folder: where to write them: `checkpoint20.npz` for the package's code, and `int8.npz`.
    """
    beside = folder / "published"
    beside.mkdir(parents=True, exist_ok=True)
    save_arrays(folder / "checkpoint20.npz", arrays)
    save_int8(folder / "int8.npz", arrays)
    save_arrays(beside / "checkpoint20.npz", published)
    network, rough = (G2P.from_arrays(some) for some in (arrays, unrounded(rounded(arrays))))
    errors, words = evaluate(network, sides["test"]), list(sides["test"])
    times = paired_times(beside, folder, words[:: max(1, len(words) // _TIMED_WORDS)])
    found: dict[str, Any] = {
        **asdict(errors),
        "density": multiply_adds(arrays, sides["test"]) / multiply_adds(published, sides["test"]),
        "bytes": (folder / "checkpoint20.npz").stat().st_size,
        "milliseconds": times.small,
        "milliseconds_published": times.dense,
        "speedup": times.speedup,
        "pure_numpy_milliseconds": times.alone,
        "pure_numpy_speedup": times.alone_speedup,
        "int8_word_error": evaluate(rough, sides["test"]).word_error,
        "int8_bytes": (folder / "int8.npz").stat().st_size,
        "letter_features": arrays["enc_w_ih"].shape[1],
        "phoneme_features": arrays["dec_w_ih"].shape[1],
        "units": arrays["enc_w_hh"].shape[1],
    }
    if sides["later"]:
        found |= {f"later_{name}": value for name, value in asdict(evaluate(network, sides["later"])).items()}
    return found


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Networks by name as a Markdown table."""
    lines = [f"| network | {' | '.join(COLUMNS.values())} |", f"|---|{'---:|' * len(COLUMNS)}"]
    for name, result in results.items():
        cells = [_cell(column, result.get(column)) for column in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return ""
    if column.endswith("error"):
        return f"{value:.2f} %"
    if column.endswith("bytes"):
        return f"{value:,}"
    if column.endswith("speedup"):
        return f"{value:.1f}"
    return f"{value:.1%}" if column == "density" else f"{value:.3f}"


def picture(results: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Word error against multiply-adds: on the words held out, and on those that came later, with 95 % intervals.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    require("matplotlib", "plot").use("Agg")
    from matplotlib import pyplot

    panels: Iterable[tuple[str, str]] = (("", "held out"), ("later_", "later words"))
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for axis, (side, title) in zip(axes, panels, strict=True):
        for name, result in results.items():
            if f"{side}word_error" in result:
                error, words = result[f"{side}word_error"], result[f"{side}words"]
                bar = 1.96 * (error * (100 - error) / words) ** 0.5  # 95 %, over words
                axis.errorbar(100 * result["density"], error, yerr=bar, fmt="o", capsize=3, label=name)
        axis.set(xscale="log", title=title, xlabel="multiply-adds, % of the published network", ylabel="word error, %")
        axis.set_ylim(bottom=0)
        axis.set_xticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
        axis.minorticks_off()
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=140)
    pyplot.close(figure)
