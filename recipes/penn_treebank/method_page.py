"""Write the tables of docs/choose_a_method.md from the committed results.

python -m recipes.penn_treebank.method_page
"""

from __future__ import annotations

import json
from pathlib import Path

from l0rnn.compare import Comparison
from l0rnn.compare.plot import plot_comparison
from recipes.pages import replaced
from recipes.penn_treebank.kernel_table import speed_table

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[2] / "docs" / "choose_a_method.md"


def main() -> None:
    comparison = Comparison.from_json((RESULTS / "compare.json").read_text(encoding="utf-8"))
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), comparison), encoding="utf-8")
    plot_comparison(comparison, PAGE.parent / "compare.png")
    print(f"written: {PAGE}")


def filled(page: str, comparison: Comparison) -> str:
    """The page with the tables of the results."""
    kernels = json.loads((RESULTS / "kernel_table.json").read_text(encoding="utf-8"))
    page = replaced(page, "compare", f"{comparison.table()}\n\n{conditions(comparison)}")
    return replaced(page, "kernels", speed_table(kernels["rows"]))


def conditions(comparison: Comparison) -> str:
    """How long was trained and what was timed, in a sentence."""
    told, latency = comparison.conditions, comparison.conditions["latency"]
    threads = told["versions"]["threads"]
    return (
        f"{told['epochs']} epochs, {told['steps']:,} steps, {threads} thread for each training; latency in "
        f"milliseconds per call, batch x steps, 1 thread, torch {latency['torch']}, {latency['cpu']}."
    )


if __name__ == "__main__":
    main()
