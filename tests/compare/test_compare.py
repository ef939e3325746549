"""Comparisons: what a plan may say, that nothing is trained twice, and that the table tells what was measured."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning import Callback

from l0rnn.bench.report import BenchReport, BenchRow
from l0rnn.cli import main
from l0rnn.compare import Comparison, Plan, Run, read_plan, run_all, write_comparison
from l0rnn.compare.configured_run import RESULT, train_run
from l0rnn.compare.engines import LocalEngine
from l0rnn.compare.latency import measure
from l0rnn.compare.plan import folder_name, key_of
from l0rnn.compare.plot import pareto, plot_comparison
from l0rnn.compare.report import compare
from l0rnn.compare.results import results_so_far, results_table
from tests.tiny_text import WORDS

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]

L0 = {
    "class_path": "l0rnn.L0Gates",
    "init_args": {"objective": {"class_path": "l0rnn.Budget", "init_args": {"density": 0.5, "ramp": 0.3}}},
}
GRADUAL = {"class_path": "l0rnn.methods.GradualMagnitude", "init_args": {"density": 0.4, "frequency": 5}}
BLOCKS = {"class_path": "l0rnn.methods.BlockPruning", "init_args": {"density": 0.4, "block": 4, "frequency": 5}}
METHOD = "model.init_args.method"


def base(**model: Any) -> dict[str, Any]:
    arguments = {"vocabulary_size": WORDS, "hidden_size": 8, "num_layers": 1, "dropout": 0.0, "init_range": None}
    return {
        "seed_everything": 1,
        "model": {"class_path": "l0rnn.L0GatedLSTM", "init_args": {**arguments, "learning_rate": 0.5, **model}},
        "data": {"class_path": "tests.tiny_text.TinyText", "init_args": {"length": 400}},
        "trainer": {
            "max_epochs": 2,
            "accelerator": "cpu",
            "enable_model_summary": False,
            "callbacks": [
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": {"save_last": True, "save_top_k": 0, "every_n_train_steps": 5},
                }
            ],
        },
    }


def written(folder: Path, runs: dict[str, Any], **more: Any) -> Path:
    (folder / "base.yaml").write_text(yaml.safe_dump(base()))
    plan = {"base": "base.yaml", "quality": "valid/perplexity", "final": "test/perplexity", "grid": [[1, 1], [2, 3]]}
    (folder / "plan.yaml").write_text(yaml.safe_dump({**plan, "runs": runs, **more}, sort_keys=False))
    return folder / "plan.yaml"


class StopAt(Callback):
    """Ends a training in its middle, as a time limit would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise TimeoutError


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the processes of the runs import the tests."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


# ---------------------------------------------------------------------------------------------------------------------
# plans


def test_a_run_changes_the_base_and_refers_to_earlier_runs(tmp_path: Path) -> None:
    runs = {
        "dense": {},
        "l0": {METHOD: L0},
        "small": {"model.init_args.hidden_size": ["${l0:encoder.l0}"], "model.init_args.path": "at ${dense:model}"},
    }
    plan = read_plan(written(tmp_path, runs, seeds=[3, 4]))
    assert [(run.name, run.seed) for run in plan.runs] == [(name, seed) for seed in (3, 4) for name in runs]
    assert plan.config(plan.runs[0], {}) == {**base(), "seed_everything": 3}
    assert plan.runs[2].needs() == {"l0", "dense"}
    results = {"l0": {"widths": {"encoder.l0": 5}, "model": "a"}, "dense": {"widths": {}, "model": "b/model"}}
    arguments = plan.config(plan.runs[2], results)["model"]["init_args"]
    assert arguments["hidden_size"] == [5]  # a number, not its text
    assert arguments["path"] == "at b/model"
    either = Plan(base(), [Run("small", 1, {"model.init_args.hidden_size": "${l0:embedding|encoder.l0}"})])
    assert either.config(either.runs[0], results)["model"]["init_args"]["hidden_size"] == 5
    assert plan.base == base()
    assert plan.headline == (2, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": {"a": {"no.where": 1}}}, "has no 'no' to change it in"),
        ({"runs": {"b": {"seed": "${a:model}"}}}, "refers to a, which must come before it"),
        ({"runs": {}}, "must have `runs`"),
        ({"runs": {"a": {}}, "methods": 1}, "unknown keys methods"),
        ({"runs": {"a": {}}, "seeds": []}, "`seeds` must be a list of whole numbers"),
        ({"runs": {"a": {}}, "grid": [[1, 0]]}, "pairs \\[batch, steps\\], both > 0"),
        ({"runs": {"a": {}}, "headline": [9, 9]}, "`headline` must be one of `grid`"),
    ],
)
def test_a_wrong_plan_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):  # noqa: PT012 - reading finds some of them, building the others
        plan = read_plan(written(tmp_path, **change))
        plan.config(plan.runs[0], {})


