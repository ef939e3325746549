"""The command line, in process: what it prints, writes and returns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer

from l0rnn import Budget, L0GatedLSTM
from l0rnn.cli import main
from l0rnn.export import load_dense
from recipes.penn_treebank.data import SegmentLoader, batchify

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained checkpoint of a tiny model."""
    path = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    options: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(max_epochs=2, accelerator="cpu", enable_checkpointing=False, default_root_dir=path, **options)
    model = L0GatedLSTM(20, 10, objective=Budget(density=0.5))
    trainer.fit(model, SegmentLoader(batchify(torch.randint(20, (200,)), 4), steps=5))
    trainer.save_checkpoint(path / "model.ckpt")
    return path / "model.ckpt"


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(command in text for command in ("fit", "shrink", "bench"))


def test_results_for_machines(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, exported = str(tmp_path / "small"), str(tmp_path / "torch")
    assert main(["shrink", str(checkpoint), "--out", small, "--json"]) == 0
    shrunk = json.loads(capsys.readouterr().out)
    assert shrunk["out"] == small
    assert shrunk["max_abs_difference"] < 1e-4
    assert all(0 < axis["kept"] <= axis["of"] for axis in shrunk["units"].values())
    assert main(["export", small, "--format", "torch", "--out", exported, "--json"]) == 0
    size = sum(path.stat().st_size for path in Path(exported).iterdir())
    assert json.loads(capsys.readouterr().out) == {"format": "torch", "out": exported, "bytes": size}
    assert main(["bench", small, "--grid", "1x1", "--seconds", "0.01", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["network"] == small


class TestCtrlC:
    """In a process of its own, since the signal goes to the whole of it."""

    def test_a_command_says_how_to_begin_again(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def stop(_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("l0rnn.cli._bench", stop)
        assert main(["bench", "a model"]) == 130
        assert capsys.readouterr().err.endswith("to begin again: l0rnn bench 'a model'\n")

    @pytest.mark.slow
    def test_a_training_names_the_checkpoint_to_go_on_from(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "segments_of_a_test.py").write_text(SEGMENTS)
        monkeypatch.syspath_prepend(tmp_path)
        config = tmp_path / "long.yaml"
        data = "{class_path: segments_of_a_test.Segments}"
        # Lightning writes with save_top_k = 0 at the end alone
        text = configuration(tmp_path, data, words=20, epochs=100_000)
        config.write_text(text.replace("save_top_k: 0", "save_top_k: 1"))
        command = [sys.executable, "-m", "l0rnn.cli", "fit", "--config", str(config)]
        root = Path(__file__).parents[1]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(tmp_path)])}
        # a suite that runs in the background of a shell ignores the signal, and what it starts would, too
        heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        training = subprocess.Popen(
            command, cwd=root, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=heeds
        )
        last, end = tmp_path / "last.ckpt", time.monotonic() + 120
        while not last.exists() and training.poll() is None and time.monotonic() < end:
            time.sleep(0.2)
        training.send_signal(signal.SIGINT)
        try:
            _, error = training.communicate(timeout=60)
        finally:
            training.kill()  # if it heeds nothing
        assert training.returncode == 130, error
        told = error.strip().splitlines()[-1]
        assert told.endswith(f"l0rnn fit --config {config} --ckpt_path {last}"), error
        assert torch.load(last, weights_only=False)["global_step"] > 0


def test_shrink_writes_a_model_that_loads(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shrink", str(checkpoint), "--out", str(tmp_path / "small")]) == 0
    text = capsys.readouterr().out
    assert "outputs differ by at most" in text
    assert "of 10 units" in text
    assert "not pruned:" in text
    network = load_dense(tmp_path / "small")
    assert network(torch.randint(20, (5, 2)))[0].shape == (5, 2, 20)


def test_errors_are_one_line_and_status_2(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    cases = {
        "does not exist": ["shrink", str(tmp_path / "none.ckpt"), "--out", str(tmp_path / "a")],
        "is not empty": ["shrink", str(checkpoint), "--out", str(tmp_path / "taken")],
        "`multiple_of` must be at least 1": [
            "shrink",
            str(checkpoint),
            "--out",
            str(tmp_path / "b"),
            "--multiple-of",
            "0",
        ],
        "`--grid` must be like 1x35": ["bench", str(checkpoint), "--grid", "1by3"],
        "`threads` must be from 1 to": ["bench", str(checkpoint), "--threads", "99999"],  # it ended the process
    }
    for message, arguments in cases.items():
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "b").exists()


def test_bench_compares_a_checkpoint_with_its_shrunken_model(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "small"
    main(["shrink", str(checkpoint), "--out", str(small)])
    out = tmp_path / "bench.json"
    command = ["bench", str(checkpoint), str(small), "--grid", "1x1", "2x3", "--seconds", "0.02", "--out", str(out)]
    assert main(command) == 0
    assert str(small) in capsys.readouterr().out
    rows = json.loads(out.read_text())["rows"]
    assert {(row["batch"], row["steps"]) for row in rows} == {(1, 1), (2, 3)}
    assert {row["network"] for row in rows} == {str(checkpoint), str(small)}


SEGMENTS = """
import torch
from lightning import LightningDataModule
from recipes.penn_treebank.data import SegmentLoader, batchify

class Segments(LightningDataModule):
    def train_dataloader(self):
        return SegmentLoader(batchify(torch.arange(200) % 20, 4), steps=5)

    val_dataloader = train_dataloader
"""


def configuration(folder: Path, data: str, *, words: int, epochs: int) -> str:
    return f"""
seed_everything: 1
model:
  class_path: l0rnn.L0GatedLSTM
  init_args:
    vocabulary_size: {words}
    hidden_size: 8
    objective: {{class_path: l0rnn.Budget, init_args: {{density: 0.5}}}}
data: {data}
trainer:
  max_epochs: {epochs}
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  logger: false
  default_root_dir: {folder}
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {{dirpath: {folder}, save_last: true, save_top_k: 0}}
"""


def test_fit_runs_a_configuration(tmp_path: Path, small_treebank: Path) -> None:
    from recipes.penn_treebank.data import PennTreebank

    words = PennTreebank(small_treebank, 2, steps=4).vocabulary_size
    arguments = f"{{data_dir: {small_treebank}, batch_size: 2, steps: 4, evaluation_batch_size: 1}}"
    data = f"{{class_path: recipes.penn_treebank.data.PennTreebank, init_args: {arguments}}}"
    config = tmp_path / "tiny.yaml"
    config.write_text(configuration(tmp_path, data, words=words, epochs=1))
    assert main(["fit", "--config", str(config)]) == 0
    assert main(["shrink", str(tmp_path / "last.ckpt"), "--out", str(tmp_path / "shrunk")]) == 0
