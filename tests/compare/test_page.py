"""docs/compare.md: its example is the file that its table was made by, its commands are ones that there are."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from docs.compare_page import PAGE, filled
from l0rnn import cli
from l0rnn.compare import Comparison, load_task, read_plan, task_plan
from l0rnn.compare.runner import check_runs
from l0rnn.compare.task import first_batch
from l0rnn.compare.task_run import train_run

TASK = PAGE.with_name("compare_task.py")


def commands() -> list[list[str]]:
    text = PAGE.read_text().replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in re.findall(r"^    (l0rnn compare .*)$", text, flags=re.MULTILINE)]


def test_the_page_has_the_example_and_the_table() -> None:
    page = PAGE.read_text()
    assert filled(page) == page
    told = Comparison.from_json(PAGE.with_name("compare_task.json").read_text())
    assert [row.name for row in told.rows] == list(
        dict.fromkeys(run.name for run in task_plan(TASK, densities=[0.2]).runs)
    )
    assert all(row.error is None and row.seeds == 3 for row in told.rows)


@pytest.mark.parametrize("command", commands(), ids=lambda command: " ".join(command)[:60])
def test_the_commands_are_ones_that_there_are(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[argparse.Namespace] = []
    monkeypatch.setattr("l0rnn.compare.command.run", told.append)
    assert cli.main(command) == 0
    assert told[0].plan in (Path("plan.yaml"), Path("docs/compare_task.py"))


def test_there_are_as_many_commands_as_the_page_explains() -> None:
    assert len(commands()) == 5


def test_the_example_learns(tmp_path: Path) -> None:
    task = load_task(TASK)
    torch.manual_seed(0)
    network = task.network()
    before = float(task.loss(network, first_batch(task.loaders()["train"], "train")).detach())
    config = {"task": str(TASK), "method": None, "widths": None, "epochs": 1, "seed_everything": 1}
    result = train_run(config, tmp_path, quality="valid", final="test")
    assert result["quality"] < 0.75 * before


def test_the_plan_of_the_page_can_be_read_and_started(tmp_path: Path) -> None:
    block, of_module = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    module = {"module": "tests.compare.louder.LouderModule", "data": "tests.compare.louder.LouderData"}
    assert task_plan(**{**yaml.safe_load(of_module), "task": module}).quality == "val_loss"
    told = yaml.safe_load(block)
    assert told["task"] == TASK.name
    (tmp_path / TASK.name).write_text(TASK.read_text())
    (tmp_path / "plan.yaml").write_text(block)
    plan = read_plan(tmp_path / "plan.yaml")
    assert len({run.seed for run in plan.runs}) == 5
    check_runs(plan)
