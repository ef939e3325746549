"""Comparisons of methods on a network and data of one's own, in a Python file."""

from __future__ import annotations

import itertools
import json
import math
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from l0rnn.cli import main
from l0rnn.compare import Comparison, load_task, paired_difference, read_plan, run_all, task_plan
from l0rnn.compare.process import FolderInUseError, locked
from l0rnn.compare.results import run_folder
from l0rnn.compare.task_run import CHECKPOINT, TaskTraining, train_run
from l0rnn.compare.ways import changes_of
from l0rnn.training.resuming import Paused, seed_all

TONES = Path(__file__).with_name("tones.py")
CPU = torch.device("cpu")
GATES = {
    "class_path": "l0rnn.L0Gates",
    "init_args": {"objective": {"class_path": "l0rnn.Budget", "init_args": {"density": 0.4}}},
}


def config(**more: Any) -> dict[str, Any]:
    return {"task": str(TONES), "method": None, "widths": None, "epochs": None, "seed_everything": 1, **more}


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the processes of the runs import the library that is tested."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def written(folder: Path, **changes: str | None) -> Path:
    """The task with some functions written otherwise, or left out."""
    text = TONES.read_text()
    for name, replacement in changes.items():
        pattern = rf"(?ms)^(def {name}\(.*?(?=^\S)|{name} = .*?\n)"
        assert re.search(pattern, text), name
        text = re.sub(pattern, lambda _, new=replacement: f"{new or ''}\n\n", text)
    path = folder / "task.py"
    path.write_text(text)
    return path


# ---------------------------------------------------------------------------------------------------------------------
# what is run


def test_the_controls_are_always_there_and_follow_the_methods() -> None:
    changes = changes_of(["structured_magnitude", "random_units", "gradual_magnitude"], [0.3, 0.1])
    assert list(changes) == [
        "dense",
        *("structured_magnitude, 30 %", "random_units, 30 %", "gradual_magnitude, 30 %", "random order, 30 %"),
        *("structured_magnitude, 10 %", "random_units, 10 %", "gradual_magnitude, 10 %", "random order, 10 %"),
        # neither weights that are 0 nor units that are drawn at once have widths that a training chose
        "from scratch, widths of structured_magnitude, 30 %",
        "from scratch, widths of structured_magnitude, 10 %",
    ]
    late = {"class_path": "l0rnn.methods.StructuredMagnitude", "init_args": {"density": "${density}", "start": 0.4}}
    changes = changes_of({"late": late}, [0.2])
    assert changes["late, 20 %"]["method"]["init_args"] == {"density": 0.2, "start": 0.4}
    assert changes["random order, 20 %"]["method"]["init_args"] == {"density": 0.2, "start": 0.4}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ["magic"]}, "`methods` must name dense, l0_gates, .* got 'magic'"),
        ({"methods": {"own": {"class_path": "l0rnn.Nothing"}}}, "must name a class that can be imported"),
        ({"methods": {"dense": "l0_gates"}}, "must not be named dense"),
        ({"densities": [0.3, 1.0]}, r"`densities` must be fractions .* got 1.0"),
        ({"densities": 0.3}, "`densities` must be a list"),
        ({"seeds": []}, "`seeds` must be a list"),
        ({"seeds": [1, 1]}, "must differ"),
        ({"epochs": 0}, "`epochs` must be a whole number > 0"),
        ({"runs": {"dense": {}}}, "names of their own, got dense"),
        ({"runs": {"more": {"widths": "${nobody:widths}"}}}, "refers to nobody"),
    ],
)
def test_a_wrong_plan_of_a_task_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task_plan(TONES, **settings)


def test_a_run_is_known_by_what_the_file_says_and_not_by_where_it_is(tmp_path: Path) -> None:
    here, there = written(tmp_path), tmp_path / "elsewhere"
    there.mkdir()
    keys = {(plan := task_plan(path)).key(plan.runs[0], {}) for path in (TONES, here)}
    moved = there / "moved.py"
    moved.write_text(TONES.read_text())
    plan = task_plan(moved)
    assert plan.key(plan.runs[0], {}) in keys
    other = task_plan(written(there, epochs="epochs = 5"))
    assert other.key(other.runs[0], {}) not in keys


