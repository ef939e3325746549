"""The benchmark of the large network, on a tiny one, and the page that shows it."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from l0rnn.bench import measure, roofline
from l0rnn.bench.report import BenchReport, BenchRow
from recipes.penn_treebank import bench_large, onednn_rule
from recipes.penn_treebank.bench_large import (
    ByHand,
    Settings,
    over_by_hand,
    report_path,
    summary,
)
from recipes.penn_treebank.performance_page import BENCHES, PAGE, RESULTS, bench_text, filled

TINY = Settings(
    vocabulary=40,
    dense=(32, 32, 32),
    small=((12, 8, 6), (32, 8, 8)),
    block=4,
    grid=((1, 1), (2, 3)),
    seconds=0.004,
)


def any_roofline(threads: int, *, device: str) -> roofline.Roofline:
    return roofline.Roofline(threads, ((1, 1e9),), 1e9)


@pytest.fixture(scope="module")
def reports() -> dict[str, BenchReport]:
    patch = pytest.MonkeyPatch()
    patch.setattr(measure, "measure_roofline", any_roofline)
    with patch.context():
        return bench_large.measure(TINY)


def test_all_networks_are_timed_at_all_sizes(reports: dict[str, BenchReport]) -> None:
    dense, small = "32-32-32", ["12-8-6", "32-8-8"]
    zeros = ["dense with zeros, 10% kept", "CSR, 10% kept", "BSR 4, 10% kept"]
    assert list(reports["large"].parameter_bytes) == [dense, *zeros, *small]
    assert list(reports["by_hand"].parameter_bytes) == [f"{name}{end}" for name in small for end in ("", ", by hand")]
    assert list(reports["steps"].parameter_bytes) == [dense, *small]
    assert {row.runtime for row in reports["steps"].rows} >= {"native", "streamer"}
    assert {(row.batch, row.steps) for row in reports["large"].rows} == set(TINY.grid)
    assert {(row.batch, row.steps) for row in reports["steps"].rows} == {(1, 1)}
    assert all(row.is_state_carried for row in reports["steps"].rows)
    sizes = reports["by_hand"].parameter_bytes
    assert all(sizes[name] == sizes[f"{name}, by hand"] for name in small)


def test_the_summary_has_every_ratio(reports: dict[str, BenchReport]) -> None:
    text = summary(reports, TINY)
    ratios = [float(cell) for cell in re.findall(r"(?<=\| )\d+\.\d{3}(?= \|)", text)]
    assert len(ratios) == 2 * 2 + 3 * 2
    assert all(ratio > 0 for ratio in ratios)


def row(network: str, runtime: str, milliseconds: float, *, best: bool) -> BenchRow:
    return BenchRow(network, 1, 1, 1, runtime, milliseconds, 0.0, 12 / milliseconds, best)


def test_ratios_by_hand() -> None:
    rows = (row("a", "onednn", 3.0, best=True), row("a, by hand", "onednn", 2.0, best=True))
    assert over_by_hand(BenchReport(rows, "a", {}), "a", (1, 1), 1) == pytest.approx(1.5)


def test_layers_by_hand_are_the_shrunken_network() -> None:
    ours, by_hand = bench_large._model(40, (12, 8, 6)).eval(), ByHand(40, (12, 8, 6)).eval()
    for depth, layers in enumerate(ours.encoder.layers):
        by_hand.layers[depth].load_state_dict(layers[0].state_dict())
    by_hand.embedding.load_state_dict(ours.embedding.state_dict())
    by_hand.decoder.load_state_dict(ours.decoder.state_dict())
    words = torch.randint(40, (3, 2))
    logits, states = by_hand(words)
    expected, expected_states = ours(words)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(by_hand(words, states)[0], ours(words, expected_states)[0])


def test_the_command_writes_three_reports(tmp_path: Path, monkeypatch, capsys, reports) -> None:
    out = tmp_path / "bench.json"
    asked: list[Settings] = []
    monkeypatch.setattr(bench_large, "measure", lambda settings, *, only: asked.append(settings) or reports)
    sizes = ["--vocabulary", "40", "--dense", "32", "32", "32", "--small", "12,8,6", "32,8,8", "--block", "4"]
    options = ["--threads", "1", "--runtimes", "torch", "--seconds", "0.004", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["bench_large", *sizes, *options])
    monkeypatch.setattr(bench_large, "GRID", TINY.grid)
    bench_large.main()
    assert asked == [TINY]
    assert "over layers by hand" in capsys.readouterr().out
    for kind, report in reports.items():
        assert BenchReport.from_json(report_path(out, kind).read_text(encoding="utf-8")) == report
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "bench_by_hand.json", "bench_steps.json"]


def test_tied_networks_are_measured_and_not_by_hand(tmp_path: Path, monkeypatch, capsys) -> None:
    asked: list[Settings] = []
    monkeypatch.setattr(bench_large, "measure", lambda settings, *, only: asked.append(settings) or {})
    command = ["bench_large", "--small", "8,6,8", "--tied", "--out", str(tmp_path / "bench.json")]
    monkeypatch.setattr(sys, "argv", [*command, "--only", "large"])
    bench_large.main()
    assert asked[0].tied
    assert not Settings().tied
    monkeypatch.undo()
    monkeypatch.setattr(measure, "measure_roofline", any_roofline)
    sizes = []
    for tied in (False, True):
        settings = replace(TINY, small=((8, 6, 8),), tied=tied)
        sizes.append(bench_large.measure(settings, only=["steps"])["steps"].parameter_bytes["8-6-8"])
    assert sizes[0] - sizes[1] == 40 * 8 * 4  # one float32 weight less
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        bench_large.main()
    assert "`--tied` must go without by_hand" in capsys.readouterr().err


def test_torch_is_always_among_the_runtimes() -> None:
    assert bench_large.installed_runtimes()[0] == "torch"


# the page


def test_a_page_is_filled_from_the_results_that_are_there(tmp_path: Path, reports: dict[str, BenchReport]) -> None:
    marks = [*BENCHES, "step_time"]
    page = "".join(f"## {mark}\n<!-- {mark} -->\nold\n<!-- /{mark} -->\n" for mark in marks)
    assert filled(page, tmp_path) == page
    for kind, report in reports.items():
        report.save(report_path(tmp_path / "bench_large.json", kind))
    steps = {"size": {"batch": 20, "steps": 35, "threads": 1}, "environment": {"gpu": None, "cpu": "abacus"}}
    steps["rows"] = [{"hidden": 650, "open": 0.5, "dense_ms": 300.0, "gated_ms": 90.0, "ratio": 0.3}]
    (tmp_path / "step_time.json").write_text(json.dumps(steps))
    full = filled(page, tmp_path)
    assert bench_text(reports) in full
    assert full.count("old") == 1  # of the demo, which has no results here
    assert filled(full, tmp_path) == full


def test_a_page_without_its_marks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "step_time.json").write_text(
        json.dumps({"size": {}, "environment": {"gpu": None, "cpu": ""}, "rows": []})
    )
    with pytest.raises(ValueError, match="`page` must have <!-- step_time --> and <!-- /step_time --> once, found 0"):
        filled("nothing", tmp_path)


def test_the_page_has_the_tables_of_the_committed_results() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for mark in (*BENCHES, "step_time"):
        assert page.count(f"<!-- {mark} -->") == page.count(f"<!-- /{mark} -->") == 1
    assert filled(page, RESULTS) == page


# the rule


def test_both_ways_of_a_call_and_both_orders_of_a_matrix_are_timed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(onednn_rule, "CALLS", ((1, 1), (2, 4)))
    monkeypatch.setattr(onednn_rule, "MATRICES", ((12, 8),))
    monkeypatch.setattr(onednn_rule, "BEYOND_CACHES", 1000)
    out = tmp_path / "rule.json"
    command = ["rule", "--widths", "8", "--seconds", "0.001", "--rounds", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    onednn_rule.main()
    result = json.loads(out.read_text(encoding="utf-8"))
    assert [(found["batch"], found["steps"], found["runs_as_cells"]) for found in result["calls"]] == [
        (1, 1, True),
        (2, 4, False),
    ]
    for found in result["calls"]:  # of one round
        assert found["ratio"] == pytest.approx(found["cells_ms"] / found["onednn_ms"])
    assert result["orders"][0]["by_columns"] > 0
