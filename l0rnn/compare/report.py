"""One table of all methods: quality, size, and latency in the best form each can be deployed in."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from l0rnn.bench.report import BenchReport
from l0rnn.compare.plan import Plan


@dataclass(frozen=True)
class Row:
    """One method at one density.

    Attributes:
        name: the run's name.
        method: class of the pruning method.
        quality: figure of validation, mean over seeds; lower is better.
        spread: difference between the worst and the best seed.
        final: figure of the test, mean over seeds.
        parameters: parameters that are not 0.
        multiply_adds: multiply-adds per time step by weights that are not 0.
        density: those as a fraction of the first run's.
        form: the form with the lowest latency at the headline size.
        bytes: bytes of the weights in that form.
        milliseconds: ``batch x steps`` → milliseconds per call in the best form and runtime at that size.
        speedup: the same, as the first run's milliseconds over this one's, by the median of paired rounds.
        training_seconds: seconds of the processor, mean over seeds; runs side by side slow each other by the clock.
        seeds: number of seeds.
        error: why it failed, or None.
    """

    name: str
    method: str = ""
    quality: float = float("nan")
    spread: float = 0.0
    final: float = float("nan")
    parameters: int = 0
    multiply_adds: int = 0
    density: float = float("nan")
    form: str = ""
    bytes: int = 0
    milliseconds: dict[str, float] = field(default_factory=dict)
    speedup: dict[str, float] = field(default_factory=dict)
    training_seconds: float = 0.0
    seeds: int = 0
    error: str | None = None


@dataclass(frozen=True)
class Comparison:
    """What `write_comparison` wrote.

    Attributes:
        rows: one per run name, in the order of the plan; failed ones with their error.
        headline: ``batch x steps`` of the plot.
        quality: name of the figure of validation.
        final: name of the figure of the test.
        conditions: epochs, steps and threads of the training, and the environment of the benchmark.
    """

    rows: list[Row]
    headline: str
    quality: str
    final: str
    conditions: dict[str, Any]

    def table(self) -> str:
        """The rows in Markdown."""
        sizes = list(next((row.milliseconds for row in self.rows if row.milliseconds), {}))
        titles = [self.quality, self.final, "multiply-adds", "kept", "parameters", "MB", "best form"]
        titles += [f"ms, {size}" for size in sizes] + [f"speed-up, {self.headline}", "training, CPU s"]
        lines = [f"| run | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
        for row in self.rows:
            if row.error is not None:
                lines.append(f"| {row.name} | failed: {row.error.replace('|', '/')} |{' |' * (len(titles) - 1)}")
                continue
            cells = [f"{row.quality:.2f}", f"{row.final:.2f}", f"{row.multiply_adds:,}", f"{row.density:.1%}"]
            cells += [f"{row.parameters:,}", f"{row.bytes / 1e6:.2f}", row.form]
            cells += [f"{row.milliseconds[size]:.3f}" for size in sizes]
            cells += [f"{row.speedup[self.headline]:.2f}" if row.speedup else "", f"{row.training_seconds:.0f}"]
            lines.append(f"| {row.name} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def to_json(self) -> str:
        """Everything as JSON text."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Comparison:
        """What `to_json` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "rows": [Row(**row) for row in fields["rows"]]})


def compare(
    plan: Plan,
    results: Mapping[tuple[str, int], Mapping[str, Any]],
    bench: BenchReport,
    sizes: Mapping[str, Mapping[str, int]],
) -> Comparison:
    """Put results and latencies together.

    Args:
        plan: the comparison.
        results: (name, seed) → result.
        bench: what `l0rnn.compare.latency.measure` measured.
        sizes: run → form → bytes.
    """
    names = dict.fromkeys(run.name for run in plan.runs if any(name == run.name for name, _ in results))
    # in the order of the plan: whichever run ends first comes first in the results
    ordered = [results[key] for key in ((run.name, run.seed) for run in plan.runs) if key in results]
    first = next((result for result in ordered if "error" not in result), {})
    rows = [_row(name, plan, results, bench, sizes, first.get("multiply_adds", 1)) for name in names]
    conditions = {key: first[key] for key in ("epochs", "steps", "versions") if key in first}
    return Comparison(
        rows, _size(plan.headline), plan.quality, plan.final, {**conditions, "latency": bench.environment}
    )


def write_comparison(comparison: Comparison, out: Path) -> None:
    """Write ``compare.json``, ``compare.md``, ``compare.csv`` and, with matplotlib, ``compare.png``."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "compare.json").write_text(comparison.to_json() + "\n", encoding="utf-8")
    (out / "compare.md").write_text(comparison.table() + "\n", encoding="utf-8")
    with (out / "compare.csv").open("w", encoding="utf-8", newline="") as file:
        flat = [_flat(row) for row in comparison.rows]
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in flat for key in row)))
        writer.writeheader()
        writer.writerows(flat)


def _row(
    name: str,
    plan: Plan,
    results: Mapping[tuple[str, int], Mapping[str, Any]],
    bench: BenchReport,
    sizes: Mapping[str, Mapping[str, int]],
    whole: float,
) -> Row:
    of_name = [result for (run, _), result in results.items() if run == name]
    good = [result for result in of_name if "error" not in result]
    if not good:
        return Row(name, error=str(of_name[0]["error"]))
    qualities = [float(result["quality"]) for result in good]
    milliseconds, speedup, forms = {}, {}, {}
    for batch, steps in plan.grid if name in sizes else ():
        rows = [row for row in bench.rows if row.is_best and (row.batch, row.steps) == (batch, steps)]
        ours = [row for row in rows if row.network.rpartition(" · ")[0] == name]
        best = min(ours, key=lambda row: row.milliseconds)
        size = _size((batch, steps))
        milliseconds[size], speedup[size] = round(best.milliseconds, 4), round(best.speedup, 3)
        forms[size] = best.network.rpartition(" · ")[2]
    form = forms.get(_size(plan.headline), "")
    return Row(
        name,
        method=good[0]["method"],
        quality=statistics.mean(qualities),
        spread=max(qualities) - min(qualities),
        final=statistics.mean(float(result["final"]) for result in good),
        parameters=round(statistics.mean(result["parameters"] for result in good)),
        multiply_adds=round(statistics.mean(result["multiply_adds"] for result in good)),
        density=statistics.mean(result["multiply_adds"] for result in good) / whole,
        form=form,
        bytes=sizes[name][form] if form else 0,
        milliseconds=milliseconds,
        speedup=speedup,
        training_seconds=statistics.mean(result["training_seconds"]["processor"] for result in good),
        seeds=len(good),
    )


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _flat(row: Row) -> dict[str, Any]:
    fields = asdict(row)
    milliseconds, speedup = fields.pop("milliseconds"), fields.pop("speedup")
    fields |= {f"milliseconds {size}": value for size, value in milliseconds.items()}
    return fields | {f"speedup {size}": value for size, value in speedup.items()}