def test_files_that_are_not_there_or_not_yaml_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none.yaml does not exist"):
        read_plan(tmp_path / "none.yaml")
    path = written(tmp_path, {"a": {}}, base="other.yaml")
    with pytest.raises(FileNotFoundError, match="other.yaml does not exist"):
        read_plan(path)
    path.write_text("{a: [")
    with pytest.raises(ValueError, match="is not YAML"):
        read_plan(path)
    path.write_text("- a")
    with pytest.raises(ValueError, match="must be a mapping"):
        read_plan(path)


def test_a_reference_must_name_an_axis_of_a_run_that_has_a_result() -> None:
    plan = Plan(base(), [Run("small", 1, {"model.init_args.hidden_size": "${l0:nothing}"})])
    with pytest.raises(ValueError, match="must name `model`, `widths` or an axis of 'l0': encoder.l0"):
        plan.config(plan.runs[0], {"l0": {"widths": {"encoder.l0": 3}, "model": ""}})
    with pytest.raises(ValueError, match="the run 'l0' has no result"):
        plan.config(plan.runs[0], {})


def test_another_configuration_is_another_folder() -> None:
    run = Run("L0, 30 %", 2, {})
    assert folder_name(run, base()) != folder_name(run, base(hidden_size=9))
    assert key_of(base()) == key_of(json.loads(json.dumps(base())))


# ---------------------------------------------------------------------------------------------------------------------
# runs


