"""Pages whose tables come from result files."""

from __future__ import annotations

import pytest

from recipes.pages import replaced
from recipes.penn_treebank import study_page
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


@pytest.mark.parametrize("module", [study_page, results])
def test_the_page_has_the_tables_of_the_committed_results(module: object) -> None:
    page = module.FOLDER / "README.md"  # type: ignore[attr-defined]
    before = page.read_text(encoding="utf-8")
    module.main()  # type: ignore[attr-defined]
    after = page.read_text(encoding="utf-8")
    if after != before:
        page.write_text(before, encoding="utf-8")
    assert after == before
