"""The study as a whole, tiny: runs through, resumes, refuses what does not fit, and its tables say what it found."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from l0rnn.compare.engines import Engine, Job, LocalEngine
from l0rnn.compare.process import main
from recipes.reber import jobs, report, study
from recipes.reber.config import differences, read_config
from recipes.reber.report import publish
from recipes.reber.tables import NO_RESULTS

CONFIGS = Path(study.__file__).parent / "configs"
TINY: dict[str, Any] = {
    "cells": ["tanh", "gru"],
    "data": {"strings": 60, "test_share": 0.25, "shortest": 11},
    "pruning": {
        **{"data": ["original", "hard"], "embedding": 3, "hidden": 4, "layers": 2, "base_epochs": 1},
        **{"kinds": ["both", "h2h"], "percentages": [50, 100], "retrain_epochs": 1},
    },
    "structures": {"graphs": 2, "nodes": [5, 8], "train_strings": 30, "epochs": 1, "folds": 2, "repeats": 1},
    "selection": {
        **{"cells": ["gru"], "layers": [1], "embedding": 4, "hidden": 4, "epochs": 2, "densities": [0.5]},
        **{"scales": [1.0, 0.5], "control_seeds": 2, "latency_grid": [[1, 3]], "latency_seconds": 0.01},
    },
}


def tiny_yaml(folder: Path, **changes: Any) -> Path:
    """The quick configuration, made tiny; ``changes`` are ``part__name=value``."""
    told = yaml.safe_load((CONFIGS / "quick.yaml").read_text())
    for name, value in TINY.items():
        told[name] = {**told[name], **value} if isinstance(value, dict) else value
    for name, value in changes.items():
        *parts, last = name.split("__")
        place = told
        for part in parts:
            place = place[part]
        place[last] = value
    if not Path(told["grammar"]).is_absolute():
        told["grammar"] = str(CONFIGS / told["grammar"])
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(told))
    return path


class Here(Engine):
    """Trains in this process, where the tests may change what is called."""

    def start(self, job: Job) -> int:
        return main([str(job.folder)])

    def poll(self, handle: int) -> int:
        return handle

    def stop(self, handles: Any) -> None:
        """Nothing runs."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("study")
    summary = study.run(read_config(tiny_yaml(folder)), folder / "out", engine=Here())
    return folder / "out", summary


# --------------------------------------------------------------------------------------------------- the whole of it


