"""Find out on this machine whether rounding the widths of a shrunken network up makes it faster."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.bench import benchmark
from l0rnn.blueprint import draw_blueprint
from l0rnn.cost.cost import cost
from l0rnn.surgery.shrink import Prunable, operate
from l0rnn.wiring import Wiring

LEAST_GAIN = 1.03  # a speedup below this is within what two measurements of one network differ by


@dataclass(frozen=True)
class TunedWidths:
    """A network shrunken to widths of one multiple, and its latency.

    Attributes:
        multiple_of: what the widths were rounded up to.
        widths: axis → units.
        multiply_adds: per time step.
        milliseconds: median milliseconds per call, in the best runtime.
        spread: interquartile range, in milliseconds per call.
        speedup: how many times faster than without rounding, the median of ratios within rounds.
    """

    multiple_of: int
    widths: dict[str, int]
    multiply_adds: int
    milliseconds: float
    spread: float
    speedup: float


@dataclass(frozen=True)
class WidthReport:
    """What `tune_widths` measured.

    Attributes:
        rows: one for each multiple, the first without rounding.
        batch: sequences per call.
        steps: time steps per call.
        threads: CPU threads of torch.
        environment: versions and hardware.

    Example:
        >>> rows = [TunedWidths(1, {"rnn": 61}, 900, 2.0, 0.1, 1.0), TunedWidths(8, {"rnn": 64}, 990, 1.6, 0.1, 1.25)]
        >>> WidthReport(tuple(rows), batch=1, steps=35, threads=1).recommended
        8
    """

    rows: tuple[TunedWidths, ...]
    batch: int
    steps: int
    threads: int
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def recommended(self) -> int:
        """The multiple for `shrink`: that of the fastest network, or 1 where rounding gains less than 3 %."""
        fastest = max(self.rows, key=lambda row: row.speedup)
        return fastest.multiple_of if fastest.speedup >= LEAST_GAIN else 1

    def table(self) -> str:
        """Markdown: what each rounding costs and gains, and which to take."""
        axes = list(self.rows[0].widths)
        header = ["multiple of", *axes, "multiply-adds", "ms per call", "interquartile range", "gain"]
        lines = [header, ["---"] * len(header)]
        for row in self.rows:
            figures = [f"{row.multiply_adds:,}", f"{row.milliseconds:.3g}", f"{row.spread:.2g}"]
            widths = [str(row.widths[axis]) for axis in axes]
            lines.append([str(row.multiple_of), *widths, *figures, f"{row.speedup - 1:+.1%}"])
        size = f"batch {self.batch}, steps {self.steps}, threads {self.threads}"
        environment = ", ".join(f"{key}: {value}" for key, value in self.environment.items())
        advice = f"Recommended: `multiple_of={self.recommended}`."
        if self.recommended == 1:
            advice += f" Rounding gains less than {LEAST_GAIN - 1:.0%} here."
        return "\n".join(
            ["| " + " | ".join(cells) + " |" for cells in lines] + ["", f"{size}; {environment}", "", advice]
        )

    def save(self, path: str | Path) -> None:
        """Write everything to a file, as JSON."""
        text = json.dumps({**asdict(self), "recommended": self.recommended}, indent=2, ensure_ascii=False)
        Path(path).write_text(text + "\n", encoding="utf-8")


def tune_widths(
    model: nn.Module | Prunable,
    wiring: Wiring | None = None,
    gates: Mapping[str, Tensor] | None = None,
    *,
    batch: int = 1,
    steps: int = 35,
    make_inputs: Callable[[int, int], tuple[Any, ...]] | None = None,
    multiples: Sequence[int] = (1, 4, 8, 16, 32),
    threads: int = 1,
    device: str = "cpu",
    seconds: float = 1.0,
) -> WidthReport:
    """Shrink a network with its widths rounded up to several multiples, and time the results against each other.

    A rounded width costs multiply-adds, and may still be faster, where a kernel works on so many units at a time; which
    depends on machine, size and call. The model is not changed.

    Args:
        model: a trained `PrunableModule`, or a network together with its ``wiring``.
        wiring: what each layer of the network reads; only without a `PrunableModule`.
        gates: axis → gate of each unit in [0, 1], `(unit,)`; those of the model if None.
        batch: sequences per call.
        steps: time steps per call.
        make_inputs: ``(batch, steps)`` → arguments of the network's forward; that of the `PrunableModule` if None.
        multiples: what to round up to; 1 is always among them.
        threads: CPU threads.
        device: ``"cpu"``, or a GPU such as ``"cuda"``.
        seconds: time spent on each network and runtime.

    Returns:
        Latency, multiply-adds and widths for each multiple, and which to take.

    Raises:
        ValueError: if an argument is missing or out of range, or `shrink` refuses the network.
        RuntimeError: if a `PrunableModule` has not been trained.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Embedding(9, 20), nn.Linear(20, 9))
        >>> gates = {"0": (torch.arange(20) < 5).float()}
        >>> report = tune_widths(
        ...     network,
        ...     Wiring({"1": ["0"]}),
        ...     gates,
        ...     make_inputs=lambda batch, steps: (torch.randint(9, (steps, batch)),),
        ...     multiples=(1, 8),
        ...     seconds=0.01,
        ... )
        >>> [(row.multiple_of, row.widths, row.multiply_adds) for row in report.rows]
        [(1, {'0': 5}, 45), (8, {'0': 8}, 72)]
    """
    for multiple in multiples:
        if multiple < 1:
            raise ValueError(f"`multiples` must be at least 1, got {multiple}; for example (1, 8, 16)")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a torch without CUDA asserts
        raise ValueError(f"`device` must be one that torch finds here, got {device!r}") from error
    make_inputs = getattr(model, "inputs_of_size", None) if make_inputs is None else make_inputs
    if make_inputs is None:
        raise ValueError(
            f"`make_inputs` must be given with a {type(model).__name__}: `(batch, steps)` → arguments of its forward"
        )
    example = None if wiring is None else make_inputs(2, 3)
    shrunken = {
        multiple: operate(model, wiring, gates, example_inputs=example, multiple_of=multiple)  # type: ignore[arg-type]
        for multiple in sorted({1, *multiples})
    }
    widths = {multiple: {axis: kept for axis, (kept, _) in one.widths.items()} for multiple, one in shrunken.items()}
    # where two multiples give the same widths, the network is timed once
    timed = {multiple: next(m for m in shrunken if widths[m] == widths[multiple]) for multiple in shrunken}
    networks = {str(multiple): shrunken[multiple].network.to(device) for multiple in dict.fromkeys(timed.values())}
    report = benchmark(
        networks, make_inputs, grid=[(batch, steps)], threads=[threads], device=device, seconds=seconds, baseline="1"
    )
    best = {row.network: row for row in report.rows if row.is_best}
    declared: Any = getattr(model, "wiring", None) if wiring is None else wiring
    rows = [
        TunedWidths(
            multiple,
            widths[multiple],
            cost(draw_blueprint(networks[str(timed[multiple])], declared)).multiply_adds,
            best[str(timed[multiple])].milliseconds,
            best[str(timed[multiple])].spread,
            best[str(timed[multiple])].speedup,
        )
        for multiple in shrunken
    ]
    return WidthReport(tuple(rows), batch, steps, threads, report.environment)
