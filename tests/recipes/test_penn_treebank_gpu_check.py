"""The check of a card, with small networks on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes.penn_treebank import gpu_check


def test_every_network_and_precision_has_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "check.json"
    size = ["--hidden", "8", "--vocabulary", "30", "--batch", "2", "--steps", "4", "--repeats", "2", "--warm-up", "1"]
    gpu_check.main([*size, "--device", "cpu", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [(row["network"], row["precision"]) for row in rows] == [
        (network, precision) for network in ("dense", "gated") for precision in gpu_check.PRECISIONS
    ]
    for row in rows:  # not every processor has bfloat16 kernels for recurrent layers
        assert row["error"] if row["steps_per_second"] is None else row["steps_per_second"] > 0
        assert row["error"] is None or row["precision"] == "bf16"
    assert all(row["repacking_warnings"] == 0 and row["bytes"] is None and row["fit"] is None for row in rows)
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(rows)
