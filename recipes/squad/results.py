"""Fill the table of the README from results/*.json.

python -m recipes.squad.results
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
BEGIN, END = "<!-- results -->", "<!-- /results -->"
COLUMNS = ("ModFwd1", "ModBwd1", "ModFwd2", "ModBwd2", "OutFwd", "OutBwd", "ContextFwd", "ContextBwd")


def table(results: Iterable[Mapping[str, Any]]) -> str:
    """Results as a Markdown table; empty without results."""
    lines = [
        f"| configuration | EM | F1 | {' | '.join(COLUMNS)} | recurrent weights | ms | speed-up | same answers |",
        f"|---|{'---:|' * (len(COLUMNS) + 6)}",
    ]
    for result in results:
        units = " | ".join(str(result["shrunk"]["widths"][name]) for name in COLUMNS)
        times = result["latency"]
        lines.append(
            f"| {result['config'].removesuffix('.yaml')} | {result['exact_match']:.2f} | {result['f1']:.2f} | {units} "
            f"| {result['shrunk']['recurrent_parameters']:,} | {times['milliseconds']:.2f} | {times['speedup']:.2f} "
            f"| {result['identical_answers']:,} of {result['questions']:,} |"
        )
    return "\n".join(lines) if len(lines) > 2 else ""


def filled(page: str, text: str) -> str:
    """A page with a text between the markers.

    Raises:
        ValueError: if a marker is missing.

    Example:
        >>> filled("a <!-- results --> old <!-- /results --> b", "new").split()[2:5]
        ['results', '-->', 'new']
    """
    if BEGIN not in page or END not in page:
        raise ValueError(f"the page must have the markers {BEGIN} and {END}")
    before, rest = page.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{text}{chr(10) if text else ''}{END}{rest.split(END, 1)[1]}"


def main(folder: Path = FOLDER) -> None:
    """Read the results and write the page."""
    results = [json.loads(path.read_text()) for path in sorted((folder / "results").glob("*.json"))]
    page = folder / "README.md"
    page.write_text(filled(page.read_text(), table(results)))


if __name__ == "__main__":
    main()
