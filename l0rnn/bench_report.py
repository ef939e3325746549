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

RUNTIMES = {"onednn": "torch, oneDNN on", "native": "torch, oneDNN off", "cuda": "torch, CUDA (cuDNN)"}


@dataclass(frozen=True)
class BenchRow:
    """The latency of one network at one input size, thread count and runtime.

    Attributes:
        network: name of the network.
        batch: sequences per call.
        steps: time steps per call.
        threads: CPU threads of torch.
        runtime: ``"onednn"`` or ``"native"`` (torch on CPU with oneDNN on or off), or ``"cuda"``.
        milliseconds: median milliseconds per call.
        spread: interquartile range, in milliseconds per call.
        speedup: the baseline in its best runtime against this row: the median, over rounds, of the ratio in a round.
        is_best: whether this is the network's best runtime at this size and thread count.
        is_state_carried: whether the calls went on from an earlier call's state, as in streaming.
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


@dataclass(frozen=True)
class BenchReport:
    """What `l0rnn.bench.benchmark` measured.

    Attributes:
        rows: every network × input size × thread count × runtime.
        baseline: the network that speedups refer to.
        parameter_bytes: network → bytes of its parameters and buffers.
        peak_cuda_bytes: network → most GPU memory taken by a call, in bytes beyond what was held before; empty on CPU.
        environment: versions and hardware.

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

    def to_json(self) -> str:
        """Everything as JSON text, which `from_json` reads."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> BenchReport:
        """The report that `to_json` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "rows": tuple(BenchRow(**row) for row in fields["rows"])})

    def save(self, path: str | Path) -> None:
        """Write `to_json` to a file."""
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    def table(self) -> str:
        """Markdown: what was measured and where, best against best, then every runtime, then memory."""
        baseline = _escaped(self.baseline)
        best = [_cells(row) for row in self.rows if row.is_best]
        every = [_cells(row) for row in self.rows]
        memory = [
            [_escaped(name), _figures(size / 1e6), _figures(self.peak_cuda_bytes[name] / 1e6)]
            if self.peak_cuda_bytes
            else [_escaped(name), _figures(size / 1e6)]
            for name, size in self.parameter_bytes.items()
        ]
        header = ["batch", "steps", "threads", "network", "runtime", "ms per call", "interquartile range", "speedup"]
        memory_header = ["network", "parameters and buffers, MB", *["peak of a call, MB"] * bool(self.peak_cuda_bytes)]
        return "\n\n".join(
            [
                "Median milliseconds per call, and interquartile range. The speedup is that over the best runtime of "
                f"`{baseline}` at the same batch, steps and threads: the median of the ratios within each of several "
                "interleaved rounds. †: the call goes on from an earlier call's state.",
                _escaped(", ".join(f"{key}: {value}" for key, value in self.environment.items())),
                "**Each network in its best runtime**\n\n" + _markdown(header, best),
                "**Every runtime**\n\n" + _markdown(header, every),
                "**Memory**\n\n" + _markdown(memory_header, memory),
            ]
        )

    def plot(self, path: str | Path) -> None:
        """Draw horizontal bars, one panel per input size and thread count; the file name's ending sets the format.

        The best runtime of each network is dark and says its speedup, the others are pale; thin lines are half the
        interquartile range to both sides.

        Raises:
            ImportError: if matplotlib, which the extra ``plot`` brings, is missing.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("`plot` needs matplotlib; install it with: pip install 'l0rnn[plot]'") from error
        places = list(dict.fromkeys((row.batch, row.steps, row.threads) for row in self.rows))
        panels = [[row for row in self.rows if (row.batch, row.steps, row.threads) == place] for place in places]
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
        "torch": torch.__version__,
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


def _cells(row: BenchRow) -> list[str]:
    return [
        str(row.batch),
        f"{row.steps}{' †' * row.is_state_carried}",
        str(row.threads),
        _escaped(row.network),
        RUNTIMES.get(row.runtime, row.runtime),
        _figures(row.milliseconds),
        _figures(row.spread),
        f"{row.speedup:.2f}×",
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
