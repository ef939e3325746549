"""Write the example and the table of docs/compare.md from compare_task.py and the result of its comparison.

l0rnn compare docs/compare_task.py --out out/characters --densities 0.2 --seeds 1 2 3 --jobs 2
cp out/characters/compare.json docs/compare_task.json
python -m docs.compare_page
"""

from __future__ import annotations

from pathlib import Path

from l0rnn.compare import Comparison
from recipes.pages import replaced

PAGE = Path(__file__).with_name("compare.md")


def main() -> None:
    """Fill the page."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"written: {PAGE}")


def filled(page: str) -> str:
    """The page with the task file and the table."""
    task = PAGE.with_name("compare_task.py").read_text(encoding="utf-8")
    comparison = Comparison.from_json(PAGE.with_name("compare_task.json").read_text(encoding="utf-8"))
    page = replaced(page, "task", f"```python\n{task}```")
    return replaced(page, "table", comparison.table())


if __name__ == "__main__":
    main()
