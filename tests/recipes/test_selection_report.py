"""The report of the benchmark: pairs of the same seed, cells that are missing, the best in bold."""

from __future__ import annotations

import json
import math

import pytest

from l0rnn.compare.results import kept_name
from recipes.selection import report
from recipes.selection.run import TASKS, UNTUNED, plan_of

GATES, MAGNITUDE = "l0_gates", "structured_magnitude"
LOSSES = {
    ("words", "dense", 1.0, 1): 1.0,
    ("words", GATES, 0.2, 1): 2.0,
    ("words", GATES, 0.2, 2): 8.0,
    ("words", MAGNITUDE, 0.2, 1): 4.0,
    ("digits", MAGNITUDE, 0.2, 1): 3.0,
}


def test_a_ratio_is_of_one_seed_and_only_where_both_are_there() -> None:
    assert report.ratios(LOSSES, GATES, MAGNITUDE) == {("words", 0.2): [math.log(0.5)]}
    assert report.ratios(LOSSES, MAGNITUDE, "dense") == {("words", 0.2): [math.log(4.0)]}


def test_cells_count_alike_however_many_seeds_they_have() -> None:
    cells = {"a": [math.log(2.0)] * 5, "b": [math.log(0.5)]}
    assert report.summary(cells).startswith("1.000 [0.500, 2.000]")
    assert report.summary({}) == "–"


def test_the_table_says_what_is_missing_and_what_is_best() -> None:
    words, digits = report.table(LOSSES).splitlines()[2:]
    assert words == "| words | 20% | 1 (1) | 5 | **4** (1) | 2 |"
    assert digits == "| *digits* | 20% | – | – | **3** | 1 |"


def test_results_are_found_under_the_names_that_a_comparison_gives_them(tmp_path) -> None:
    plan = plan_of("digits")
    for run in plan.runs[:3]:
        (tmp_path / kept_name(plan, run)).write_text(json.dumps({"quality": 1.5, "final": 2.5}))
    found = report.read(tmp_path, "test")
    assert set(found.values()) == {2.5}
    assert {key[:3] for key in found} == {("digits", "dense", 1.0), ("digits", GATES, 0.2), ("digits", MAGNITUDE, 0.2)}
    assert set(report.read(tmp_path, "valid").values()) == {1.5}


def test_tasks_that_are_never_tuned_on_are_at_least_two() -> None:
    assert set(UNTUNED) < set(TASKS)
    assert len(UNTUNED) >= 2


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_the_same_plan(task: str) -> None:
    assert [run.title for run in plan_of(task).runs] == [run.title for run in plan_of("words").runs]
