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

LAST = ("recurrent weights", "weights but word vectors", "multiply-adds", "ms", "speed-up", "same answers", "minutes")


def table(results: Iterable[Mapping[str, Any]]) -> str:
    """Results as a Markdown table; empty without results."""
    lines = [
        f"| configuration | EM | F1 | {' | '.join(COLUMNS)} | {' | '.join(LAST)} |",
        f"|---|{'---:|' * (2 + len(COLUMNS) + len(LAST))}",
    ]
    for result in results:
        units = " | ".join(str(result["shrunk"]["widths"][name]) for name in COLUMNS)
        times, small = result["latency"], result["shrunk"]
        sizes = ("recurrent_parameters", "parameters_without_word_vectors", "multiply_adds")
        minutes = result["training_seconds"]["wall"] / 60
        lines.append(
            f"| {result['config'].removesuffix('.yaml')} | {result['exact_match']:.2f} | {result['f1']:.2f} | {units} "
            f"| {' | '.join(f'{small[name]:,}' for name in sizes)} | {times['milliseconds']:.2f} "
            f"| {times['speedup']:.2f} | {result['identical_answers']:,} of {result['questions']:,} | {minutes:.0f} |"
        )
    return "\n".join(lines) if len(lines) > 2 else ""


def main(folder: Path = FOLDER) -> None:
    """Read the results and write the page."""
    results = [json.loads(path.read_text()) for path in sorted((folder / "results").glob("*.json"))]
    page = folder / "README.md"
    page.write_text(replaced(page.read_text(), "results", table(results)))


if __name__ == "__main__":
    main()
