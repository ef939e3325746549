"""Searches for settings: what may vary, that trials are runs, and that a search goes on."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from l0rnn.cli import main
from l0rnn.compare import task_plan
from l0rnn.compare.engines import LocalEngine
from l0rnn.compare.search import Setting, placed, read_setting, search

TONES = Path(__file__).with_name("tones.py")
RUN = "structured_magnitude, 40 %"
COMMAND = ["compare", str(TONES), "--methods", "structured_magnitude", "--densities", "0.4", "--seeds", "1", "2"]
needs_optuna = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None, reason="needs the package optuna: pip install 'l0rnn[search]'"
)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("start", "NAME=LOW:HIGH"),
        ("start=", "NAME=LOW:HIGH"),
        ("start=0.5:0.1", "got 'start=0.5:0.1'"),
        ("start=a:b", "NAME=LOW:HIGH"),
        ("start=0.1:0.5:linear", "NAME=LOW:HIGH:log"),
        ("rate=0:1:log", "must begin above 0, got 0"),
    ],
)
def test_a_setting_that_is_no_range_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_setting(text)


def test_a_short_name_is_found_or_refused() -> None:
    plan = task_plan(TONES, methods=["l0_gates"], densities=[0.4])
    config = plan.config(plan.runs[1], {})
    names = {name: placed(Setting(name, 0.1, 0.5), config).name for name in ("density", "freeze", "rate", "epochs")}
    assert names == {
        "density": "method.init_args.objective.init_args.density",
        "freeze": "method.init_args.freeze",
        "rate": "method.init_args.objective.init_args.rate",
        "epochs": "epochs",
    }
    with pytest.raises(
        ValueError,
        match="must name one setting of the run, got 'magic'; there are epochs, method.init_args.distribution, ",
    ):
        placed(Setting("magic", 0.1, 0.5), config)


@needs_optuna
@pytest.mark.filterwarnings("ignore")
def test_a_search_by_the_command_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--only", RUN, "--search", "density=0.3:0.8", "start=0.0:0.3", "--jobs", "2", "--threads", "1"]
    command = [*COMMAND, "--epochs", "1", *options, "--out", str(tmp_path)]
    assert main([*command, "--trials", "2"]) == 0
    first = (tmp_path / "search.md").read_text()
    assert first.startswith(
        "| trial | method.init_args.density | method.init_args.start | valid | density | test |\n|---|"
    )
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/result.json")}
    assert len(trained) == 4  # two seeds for each trial
    assert main([*command, "--trials", "3"]) == 0
    second = (tmp_path / "search.md").read_text()
    assert len(second.splitlines()) == len(first.splitlines()) + 1
    after = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/result.json")}
    assert len(after) == 6
    assert after.items() >= trained.items()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in second.splitlines()[2:]]
    for trial, density, _, _, found, test in rows:
        assert 0.3 <= float(density) <= 0.8
        assert float(found) <= float(density) + 5e-4
        assert bool(test) == trial.startswith("**")  # of the best alone
    best = [row for row in rows if row[0].startswith("**")]
    for row in best:
        assert not any(float(o[3]) < float(row[3]) and float(o[4]) < float(row[4]) for o in rows)
    capsys.readouterr()
    assert main([*COMMAND, "--out", str(tmp_path), "--search", "start=0.0:0.3"]) == 2
    assert "--search is of one run: name it by --only; there are 'dense', " in capsys.readouterr().err


@needs_optuna
@pytest.mark.filterwarnings("ignore")
def test_a_trial_that_fails_is_left_out_and_one_that_was_begun_is_ended(tmp_path: Path) -> None:
    import optuna

    plan = task_plan(TONES, methods=["structured_magnitude"], densities=[0.4], seeds=[1], epochs=1)
    settings = [read_setting("start=0.1,0.2"), read_setting("end=0.15,0.5")]  # 0.2 and 0.15 do not go together
    storage = f"sqlite:///{tmp_path / 'other.db'}"
    options = {"storage": storage, "engine": LocalEngine(2), "threads": 1}
    search(plan, RUN, settings, tmp_path, trials=1, **options)
    (name,) = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    for start, end in ((0.2, 0.15), (0.2, 0.5)):
        study.enqueue_trial({"method.init_args.start": start, "method.init_args.end": end})
    begun = study.ask()  # as by a call that was interrupted
    for setting, choices in (("start", [0.1, 0.2]), ("end", [0.15, 0.5])):
        begun.suggest_categorical(f"method.init_args.{setting}", choices)
    table = search(plan, RUN, settings, tmp_path, trials=3, **options)
    states = [trial.state.name for trial in optuna.load_study(study_name=name, storage=storage).trials]
    assert sorted(states[-2:]) == ["COMPLETE", "FAIL"]
    assert "RUNNING" not in states
    assert "more trials failed" in table


def test_without_optuna_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    command = [*COMMAND, "--out", str(tmp_path), "--only", RUN, "--search", "start=0.0:0.3"]
    assert main(command) == 2
    assert "pip install 'l0rnn[search]'" in capsys.readouterr().err


@needs_optuna
@pytest.mark.filterwarnings("ignore")
def test_a_search_whose_trials_all_fail_gives_up(tmp_path: Path) -> None:
    plan = task_plan(TONES, methods=["structured_magnitude"], densities=[0.4], seeds=[1], epochs=1)
    with pytest.raises(ValueError, match=r"no trial could be trained; look at .*log.txt"):
        search(plan, RUN, [read_setting("start=0.8:0.9")], tmp_path, engine=LocalEngine(5), threads=1)


@needs_optuna
@pytest.mark.filterwarnings("ignore")
def test_a_database_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    plan = task_plan(TONES, methods=["structured_magnitude"], densities=[0.4], seeds=[1])
    with pytest.raises(ValueError, match="`storage` must be a database that Optuna can open, .* got 'nowhere'"):
        search(plan, RUN, [read_setting("start=0.1:0.2")], tmp_path, storage="nowhere", engine=LocalEngine())