def test_a_task_compared_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        json.dumps({"task": str(TONES), "methods": ["l0_gates"], "densities": [0.4], "seeds": [1, 2], "epochs": 2})
    )
    out = tmp_path / "out"
    assert main(["compare", str(plan), "--out", str(out), "--jobs", "2", "--threads", "1"]) == 0
    comparison = Comparison.from_json((out / "compare.json").read_text())
    rows = {row.name: row for row in comparison.rows}
    assert list(rows) == list(changes_of(["l0_gates"], [0.4]))
    assert (comparison.quality, comparison.final) == ("valid loss", "test loss")
    assert all(row.error is None and row.seeds == 2 for row in rows.values())
    pruned, scratch = rows["l0_gates, 40 %"], rows["from scratch, widths of l0_gates, 40 %"]
    assert rows["dense"].density == 1
    assert 0.2 < pruned.density <= 0.4
    assert scratch.units == pruned.units
    assert scratch.multiply_adds == pruned.multiply_adds
    assert scratch.quality != pruned.quality
    assert pruned.to_scratch is not None
    assert pruned.to_scratch.mean == pytest.approx(pruned.final - scratch.final)
    assert pruned.to_dense is not None
    assert pruned.to_dense.pairs == 2
    assert "less its widths from scratch" in (out / "compare.md").read_text()
    assert (out / "compare.png").read_bytes()[:4] == b"\x89PNG"
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/result.json")}
    assert len(before) == 8
    assert main(["compare", str(plan), "--out", str(out)]) == 0  # nothing is trained twice
    assert {path: path.stat().st_mtime_ns for path in out.glob("runs/*/result.json")} == before
    assert main(["compare", str(plan), "--out", str(out), "--seeds", "3"]) == 2
    assert "--seeds is for a Python file" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
# one run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model.pt", weights_only=True)


@pytest.mark.parametrize("method", [None, GATES], ids=["dense", "gates"])
@pytest.mark.parametrize("step", [8, 13])  # the end of an epoch, and the middle of one
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    tmp_path: Path, method: dict[str, Any] | None, step: int
) -> None:
    figures = {"quality": "valid", "final": "test"}
    whole = train_run(config(method=method), tmp_path / "whole", **figures)
    stopped = TaskTraining(config(method=method), tmp_path / "stopped", device=CPU)

    class Asked(threading.Event):
        def is_set(self) -> bool:
            return stopped.step == step

    (tmp_path / "stopped").mkdir()
    with pytest.raises(Paused, match=f"paused after step {step}"):
        stopped.run(Asked())
    seed_all(99)
    went_on = train_run(config(method=method), tmp_path / "stopped", **figures)
    assert went_on["figures"] == whole["figures"]
    assert went_on["widths"] == whole["widths"]
    assert not (tmp_path / "stopped" / CHECKPOINT).exists()
    for name, weight in weights(tmp_path / "whole").items():
        assert torch.equal(weight, weights(tmp_path / "stopped")[name])


def test_all_methods_of_a_seed_see_the_same_batches(tmp_path: Path) -> None:
    seen: dict[Any, list[float]] = {}
    for seed, method in itertools.product((1, 2), (None, GATES)):
        training = TaskTraining(config(method=method, seed_everything=seed, epochs=2), tmp_path, device=CPU)
        seen[seed, method is None] = []
        task_loss = training.task.loss

        def loss(network, batch, task_loss=task_loss, seen=seen[seed, method is None]):
            seen.append(float(batch[0].sum()))
            return task_loss(network, batch)

        training.task.__dict__["loss"] = loss
        training.run(threading.Event())
        (tmp_path / CHECKPOINT).unlink()
    assert len(seen[1, True]) == 16
    assert seen[1, True] == seen[1, False]
    assert seen[1, True][:8] != seen[1, True][8:]
    assert seen[1, True] != seen[2, True]


def test_a_process_that_is_asked_to_stop_writes_a_checkpoint_and_goes_on(tmp_path: Path) -> None:
    # the process waits in its loss until it is asked, so that it is stopped in the middle of its training
    waiting = "from pathlib import Path\nimport time\n\ndef loss(network, batch):\n    global steps\n    steps += 1\n"
    waiting += f"    if steps == 5 and not Path({str(tmp_path / 'go')!r}).exists():\n"
    waiting += f"        Path({str(tmp_path / 'there')!r}).touch(); time.sleep(2)\n"
    waiting += "    return nn.functional.cross_entropy(network(batch[0]), batch[1])\n\nsteps = 0\n"
    plan = task_plan(written(tmp_path, loss=waiting), methods=["l0_gates"], densities=[0.4], seeds=[1])
    out, run = tmp_path / "out", plan.runs[0]
    command = [sys.executable, "-m", "l0rnn.cli", "compare", plan.base["task"], "--out", str(out)]
    options = ["--seeds", "1", "--methods", "l0_gates", "--densities", "0.4", "--only", "dense"]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "there").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    with pytest.raises(FolderInUseError, match=r"is in use by process \d+ on .*; wait for it, stop it"):
        run_all(plan, out, only=["dense"])
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert "1 runs stopped in " in said, said
    folder = run_folder(plan, run, {}, out)
    saved = torch.load(folder / CHECKPOINT, weights_only=False)
    assert (saved["epoch"], saved["batch"]) == (0, 5)
    (tmp_path / "go").touch()
    results = run_all(plan, out, only=["dense"])
    assert results["dense", 1]["steps"] == 32


def test_a_folder_has_one_process_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(FolderInUseError, match="is in use by process"), locked(tmp_path, wait=0.3):
        pass
    with locked(tmp_path):
        pass


