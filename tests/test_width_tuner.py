"""Rounded widths: what is timed, what is recommended, and what the command line says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer

from l0rnn import Budget, L0GatedLSTM, shrink, width_tuner
from l0rnn.bench.report import BenchReport, BenchRow
from l0rnn.cli import main
from l0rnn.width_tuner import TunedWidths, WidthReport, tune_widths
from recipes.penn_treebank.data import SegmentLoader, batchify
from tests.networks import WordTagger

pytestmark = pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")


def words(batch: int, steps: int) -> tuple[Any, ...]:
    return (torch.randint(11, (steps, batch)),)


def gates(**kept: int) -> dict[str, torch.Tensor]:
    sizes = {"embedding": 20, "encoder.l0": 40}
    return {
        axis: (torch.arange(sizes[axis]) < units).float() * 0.5
        for axis, units in {axis.replace("_", "."): units for axis, units in kept.items()}.items()
    }


class Stopwatch:
    """Stands in for the benchmark: each network takes the time that is laid down for its embedding's width."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, milliseconds: dict[int, float]) -> None:
        self.networks: dict[str, Any] = {}
        self.options: dict[str, Any] = {}
        self.milliseconds = milliseconds
        monkeypatch.setattr(width_tuner, "benchmark", self)

    def __call__(self, networks: dict[str, Any], make_inputs: Any, **options: Any) -> BenchReport:
        self.networks, self.options = networks, options
        times = {name: self.milliseconds[network.embedding.embedding_dim] for name, network in networks.items()}
        (batch, steps), (threads,) = options["grid"][0], options["threads"]
        for network in networks.values():
            network(*make_inputs(batch, steps))
        rows = [
            BenchRow(name, batch, steps, threads, "native", time * slow, 0.01, times["1"] / time / slow, slow == 1)
            for name, time in times.items()
            for slow in (1, 3)
        ]
        return BenchReport(tuple(rows), options["baseline"], dict.fromkeys(networks, 0), {}, {"cpu": "abacus"})


def test_widths_are_rounded_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Stopwatch(monkeypatch, {5: 2.0, 8: 1.0, 16: 4.0})
    network = WordTagger("LSTM", hidden=40, embedding=20)
    report = tune_widths(
        network,
        network.wiring,
        gates(embedding=5, encoder_l0=9),
        make_inputs=words,
        multiples=(16, 8),
        batch=3,
        steps=7,
        threads=2,
        seconds=0.5,
    )
    assert [row.multiple_of for row in report.rows] == [1, 8, 16]
    assert [row.widths for row in report.rows] == [
        {"embedding": 5, "encoder.l0": 9},
        {"embedding": 8, "encoder.l0": 16},
        {"embedding": 16, "encoder.l0": 16},
    ]
    assert [row.multiply_adds for row in report.rows] == [
        4 * 9 * (5 + 9) + 9 * 5,
        4 * 16 * (8 + 16) + 16 * 5,
        4 * 16 * (16 + 16) + 16 * 5,
    ]
    assert [row.milliseconds for row in report.rows] == [2.0, 1.0, 4.0]
    assert [row.speedup for row in report.rows] == [1.0, 2.0, 0.5]
    assert report.recommended == 8
    assert watch.options == {
        "grid": [(3, 7)],
        "threads": [2],
        "device": "cpu",
        "seconds": 0.5,
        "baseline": "1",
    }
    # what is timed is what `shrink` gives
    same = shrink(network, network.wiring, gates(embedding=5, encoder_l0=9), example_inputs=words(2, 3), multiple_of=8)
    inputs = words(4, 5)
    torch.testing.assert_close(watch.networks["8"](*inputs)[0], same(*inputs)[0])


def test_equal_widths_are_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Stopwatch(monkeypatch, {20: 2.0})
    network = WordTagger("GRU", hidden=40, embedding=20)
    report = tune_widths(network, network.wiring, gates(embedding=20, encoder_l0=40), make_inputs=words)
    assert list(watch.networks) == ["1"], "nothing is left to round up to"
    assert [row.multiple_of for row in report.rows] == [1, 4, 8, 16, 32]
    assert {row.speedup for row in report.rows} == {1.0}
    assert report.recommended == 1