def test_all_parts_are_there(finished: tuple[Path, dict[str, Any]]):
    out, summary = finished
    assert summary["failed"] == {}
    assert len(summary["bases"]) == 2 * 2
    assert len(summary["pruned"]) == 2 * 2 * 2 * 2
    assert len(summary["structures"]) == 2 * 2 * 2
    assert len(summary["gated"]) == 1
    assert len(summary["controls"]) == 2 * 2
    assert [row["network"] for row in summary["latency"]] == ["dense", "small"]
    assert {row["kind"] for row in summary["safe"]} == {"both", "h2h"}
    assert set(summary["regressions"]) == {"tanh", "gru"}
    best = summary["chosen"]["gru"]
    assert {tuple(row["hidden"]) for row in summary["controls"]} == {
        tuple(best["hidden"]),
        tuple(max(1, width // 2) for width in best["hidden"]),
    }
    found = {path.name for path in out.iterdir()}
    assert {"summary.json", "report.md", "pruned.csv", "structures.csv", "pruning.png", "recovery.png"} <= found
    assert {"structures.png", "selection.png"} <= found
    assert json.loads((out / "summary.json").read_text()) == json.loads(json.dumps(summary))


def test_both_cells_have_the_same_graphs(finished: tuple[Path, dict[str, Any]]):
    rows = finished[1]["structures"]
    of = {(row["cell"], row["graph"], row["seed"]): row["properties"] for row in rows}
    for (cell, kind, seed), properties in of.items():
        assert properties == of["tanh" if cell == "gru" else "gru", kind, seed]


def test_a_study_goes_on_with_what_is_missing(finished: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch):
    out, summary = finished
    config = read_config(tiny_yaml(out.parent))
    started = []
    whole = jobs.run_jobs

    def watched(stack: list[jobs.Job], folder: Path) -> None:
        started.append([job.name for job in stack])
        whole(stack, folder)

    monkeypatch.setattr(jobs, "run_jobs", watched)
    study.run(config, out, engine=Here())
    assert started == []
    stacks = [["structure-gru-watts_strogatz-1"], ["control-gru-0.5-2"], ["pruned-hard-tanh-h2h-50"]]
    stacks[0].append("structure-gru-barabasi_albert-0")  # one stack, without the two that have a result
    missing = [name for stack in stacks for name in stack]
    for name in missing:
        (out / "jobs" / f"{name}.json").unlink()
    again = study.run(config, out, engine=Here())
    assert [sorted(stack) for stack in started] == [sorted(stack) for stack in stacks]
    for part in ("structures", "pruned", "controls"):
        timeless = [
            [{key: value for key, value in row.items() if "seconds" not in key} for row in found[part]]
            for found in (again, summary)
        ]
        assert timeless[0] == timeless[1]


def test_tables_of_a_study_that_is_not_finished(finished: tuple[Path, dict[str, Any]], tmp_path: Path):
    out, summary = finished
    shutil.copytree(out, tmp_path / "out")
    for name in ("base-hard-gru", "structure-tanh-watts_strogatz-1", "control-gru-0.5-2"):
        (tmp_path / "out" / "jobs" / f"{name}.json").unlink()
    found = study.run(read_config(tiny_yaml(tmp_path)), tmp_path / "out", train=False)
    assert {part: len(summary[part]) - len(found[part]) for part in ("bases", "pruned", "structures", "controls")} == {
        **{"bases": 1, "pruned": 4, "structures": 1, "controls": 1}
    }
    assert not (tmp_path / "out" / "jobs" / "base-hard-gru.json").exists()
    jobs_left, all_jobs = (summary["conditions"]["jobs"] - missing for missing in (7, 4))
    assert f"{jobs_left} of {all_jobs} trainings" in (tmp_path / "out" / "report.md").read_text()


def test_a_killed_training_leaves_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = read_config(tiny_yaml(tmp_path))
    out = tmp_path / "out"

    def killed(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(jobs.TRAININGS, "gated", killed)
        with pytest.raises(KeyboardInterrupt):
            study.run(config, out, engine=Here())
    done = {path.stem for path in (out / "jobs").glob("*.json")}
    assert len(done) == 4
    assert all(name.startswith("base-") for name in done)


@pytest.mark.slow
def test_processes_do_the_same(finished: tuple[Path, dict[str, Any]], tmp_path: Path):
    config = read_config(tiny_yaml(tmp_path))
    names = ["structure-tanh-barabasi_albert-0", "structure-gru-watts_strogatz-1"]
    few = [job for job in jobs.first_jobs(config) if job.name in names]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "original.csv").write_bytes((finished[0] / "data" / "original.csv").read_bytes())
    results = jobs.work(few, tmp_path, engine=LocalEngine(2), title="two")
    assert set(results) == set(names)
    for job in few:
        assert results[job.name]["history"] == jobs.read_result(job, finished[0])["history"]


def test_a_training_that_fails_is_told_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("sklearn")
    whole = jobs.TRAININGS["base"]

    def tanh_fails(*args: Any, **kwargs: Any) -> Any:
        if kwargs["cell"] == "tanh":
            raise FloatingPointError("the loss became nan")
        return whole(*args, **kwargs)

    monkeypatch.setitem(jobs.TRAININGS, "base", tanh_fails)
    out = tmp_path / "out"
    summary = study.run(
        read_config(tiny_yaml(tmp_path, pruning__data=["original"], pruning__kinds=["both"])), out, engine=Here()
    )
    assert summary["failed"] == {"base-original-tanh": "the loss became nan"}
    assert {row["cell"] for row in summary["pruned"]} == {"gru"}
    text = (out / "report.md").read_text()
    assert "Trainings that failed: base-original-tanh." in text
    assert re.search(r"\| base \| original strings \| failed \| \d\.\d{3} \|", text)


def test_a_study_without_cells_is_part_3_alone(tmp_path: Path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    summary = study.run(read_config(tiny_yaml(tmp_path, cells=[])), out, engine=Here())
    assert sorted(path.name.split("-")[0] for path in (out / "jobs").iterdir()) == [*["control"] * 4, "gated"]
    assert [path.name for path in (out / "data").iterdir()] == ["hard.csv"]
    texts = report.tables(summary)
    assert {texts["accuracies"], texts["safe"], texts["structures"]} == {NO_RESULTS}
    assert "| gru | 1 | " in texts["gated"]
    assert texts["times"].startswith("|  | trainings | gru | all |")


def test_a_stack_trains_what_agrees_but_for_the_member():
    config = read_config(CONFIGS / "full.yaml")
    bases = {f"base-{data}-{cell}": {"accuracy": 1.0} for data in config.pruning.data for cell in config.cells}
    every = [*jobs.first_jobs(config), *jobs.second_jobs(config, bases)]
    stacks = jobs.stacked(every)
    assert sorted(job.name for stack in stacks for job in stack) == sorted(job.name for job in every)
    for stack in stacks:
        assert len(stack) == {"structure": 100, "pruned": 10}.get(stack[0].training, 1)
        first = stack[0]
        for job in stack:
            assert (job.training, job.data, job.weights) == (first.training, first.data, first.weights)
            assert job.arguments == first.arguments
        assert len({str(job.member) for job in stack}) == len(stack)


def test_members_that_fail_are_results_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def half(train: Any, test: Any, members: list[dict[str, Any]], **arguments: Any) -> list[dict[str, Any]]:
        failed = {"cell": arguments["cell"], "failed": "the loss became nan"}
        return [failed if member["kind"] == "watts_strogatz" else {"cell": arguments["cell"]} for member in members]

    monkeypatch.setitem(jobs.TRAININGS, "structure", half)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "original.csv").write_text("text,kind\nBE,valid\nBTE,first\n")
    config = read_config(tiny_yaml(tmp_path))
    few = [job for job in jobs.first_jobs(config) if job.name.startswith("structure-gru")]
    results = jobs.work(few, tmp_path, engine=Here(), title="few")
    assert len(results) == 4
    for name, result in results.items():
        assert ("failed" in result) == ("watts" in name)
        assert result["data"] == "original"
        assert {"seconds", "cpu_seconds"} <= set(result)


# ------------------------------------------------------------------------------------------------------------- refusals


def test_results_of_another_configuration(finished: tuple[Path, dict[str, Any]]):
    out, _ = finished
    other = read_config(tiny_yaml(out.parent, pruning__retrain_epochs=2, seed=5))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(ValueError, match=r"`out` holds results of another configuration \(seed: 1, 5, and 1 more"):
        study.run(other, out, engine=Here())
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_another_grammar_is_another_configuration(finished: tuple[Path, dict[str, Any]], tmp_path: Path):
    (tmp_path / "other.yaml").write_text((CONFIGS / "reber_grammar.yaml").read_text().replace("5: {E", "5: {F"))
    other = read_config(tiny_yaml(tmp_path, grammar=str(tmp_path / "other.yaml")))
    with pytest.raises(ValueError, match=r"another configuration \(grammar\.5\.E: end, None"):
        study.run(other, finished[0], engine=Here())


def test_grammar_with_a_dead_end_stops_the_study(tmp_path: Path):
    (tmp_path / "trap.yaml").write_text("start: {B: 0}\n0: {T: 1, E: end}\n1: {S: 1}\n")
    config = read_config(tiny_yaml(tmp_path, grammar=str(tmp_path / "trap.yaml")))
    with pytest.raises(ValueError, match=r"trap\.yaml: .*dead end"):
        study.run(config, tmp_path / "out", engine=Here())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pruning__percentages": [50, 120]},
            "`percentage` must be from 0 to 100, the share of weights to cut, got 120",
        ),
        ({"pruning__percentages": [-5]}, "`percentage` must be from 0 to 100, the share of weights to cut, got -5"),
        ({"pruning__percentages": []}, "`pruning.percentages` must not be empty"),
        ({"pruning__kinds": ["rows"]}, "`pruning.kinds` must be of both, i2h, h2h, got 'rows'"),
        ({"structures__nodes": [1, 1]}, "3 <= least <= largest, got [1, 1]; a graph of one node has no layers"),
        ({"structures__nodes": [10]}, "3 <= least <= largest, got [10]"),
        ({"structures__folds": 9}, "`structures.folds` must be at most the 2 graphs of each kind, got 9"),
        ({"structures__data": "easy"}, "`data` must be of original, hard, got 'easy'"),
        ({"selection__readout": "mean"}, "`selection.readout` must be of last_padded, last_symbol, got 'mean'"),
        ({"selection__epochs": 0}, "`selection.epochs` must be at least 1, got 0"),
        ({"selection__cells": []}, "`selection.cells` must not be empty"),
        ({"cells": ["rnn"]}, "`cell` must be one of tanh, relu, lstm, gru, got 'rnn'"),
        ({"pruning__momentum": 0.9}, "unknown=['momentum']"),
        ({"pruning": {}}, "missing=['base_epochs'"),
        ({"structures": 3}, "must be a mapping of names to values, got 3"),
    ],
)
def test_bad_configurations(changes: dict[str, Any], message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_config(tiny_yaml(tmp_path, **changes))


def test_missing_configuration(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="`config` must name a file"):
        read_config(tmp_path / "none.yaml")


def test_a_process_that_fails_says_what_it_said_last(tmp_path: Path):
    job = next(job for job in jobs.first_jobs(read_config(tiny_yaml(tmp_path))) if job.stack is None)
    with pytest.raises(RuntimeError, match="ended with status 1: FileNotFoundError: .*; see .*log.txt"):
        jobs.work([job], tmp_path, engine=LocalEngine(), title="none")  # no strings have been made


@pytest.mark.parametrize("name", ["quick", "full", "simple"])
def test_the_shipped_configurations_are_good(name: str):
    config = read_config(CONFIGS / f"{name}.yaml")
    names = [job.name for job in jobs.first_jobs(config)]
    assert len(set(names)) == len(names)
    if name == "full":  # the thesis's numbers
        assert sum(name.startswith("structure-gru") for name in names) == 200
        assert config.pruning.percentages == list(range(10, 101, 10))
        assert (config.data.strings, config.pruning.base_epochs, config.structures.epochs) == (25_000, 50, 15)


def test_differences():
    assert differences({"a": {"b": 1, "c": [1]}}, {"a": {"b": 1, "c": [1]}}) == []
    assert differences({"a": 1}, {"b": 2}) == ["a: 1, None", "b: None, 2"]


# --------------------------------------------------------------------------------------------------------------- tables


def test_tables_hold_the_figures(finished: tuple[Path, dict[str, Any]]):
    _, summary = finished
    texts = report.tables(summary)
    cut = next(row for row in summary["pruned"] if (row["data"], row["cell"], row["percentage"]) == ("hard", "gru", 50))
    assert f"{cut['right_after']:.3f} / {cut['history'][0]:.3f}" in texts["accuracies"]
    assert "| both | published | 80 | 80 |" in texts["safe"]
    assert "| h2h, 100 % | published | 0.494 / 0.518 | 0.573 / 0.974 |" in texts["accuracies"]
    assert "| 0.928 |" in texts["structures"]
    assert f"| {summary['chosen']['gru']['embedding']} |" in texts["selection"]
    assert "0.88" in texts["regressions"]
    (gated,) = summary["gated"]
    assert f"| gru | 1 | {gated['hidden'][0]}: {gated['valid_accuracy']:.4f} |" in texts["gated"]
    slow = {**summary, "structures": [{**row, "cpu_seconds": 90.0} for row in summary["structures"]]}
    assert "| part 2 | 8 | 6.0 | 6.0 | 12.0 |" in report.tables(slow)["times"]


def test_results_are_published_into_the_page(finished: tuple[Path, dict[str, Any]], tmp_path: Path):
    out, summary = finished
    original = Path(report.PAGE)
    page = tmp_path / "reber.md"
    page.write_text(original.read_text(encoding="utf-8"), encoding="utf-8")
    publish(out, tmp_path / "results", page)
    text = page.read_text(encoding="utf-8")
    for table in report.tables(json.loads((out / "summary.json").read_text())).values():
        assert table in text
    assert (tmp_path / "reber_pruning.png").is_file()
    assert {"summary.json", "config.json", "report.md", "pruned.csv"} <= {
        p.name for p in (tmp_path / "results").iterdir()
    }
    shown = set(re.findall(r"\]\((reber_\w+\.png)\)", text))
    assert shown == {path.name for path in tmp_path.glob("reber_*.png")}


def test_part_3_of_another_study_has_places_of_its_own(finished: tuple[Path, dict[str, Any]], tmp_path: Path):
    out, summary = finished
    page = tmp_path / "reber.md"
    before = Path(report.PAGE).read_text(encoding="utf-8")
    page.write_text(before, encoding="utf-8")
    publish(out, tmp_path / "simple", page, report.ON_PAGE["simple"])
    text = page.read_text(encoding="utf-8")
    assert f"<!-- simple gated -->\n{report.tables(summary)['gated']}\n<!-- /simple gated -->" in text
    for mark in ("selection", "safe", "gated"):
        place = re.compile(rf"<!-- {mark} -->.*?<!-- /{mark} -->", re.DOTALL)
        assert place.findall(text) == place.findall(before)
    assert not list(tmp_path.glob("*.png"))


def test_a_study_that_is_not_finished_is_not_published(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="`out` must be the folder of a finished study"):
        publish(tmp_path, tmp_path / "results", None)