def test_runs_side_by_side_are_trained_once_and_failures_are_shown(
    tmp_path: Path, importable: None, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {
        "dense": {},
        "l0": {METHOD: L0},
        "gradual": {METHOD: GRADUAL},
        "blocks": {METHOD: BLOCKS},
        "small": {
            "model.init_args.hidden_size": ["${l0:encoder.l0}"],
            "model.init_args.embedding_size": "${l0:embedding}",
        },
        "diverging": {"model.init_args.learning_rate": 1e30},
        "after it": {"model.init_args.hidden_size": ["${diverging:encoder.l0}"]},
    }
    path = written(tmp_path, runs)
    out = tmp_path / "out"
    command = ["compare", str(path), "--out", str(out), "--jobs", "2", "--threads", "1"]
    assert main([*command, "--seconds", "0.01"]) == 0
    comparison = Comparison.from_json((out / "compare.json").read_text())
    rows = {row.name: row for row in comparison.rows}
    assert list(rows) == list(runs)
    # which of the two comes first depends on the processor's order of additions
    reasons = ("'valid/perplexity' is inf at the end of the training", "the loss became nan")
    assert any(reason in str(rows["diverging"].error) for reason in reasons)
    assert rows["after it"].error == "it refers to diverging, which failed"
    assert rows["dense"].density == 1
    assert rows["l0"].density <= 0.5
    assert rows["gradual"].density == pytest.approx(0.4, abs=0.01)
    assert rows["gradual"].parameters < rows["dense"].parameters
    assert rows["small"].multiply_adds == rows["l0"].multiply_adds
    assert rows["small"].quality != rows["l0"].quality
    for row in comparison.rows:
        if row.error is None:
            assert row.quality < WORDS
            assert all(milliseconds > 0 for milliseconds in row.milliseconds.values())
            assert set(row.milliseconds) == {"1 x 1", "2 x 3"}
    assert {row.form for row in comparison.rows if row.method == "BlockPruning"} <= {"dense", "CSR", "BSR 4"}
    for name in ("compare.md", "compare.csv", "compare.png", "compare.html"):
        assert (out / name).stat().st_size > 100
    assert "| diverging | failed: " in (out / "compare.md").read_text()

    capsys.readouterr()
    trained = {path: path.stat().st_mtime_ns for path in out.glob(f"runs/*/{RESULT}")}
    assert len(trained) == 5
    plan = read_plan(path)
    results = run_all(plan, out, only=["small"], threads=1)  # all that it needs is there already
    assert results["small", 1]["quality"] == rows["small"].quality
    assert {path: path.stat().st_mtime_ns for path in out.glob(f"runs/*/{RESULT}")} == trained


def test_a_run_that_was_stopped_goes_on_to_the_same_result(tmp_path: Path) -> None:
    figures = {"quality": "valid/perplexity", "final": "test/perplexity"}
    config = base(method=L0)
    whole = train_run(config, tmp_path / "whole", **figures)
    half = base(method=L0)
    stop = {"class_path": "tests.compare.test_compare.StopAt", "init_args": {"step": whole["steps"] // 3}}
    half["trainer"]["callbacks"].append(stop)
    with pytest.raises(TimeoutError):
        train_run(half, tmp_path / "stopped", **figures)
    assert not (tmp_path / "stopped" / RESULT).exists()
    went_on = train_run(config, tmp_path / "stopped", **figures)
    for key in ("quality", "final", "widths", "steps", "multiply_adds"):
        assert went_on[key] == whole[key]
    assert went_on["training_seconds"]["processor"] > 0


def test_a_figure_that_is_not_logged_and_a_run_that_cannot_start_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'valid/accuracy' must be a figure that the model logs, got valid/loss"):
        train_run(base(), tmp_path / "a", quality="valid/accuracy", final="test/loss")
    bad = {**L0, "init_args": {**L0["init_args"], "freeze": 2.0}}
    plan = read_plan(written(tmp_path, {"dense": {}, "late": {METHOD: bad}}))
    with pytest.raises(ValueError, match=r"'late' cannot start: `freeze` must be a fraction .* got 2.0$"):
        run_all(plan, tmp_path / "out")
    assert not list((tmp_path / "out").glob("runs/*"))
    with pytest.raises(ValueError, match="`only` must name runs of the comparison, got none"):
        run_all(plan, tmp_path / "out", only=["none"])
    with pytest.raises(ValueError, match="`jobs` must be at least 1, got 0"):
        run_all(plan, tmp_path / "out", engine=LocalEngine(0))
    with pytest.raises(ValueError, match="at least one run that did not fail"):
        measure(plan, {("dense", 1): {"error": "it is gone"}})


# ---------------------------------------------------------------------------------------------------------------------
# the table


def result(quality: float, **more: Any) -> dict[str, Any]:
    told = {"quality": quality, "final": quality + 1, "parameters": 10, "multiply_adds": 5, "density": 0.5}
    return {
        **told,
        "method": "L0Gates",
        "training_seconds": {"wall": 4.0, "processor": 3.0},
        "epochs": 1,
        "steps": 2,
        **more,
    }


def bench(**milliseconds: float) -> BenchReport:
    rows = [
        BenchRow(name, 1, 1, 1, "native", ms, 0.0, speedup=4 / ms, is_best=True) for name, ms in milliseconds.items()
    ]
    return BenchReport(tuple(rows), "dense · dense", {})


def test_rows_are_means_over_seeds_and_the_best_form_counts(tmp_path: Path) -> None:
    plan = Plan(base(), [Run(name, seed, {}) for seed in (1, 2) for name in ("dense", "sparse", "gone")], grid=[(1, 1)])
    plan = Plan(plan.base, plan.runs, grid=[(1, 1)], headline=(1, 1))
    results = {
        ("sparse", 1): result(20.0),  # which ended before the others
        ("dense", 1): result(10.0, multiply_adds=20),
        ("dense", 2): result(14.0, multiply_adds=20),
        ("gone", 1): {"error": "out of | memory"},
    }
    latency = bench(**{"dense · dense": 4.0, "sparse · dense": 4.0, "sparse · CSR": 2.0})
    comparison = compare(plan, results, latency, {"dense": {"dense": 100}, "sparse": {"dense": 100, "CSR": 30}})
    rows = {row.name: row for row in comparison.rows}
    assert (rows["dense"].quality, rows["dense"].spread, rows["dense"].seeds) == (12.0, pytest.approx(8**0.5), 2)
    assert (rows["sparse"].form, rows["sparse"].bytes) == ("CSR", 30)
    assert (rows["dense"].density, rows["sparse"].density) == (1.0, 0.25)
    assert rows["sparse"].milliseconds == {"1 x 1": 2.0}
    assert rows["sparse"].speedup == {"1 x 1": 2.0}
    assert math.isnan(rows["gone"].quality)
    assert "| gone | failed: out of / memory |" in comparison.table()
    assert len({line.count("|") for line in comparison.table().splitlines()}) == 1
    write_comparison(comparison, tmp_path)
    with (tmp_path / "compare.csv").open() as file:
        told = list(csv.DictReader(file))
    assert [row["name"] for row in told] == ["dense", "sparse", "gone"]
    assert told[1]["milliseconds 1 x 1"] == "2.0"
    plot_comparison(comparison, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"


def test_results_of_another_configuration_do_not_count(tmp_path: Path) -> None:
    plan = Plan(base(), [Run("dense", 1, {})])
    folder = tmp_path / "runs" / folder_name(plan.runs[0], plan.config(plan.runs[0], {}))
    folder.mkdir(parents=True)
    (folder / RESULT).write_text(json.dumps(result(1.0)))
    assert results_so_far(plan, tmp_path)["dense", 1]["quality"] == 1.0
    assert results_so_far(Plan(base(hidden_size=9), plan.runs), tmp_path) == {}


def test_the_pareto_line_leaves_out_what_is_beaten_in_both() -> None:
    assert pareto([(3.0, 1.0), (1.0, 3.0), (2.0, 3.0), (2.5, 2.0)]) == [(1.0, 3.0), (2.5, 2.0), (3.0, 1.0)]


def test_a_table_counts_from_the_first_run_or_not_at_all() -> None:
    plan = Plan({}, [Run("dense", 1, {}), Run("small", 1, {})])
    result = {"quality": 2.0, "final": 3.0, "widths": {"a": 4}, "parameters": 9, "parameters_without_embedding": 8}
    result |= {"multiply_adds": 5, "training_seconds": {"wall": 60.0}}
    small = {("small", 1): result}
    assert results_table(plan, small).splitlines()[-1] == "| small | 2.00 | 3.00 | 4 | 9 | 8 | 5 |  | 1.0 |  |"
    both = {("dense", 1): {**result, "multiply_adds": 20}, **small}
    assert "| 5 | 25.0% | 1.0 |" in results_table(plan, both).splitlines()[-1]
