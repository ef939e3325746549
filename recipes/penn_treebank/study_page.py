"""Write the tables of the 2 x 400 study into the README, from the committed results.

python -m recipes.penn_treebank.study_page
"""

from __future__ import annotations

from pathlib import Path

from l0rnn.compare import read_plan
from l0rnn.compare.kept_results import results_so_far, results_table
from recipes.pages import replaced
from recipes.penn_treebank.performance_page import RESULTS

FOLDER = Path(__file__).parent
PLANS = ("cpu_plan", "cpu_search")


def main() -> None:
    """Fill the README."""
    page = FOLDER / "README.md"
    text = page.read_text(encoding="utf-8")
    for name in PLANS:
        plan = read_plan(FOLDER / "configs" / f"{name}.yaml")
        text = replaced(text, name, results_table(plan, results_so_far(plan, FOLDER / "out", RESULTS)))
    page.write_text(text, encoding="utf-8")
    print(f"written: {page}")


if __name__ == "__main__":
    main()
