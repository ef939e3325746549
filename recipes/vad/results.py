"""Fill the table of the README from results/*.json.

python -m recipes.vad.results
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from recipes.pages import replaced
from recipes.vad.network import Widths
from recipes.vad.onnx_file import multiply_adds

FOLDER = Path(__file__).parent
COLUMNS = (
    "network", "bins", "channels", "units", "multiply-adds", "kept", "AUC", "mean difference", "same decision",
    "boundaries within 50 ms", "AUC by the truth", "kB", "ms per chunk", "speed-up",
)  # fmt: skip


def table(results: Iterable[Mapping[str, Any]]) -> str:
    """Results as a Markdown table, with the package's own network first; empty without results."""
    given = list(results)
    if not given:
        return ""
    rows = [_published(given[0]), *map(_row, given)]
    lines = [" | ".join(COLUMNS), "|".join(["---", *["---:"] * (len(COLUMNS) - 1)]), *map(" | ".join, rows)]
    return "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)


def _published(result: Mapping[str, Any]) -> list[str]:
    """The package's network, as it was measured beside another; its file holds a network for 8 kHz too."""
    times, widths = result["latency"]["package"], Widths()
    channels = ", ".join(map(str, widths.channels))
    true_auc = f"{result['made']['original_true_auc']:.4f}"
    return [
        f"silero-vad {result['versions']['silero-vad']}", str(widths.bins), channels, str(widths.units),
        f"{multiply_adds(widths):,}", "100.0%", "1.0000", "0.0000", "100.0%", "100%", true_auc,
        f"{result['package_bytes'] / 1000:.0f}", f"{times['milliseconds']:.3f}", "1.00",
    ]  # fmt: skip


def _row(result: Mapping[str, Any]) -> list[str]:
    widths, real = result["widths"], result["real"]
    low, high = result["latency"]["small"]["speedup_range"]
    return [
        result["name"],
        str(widths["bins"]),
        ", ".join(map(str, widths["channels"])),
        str(widths["units"]),
        f"{result['multiply_adds']:,}",
        f"{result['density']:.1%}",
        f"{result['auc']:.4f}",
        f"{result['mean_difference']:.4f}",
        f"{real['same']:.1%}",
        f"{real['boundaries']:.0%}",
        f"{result['made']['true_auc']:.4f}",
        f"{result['bytes'] / 1000:.0f}",
        f"{result['milliseconds']:.3f}",
        f"{result['speedup']:.2f} ({low:.2f} to {high:.2f})",
    ]


def main(folder: Path = FOLDER) -> None:
    """Read the results and write the page."""
    results = [json.loads(path.read_text()) for path in sorted((folder / "results").glob("*.json"))]
    page = folder / "README.md"
    page.write_text(replaced(page.read_text(), "results", table(results)))


if __name__ == "__main__":
    main()
