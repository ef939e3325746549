"""Latency is compared fairly: best runtime against best, in paired rounds, and nothing is left changed."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l0rnn.bench import benchmark, parameter_bytes, sample_seconds, timing
from l0rnn.bench.report import BenchReport, BenchRow
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.recurrent.single_steps import onednn

ONE_STEP = [(1, 1)]
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def features(batch: int, steps: int) -> tuple[Any, ...]:
    return (torch.randn(steps, batch, 4),)


def current_runtime() -> str:
    return "onednn" if torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled else "native"


class Stopwatch:
    """Stands in for the timer: milliseconds come from a function of (network, runtime, round)."""

    def __init__(self, networks: dict[str, nn.Module], milliseconds: Callable[[str, str, int], list[float]]) -> None:
        self.names = {id(network): name for name, network in networks.items()}
        self.milliseconds = milliseconds
        self.log: list[tuple[str, str]] = []
        self.threads: list[int] = []

    def __call__(self, call: Any, *, threads: int, seconds: float) -> list[float]:
        name, runtime = self.names[id(call.func)], current_runtime()
        assert torch.is_inference_mode_enabled()
        assert not any(module.training for module in call.func.modules())
        assert threads == torch.get_num_threads()
        call()
        turn = self.log.count((name, runtime))
        self.log.append((name, runtime))
        self.threads.append(threads)
        return [value / 1e3 for value in self.milliseconds(name, runtime, turn)]


@pytest.fixture
def pair() -> dict[str, nn.Module]:
    return {"dense": nn.LSTM(4, 6), "small": nn.LSTM(4, 2)}


@pytest.fixture
def stub(pair: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stopwatch]:
    def install(milliseconds: Callable[[str, str, int], list[float]]) -> Stopwatch:
        stopwatch = Stopwatch(pair, milliseconds)
        monkeypatch.setattr(timing, "sample_seconds", stopwatch)
        return stopwatch

    return install


@pytest.fixture(autouse=True)
def threads_before() -> Iterator[int]:
    """A thread count that no test asks for, so that a change is seen."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


@needs_onednn
def test_every_combination_has_one_row(pair, stub) -> None:
    stopwatch = stub(lambda name, runtime, turn: [1.0])
    report = benchmark(pair, features, grid=[(1, 1), (2, 5), (1, 1)], threads=(1, 2), rounds=2)
    found = [(row.network, row.batch, row.steps, row.threads, row.runtime) for row in report.rows]
    expected = [
        (name, batch, steps, threads, runtime)
        for batch, steps in ((1, 1), (2, 5))
        for name, threads, runtime in itertools.product(pair, (1, 2), ("onednn", "native"))
    ]
    assert sorted(found) == sorted(expected)
    assert len(stopwatch.log) == 2 * len(expected)
    assert set(stopwatch.threads) == {1, 2}
    best = [(row.network, row.batch, row.steps, row.threads) for row in report.rows if row.is_best]
    assert len(best) == len(set(best)) == len(expected) // 2


@needs_onednn
def test_networks_take_turns(pair, stub) -> None:
    stopwatch = stub(lambda name, runtime, turn: [1.0])
    benchmark(pair, features, grid=ONE_STEP, rounds=3)
    one_round = [(name, runtime) for runtime in ("onednn", "native") for name in ("dense", "small")]
    assert stopwatch.log == 3 * one_round


@needs_onednn
def test_the_best_runtime_of_each_is_compared_and_drift_cancels(pair, stub) -> None:
    table = {("dense", "onednn"): 80.0, ("dense", "native"): 20.0, ("small", "onednn"): 5.0, ("small", "native"): 10.0}
    drift = [1.0, 7.0, 3.0, 1.0, 2.0]
    stub(lambda name, runtime, turn: [drift[turn % 5] * table[name, runtime]])
    report = benchmark(pair, features, grid=ONE_STEP)
    assert report.speedup("small", 1, 1, 1) == pytest.approx(4)
    assert report.speedup("dense", 1, 1, 1) == 1
    rows = {(row.network, row.runtime): row for row in report.rows}
    assert {key for key, row in rows.items() if row.is_best} == {("dense", "native"), ("small", "onednn")}
    for key, row in rows.items():
        assert row.milliseconds == pytest.approx(2 * table[key])  # 2 is the median of the drift
        assert row.spread == pytest.approx(2 * table[key])  # quartiles 1 and 3
        assert row.speedup == pytest.approx(20 / table[key])
    other = benchmark(pair, features, grid=ONE_STEP, baseline="small")
    assert other.speedup("dense", 1, 1, 1) == pytest.approx(1 / 4)
    assert other.speedup("small", 1, 1, 1) == 1