# ---------------------------------------------------------------------------------------------------------------------
# tasks that are not as they have to be: found before the first step


FAULTS = {
    "no network": ({"network": None}, "must define `network`: it defines `data`, `loss`, `evaluate`"),
    "another kind": (
        {"network": "def network():\n    return 3"},
        "`network\\(\\)` must return a torch module, got a int",
    ),
    "a loss of a batch": (
        {"loss": "def loss(network, batch):\n    return network(batch[0]).mean(1)"},
        r"`loss\(network, batch\)` must return a scalar tensor with a gradient, got shape \(10,\)",
    ),
    "a loss that is a number": (
        {"loss": "def loss(network, batch):\n    return network(batch[0]).mean().item()"},
        "must return a scalar tensor with a gradient, got a float",
    ),
    "a loss without a gradient": (
        {"loss": "def loss(network, batch):\n    return network(batch[0]).detach().mean()"},
        r"got shape \(\), without a gradient",
    ),
    "a loss that is nan": (
        {"loss": "def loss(network, batch):\n    return network(batch[0]).mean() / 0 * 0"},
        "is nan before the first step",
    ),
    "no validation": ({"data": "def data():\n    return {'train': [1]}"}, "`train` and `valid`, .* got train"),
    "an empty loader": (
        {"data": "def data():\n    return {'train': [], 'valid': [1]}"},
        r"`data\(\)\['train'\]` must have at least one batch, got an empty list",
    ),
    "a generator": (
        {"data": "def data():\n    return {'train': iter([1]), 'valid': [1]}"},
        "can be gone through only once, got a list_iterator; give a DataLoader, or a list of the batches",
    ),
    "no figures": ({"evaluate": "def evaluate(network, loader):\n    return 0.5"}, "`evaluate` must return figures by"),
    "a scheduler that is none": ({"scheduler": "scheduler = 3"}, "`scheduler` of .* must be a function, got 3"),
    "no epochs": ({"epochs": "epochs = 0"}, "`epochs` of .* must be a whole number > 0, got 0"),
    "another start": (
        {"network": "def network():\n    net = Louder()\n    nn.init.ones_(net.decoder.bias)\n    return net"},
        "needs `initialise\\(network\\)` in the task: decoder.bias starts with a root mean square",
    ),
}


@pytest.mark.parametrize(("changes", "message"), FAULTS.values(), ids=FAULTS)
def test_a_task_that_is_wrong_is_refused_in_the_first_seconds(
    tmp_path: Path, changes: dict[str, str | None], message: str
) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        run_all(task_plan(path, methods=["l0_gates"], seeds=[1]), tmp_path / "out")
    assert not list(tmp_path.glob("out/runs/*"))


def test_a_density_that_cannot_be_had_is_refused_with_the_name_of_the_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the run 'l0_gates, 0.1 %' cannot start: .*one unit per layer"):
        run_all(task_plan(TONES, methods=["l0_gates"], densities=[0.001], seeds=[1]), tmp_path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"task file .*none.py does not exist"):
        read_plan(tmp_path / "none.py")


def test_what_a_task_leaves_out_has_a_default(tmp_path: Path) -> None:
    task = load_task(written(tmp_path, optimizer=None, scheduler=None, epochs=None))
    assert (task.epochs, task.optimizer, task.scheduler, task.higher_is_better) == (10, None, None, False)
    assert task.inputs((1, 2)) == 1
    assert task.inputs({"x": 1}) == {"x": 1}


# ---------------------------------------------------------------------------------------------------------------------
# intervals


def test_an_interval_is_of_pairs_and_holds_what_it_should() -> None:
    generator = torch.Generator().manual_seed(0)
    level = 10 * torch.randn(200, 8, generator=generator)  # differs by seed, the same for both
    noise = torch.randn(200, 8, generator=generator)
    held = 0
    for ours, theirs in zip((level + 1 + noise).tolist(), level.tolist(), strict=True):
        found = paired_difference(ours, theirs)
        assert found.high - found.low < 4  # the level has gone
        held += found.low <= 1 <= found.high
    assert 0.8 < held / 200 < 0.97  # 95 % asked for; with eight pairs a bootstrap is known to be a little narrow
    alone = paired_difference([2.0], [1.5])
    assert (alone.mean, alone.low, alone.high) == (0.5, 0.5, 0.5)
    assert str(alone) == "+0.5"
    with pytest.raises(ValueError, match="must be pairs, got 2 and 1"):
        paired_difference([1.0, 2.0], [1.0])


def test_more_is_better_where_the_task_says_so(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        evaluate=(
            "higher_is_better = True\n\ndef evaluate(network, loader):\n"
            "    return {'accuracy': sum((network(x).argmax(1) == y).float().mean().item() for x, y in loader) / 2}"
        ),
    )
    result = train_run(config(task=str(path), epochs=1), tmp_path / "run", quality="valid", final="test")
    assert result["higher_is_better"]
    assert math.isclose(result["quality"], result["figures"]["valid/accuracy"])
