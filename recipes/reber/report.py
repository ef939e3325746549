"""The tables of the study, beside the published ones.

    python -m recipes.reber.report --out out/reber --name full

copies summary, tables and figures of a finished study to ``recipes/reber/results/<name>``; the study called ``full``
is also written into docs/reber.md, and of that called ``simple`` the tables of part 3.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.pages import replaced
from recipes.reber.figures import draw
from recipes.reber.tables import tables

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[2] / "docs" / "reber.md"
ON_PAGE: dict[str, tuple[str, ...]] = {"full": (), "simple": ("selection", "gated", "controls")}  # (): all tables
FIGURE = re.compile(r"<!-- figure (\w+\.png): (.*?) -->")  # where a picture goes once there is one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of a finished study")
    parser.add_argument("--name", required=True, help="its name among the results, such as quick or full")
    options = parser.parse_args()
    shown = ON_PAGE.get(options.name)
    publish(options.out, RESULTS / options.name, None if shown is None else PAGE, shown or ())


def publish(out: Path, results: Path, page: Path | None, only: Sequence[str] = ()) -> None:
    """Copy what a study wrote, and fill a page with its tables.

    Args:
        out: folder of the study.
        results: folder for the copies.
        page: what to fill; None for no page.
        only: tables to fill it with, at marks that begin with the name of ``results``; empty for all, with figures.

    Raises:
        FileNotFoundError: if the study is not finished.
    """
    path = out / "summary.json"
    if not path.is_file():
        raise FileNotFoundError(f"`out` must be the folder of a finished study, but there is no {path}")
    results.mkdir(parents=True, exist_ok=True)
    for pattern in ("config.json", "summary.json", "report.md", "*.png", "*.csv"):
        for file in out.glob(pattern):
            shutil.copy(file, results / file.name)
    if page is not None:
        texts = tables(json.loads(path.read_text(encoding="utf-8")))
        if only:
            texts = {f"{results.name} {name}": texts[name] for name in only}
        text = filled(page.read_text(encoding="utf-8"), texts)
        page.write_text(text if only else FIGURE.sub(r"![\2](\1)", text), encoding="utf-8")
        for figure in [] if only else out.glob("*.png"):
            shutil.copy(figure, page.parent / f"reber_{figure.name}")


def write(summary: Mapping[str, Any], out: Path) -> None:
    """``report.md``, a CSV file for each part, and the figures."""
    parts = [f"## {title}\n\n{text}\n" for title, text in tables(summary).items()]
    (out / "report.md").write_text("\n".join(["# Reber grammar study\n", *parts]), encoding="utf-8")
    for name in ("pruned", "structures", "gated", "controls"):
        _write_csv([_flat(row) for row in summary[name]], out / f"{name}.csv")
    draw(summary, out)


def filled(page: str, texts: Mapping[str, str]) -> str:
    """A page with each text between its marks, see `replaced`."""
    for name, text in texts.items():
        page = replaced(page, name, text)
    return page


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of plain cells: mappings become columns of their own, lists one cell."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= _flat(value)
        else:
            flat[name] = " ".join(map(str, value)) if isinstance(value, list) else value
    return flat


def _write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    if rows:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
