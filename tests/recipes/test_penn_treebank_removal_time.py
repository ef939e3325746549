"""The measurement of live removal: three trainings that differ in nothing else, on a small text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from l0rnn.compare import Plan
from l0rnn.compare.configured_run import RESULT, train_run
from l0rnn.compare.plan import folder_name
from recipes.penn_treebank import removal_time
from recipes.penn_treebank.removal_time import BASE, DENSE, REMOVED, STAYING, compared, make_plan
from tests.tiny_text import WORDS

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


def one_after_another(plan: Plan, out: Path, **options: Any) -> dict[tuple[str, int], dict[str, Any]]:
    """As `run_all`, without a process for each."""
    assert options == {"threads": 1}
    results = {}
    for run in plan.runs:
        config = plan.config(run, {})
        folder = out / "runs" / folder_name(run, config)
        if not (folder / RESULT).exists():
            train_run(config, folder, quality=plan.quality, final=plan.final)
        results[run.name, run.seed] = json.loads((folder / RESULT).read_text())
    return results


def test_the_runs_differ_in_method_and_callback_alone() -> None:
    base = yaml.safe_load(BASE.read_text())
    plan = make_plan(base, every=50, epochs=3, data_dir=Path("texts"), train_tokens=1000)
    dense, staying, removed = (plan.config(run, {}) for run in plan.runs)
    assert [run.name for run in plan.runs] == [DENSE, STAYING, REMOVED]
    assert dense["trainer"]["max_epochs"] == 3
    assert dense["data"]["init_args"] == {**base["data"]["init_args"], "data_dir": "texts", "train_tokens": 1000}
    budget = staying["model"]["init_args"].pop("method")["init_args"]["objective"]["init_args"]
    assert budget == {"density": 0.15, "start": 0.02, "ramp": 0.2}
    assert dense["model"]["init_args"].pop("method")["class_path"] == "l0rnn.Dense"
    assert staying == dense
    *callbacks, removal = removed["trainer"].pop("callbacks")
    assert callbacks == staying["trainer"].pop("callbacks")
    assert removal == {"class_path": "l0rnn.training.RemoveClosedUnits", "init_args": {"every": 50}}
    del removed["model"]["init_args"]["method"]
    assert removed == staying


def test_seconds_quality_and_density_of_each_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = yaml.safe_load(BASE.read_text())
    base["model"]["init_args"] |= {"vocabulary_size": WORDS, "hidden_size": 16}
    base["data"] = {"class_path": "tests.tiny_text.TinyText", "init_args": {"length": 400}}
    base["trainer"]["enable_progress_bar"] = False
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    out = tmp_path / "results" / "removal.json"
    monkeypatch.setattr(removal_time, "run_all", one_after_another)
    arguments = ["--out", out, "--runs", tmp_path, "--config", tmp_path / "base.yaml", "--every", "5"]
    monkeypatch.setattr("sys.argv", ["removal_time", *map(str, arguments)])
    removal_time.main()
    told = json.loads(out.read_text())
    dense, staying, removed = told["rows"]
    for row in told["rows"]:
        assert row["steps"] == 40
        assert row["valid_perplexity"] > 1
    assert dense["density"] == 1
    assert 0 < staying["density"] <= 0.151
    assert 0 < removed["density"] <= 0.151
    saved = {path.parents[1].name: torch.load(path, weights_only=True) for path in tmp_path.rglob("last.ckpt")}
    has_lost = {name.split("-seed")[0]: bool(one["l0rnn"]["remaining"]) for name, one in saved.items()}
    assert has_lost == {"dense": False, "l0-closed-units-stay": False, "l0-closed-units-removed": True}
    removal_time.main()  # nothing is trained again
    assert json.loads(out.read_text())["rows"] == told["rows"]


def test_ratios_are_those_to_the_dense_run() -> None:
    def result(wall: float, processor: float, multiply_adds: int) -> dict[str, Any]:
        seconds = {"wall": wall, "processor": processor}
        figures = {"quality": 120.04, "final": 110.0, "steps": 7, "widths": {}, "multiply_adds": multiply_adds}
        return {"training_seconds": seconds, **figures}

    rows = compared({DENSE: result(200.0, 160.0, 1000), REMOVED: result(50.0, 60.0, 150)})
    assert [(row["wall_ratio"], row["processor_ratio"], row["density"]) for row in rows] == [
        (1.0, 1.0, 1.0),
        (0.25, 0.375, 0.15),
    ]


def test_a_failed_run_is_named() -> None:
    with pytest.raises(SystemExit, match="dense failed: no memory"):
        compared({DENSE: {"error": "no memory"}})
