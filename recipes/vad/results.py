"""Fill the table of the README from results/*.json.

python -m recipes.vad.results
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from recipes.pages import replaced

FOLDER = Path(__file__).parent
COLUMNS = (
    "network", "bins", "channels", "units", "multiply-adds", "kept", "AUC", "mean difference", "same decision",
    "boundaries within 50 ms", "AUC by the truth", "kB", "ms per chunk", "speed-up",
)  # fmt: skip


def table(results: Iterable[Mapping[str, Any]]) -> str:
    """Results as a Markdown table, with the package's own network first; empty without results."""
    rows = [_row(result) for result in results]
    if not rows:
        return ""
    lines = [" | ".join(COLUMNS), "|".join(["---", *["---:"] * (len(COLUMNS) - 1)]), *map(" | ".join, rows)]
    return "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)


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
