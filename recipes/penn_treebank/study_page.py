"""Write the tables of the 2 x 400 study into the README, from the committed results.

python -m recipes.penn_treebank.study_page
"""

from __future__ import annotations

from pathlib import Path

from l0rnn.bench_report import BenchReport
from l0rnn.compare import read_plan
from l0rnn.compare.kept_results import results_so_far, results_table
from recipes.pages import replaced
from recipes.penn_treebank.performance_page import RESULTS

FOLDER = Path(__file__).parent
PLANS = ("cpu_plan", "cpu_search")


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


def main() -> None:
    """Fill the README."""
    page = FOLDER / "README.md"
    text = page.read_text(encoding="utf-8")
    for name in PLANS:
        plan = read_plan(FOLDER / "configs" / f"{name}.yaml")
        text = replaced(text, name, results_table(plan, results_so_far(plan, FOLDER / "out", RESULTS)))
    report = BenchReport.from_json((RESULTS / "bench_cpu.json").read_text(encoding="utf-8"))
    text = replaced(text, "bench_cpu", latency_table(report))
    page.write_text(text, encoding="utf-8")
    print(f"written: {page}")


if __name__ == "__main__":
    main()