@pytest.mark.parametrize(
    ("speedups", "recommended"),
    [([1.0, 1.02, 0.9], 1), ([1.0, 1.04, 0.9], 8), ([1.0, 1.1, 1.3], 32), ([1.0, 0.5, 0.4], 1), ([1.0, 1.2, 1.2], 8)],
)
def test_only_a_gain_beyond_noise_is_recommended(speedups: list[float], recommended: int) -> None:
    rows = [TunedWidths(m, {"rnn": m}, m, 1 / s, 0.0, s) for m, s in zip((1, 8, 32), speedups, strict=True)]
    report = WidthReport(tuple(rows), 1, 35, 1)
    assert report.recommended == recommended
    assert f"Recommended: `multiple_of={recommended}`" in report.table()
    assert ("Rounding gains less than 3% here" in report.table()) == (recommended == 1)


def test_the_table_says_what_rounding_gains(tmp_path: Path) -> None:
    first = TunedWidths(1, {"embedding": 61, "encoder.l0": 33}, 12_345, 2.0, 0.125, 1.0)
    second = replace(first, multiple_of=8, widths={"embedding": 64, "encoder.l0": 40}, milliseconds=1.6, speedup=1.25)
    report = WidthReport((first, second), 1, 35, 2, {"cpu": "abacus"})
    assert report.table().splitlines() == [
        "| multiple of | embedding | encoder.l0 | multiply-adds | ms per call | interquartile range | gain |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| 1 | 61 | 33 | 12,345 | 2 | 0.12 | +0.0% |",
        "| 8 | 64 | 40 | 12,345 | 1.6 | 0.12 | +25.0% |",
        "",
        "batch 1, steps 35, threads 2; cpu: abacus",
        "",
        "Recommended: `multiple_of=8`.",
    ]
    report.save(tmp_path / "widths.json")
    saved = json.loads((tmp_path / "widths.json").read_text())
    assert saved["recommended"] == 8
    assert TunedWidths(**saved["rows"][1]) == second


def test_bad_input_is_refused() -> None:
    network = WordTagger("LSTM", hidden=40, embedding=20)
    cases: dict[str, dict[str, Any]] = {
        "`multiples` must be at least 1, got 0": {"multiples": (8, 0)},
        "`make_inputs` must be given with a WordTagger": {"make_inputs": None},
        "`device` must be one that torch finds here, got 'cuda:63'": {"device": "cuda:63"},
        r"`grid` must hold pairs \(batch, steps\), both > 0": {"batch": 0},
    }
    for message, options in cases.items():
        with pytest.raises(ValueError, match=message):
            tune_widths(network, network.wiring, gates(embedding=5), **{"make_inputs": words, **options})


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


def test_the_command_line_tunes_a_checkpoint(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "widths.json"
    command = ["tune", str(checkpoint), "--steps", "3", "--multiples", "4", "--seconds", "0.01", "--out", str(out)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    saved = json.loads(out.read_text())
    assert f"Recommended: `multiple_of={saved['recommended']}`" in printed
    assert [row["multiple_of"] for row in saved["rows"]] == [1, 4]
    assert all(width % 4 == 0 or width == 10 for width in saved["rows"][1]["widths"].values())
    assert all(row["milliseconds"] > 0 for row in saved["rows"])


def test_the_command_line_names_what_is_wrong(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", str(tmp_path / "none.ckpt")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main(["tune", str(checkpoint), "--multiples", "0"]) == 2
    assert "`multiples` must be at least 1, got 0" in capsys.readouterr().err


def test_an_untrained_model_is_refused() -> None:
    with pytest.raises(RuntimeError, match="has not been trained"):
        tune_widths(L0GatedLSTM(20, 10, objective=Budget(density=0.5)))
