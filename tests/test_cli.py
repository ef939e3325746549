"""The command line, in process: what it prints, writes and returns."""

from __future__ import annotations

import json
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


def test_fit_runs_a_configuration(tmp_path: Path, small_treebank: Path) -> None:
    from recipes.penn_treebank.data import PennTreebank

    words = PennTreebank(small_treebank, 2, steps=4).vocabulary_size
    config = tmp_path / "tiny.yaml"
    config.write_text(
        f"""
seed_everything: 1
model:
  class_path: l0rnn.L0GatedLSTM
  init_args:
    vocabulary_size: {words}
    hidden_size: 8
    objective: {{class_path: l0rnn.Budget, init_args: {{density: 0.5}}}}
data:
  class_path: recipes.penn_treebank.data.PennTreebank
  init_args: {{data_dir: {small_treebank}, batch_size: 2, steps: 4, evaluation_batch_size: 1}}
trainer:
  max_epochs: 1
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  logger: false
  default_root_dir: {tmp_path}
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {{dirpath: {tmp_path}, save_last: true, save_top_k: 0}}
"""
    )
    assert main(["fit", "--config", str(config)]) == 0
    assert main(["shrink", str(tmp_path / "last.ckpt"), "--out", str(tmp_path / "shrunk")]) == 0
