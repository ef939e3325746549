"""Pages whose tables come from result files."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.g2p import results as g2p_results
from recipes.pages import replaced
from recipes.penn_treebank import study_page, summary_page
from recipes.squad import results


def test_what_stands_between_the_marks_is_replaced() -> None:
    page = "a\n<!-- x -->\nold\n<!-- /x -->\nb"
    assert replaced(page, "x", "new \\1") == "a\n<!-- x -->\nnew \\1\n<!-- /x -->\nb"
    assert replaced(page, "x", "") == "a\n<!-- x -->\n<!-- /x -->\nb"


@pytest.mark.parametrize("page", ["a", "<!-- x -->\n<!-- /x -->\n<!-- x -->\n<!-- /x -->"])
def test_a_page_without_its_marks_is_refused(page: str) -> None:
    found = page.count("<!-- x -->")
    with pytest.raises(ValueError, match=f"`page` must have <!-- x --> and <!-- /x --> once, found {found} times"):
        replaced(page, "x", "new")


PAGES = [
    (study_page, study_page.FOLDER / "README.md"),
    (summary_page, summary_page.FRONT_PAGE),
    (summary_page, summary_page.RECIPE),
    (results, results.FOLDER / "README.md"),
    (g2p_results, g2p_results.FOLDER / "README.md"),
]


@pytest.mark.parametrize(
    ("module", "page"), PAGES, ids=[f"{module.__name__}-{page.parent.name}" for module, page in PAGES]
)
def test_the_page_has_the_tables_of_the_committed_results(
    module: object, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: dict[Path, str] = {}
    monkeypatch.setattr(Path, "write_text", lambda path, text, **_: written.update({path: text}))
    module.main()  # type: ignore[attr-defined]
    assert written[page] == page.read_text(encoding="utf-8")


def test_the_summary_compares_a_network_with_the_dense_one_of_its_study() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in summary_page.whole_table().splitlines()]
    titles, networks = rows[0], {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}
    assert {len(row) for row in rows} == {len(titles)}
    assert networks["**2 × 400, dense**"]["kept"] == "100.0%"
    taught = networks["selection, tied, taught"]
    assert taught["epochs"] == "20 + 5"
    adds = [int(networks[name]["multiply-adds"].replace(",", "")) for name in ("**2 × 400, dense**", "selection, 17 %")]
    assert networks["selection, 17 %"]["kept"] == f"{adds[1] / adds[0]:.1%}"
