"""Fill the table of the README and draw its picture from results/*.json.

python -m recipes.g2p.results
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recipes.g2p.report import picture, table
from recipes.pages import replaced

FOLDER = Path(__file__).parent


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Results by their names, the largest networks first, and of those of a size the best."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    found.sort(key=lambda result: (-round(result["density"], 2), result["word_error"]))
    return {result["name"]: result for result in found}


def main(folder: Path = FOLDER) -> None:
    """Read the results and write the page."""
    page = folder / "README.md"
    text = replaced(page.read_text(encoding="utf-8"), "results", table(read_results(folder / "results")))
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
    picture(read_results(FOLDER / "results"), FOLDER / "results" / "errors.png")
