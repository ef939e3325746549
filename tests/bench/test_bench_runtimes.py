"""Runtimes beside torch, forms with zeros, the command and the regression benchmark."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from l0rnn.bench import __main__ as regression
from l0rnn.bench import benchmark, command, measure, runtimes, timing
from l0rnn.bench.command import run
from l0rnn.bench.report import BenchReport, BenchRow
from l0rnn.bench.roofline import Roofline
from l0rnn.bench.runtimes import OtherRuntimes, benchmark_in
from l0rnn.bench.timing import CannotRunError
from l0rnn.bench.zeros import forms_with_zeros
from l0rnn.gates import GatedLSTM
from l0rnn.language.language_model import LanguageModel
from l0rnn.recurrent.ragged_rnn import RaggedRNN

ONE_STEP = [(1, 1)]
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def features(batch: int, steps: int) -> tuple[Any, ...]:
    return (torch.randn(steps, batch, 4),)


# torch as it comes, and other runtimes


def rows_of(report: BenchReport, runtime: str) -> list[tuple[str, int]]:
    return [(row.network, row.steps) for row in report.rows if row.runtime == runtime]


class Backwards:
    """A runtime that runs nothing but LSTMs, and counts."""

    names = ("backwards",)

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, int, int]] = []

    def prepare(self, runtime: str, name: str, network: nn.Module, arguments: tuple[Any, ...], *, threads: int) -> Any:
        self.asked.append((runtime, name, len(arguments), threads))
        if not isinstance(network, nn.LSTM):
            raise CannotRunError("it knows LSTMs alone")
        return partial(network, *arguments)


def test_another_runtime_has_rows_of_its_own_or_says_why_not(monkeypatch) -> None:
    monkeypatch.setattr(timing, "sample_seconds", lambda call, *, threads, seconds: [1.0])
    other = Backwards()
    networks = {"a": nn.LSTM(4, 3), "b": nn.GRU(4, 3)}
    report = benchmark(networks, features, grid=[(1, 1), (2, 5)], threads=(1, 2), rounds=1, others=other)
    assert rows_of(report, "backwards") == [("a", 1), ("a", 1), ("a", 5), ("a", 5)]
    assert report.refused == {"b": {"backwards": "it knows LSTMs alone"}}
    assert other.asked == [  # with the state of a single step; a network that is refused is not asked about again
        ("backwards", "a", 2, 1),
        ("backwards", "b", 2, 1),
        ("backwards", "a", 2, 2),
        ("backwards", "a", 1, 1),
        ("backwards", "a", 1, 2),
    ]
    assert "| b | backwards | it knows LSTMs alone |" in report.table()
    assert BenchReport.from_json(report.to_json()) == report


def test_a_streamer_is_timed_as_another_runtime_and_gives_the_outputs_of_torch() -> None:
    networks = {"small": LanguageModel(11, 4, [5, 3]), "stack": nn.GRU(4, 3, 2)}
    words = {"small": torch.randint(11, (1, 2)), "stack": torch.randn(1, 2, 4)}
    for name, network in networks.items():
        report = benchmark_in(
            ["torch", "streamer"], {name: network}, lambda *_, n=name: (words[n],), grid=[(2, 1)], seconds=0.002
        )
        assert report.refused == {}
        assert rows_of(report, "streamer") == [(name, 1)]
        network.eval()
        with torch.inference_mode(), OtherRuntimes(["streamer"]) as others:
            _, state = network(words[name])
            call = others.prepare("streamer", name, network, (words[name], state), threads=1)
            torch.testing.assert_close(call()[0], network(words[name], state)[0])


class TestOnnxRuntime:
    @pytest.fixture(autouse=True)
    def installed(self) -> None:
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")

    def test_a_language_model_with_and_without_state(self) -> None:
        networks = {"small": LanguageModel(11, 4, [5, 3]), "equal": LanguageModel(11, 4, 4, cell="GRU")}
        report = benchmark_in(
            ["torch", "onnxruntime"],
            networks,
            lambda batch, steps: (torch.randint(11, (steps, batch)),),
            grid=[(1, 1), (2, 3)],
            seconds=0.005,
            rounds=1,
        )
        assert report.refused == {}
        assert rows_of(report, "onnxruntime") == [("small", 1), ("equal", 1), ("small", 3), ("equal", 3)]
        assert all(row.milliseconds > 0 for row in report.rows)

    @torch.no_grad()
    def test_what_is_timed_gives_the_outputs_of_torch(self) -> None:
        network = RaggedRNN("LSTM", 4, [[5], [3]]).eval()
        inputs, state = torch.randn(3, 2, 4), ((torch.randn(2, 5), torch.randn(2, 3)),) * 2
        with OtherRuntimes(["onnxruntime"]) as others:
            call = others.prepare("onnxruntime", "small", network, (inputs, state), threads=1)
            found = [torch.from_numpy(part) for part in call()]
            folder = Path(others._folder.name)
            assert len(list(folder.iterdir())) == 1
        output, ((h0, h1), (c0, c1)) = network(inputs, state)
        torch.testing.assert_close(found, [output, h0, h1, c0, c1])
        assert not folder.exists()

    def test_zeros_gates_and_other_inputs_are_refused_with_the_reason(self) -> None:
        dense = LanguageModel(11, 16, 16, num_layers=1)
        words = torch.randint(11, (2, 2))
        sparse = forms_with_zeros(dense, 0.1, block=8, example_inputs=words)
        networks = {"CSR": sparse["CSR"], "gated": GatedLSTM(4, 3), "two inputs": nn.Bilinear(4, 4, 2)}
        arguments = {"CSR": (words,), "gated": (torch.randn(2, 2, 4),), "two inputs": 3 * (torch.randn(2, 4),)}
        reasons = {
            "CSR": "ONNX has no operator for sparse layers",
            "gated": "still has gates",
            "two inputs": "more than one tensor and a state",
        }
        with OtherRuntimes(["onnxruntime"]) as others:
            for name, network in networks.items():
                for _ in range(2):  # the second time from what is remembered
                    with pytest.raises(CannotRunError, match=reasons[name]):
                        others.prepare("onnxruntime", name, network.eval(), arguments[name], threads=1)

    def test_other_outputs_are_not_timed(self, monkeypatch) -> None:
        network, inputs = nn.GRU(4, 3).eval(), torch.randn(2, 2, 4)
        faults = {
            "differ from torch's by 1": lambda outputs: [outputs[0] + 1, *outputs[1:]],
            "have the shapes": lambda outputs: [outputs[0][:1], *outputs[1:]],
            "out of order": lambda outputs: 1 / 0,
        }
        opened = runtimes._OPENERS["onnxruntime"]

        def broken(fault: Any) -> Any:
            def open_file(path: Path, threads: int) -> Any:
                session = opened(path, threads)

                def run(feed: Any) -> Any:
                    try:
                        return fault(session(feed))
                    except ZeroDivisionError as error:
                        raise RuntimeError("out of\norder") from error

                return run

            return open_file

        for message, fault in faults.items():
            monkeypatch.setitem(runtimes._OPENERS, "onnxruntime", broken(fault))
            with (
                torch.no_grad(),
                OtherRuntimes(["onnxruntime"]) as others,
                pytest.raises(CannotRunError, match=message),
            ):
                others.prepare("onnxruntime", "a", network, (inputs,), threads=1)


@pytest.mark.parametrize("chosen", [["onnxruntime"], [], ["torch", "abacus"]])
def test_unknown_runtimes_are_refused(chosen: list[str]) -> None:
    with pytest.raises(ValueError, match="`runtimes` must be torch, .* any of streamer, onnxruntime, openvino; got"):
        benchmark_in(chosen, {"a": nn.LSTM(4, 3)}, features)


def test_other_runtimes_are_for_the_cpu() -> None:
    with pytest.raises(ValueError, match="`runtimes` must be torch alone on cuda, got onnxruntime; use device 'cpu'"):
        benchmark_in(["torch", "onnxruntime"], {"a": nn.LSTM(4, 3)}, features, device="cuda")


@pytest.mark.parametrize(("runtime", "extra"), [("onnxruntime", "onnx"), ("openvino", "openvino")])
def test_a_runtime_that_is_not_installed_names_its_extra(runtime: str, extra: str, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, runtime, None)
    with pytest.raises(ModuleNotFoundError, match=rf"'{runtime}' is not installed; .* 'l0rnn\[{extra}\]'"):
        benchmark_in(["torch", runtime], {"a": nn.LSTM(4, 3)}, features)


@torch.no_grad()
def test_openvino_gives_the_outputs_of_torch() -> None:
    pytest.importorskip("openvino")
    network, inputs = LanguageModel(11, 4, [5, 3]).eval(), torch.randint(11, (3, 2))
    with OtherRuntimes(["openvino"]) as others:
        found = others.prepare("openvino", "a", network, (inputs,), threads=1)()
    torch.testing.assert_close(torch.tensor(found[0]), network(inputs)[0], atol=1e-5, rtol=1e-4)


# zeros


def test_every_form_has_the_density_and_the_embedding_is_whole() -> None:
    network = LanguageModel(40, 32, 32)
    words = torch.randint(40, (3, 2))
    before = network.decoder.weight.clone()
    forms = forms_with_zeros(network, 0.25, block=8, example_inputs=words)
    assert list(forms) == ["dense with zeros", "CSR", "BSR 8"]
    assert torch.equal(network.decoder.weight, before)
    for form in (forms["dense with zeros"], network):
        share = 0.25 if form is not network else 1.0
        for name, weight in form.named_parameters():
            expected = share if "weight" in name and "embedding" not in name else 1.0
            assert weight.count_nonzero().item() / weight.numel() == pytest.approx(expected, abs=0.01), name
    assert [forms[name].sparse_report.block for name in ("CSR", "BSR 8")] == [1, 8]
    stored = forms["BSR 8"].sparse_report.converted["decoder.weight"][1]
    assert stored == 64 * round(0.25 * 5 * 4)


@pytest.mark.parametrize("density", [0.0, 1.0, 1.5])
def test_a_density_out_of_range_is_refused(density: float) -> None:
    network = LanguageModel(11, 4, 4)
    with pytest.raises(ValueError, match=r"`density` must be in \(0, 1\), .* got"):
        forms_with_zeros(network, density, example_inputs=torch.zeros(1, 1, dtype=torch.int64))


# the command


def options_of(**changes: Any) -> Any:
    fixed = {"models": [Path("dense"), Path("small")], "grid": ["1x1"], "threads": ["1"], "device": "cpu"}
    more = {"seconds": 0.002, "runtimes": ["torch"], "density": None, "out": None, "plot": None, "json": False}
    return SimpleNamespace(**{**fixed, **more, **changes})


def load(path: Path) -> LanguageModel:
    return LanguageModel(20, 16, 16) if path.name == "dense" else LanguageModel(20, 4, [3, 2])


@pytest.fixture
def quick_roofline(monkeypatch) -> Roofline:
    found = Roofline(1, ((10**4, 1e9),), 1e9)
    monkeypatch.setattr(measure, "measure_roofline", lambda threads, *, device: found)
    return found


def test_the_command_writes_rows_with_their_limit(tmp_path: Path, capsys, quick_roofline) -> None:
    run(options_of(density=0.2, out=tmp_path / "bench.json"), load)
    report = BenchReport.from_json((tmp_path / "bench.json").read_text(encoding="utf-8"))
    networks = ["dense", "small", "dense with zeros", "CSR", "BSR 16"]
    assert list(dict.fromkeys(row.network for row in report.rows)) == networks
    assert all(row.share_of_limit > 0 for row in report.rows if row.share_of_limit is not None)
    assert report.roofline == [quick_roofline.to_json()]
    assert "of the limit" in capsys.readouterr().out
    written = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))["rows"][0]
    assert written["share_of_limit"] == pytest.approx(written["bound_milliseconds"] / written["milliseconds"])


def test_the_command_draws(tmp_path: Path, quick_roofline) -> None:
    pytest.importorskip("matplotlib")
    run(options_of(plot=tmp_path / "bench.svg"), load)
    assert "<svg" in (tmp_path / "bench.svg").read_text(encoding="utf-8")


def test_all_threads_are_those_of_the_machine(monkeypatch) -> None:
    monkeypatch.setattr(command.os, "cpu_count", lambda: 7)
    assert [command._thread_count(text) for text in ("all", "3")] == [7, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": ["1by3"]}, "`--grid` must be like 1x35"),
        ({"threads": ["many"]}, "`--threads` must be numbers or `all`, got 'many'"),
    ],
)
def test_bad_options_are_refused_before_anything_is_loaded(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(options_of(**options), lambda path: pytest.fail("loaded"))


def test_the_regression_benchmark_fails_above_a_limit(monkeypatch, capsys) -> None:
    def report_of(slow: float) -> BenchReport:
        times = {"dense 2 × 650": 8.0, "small 200, 160": slow, "by hand 200, 160": 1.0}
        rows = [
            BenchRow(name, batch, steps, 1, "onednn", value, 0.0, 8 / value, is_best=True)
            for batch, steps in regression.GRID
            for name, value in times.items()
        ]
        return BenchReport(tuple(rows), "dense 2 × 650", {})

    for slow, status in ((1.01, 0), (1.03, 1)):
        monkeypatch.setattr(regression, "benchmark", lambda *_, **__: report_of(slow))  # noqa: B023
        assert regression.main([]) == status
        found = capsys.readouterr()
        assert f"{slow:.3f} | 1.02" in found.out
        assert ("slower than it should be" in found.err) == bool(status)


def test_torch_layers_by_hand_are_those_of_the_ragged_stack() -> None:
    ragged, by_hand = RaggedRNN("LSTM", 4, [[5], [3]]), regression.ByHand(4, (5, 3))
    for layers, layer in zip(ragged.layers, by_hand.layers, strict=True):
        layer.load_state_dict(layers[0].state_dict())
    inputs = torch.randn(3, 2, 4)
    output, states = by_hand(inputs)
    torch.testing.assert_close(output, ragged(inputs)[0])
    torch.testing.assert_close(by_hand(inputs, states)[0], ragged(inputs, ragged(inputs)[1])[0])
