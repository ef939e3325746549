"""The time of rounded products: both layers take the same step, and every row is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from recipes.penn_treebank import rounding_time


def test_rows_are_measured_written_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads, before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    out = tmp_path / "rows.json"
    sizes = ["--hidden", "8", "16", "--batch", "3", "--steps", "5", "--rounds", "2"]
    try:
        rounding_time.main([*sizes, "--out", str(out)])
    finally:
        torch.set_num_threads(threads)
    result = json.loads(out.read_text(encoding="utf-8"))
    assert [(row["hidden"], row["batch"]) for row in result["rows"]] == [(8, 3), (16, 3)]
    for row in result["rows"]:
        assert row["least"] <= row["ratio"] <= row["most"]
        assert 0 < row["difference"] < 0.02
    assert rounding_time.table(result) in capsys.readouterr().out
    assert torch.get_float32_matmul_precision() == before