def test_the_ratio_is_taken_within_rounds(pair, stub) -> None:
    times = {"dense": [1.0, 10.0, 10.0], "small": [1.0, 1.0, 10.0]}
    stub(lambda name, runtime, turn: [times[name][turn]])
    report = benchmark(pair, features, grid=ONE_STEP, rounds=3)
    assert report.speedup("small", 1, 1, 1) == 1  # the ratio of the medians would be 10
    assert report.rows[0].milliseconds == pytest.approx(10)


def test_samples_of_a_round_enter_by_their_median(pair, stub) -> None:
    stub(lambda name, runtime, turn: [2.0, 4.0, 90.0] if name == "dense" else [1.0, 2.0, 3.0])
    report = benchmark(pair, features, grid=ONE_STEP, rounds=1)
    assert report.speedup("small", 1, 1, 1) == pytest.approx(2)
    row = next(row for row in report.rows if row.network == "small")
    assert (row.milliseconds, row.spread) == (pytest.approx(2), pytest.approx(1))  # quartiles 1.5 and 2.5


def test_without_onednn_there_is_one_runtime(pair, stub, monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    stub(lambda name, runtime, turn: [1.0])
    report = benchmark(pair, features, grid=ONE_STEP)
    assert [row.runtime for row in report.rows] == ["native", "native"]
    assert report.environment["onednn"] is False


def test_a_much_larger_layer_is_slower() -> None:
    networks = {"large": nn.LSTM(4, 512), "small": nn.LSTM(4, 8)}
    report = benchmark(networks, features, grid=[(1, 20)], seconds=0.05, rounds=2)
    assert report.speedup("small", 1, 20, 1) > 1
    assert all(row.milliseconds > 0 and row.spread >= 0 for row in report.rows)


def test_seconds_per_call_are_those_of_the_call() -> None:
    calls = []
    samples = sample_seconds(lambda: calls.append(1), threads=1, seconds=0.001)
    assert len(calls) > len(samples) >= 1
    assert all(0 < sample < 1e-3 for sample in samples)


def test_a_long_call_is_warmed_up_once_and_timed_as_often_as_fits() -> None:
    calls = []

    def call() -> None:
        calls.append(1)
        time.sleep(0.02)

    assert all(sample >= 0.02 for sample in sample_seconds(call, threads=1, seconds=0.001))
    assert len(calls) == 2
    assert len(sample_seconds(call, threads=1, seconds=0.05)) == 2


# streaming: one step goes on from a state


class Recorder(nn.Module):
    """Notes the states that it is called with."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.states: list[Any] = []

    def forward(self, inputs: Tensor, state: Any = None) -> Any:
        self.states.append(state)
        return self.layer(inputs, state)


def layers() -> dict[str, nn.Module]:
    return {
        "LSTM": nn.LSTM(4, 3, 2),
        "GRU": nn.GRU(4, 3),
        "ragged LSTM": RaggedRNN("LSTM", 4, [[3], [2]]),
        "ragged GRU": RaggedRNN("GRU", 4, [[3], [2]]),
    }


@pytest.mark.parametrize("name", layers())
def test_a_single_step_goes_on_from_the_first_state(name: str) -> None:
    network = Recorder(layers()[name])
    inputs = features(1, 1)
    report = benchmark({name: network}, lambda batch, steps: inputs, grid=ONE_STEP, seconds=0.001, rounds=1)
    assert all(row.is_state_carried for row in report.rows)
    first, *others = network.states
    assert first is None
    assert len(others) > 2
    with torch.inference_mode():
        expected = network.layer(*inputs)[1]
    torch.testing.assert_close(others[0], expected)
    assert all(state is others[0] for state in others)


@pytest.mark.parametrize(("size", "options"), [((1, 2), {}), ((1, 1), {"carry_state": False})])
def test_other_calls_start_anew(size: tuple[int, int], options: dict[str, Any]) -> None:
    network = Recorder(nn.LSTM(4, 3))
    report = benchmark({"a": network}, features, grid=[size], seconds=0.001, rounds=1, **options)
    assert set(network.states) == {None}
    assert not any(row.is_state_carried for row in report.rows)


class Headless(nn.Module):
    """Returns a pair, but takes no state."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(4, 3)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(inputs)


def test_a_network_that_takes_no_state_is_called_without(pair, stub) -> None:
    pair["small"] = Headless()
    stub(lambda name, runtime, turn: [1.0])
    report = benchmark(pair, features, grid=ONE_STEP)
    assert {row.network: row.is_state_carried for row in report.rows} == {"dense": True, "small": False}


# nothing is left changed


class Fragile(nn.Module):
    """Raises in its n-th call."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls
        self.inner = nn.Dropout()

    def forward(self, inputs: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("worn out")
        return self.inner(inputs)


@pytest.mark.parametrize("calls", [0, 1, 5, None], ids=lambda calls: f"after {calls}")
@pytest.mark.parametrize("use_onednn", [False, True])
def test_threads_onednn_and_modes_are_restored(calls: int | None, use_onednn: bool, threads_before: int) -> None:
    network = nn.Sequential(nn.Dropout(), Fragile(10**9 if calls is None else calls))
    network[1].eval()
    before = [module.training for module in network.modules()]
    with onednn(use_onednn):
        enabled = torch.backends.mkldnn.enabled
        if calls is None:
            benchmark({"a": network}, features, grid=ONE_STEP, seconds=0.001, rounds=1)
        else:
            with pytest.raises((RuntimeError, ValueError), match="worn out"):
                benchmark({"a": network}, features, grid=ONE_STEP, seconds=0.001, rounds=1)
        assert torch.backends.mkldnn.enabled == enabled
    assert torch.get_num_threads() == threads_before
    assert [module.training for module in network.modules()] == before == [True, True, False, False]
    assert not torch.is_inference_mode_enabled()


# the report


@pytest.fixture
def report(pair, stub) -> BenchReport:
    stub(lambda name, runtime, turn: [2000.0 if name == "dense" else 0.0123456])
    return benchmark({"dense": pair["dense"], "small": pair["small"]}, features, grid=[(1, 1), (3, 5)], threads=(1, 2))


def test_json_gives_the_report_back(report: BenchReport, tmp_path: Path) -> None:
    assert BenchReport.from_json(report.to_json()) == report
    report.save(tmp_path / "latency.json")
    assert BenchReport.from_json((tmp_path / "latency.json").read_text(encoding="utf-8")) == report


def test_the_environment_is_named(report: BenchReport) -> None:
    environment = report.environment
    assert environment["torch"] == torch.__version__
    assert environment["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}")
    assert set(environment) == {"l0rnn", "torch", "python", "cpu", "cores", "onednn", "gpu"}
    assert environment["cpu"]
    assert environment["gpu"] is None


def test_the_cpu_has_a_name_where_there_is_no_list_of_them(monkeypatch) -> None:
    from l0rnn.bench import report as bench_report

    monkeypatch.setattr(bench_report, "Path", lambda path: Path("/nowhere") / path.lstrip("/"))
    monkeypatch.setattr(bench_report.platform, "processor", lambda: "")
    monkeypatch.setattr(bench_report.platform, "machine", lambda: "riscv64")
    assert bench_report.environment()["cpu"] == "riscv64"


def test_table_has_best_against_best_first(report: BenchReport) -> None:
    lines = report.table().splitlines()
    rows = [line for line in lines if line.startswith("|") and "---" not in line]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in rows]
    assert cells[0][:5] == ["batch", "steps", "threads", "network", "runtime"]
    assert [row[:4] for row in cells[1:9]] == [
        [batch, steps, threads, network]
        for batch, steps in (("1", "1 †"), ("3", "5"))
        for threads in ("1", "2")
        for network in ("dense", "small")
    ]
    assert cells[1][5:] == ["2000", "0", "1.00×"]
    assert cells[2][5] == "0.0123"
    assert len([row for row in cells if row[0] in ("1", "3")]) == 8 + len(report.rows)
    assert cells[-1] == ["small", "0.000256"]
    assert "torch: " + torch.__version__ in report.table()


def test_table_escapes_bars_and_shows_gpu_memory() -> None:
    row = BenchRow("a|b", 1, 1, 1, "cuda", 1.0, 0.0, 1.0, is_best=True)
    table = BenchReport((row,), "a|b", {"a|b": 4_000_000}, {"a|b": 2_000_000}).table()
    assert "| a\\|b | torch, CUDA (cuDNN) | 1 | 0 | 1.00× |" in table
    assert table.endswith("| a\\|b | 4 | 2 |")


def test_plot_writes_a_picture(report: BenchReport, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report.plot(tmp_path / "latency.png")
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")
    report.plot(tmp_path / "latency.svg")
    picture = (tmp_path / "latency.svg").read_text(encoding="utf-8")
    assert picture.count("<!-- batch 3, steps 5, 2 threads -->") == 1
    assert picture.count("<!-- 0.0123 ms") == len(report.rows) / 2


def test_plot_without_matplotlib_names_the_extra(report: BenchReport, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"`plot` needs matplotlib; install it with: pip install 'l0rnn\[plot\]'"):
        report.plot(tmp_path / "latency.png")


def test_the_time_as_it_comes_is_held_against_the_best() -> None:
    times = {"onednn": 8.0, "native": 2.0, "automatic": 3.0, "onnxruntime": 1.0}
    rows = [BenchRow("a", 1, 1, 1, name, ms, 0.0, 1 / ms, is_best=ms == 1) for name, ms in times.items()]
    assert BenchReport(tuple(rows), "a", {}).over_best("a", 1, 1) == pytest.approx(3)
    for row in rows:
        found = BenchReport(tuple(rows), "a", {}).over_best("a", 1, 1, runtime=row.runtime)
        assert found == pytest.approx(row.milliseconds / min(other.milliseconds for other in rows))
    with pytest.raises(ValueError, match="must be among those measured, got .*openvino"):
        BenchReport(tuple(rows), "a", {}).over_best("a", 1, 1, runtime="openvino")
    without = tuple(row for row in rows if row.runtime != "automatic")
    assert BenchReport(without, "a", {}).over_best("a", 1, 1) == pytest.approx(8)
    with pytest.raises(ValueError, match=r"`threads` must be among those measured, got \('a', 1, 1, 2\)"):
        BenchReport(without, "a", {}).over_best("a", 1, 1, 2)


def test_limits_are_in_the_table_and_the_picture(tmp_path: Path) -> None:
    row = BenchRow("a", 1, 1, 1, "native", 4.0, 0.0, 1.0, is_best=True, bound_milliseconds=1.0)
    gated = BenchRow("b", 1, 1, 1, "native", 4.0, 0.0, 1.0, is_best=True)
    limit = {"threads": 1, "read_bandwidth": [[1_000_000, 30e9]], "multiply_adds": 40e9}
    report = BenchReport((row, gated), "a", {"a": 8}, roofline=[limit])
    assert "| 1 | 1 | 1 | a | torch, oneDNN off | 4 | 0 | 1.00× | 25% |" in report.table()
    assert "| 1 | 1 | 1 | b | torch, oneDNN off | 4 | 0 | 1.00× |  |" in report.table()
    assert "| threads | GB/s, 1 MB | 10⁹ multiply-adds/s |\n| --- | --- | --- |\n| 1 | 30 | 40 |" in report.table()
    pytest.importorskip("matplotlib")
    report.plot(tmp_path / "latency.svg")
    assert (tmp_path / "latency.svg").read_text(encoding="utf-8").count("#b3261e") == 1


def test_the_picture_of_the_best_alone(report: BenchReport, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report.plot(tmp_path / "latency.svg", best_only=True)
    picture = (tmp_path / "latency.svg").read_text(encoding="utf-8")
    assert picture.count("<!-- 0.0123 ms") == len([row for row in report.rows if row.is_best]) / 2


def test_reports_of_older_versions_are_read() -> None:
    path = Path(__file__).parents[2] / "recipes" / "penn_treebank" / "results" / "demo_bench.json"
    report = BenchReport.from_json(path.read_text(encoding="utf-8"))
    assert all(row.milliseconds > 0 for row in report.rows)
    assert report.speedup("shrunk", 1, 1) > 1
    assert BenchReport.from_json(report.to_json()) == report
    older = {"rows": [], "baseline": "a", "parameter_bytes": {}}
    assert BenchReport.from_json(json.dumps(older)).refused == {}


def test_speedup_of_what_was_not_measured(report: BenchReport) -> None:
    with pytest.raises(ValueError, match=r"`threads` must be among those measured, got \('small', 1, 1, 4\)"):
        report.speedup("small", 1, 1, 4)


def test_bytes_of_tied_weights_and_buffers_count_once() -> None:
    network = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3), nn.BatchNorm1d(3))
    network[1].weight = network[0].weight
    # one weight, a bias, scale, shift, mean and variance in float32, and an int64 counter
    assert parameter_bytes(network) == 4 * (9 + 3 + 3 + 3 + 3 + 3) + 8


# bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"networks": {}}, "`networks` must hold at least one network, got none"),
        ({"baseline": "huge"}, "`baseline` must be one of dense, got 'huge'"),
        ({"grid": []}, r"`grid` must hold pairs \(batch, steps\), both > 0, got \[\]"),
        ({"grid": [(1, 0)]}, r"`grid` must .* got \[\(1, 0\)\]"),
        ({"grid": [(1, 2, 3)]}, r"`grid` must .* got \[\(1, 2, 3\)\]"),
        ({"threads": ()}, r"`threads` must hold thread counts > 0, got \(\)"),
        ({"threads": (1, 0)}, r"`threads` must be from 1 to \d+, what this machine has, got 0"),
        ({"seconds": 0.0}, r"`seconds` must be > 0, got 0\.0"),
        ({"rounds": 0}, "`rounds` must be > 0, got 0"),
        ({"device": "abacus"}, "`device` must be a device that torch knows, got 'abacus'"),
        ({"device": "meta"}, "`device` must be 'cpu' or 'cuda', got 'meta'"),
        ({"device": "cuda:99"}, r"`device` must be one that torch finds here, got 'cuda:99' with \d+ CUDA GPUs; use"),
        ({"networks": {"a": nn.LSTM(4, 2, device="meta")}}, "`networks` must be on `device`, cpu, but 'a' .* meta"),
        ({"networks": {"a": nn.LazyLinear(2)}}, "`networks` must have their weights, but 'a' is lazy"),
        ({"make_inputs": lambda batch, steps: torch.zeros(1)}, "`make_inputs` must return a tuple .* got Tensor"),
        (
            {"make_inputs": lambda batch, steps: (torch.zeros(steps, batch, 5),)},
            "`make_inputs` must give what every network runs on, but 'dense' fails at batch 1, steps 1: .*5",
        ),
    ],
)
def test_bad_input_is_refused(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"networks": {"dense": nn.LSTM(4, 2)}, "make_inputs": features, "grid": ONE_STEP}
    with pytest.raises(ValueError, match=message):
        benchmark(**{**arguments, **options})


def test_no_gpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="`device` must be one that torch finds here, got 'cuda' with 0 CUDA GPUs"):
        benchmark({"dense": nn.LSTM(4, 2)}, features, device="cuda")


class Attentive(nn.Module):
    """Its second output and second argument are not the same thing."""

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if lengths is not None and lengths.dim() != 1:
            raise ValueError("lengths need one dimension")
        return inputs, inputs.softmax(0)


def test_a_state_that_is_none_says_how_to_leave_it_out() -> None:
    with pytest.raises(ValueError, match="with its state passed back: lengths need .*; `carry_state=False` passes no"):
        benchmark({"a": Attentive()}, features, grid=ONE_STEP)
    assert benchmark({"a": Attentive()}, features, grid=ONE_STEP, seconds=0.001, rounds=1, carry_state=False).rows


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    networks = {"dense": nn.LSTM(4, 64, device="cuda"), "small": nn.LSTM(4, 8, device="cuda")}
    report = benchmark(networks, features, grid=[(1, 1), (2, 5)], device="cuda", seconds=0.02, rounds=2)
    assert [row.runtime for row in report.rows] == 4 * ["cuda"]
    assert all(row.is_best for row in report.rows)
    assert report.peak_cuda_bytes["dense"] > 0
    assert report.environment["gpu"]
