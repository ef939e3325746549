"""What a latency benchmark found: rows of milliseconds, as JSON, a Markdown table or bars."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from l0rnn.version import __version__

RUNTIMES = {  # ``automatic`` is in older reports alone, where l0rnn's layers were kept from choosing above it
    "onednn": "torch, oneDNN on",
    "native": "torch, oneDNN off",
    "automatic": "torch, as the layers choose",
    "cuda": "torch, CUDA (cuDNN)",
    "streamer": "torch, TorchStreamer",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
}
# how torch runs a network when nobody touches a switch, the first that was timed
AS_IT_COMES = ("automatic", "onednn", "native", "cuda")


@dataclass(frozen=True)
class BenchRow:
    """The latency of one network at one input size, thread count and runtime.

    Attributes:
        network: name of the network.
        batch: sequences per call.
        steps: time steps per call.
        threads: CPU threads of torch.
        runtime: a key of `RUNTIMES`.
        milliseconds: median milliseconds per call.
        spread: interquartile range, in milliseconds per call.
        speedup: the baseline in its best runtime against this row: the median, over rounds, of the ratio in a round.
        is_best: whether this is the network's best runtime at this size and thread count.
        is_state_carried: whether the calls went on from an earlier call's state, as in streaming.
        bound_milliseconds: the least that a call could take, by the measured roofline; None if not measured.
    """

    network: str
    batch: int
    steps: int
    threads: int
    runtime: str
    milliseconds: float
    spread: float
    speedup: float
    is_best: bool
    is_state_carried: bool = False
    bound_milliseconds: float | None = None

    @property
    def share_of_limit(self) -> float | None:
        """The least time over the time taken: 1 is a machine at its limit; None if the limit was not measured."""
        return None if self.bound_milliseconds is None else self.bound_milliseconds / self.milliseconds


@dataclass(frozen=True)
class BenchReport:
    """What `l0rnn.bench.benchmark` measured.

    Attributes:
        rows: every network × input size × thread count × runtime.
        baseline: the network that speedups refer to.
        parameter_bytes: network → bytes of its parameters and buffers.
        peak_cuda_bytes: network → most GPU memory taken by a call, in bytes beyond what was held before; empty on CPU.
        environment: versions and hardware.
        refused: network → runtime → why the runtime cannot run it.
        roofline: for each thread count what the machine can do at most, as `l0rnn.bench.Roofline` in plain data.

    Example:
        >>> row = BenchRow("dense", 1, 1, 1, "native", milliseconds=2.0, spread=0.1, speedup=1.0, is_best=True)
        >>> report = BenchReport((row,), "dense", {"dense": 4000})
        >>> report.speedup("dense", 1, 1, 1), BenchReport.from_json(report.to_json()) == report
        (1.0, True)
    """

    rows: tuple[BenchRow, ...]
    baseline: str
    parameter_bytes: dict[str, int]
    peak_cuda_bytes: dict[str, int] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, dict[str, str]] = field(default_factory=dict)
    roofline: list[dict[str, Any]] = field(default_factory=list)

    def speedup(self, network: str, batch: int, steps: int, threads: int = 1) -> float:
        """How many times faster than the baseline, best runtime against best runtime.

        Raises:
            ValueError: if that was not measured.
        """
        wanted = (network, batch, steps, threads)
        best = {(row.network, row.batch, row.steps, row.threads): row.speedup for row in self.rows if row.is_best}
        if wanted not in best:
            raise ValueError(
                f"`network`, `batch`, `steps`, `threads` must be among those measured, got {wanted}; "
                f"there are {', '.join(map(str, best))}"
            )
        return best[wanted]

    def over_best(self, network: str, batch: int, steps: int, threads: int = 1, runtime: str | None = None) -> float:
        """Time of a network in a runtime over that in its best one; torch without any switch if ``runtime`` is None.

        Raises:
            ValueError: if that was not measured.
        """
        wanted = (network, batch, steps, threads)
        rows = {row.runtime: row for row in self.rows if (row.network, row.batch, row.steps, row.threads) == wanted}
        if not rows or runtime not in (None, *rows):
            asked = wanted if runtime is None else (*wanted, runtime)
            raise ValueError(f"`network`, `batch`, `steps`, `threads` must be among those measured, got {asked}")
        own = next(rows[name] for name in (AS_IT_COMES if runtime is None else (runtime,)) if name in rows)
        best = next(row for row in rows.values() if row.is_best)
        return best.speedup / own.speedup

    def to_json(self) -> str:
        """Everything as JSON text, which `from_json` reads, and the share of the limit of each row."""
        content = asdict(self)
        for row, cells in zip(self.rows, content["rows"], strict=True):
            cells["share_of_limit"] = row.share_of_limit
        return json.dumps(content, indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> BenchReport:
        """The report that `to_json` wrote."""
        fields = json.loads(text)
        for row in fields["rows"]:
            row.pop("share_of_limit", None)  # follows from the others
        return cls(**{**fields, "rows": tuple(BenchRow(**row) for row in fields["rows"])})

    def save(self, path: str | Path) -> None:
        """Write `to_json` to a file."""
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    def table(self) -> str:
        """Markdown: what was measured and where, best against best, every runtime, the machine's limits, and memory."""
        baseline = _escaped(self.baseline)
        limit = " Of the limit: the least time that the machine could take over the time it took." * bool(self.roofline)
        parts = [
            "Median milliseconds per call, and interquartile range. The speedup is that over the best runtime of "
            f"`{baseline}` at the same batch, steps and threads: the median of the ratios within each of several "
            f"interleaved rounds. †: the call goes on from an earlier call's state.{limit}",
            _escaped(", ".join(f"{key}: {value}" for key, value in self.environment.items())),
            "**Each network in its best runtime**\n\n" + self.rows_table(row for row in self.rows if row.is_best),
            "**Every runtime**\n\n" + self.rows_table(self.rows),
        ]
        if self.refused:
            refused = [
                [_escaped(name), RUNTIMES.get(runtime, runtime), _escaped(reason)]
                for name, reasons in self.refused.items()
                for runtime, reason in reasons.items()
            ]
            parts.append("**Not run**\n\n" + _markdown(["network", "runtime", "reason"], refused))
        if self.roofline:
            parts.append("**What the machine can do**\n\n" + self.limits_table())
        return "\n\n".join([*parts, "**Memory**\n\n" + self.memory_table()])

    def rows_table(self, rows: Iterable[BenchRow]) -> str:
        """Markdown: some of the rows."""
        header = ["batch", "steps", "threads", "network", "runtime", "ms per call", "interquartile range", "speedup"]
        has_limit = bool(self.roofline)
        return _markdown([*header, *["of the limit"] * has_limit], [_cells(row, has_limit) for row in rows])

    def limits_table(self) -> str:
        """Markdown: read bandwidth, by size of the array, and matrix throughput of each thread count."""
        sizes = [size for size, _ in self.roofline[0]["read_bandwidth"]] if self.roofline else []
        header = ["threads", *(f"GB/s, {_figures(size / 1e6)} MB" for size in sizes), "10⁹ multiply-adds/s"]
        figures = [[*(read for _, read in limit["read_bandwidth"]), limit["multiply_adds"]] for limit in self.roofline]
        rows = zip([str(limit["threads"]) for limit in self.roofline], figures, strict=True)
        return _markdown(header, [[threads, *(_figures(figure / 1e9) for figure in found)] for threads, found in rows])

    def memory_table(self) -> str:
        """Markdown: bytes of each network, and on a GPU the most that a call takes."""
        header = ["network", "parameters and buffers, MB", *["peak of a call, MB"] * bool(self.peak_cuda_bytes)]
        sizes = [[name, self.parameter_bytes[name], self.peak_cuda_bytes.get(name)] for name in self.parameter_bytes]
        rows = [[_escaped(name), *(_figures(size / 1e6) for size in both if size is not None)] for name, *both in sizes]
        return _markdown(header, rows)

    def plot(self, path: str | Path, *, best_only: bool = False) -> None:
        """Draw horizontal bars, one panel per input size and thread count; the file name's ending sets the format.

        The best runtime of each network is dark and says its speedup, the others are pale; thin lines are half the
        interquartile range to both sides. A red mark is the least time that the machine could take.

        Args:
            path: of the picture.
            best_only: whether to leave out all but the best runtime of each network.

        Raises:
            ImportError: if matplotlib, which the extra ``plot`` brings, is missing.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("`plot` needs matplotlib; install it with: pip install 'l0rnn[plot]'") from error
        rows = [row for row in self.rows if row.is_best or not best_only]
        places = list(dict.fromkeys((row.batch, row.steps, row.threads) for row in rows))
        panels = [[row for row in rows if (row.batch, row.steps, row.threads) == place] for place in places]
        heights = [len(panel) + 2 for panel in panels]  # bars, and as much again as two for title and axis
        figure = Figure(figsize=(9, 0.32 * sum(heights) + 0.6), layout="constrained")
        axes = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
        for panel, axis in zip(panels, axes, strict=True):
            _draw_bars(axis, panel)
        axes[-1].set_xlabel("milliseconds per call (median)")
        environment = [str(self.environment[key]) for key in ("gpu", "cpu") if self.environment.get(key)]
        figure.suptitle(f"Latency; speedup over {self.baseline}, best runtime against best", fontsize=11)
        figure.supxlabel(", ".join([*environment[:1], f"torch {self.environment.get('torch', '?')}"]), fontsize=8)
        figure.savefig(path, dpi=150)


def environment(device: str | torch.device = "cpu") -> dict[str, Any]:
    """Versions and hardware that latency depends on; ``gpu`` is None when ``device`` is a CPU."""
    return {
        "l0rnn": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "onednn": torch.backends.mkldnn.is_available(),
        "gpu": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else None,
    }


def _draw_bars(axis: Any, rows: Sequence[BenchRow]) -> None:
    """One panel: the rows of one input size and thread count, from the top down."""
    widths = [row.milliseconds for row in rows]
    colours = ["#1f5fa8" if row.is_best else "#b9cde4" for row in rows]
    positions = range(len(rows))
    spreads = [row.spread / 2 for row in rows]
    axis.barh(positions, widths, xerr=spreads, color=colours, error_kw={"elinewidth": 0.8, "ecolor": "#444444"})
    for position, row in zip(positions, rows, strict=True):
        if row.bound_milliseconds is not None:
            axis.plot(2 * [row.bound_milliseconds], [position - 0.4, position + 0.4], color="#b3261e", linewidth=1.5)
        speedup = f"  ({row.speedup:.2f}×)" if row.is_best else ""
        end = row.milliseconds + row.spread / 2
        axis.annotate(
            f"{_figures(row.milliseconds)} ms{speedup}",
            (end, position),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axis.set_yticks(positions, [f"{row.network}: {RUNTIMES.get(row.runtime, row.runtime)}" for row in rows], fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.25)
    axis.set_xlim(left=0)
    axis.spines[["top", "right"]].set_visible(False)
    first = rows[0]
    carried = ", state carried" if any(row.is_state_carried for row in rows) else ""
    threads = f"{first.threads} thread{'s' * (first.threads > 1)}"
    axis.set_title(f"batch {first.batch}, steps {first.steps}{carried}, {threads}", loc="left", fontsize=9)


def _cells(row: BenchRow, has_limit: bool) -> list[str]:
    share = "" if row.share_of_limit is None else f"{row.share_of_limit:.0%}"
    return [
        str(row.batch),
        f"{row.steps}{' †' * row.is_state_carried}",
        str(row.threads),
        _escaped(row.network),
        RUNTIMES.get(row.runtime, row.runtime),
        _figures(row.milliseconds),
        _figures(row.spread),
        f"{row.speedup:.2f}×",
        *[share] * has_limit,
    ]


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _figures(value: float) -> str:
    """Three significant figures, without an exponent."""
    return np.format_float_positional(value, precision=3, fractional=False, trim="-")


def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
