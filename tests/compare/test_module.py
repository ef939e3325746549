"""Comparisons of methods on a LightningModule and its DataModule, by class path."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from l0rnn.cli import main
from l0rnn.compare import Comparison, read_plan, run_all, task_plan
from l0rnn.compare.module_run import train_run
from l0rnn.training.resuming import Paused
from tests.compare import louder

pytestmark = pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")

TASK = {"module": "tests.compare.louder.LouderModule", "data": "tests.compare.louder.LouderData"}
GATES = {
    "class_path": "l0rnn.L0Gates",
    "init_args": {"objective": {"class_path": "l0rnn.Budget", "init_args": {"density": 0.4}}},
}


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def config(**more: Any) -> dict[str, Any]:
    told = {"trainer": {"max_epochs": 3, "log_every_n_steps": 4}, "method": None, "widths": None, "epochs": None}
    return {**TASK, **told, "seed_everything": 1, **more}


def test_a_module_compared_by_the_command(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    told = {"task": TASK, "methods": ["l0_gates"], "densities": [0.4], "seeds": [1]}
    plan.write_text(json.dumps({**told, "trainer": {"max_epochs": 2, "log_every_n_steps": 4}}))
    out = tmp_path / "out"
    assert main(["compare", str(plan), "--out", str(out), "--jobs", "2", "--threads", "1"]) == 0
    comparison = Comparison.from_json((out / "compare.json").read_text())
    rows = {row.name: row for row in comparison.rows}
    assert (comparison.quality, comparison.final) == ("val_loss", "test_loss")
    assert all(row.error is None for row in rows.values()), rows
    pruned, scratch = rows["l0_gates, 40 %"], rows["from scratch, widths of l0_gates, 40 %"]
    assert rows["dense"].density == 1
    assert 0.2 < pruned.density <= 0.4
    assert (scratch.units, scratch.multiply_adds) == (pruned.units, pruned.multiply_adds)
    assert scratch.density == pruned.density
    assert scratch.quality != pruned.quality
    assert pruned.final == pruned.final  # there is a test, so it is a number


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {"quality": "val_loss", "final": "test_loss"}
    whole = train_run(config(method=GATES), tmp_path / "whole", **figures)
    step = louder.LouderModule.training_step
    seen = 0

    def asked(self: Any, batch: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == 11:  # in the middle of the second epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(louder.LouderModule, "training_step", asked)
        with pytest.raises(Paused):
            train_run(config(method=GATES), tmp_path / "parts", **figures)
    went_on = train_run(config(method=GATES), tmp_path / "parts", **figures)
    assert went_on["figures"] == whole["figures"]
    for name, weight in torch.load(whole["model"], weights_only=True).items():
        assert torch.equal(weight, torch.load(went_on["model"], weights_only=True)[name])


def test_another_source_or_setting_is_another_run() -> None:
    plan = task_plan(TASK, methods=["l0_gates"], seeds=[1], trainer={"max_epochs": 2})
    longer = task_plan(TASK, methods=["l0_gates"], seeds=[1], trainer={"max_epochs": 3})
    assert plan.key(plan.runs[0], {}) != longer.key(longer.runs[0], {})


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"module": "tests.compare.louder.LouderModule"}, "have `module` and `data`, got module"),
        ({**TASK, "module": "tests.compare.louder.Nothing"}, "must name a class that can be imported"),
        (
            {**TASK, "module": "tests.compare.louder.LouderData"},
            "LightningModule and a LightningDataModule, got Louder",
        ),
        (
            {**TASK, "module": {"class_path": TASK["module"], "init_args": {"rate": 1}}},
            "do not fit it: .*it takes learn",
        ),
    ],
)
def test_a_module_that_is_none_is_refused_at_once(task: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run_all(task_plan(task, methods=["l0_gates"], seeds=[1]), tmp_path)


def test_what_is_no_setting_of_a_module_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(json.dumps({"task": TASK, "base": "b.yaml"}))
    with pytest.raises(ValueError, match="unknown keys base; there are .*trainer"):
        read_plan(tmp_path / "plan.yaml")
