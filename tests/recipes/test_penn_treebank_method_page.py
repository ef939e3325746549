"""The page that compares the methods says what the committed results say."""

from __future__ import annotations

from l0rnn.compare import Comparison, read_plan
from recipes.penn_treebank.method_page import PAGE, RESULTS, conditions, filled


def test_the_page_has_the_tables_of_the_committed_results() -> None:
    comparison = Comparison.from_json((RESULTS / "compare.json").read_text())
    page = PAGE.read_text()
    assert filled(page, comparison) == page
    assert comparison.table() in page
    assert conditions(comparison) in page


def test_every_run_of_the_committed_plan_is_in_the_table_and_none_failed() -> None:
    comparison = Comparison.from_json((RESULTS / "compare.json").read_text())
    plan = read_plan(RESULTS.parent / "configs" / "compare.yaml")
    assert [row.name for row in comparison.rows] == [run.name for run in plan.runs]
    assert all(row.error is None for row in comparison.rows)
    assert (comparison.quality, comparison.final) == (plan.quality, plan.final)
