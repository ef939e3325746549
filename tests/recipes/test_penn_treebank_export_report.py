"""The chain from the shrunken network to int8, on a small text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from l0rnn import shrink
from l0rnn.export import save_dense
from l0rnn.language.language_model import LanguageModel
from recipes.penn_treebank.corpus import load_text
from recipes.penn_treebank.data import Vocabulary
from recipes.penn_treebank.export_report import report
from tests.export.models import half_closed, write_checkpoint

pytest.importorskip("onnxscript")


def test_every_step_of_the_way_is_measured(small_treebank: Path, tmp_path: Path) -> None:
    words = Vocabulary(load_text("train", small_treebank)).words
    trained = half_closed(len(words))
    write_checkpoint(trained, tmp_path / "last.ckpt")
    model = save_dense(shrink(trained), tmp_path / "model", vocabulary=words)
    checkpoint = tmp_path / "last.ckpt"
    result = report(model, tmp_path / "out", dense=checkpoint, data_dir=small_treebank, seconds=0.02)
    rows = result["rows"]
    assert list(rows) == [f"{name}, {kind}" for name in ("dense", "shrunken") for kind in ("torch", "onnx", "int8")]
    for split in ("valid", "test"):
        found = {name: row[f"{split}_perplexity"] for name, row in rows.items()}
        for name, value in found.items():
            assert value == pytest.approx(found["dense, torch"], rel=0.05 if name.endswith("int8") else 1e-4)
    assert rows["shrunken, torch"]["parameters"] < rows["dense, torch"]["parameters"]
    assert rows["shrunken, int8"]["bytes"] == (tmp_path / "out" / "shrunken" / "int8" / "model.onnx").stat().st_size
    assert all(row["milliseconds_1x1"] > 0 for row in rows.values())
    assert json.loads((tmp_path / "out" / "export_report.json").read_text())["rows"] == rows


def test_another_vocabulary_is_refused(small_treebank: Path, tmp_path: Path) -> None:
    model = save_dense(LanguageModel(3, 4, 4), tmp_path / "model", vocabulary=["a", "b", "c"])
    with pytest.raises(ValueError, match="another vocabulary than the Penn Treebank's"):
        report(model, tmp_path / "out", data_dir=small_treebank)
