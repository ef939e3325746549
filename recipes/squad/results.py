"""Fill the table of the README from results/*.json.

python -m recipes.squad.results
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from recipes.pages import replaced

FOLDER = Path(__file__).parent
COLUMNS = ("ModFwd1", "ModBwd1", "ModFwd2", "ModBwd2", "OutFwd", "OutBwd", "ContextFwd", "ContextBwd")

LAST = (
    "recurrent weights",
    "weights but word vectors",
    "multiply-adds",
    "ms",
    "speed-up",
    "single unit, ms",
    "same answers",
    "minutes",
)


def table(results: Iterable[Mapping[str, Any]]) -> str:
    """Results as a Markdown table; empty without results."""
    lines = [
        f"| configuration | EM | F1 | {' | '.join(COLUMNS)} | {' | '.join(LAST)} |",
        f"|---|{'---:|' * (2 + len(COLUMNS) + len(LAST))}",
    ]
    for result in results:
        times, small = result["latency"], result["shrunk"]
        sizes = ("recurrent_parameters", "parameters_without_word_vectors", "multiply_adds")
        cells = [result["config"].removesuffix(".yaml"), f"{result['exact_match']:.2f}", f"{result['f1']:.2f}"]
        cells += [str(small["widths"][name]) for name in COLUMNS]
        cells += [f"{small[name]:,}" for name in sizes]
        cells += [f"{times[name]:.2f}" for name in ("milliseconds", "speedup", "single_milliseconds")]
        cells.append(f"{result['identical_answers']:,} of {result['questions']:,}")
        cells.append(f"{result['training_seconds']['wall'] / 60:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def main(folder: Path = FOLDER) -> None:
    """Read the results and write the page."""
    results = [json.loads(path.read_text()) for path in sorted((folder / "results").glob("*.json"))]
    page = folder / "README.md"
    page.write_text(replaced(page.read_text(), "results", table(results)))


if __name__ == "__main__":
    main()
