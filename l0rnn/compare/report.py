"""One table of all methods: quality, size, differences, and latency in the best form each can be deployed in."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from l0rnn.arguments import checked
from l0rnn.bench.report import BenchReport
from l0rnn.compare.differences import Difference, paired_difference
from l0rnn.compare.plan import CONFIGURED, TASK, Plan
from l0rnn.compare.results import figure, table_row
from l0rnn.compare.ways import SCRATCH


@dataclass(frozen=True)
class Row:
    """One method at one density.

    Attributes:
        name: the run's name.
        method: class of the pruning method.
        quality: figure of validation, mean over seeds.
        spread: standard deviation of that over the seeds, 0 for one.
        final: figure of the test, mean over seeds; NaN if there is no test.
        final_spread: standard deviation of that.
        parameters: parameters that are not 0.
        multiply_adds: multiply-adds per time step by weights that are not 0.
        density: those as a fraction of the first run's.
        form: the form with the lowest latency at the headline size.
        bytes: bytes of the weights in that form.
        milliseconds: ``batch x steps`` → milliseconds per call in the best form and runtime at that size.
        speedup: the same, as the first run's milliseconds over this one's, by the median of paired rounds.
        training_seconds: seconds of the processor, mean over seeds; runs side by side slow each other by the clock.
        seeds: number of seeds.
        units: units kept on each axis, mean over seeds.
        to_dense: its figure of the test, or of validation if there is none, less the first run's, seed by seed.
        to_scratch: the same, less that of its own widths from scratch.
        error: why it failed, or None; of some seeds, if there are figures of others.
    """

    name: str
    method: str = ""
    quality: float = float("nan")
    spread: float = 0.0
    final: float = float("nan")
    final_spread: float = 0.0
    parameters: int = 0
    multiply_adds: int = 0
    density: float = float("nan")
    form: str = ""
    bytes: int = 0
    milliseconds: dict[str, float] = field(default_factory=dict)
    speedup: dict[str, float] = field(default_factory=dict)
    training_seconds: float = 0.0
    seeds: int = 0
    units: dict[str, float] = field(default_factory=dict)
    to_dense: Difference | None = None
    to_scratch: Difference | None = None
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
        higher_is_better: whether more of it is better.
    """

    rows: list[Row]
    headline: str
    quality: str
    final: str
    conditions: dict[str, Any]
    higher_is_better: bool = False

    def table(self) -> str:
        """The rows in Markdown."""
        sizes = list(next((row.milliseconds for row in self.rows if row.milliseconds), {}))
        titles = ["run", self.quality, self.final, "multiply-adds", "kept", "parameters"]
        titles += ["MB", "best form", *(f"ms, {size}" for size in sizes), f"speed-up, {self.headline}"] * bool(sizes)
        titles += ["units"] * any(row.units for row in self.rows)
        differences = {"less dense": "to_dense", "less its widths from scratch": "to_scratch"}
        differences = {title: name for title, name in differences.items() if any(getattr(r, name) for r in self.rows)}
        titles += [*differences, "training, CPU s"]
        lines = [table_row(titles), "|---" * len(titles) + "|"]
        for row in self.rows:
            if row.error is not None and row.seeds == 0:
                lines.append(f"| {row.name} | failed: {_safe(row.error)} |{' |' * (len(titles) - 2)}")
                continue
            name = row.name if row.error is None else f"{row.name} (of some seeds failed: {_safe(row.error)})"
            cells = [name, _spread(row.quality, row.spread), _spread(row.final, row.final_spread)]
            cells += [f"{row.multiply_adds:,}", f"{row.density:.1%}", f"{row.parameters:,}"]
            if sizes:
                cells += [f"{row.bytes / 1e6:.2f}", row.form]
                cells += [f"{row.milliseconds[size]:.3f}" if row.milliseconds else "" for size in sizes]
                cells += [f"{row.speedup[self.headline]:.2f}" if row.speedup else ""]
            if "units" in titles:
                cells.append(", ".join(f"{units:g}" for units in row.units.values()))
            cells += [str(getattr(row, of) or "") for of in differences.values()]
            lines.append(table_row([*cells, f"{row.training_seconds:.0f}"]))
        return "\n".join(lines)

    def to_json(self) -> str:
        """Everything as JSON text."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Comparison:
        """What `to_json` wrote."""
        fields = json.loads(text)
        for row in fields["rows"]:
            for name in ("to_dense", "to_scratch"):
                if row.get(name) is not None:
                    row[name] = Difference(**row[name])
        return cls(**{**fields, "rows": [Row(**row) for row in fields["rows"]]})


def compare(
    plan: Plan,
    results: Mapping[tuple[str, int], Mapping[str, Any]],
    bench: BenchReport | None = None,
    sizes: Mapping[str, Mapping[str, int]] | None = None,
) -> Comparison:
    """Put results and latencies together.

    Args:
        plan: the comparison.
        results: (name, seed) → result.
        bench: what `l0rnn.compare.latency.measure` measured; None if nothing was.
        sizes: run → form → bytes.
    """
    names = dict.fromkeys(run.name for run in plan.runs if any(name == run.name for name, _ in results))
    # in the order of the plan: whichever run ends first comes first in the results
    ordered = [results[key] for key in ((run.name, run.seed) for run in plan.runs) if key in results]
    first = next((result for result in ordered if "error" not in result), {})
    rows = [_row(name, plan, results, bench, sizes or {}, first.get("multiply_adds", 1)) for name in names]
    conditions = {key: first[key] for key in ("epochs", "steps", "versions") if key in first}
    if bench is not None:
        conditions["latency"] = bench.environment
    shown = next(iter(first.get("figures", {})), "").partition("/")[2] if plan.trainer == TASK else ""
    quality, final = (f"{part} {shown}".strip() for part in (plan.quality, plan.final))
    return Comparison(
        rows, _size(plan.headline), quality, final, conditions, bool(first.get("higher_is_better", False))
    )


@checked
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
    bench: BenchReport | None,
    sizes: Mapping[str, Mapping[str, int]],
    whole: float,
) -> Row:
    of_name = {seed: result for (run, seed), result in results.items() if run == name}
    errors = [str(result["error"]) for result in of_name.values() if "error" in result]
    good = [result for result in of_name.values() if "error" not in result]
    if not good:
        return Row(name, error=errors[0])
    milliseconds, speedup, forms = {}, {}, {}
    timed = bench.rows if bench is not None and name in sizes else ()
    for batch, steps in plan.grid if timed else ():
        rows = [row for row in timed if row.is_best and (row.batch, row.steps) == (batch, steps)]
        ours = [row for row in rows if row.network.rpartition(" · ")[0] == name]
        best = min(ours, key=lambda row: row.milliseconds)
        size = _size((batch, steps))
        milliseconds[size], speedup[size] = round(best.milliseconds, 4), round(best.speedup, 3)
        forms[size] = best.network.rpartition(" · ")[2]
    form = forms.get(_size(plan.headline), "")
    finals = [float(result["final"]) for result in good if result["final"] is not None]
    return Row(
        name,
        method=good[0]["method"],
        quality=statistics.mean(float(result["quality"]) for result in good),
        spread=_deviation([float(result["quality"]) for result in good]),
        final=statistics.mean(finals) if finals else float("nan"),
        final_spread=_deviation(finals),
        parameters=round(statistics.mean(result["parameters"] for result in good)),
        multiply_adds=round(statistics.mean(result["multiply_adds"] for result in good)),
        density=statistics.mean(result["multiply_adds"] for result in good) / whole,
        form=form,
        bytes=sizes[name][form] if form else 0,
        milliseconds=milliseconds,
        speedup=speedup,
        training_seconds=statistics.mean(result["training_seconds"]["processor"] for result in good),
        seeds=len(good),
        units=_mean_units(good) if plan.trainer != CONFIGURED else {},
        to_dense=_difference(name, plan.runs[0].name, results),
        to_scratch=_difference(name, SCRATCH + name, results),
        error=errors[0] if errors else None,
    )


def _difference(name: str, other: str, results: Mapping[tuple[str, int], Mapping[str, Any]]) -> Difference | None:
    """Of one run to another, over the seeds that both have; by the test, or by validation if there is none."""
    if name == other:
        return None
    pairs = [
        tuple(_last(results[run, seed]) for run in (name, other))
        for run, seed in results
        if run == name and (other, seed) in results
    ]
    pairs = [pair for pair in pairs if None not in pair]
    return paired_difference(*zip(*pairs, strict=True)) if len(pairs) > 1 else None  # type: ignore[arg-type]


def _last(result: Mapping[str, Any]) -> float | None:
    final = result.get("final")
    return result.get("quality") if final is None else final


def _mean_units(results: list[Mapping[str, Any]]) -> dict[str, float]:
    return {
        axis: round(statistics.mean(result["widths"].get(axis, 0) for result in results), 1)
        for axis in results[0]["widths"]
    }


def _deviation(figures: list[float]) -> float:
    return statistics.stdev(figures) if len(figures) > 1 else 0.0


def _spread(mean: float, deviation: float) -> str:
    return f"{figure(mean)} ± {deviation:.2g}" if deviation else figure(mean)


def _safe(text: str) -> str:
    return text.replace("|", "/")


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _flat(row: Row) -> dict[str, Any]:
    fields = asdict(row)
    for name in ("milliseconds", "speedup", "units", "to_dense", "to_scratch"):
        fields |= {f"{name} {part}": value for part, value in (fields.pop(name) or {}).items()}
    return fields
