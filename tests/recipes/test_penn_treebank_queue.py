"""The queue: stopped at a time limit it goes on to the same result, and what is finished is not trained again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning import Callback

from l0rnn.compare import read_plan
from l0rnn.compare.configured_run import train_run
from l0rnn.compare.results import results_so_far
from l0rnn.training.resuming import Paused
from recipes.penn_treebank import queue
from tests.compare.test_compare import L0, METHOD, base

pytestmark = [
    # Lightning 2.6 calls jsonargparse in a way that the latter has deprecated
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "recipes/penn_treebank/configs"
CONFIGS = sorted([*FOLDER.glob("*_plan.yaml"), *FOLDER.glob("*_search.yaml")])
RUNS = {
    "L0, half": {METHOD: L0},
    "control": {"model.init_args.hidden_size": ["${L0, half:encoder.l0}"]},
}


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    config = base()
    config["data"]["init_args"]["length"] = 2000
    config["trainer"]["max_epochs"] = 5
    config["trainer"]["callbacks"][0]["init_args"]["every_n_train_steps"] = 1000
    (tmp_path / "tiny_base.yaml").write_text(yaml.safe_dump(config))
    told = {"base": "tiny_base.yaml", "quality": "valid/perplexity", "final": "test/perplexity", "runs": RUNS}
    (tmp_path / "tiny_plan.yaml").write_text(yaml.safe_dump(told, sort_keys=False))
    return tmp_path / "tiny_plan.yaml"


def command(plan: Path, name: str, *more: str) -> list[str]:
    folder = plan.parent
    places = ["--out", str(folder / name), "--results", str(folder / f"{name}-results")]
    return ["--plan", str(plan), *places, "--threads", "1", "--device", "cpu", *more]


class Signal(Callback):
    """Sends the process SIGTERM after a step, as the queue does at its time limit."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("step", [7, 20], ids=["in the middle of an epoch", "at its end"])
def test_a_run_that_is_paused_ends_as_one_that_is_not(tmp_path: Path, step: int) -> None:
    figures = {"quality": "valid/perplexity", "final": "test/perplexity"}
    whole = train_run(base(method=L0), tmp_path / "whole", **figures)
    config = base(method=L0)
    config["trainer"]["callbacks"][0]["init_args"]["every_n_train_steps"] = 1000
    paused = {**config, "trainer": {**config["trainer"], "callbacks": list(config["trainer"]["callbacks"])}}
    told = {"class_path": "tests.recipes.test_penn_treebank_queue.Signal", "init_args": {"step": step}}
    paused["trainer"]["callbacks"].append(told)
    with pytest.raises(Paused, match="goes on from there"):
        train_run(paused, tmp_path / "parts", **figures)
    assert saved(tmp_path / "parts")["global_step"] == (step + 1 if step == 20 else step)  # not at an epoch's end
    went_on = train_run(config, tmp_path / "parts", **figures)
    for key in ("figures", "widths", "multiply_adds", "steps"):
        assert went_on[key] == whole[key]
    weights = saved(tmp_path / "parts")["state_dict"]
    for name, weight in saved(tmp_path / "whole")["state_dict"].items():
        assert torch.equal(weight, weights[name])


def saved(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def test_the_queue_stops_at_a_signal_and_goes_on(plan: Path) -> None:
    arguments = command(plan, "out", "--only", "L0, half")
    python = [sys.executable, "-m", "recipes.penn_treebank.queue", *arguments]
    process = subprocess.Popen(python, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    out = plan.parent / "out"
    while not list(out.glob("runs/*/progress.json")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == queue.INTERRUPTED, said
    assert "1 runs stopped in " in said
    (folder,) = out.glob("runs/*")
    assert 0 < saved(folder)["global_step"] < 500
    assert not (folder / "result.json").exists()
    assert queue.main([*arguments, "--minutes", "1e-9"]) == 1  # no time, so nothing is started
    assert queue.main(arguments) == 0
    assert saved(folder)["global_step"] == 500
    (kept,) = (plan.parent / "out-results").iterdir()
    assert kept.name == "tiny_plan_l0-half.json"
    model = Path(json.loads(kept.read_text())["model"])
    assert model.parts[0] == "runs"  # and not where on this machine
    assert model.name == "model"

    # the result outlives its run, also as what another run refers to
    read = read_plan(plan)
    earlier = {"L0, half": json.loads(kept.read_text())}
    results = results_so_far(read, plan.parent / "elsewhere", kept.parent)
    assert results["L0, half", 1]["quality"] == earlier["L0, half"]["quality"]
    width = read.config(read.runs[1], earlier)["model"]["init_args"]["hidden_size"]
    assert width == [earlier["L0, half"]["widths"]["encoder.l0"]]
    changed = read_plan(plan)
    changed.base["model"]["init_args"]["learning_rate"] = 0.25
    assert results_so_far(changed, plan.parent / "elsewhere", kept.parent) == {}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_committed_plans_can_be_read(path: Path) -> None:
    plan = read_plan(path)
    firsts = {
        "fine_tune_search": "more epochs",
        "locked_search": "taught by two",
        "methods_search": "group lasso (ISS)",
    }
    first = firsts.get(path.stem, "dense")  # the tables count what is kept from it, or study_page says from what
    assert plan.runs[0].name == first
    results = {}
    for run in plan.runs:
        widths = {"embedding": 3, "encoder.l0": 4}
        if not run.changes.get("model.init_args.tied"):  # a tied embedding has the units of the last layer
            widths["encoder.l1"] = 5
        results[run.name] = {"widths": widths, "model": "m", "configuration": run.name}
    assert len({plan.key(run, results) for run in plan.runs}) == len(plan.runs)


def test_the_plans_are_there() -> None:
    names = {"large_plan", "medium_plan", "cpu_plan", "cpu_search", "cpu_40_search", "cpu_tied_plan", "when_search"}
    assert {path.stem for path in CONFIGS} == {*names, "fine_tune_search", "locked_search", "methods_search"}
