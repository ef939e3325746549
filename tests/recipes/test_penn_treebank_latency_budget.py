"""The script of the latency budget, on a small text: what it writes, and that the figures are what they say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from l0rnn.bench.latency import measurement as latency_measurement
from recipes.penn_treebank import latency_budget
from recipes.penn_treebank.data import PennTreebank

pytestmark = [
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
]


def parameters_as_milliseconds(networks: Mapping[str, nn.Module], *_: Any) -> dict[str, dict[str, float]]:
    return {name: {"native": sum(p.numel() for p in network.parameters()) / 1000} for name, network in networks.items()}


def test_the_script_writes_asked_predicted_and_measured(
    tmp_path: Path, small_treebank: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(latency_measurement, "milliseconds", parameters_as_milliseconds)
    words = PennTreebank(small_treebank, 2, steps=4).vocabulary_size
    out = tmp_path / "results" / "latency_budget.json"
    arguments = [
        *("--fraction", "0.5", "--batch", "2", "--steps", "3", "--seconds", "0.02", "--out", str(out)),
        *("--data-dir", str(small_treebank), f"--model.init_args.vocabulary_size={words}"),
        *("--model.init_args.hidden_size=12", "--data.init_args.batch_size=2", "--data.init_args.steps=4"),
        *("--data.init_args.evaluation_batch_size=1", "--trainer.enable_progress_bar=false"),
    ]
    monkeypatch.setattr("sys.argv", ["latency_budget", *arguments])
    latency_budget.main()
    result = json.loads(out.read_text())
    whole = sum((words * 12, 4 * 12 * (12 + 12) + 8 * 12, 12 * words + words)) / 1000
    assert result["dense_predicted_ms"] == pytest.approx(whole)
    assert result["asked_ms"] == pytest.approx(whole / 2)
    assert result["predicted_ms"] <= result["asked_ms"]
    widths = result["widths"]
    rnn = 4 * widths["encoder.l0"] * (widths["embedding"] + widths["encoder.l0"]) + 8 * widths["encoder.l0"]
    left = words * widths["embedding"] + rnn + words * widths["encoder.l0"] + words
    assert result["predicted_ms"] == pytest.approx(left / 1000, rel=0.15)
    best = {row["network"]: row["milliseconds"] for row in result["rows"] if row["is_best"]}
    assert (result["dense_measured_ms"], result["measured_ms"]) == (best["dense"], best["shrunken"])
    assert result["measured_over_asked"] == pytest.approx(best["shrunken"] / result["asked_ms"])
    assert result["call"] == {"batch": 2, "steps": 3, "threads": 1, "device": "cpu"}
    assert result["valid_perplexity"] > 1
    assert "measured_over_asked" in capsys.readouterr().out


def test_the_fraction_must_be_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["latency_budget", "--fraction", "1.5", "--out", "none.json"])
    with pytest.raises(SystemExit):
        latency_budget.main()
    assert "--fraction must be in (0, 1], got 1.5" in capsys.readouterr().err
