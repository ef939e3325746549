"""Write the tables of the studies into the README, from the committed results.

python -m recipes.penn_treebank.study_page
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from l0rnn.bench.report import BenchReport
from l0rnn.compare import read_plan
from l0rnn.compare.results import results_so_far, results_table
from recipes.pages import replaced
from recipes.penn_treebank.performance_page import RESULTS

FOLDER = Path(__file__).parent
PLANS = (
    "large_plan",
    "fine_tune_search",
    "locked_search",
    "cpu_plan",
    "cpu_search",
    "cpu_40_search",
    "cpu_tied_plan",
    "when_search",
    "methods_search",
)
DENSE = {  # plan without the dense network that its shares are of → multiply-adds of that network
    "fine_tune_search": 51_000_000,  # 2 x 1500
    "locked_search": 51_000_000,
    "cpu_tied_plan": 6_560_000,  # 2 x 400
    "when_search": 2_640_000,  # 2 x 200
    "methods_search": 2_640_000,
}
BENCHMARKS = (
    "bench_cpu",
    "bench_cpu_avx2",
    "bench_cpu_tied_avx2",
    "bench_cpu_iss_avx2",
    "bench_trained",
    "bench_locked",
    "bench_locked_avx2",
)
HISTORIES = {  # result → epochs that are shown
    "cpu_40_search_l0-more-dropout": (2, 4, 6, 8, 10, 12, 16, 20),
    "cpu_40_search_small-dense-dropout-0-32": (2, 4, 6, 8, 10, 12, 16, 20),
    "when_search_l0-late": tuple(range(1, 9)),
    "cpu_plan_group-lasso-iss-17": (2, 4, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20),
    "locked_search_averaged-less-dropout": tuple(range(1, 9)),
    "fine_tune_search_taught-by-two-noise-less-dropout": tuple(range(1, 10)),
    "large_plan_dense": (5, 10, 15, 20, 25, 30, 40, 55),
    "large_plan_l0-tied-locked": (1, 2, 3, 4, 5, 7, 9, 10, 15, 20, 28, 30, 35, 40, 45, 50, 55, 60),
    "large_plan_small-dense-of-the-locked-run-s-widths-20-epochs": (5, 10, 15, 20),
    "large_plan_l0-6-m-weights": (5, 10, 15, 20, 23, 24, 25, 30, 40, 55),
}


def latency_table(report: BenchReport) -> str:
    """Milliseconds and speed-up of the dense network and of those that are small, each in its best runtime."""
    networks = list(dict.fromkeys(row.network for row in report.rows if "kept" not in row.network))
    sizes = list(dict.fromkeys((row.batch, row.steps, row.threads) for row in report.rows))
    best = {(row.network, row.batch, row.steps, row.threads): row for row in report.rows if row.is_best}
    lines = [f"| batch × steps, threads | {' | '.join(networks)} |", "|---" * (1 + len(networks)) + "|"]
    for batch, steps, threads in sizes:
        rows = [best[network, batch, steps, threads] for network in networks]
        cells = [f"{row.milliseconds:.2f} ms, {row.speedup:.1f}×" for row in rows]
        lines.append(f"| {batch} × {steps}, {threads} | {' | '.join(cells)} |")
    return "\n".join(lines)


def history_table(result: Mapping[str, Any], epochs: Sequence[int]) -> str:
    """What a run by captured steps looked like after some of its epochs; learning rate and steps/s are of the epoch."""
    titles = [
        "epoch",
        "learning rate",
        "steps/s",
        "units kept",
        "multiply-adds",
        "price",
        "train loss",
        "valid perplexity",
    ]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    start = {"step": 0, "seconds": 0.0, "learning_rate": result["config"]["model"]["init_args"]["learning_rate"]}
    before = {1: start} | {row["epoch"] + 1: row for row in result["history"]}
    for row in result["history"]:
        if row["epoch"] in epochs:
            last = before[row["epoch"]]  # its learning rate is already that of the next epoch
            pace = (row["step"] - last["step"]) / (row["seconds"] - last["seconds"])
            rate = f"{pace:.1g}" if pace < 1 else f"{pace:.0f}"
            kept = ", ".join(str(round(units)) for name, units in row.items() if name.startswith("kept/"))
            density = f"{row['density']:.1%}" if "density" in row else ""
            prices = [value for name, value in row.items() if name.split("/")[0] == "price"]
            price = ", ".join(f"{value:.2f}" if value == 0 or value >= 0.005 else f"{value:.0e}" for value in prices)
            valid = row.get("valid/perplexity", "")
            cells = [row["epoch"], f"{last['learning_rate']:.2f}", rate, kept, density, price]
            lines.append(f"| {' | '.join(map(str, cells))} | {row['train/loss']:.3f} | {valid} |")
    return "\n".join(lines)


def filled(text: str) -> str:
    """The README with the tables of what is committed."""
    for name in PLANS:
        plan = read_plan(FOLDER / "configs" / f"{name}.yaml")
        results = results_so_far(plan, FOLDER / "out", RESULTS)
        text = replaced(text, name, results_table(plan, results, whole=DENSE.get(name)))
    for name, epochs in HISTORIES.items():
        result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        text = replaced(text, f"{name} history", history_table(result, epochs))
    for name in BENCHMARKS:
        report = BenchReport.from_json((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        text = replaced(text, name, latency_table(report))
    return text


def main() -> None:
    """Fill the README."""
    page = FOLDER / "README.md"
    page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"written: {page}")


if __name__ == "__main__":
    main()
