"""Write the tables of docs/performance.md, and its picture, from the committed results.

python -m recipes.penn_treebank.performance_page
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from l0rnn.bench.report import RUNTIMES, BenchReport
from recipes.pages import replaced
from recipes.penn_treebank.bench_large import BY_HAND, KINDS, over_by_hand, report_path
from recipes.penn_treebank.removal_time import table as removal_table

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
BENCHES = ("bench_large", "bench_demo")
PICTURE = "bench.png"  # of the first
SKIPS = {"chosen": "as the layer chooses", "never": "computed", "always": "left out"}


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")
    print(f"written: {PAGE}")
    drawn = RESULTS / f"{BENCHES[0]}.json"
    if drawn.exists():
        BenchReport.from_json(drawn.read_text(encoding="utf-8")).plot(PAGE.with_name(PICTURE), best_only=True)


def filled(page: str, results: Path) -> str:
    """The page with the tables of all results that are there."""
    for name in BENCHES:
        paths = {kind: report_path(results / f"{name}.json", kind) for kind in KINDS}
        if all(path.exists() for path in paths.values()):
            reports = {kind: BenchReport.from_json(path.read_text(encoding="utf-8")) for kind, path in paths.items()}
            picture = f"\n\n![latency of each network, and the limit of the machine]({PICTURE})" * (name == BENCHES[0])
            page = replaced(page, name, bench_text(reports) + picture)
    texts = {
        "removal_time": removal_text,
        "onednn_rule": rule_text,
        "gpu_check": gpu_text,
        "gpu_check_packed_anew": gpu_text,
    }
    for name, text in texts.items():
        if (path := results / f"{name}.json").exists():
            page = replaced(page, name, text(json.loads(path.read_text(encoding="utf-8"))))
    steps = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("step_time*.json"))]
    return replaced(page, "step_time", step_table(steps)) if steps else page


def bench_text(reports: dict[str, BenchReport]) -> str:
    """The tables of one shape."""
    large, by_hand, steps = reports["large"], reports["by_hand"], reports["steps"]
    environment = ", ".join(f"{key}: {value}" for key, value in large.environment.items())
    parts = [
        environment,
        "Each network in its best runtime:\n\n" + large.rows_table(row for row in large.rows if row.is_best),
        "One streaming step in every runtime:\n\n" + steps.rows_table(steps.rows),
        "Over the best of all runtimes, one streaming step in torch:\n\n" + _streaming_table(steps),
        "Over plain torch layers of the same widths, called by hand:\n\n" + _by_hand_table(by_hand),
    ]
    if large.refused:
        reasons = {
            f"{name} in {RUNTIMES.get(runtime, runtime)}: {reason}"
            for name, found in large.refused.items()
            for runtime, reason in found.items()
        }
        parts.append("Not run: " + "; ".join(sorted(reasons)) + ".")
    parts += ["What the machine can do:\n\n" + large.limits_table(), "Memory:\n\n" + large.memory_table()]
    return "\n\n".join(parts)


def _streaming_table(steps: BenchReport) -> str:
    lines = ["| network | threads | as it comes | in a TorchStreamer |", "|---|---|---|---|"]
    for name in steps.parameter_bytes:
        for threads in dict.fromkeys(row.threads for row in steps.rows):
            own, streamer = (steps.over_best(name, 1, 1, threads, runtime=way) for way in (None, "streamer"))
            lines.append(f"| {name} | {threads} | {own:.2f} | {streamer:.2f} |")
    return "\n".join(lines)


def _by_hand_table(by_hand: BenchReport) -> str:
    names = [name for name in by_hand.parameter_bytes if not name.endswith(BY_HAND)]
    sizes = list(dict.fromkeys((row.batch, row.steps) for row in by_hand.rows))
    lines = [
        f"| network | threads | {' | '.join(f'{batch} × {steps}' for batch, steps in sizes)} |",
        f"|---|---|{'---|' * len(sizes)}",
    ]
    for name in names:
        for threads in dict.fromkeys(row.threads for row in by_hand.rows):
            ratios = [f"{over_by_hand(by_hand, name, size, threads):.3f}" for size in sizes]
            lines.append(f"| {name} | {threads} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def step_table(results: list[dict[str, Any]]) -> str:
    """Training steps: gated over plain, by share of open units."""
    lines = [
        "| device | hidden | batch × steps | threads | closed units are | open | nn.LSTM, ms | gated, ms | ratio |",
        "|---" * 9 + "|",
    ]
    for result in results:
        size, environment = result["size"], result["environment"]
        device = environment["gpu"] or environment["cpu"]
        skips = SKIPS[size.get("skips", "chosen")]
        for row in result["rows"]:
            share = f"{row['open']:.0%}{', drawn' * row.get('drawn', False)}"
            lines.append(
                f"| {device} | {row['hidden']} | {size['batch']} × {size['steps']} | {size['threads']} | {skips} | "
                f"{share} | {row['dense_ms']:.1f} | {row['gated_ms']:.1f} | {row['ratio']:.3f} |"
            )
    return "\n".join(lines)


def removal_text(result: dict[str, Any]) -> str:
    """The three trainings, and what they ran on."""
    environment = result["environment"]
    threads = result["versions"]["threads"]
    return f"{removal_table(result['rows'])}\n\n{environment['cpu']}, {threads} thread, torch {environment['torch']}."


def gpu_text(result: dict[str, Any]) -> str:
    """Whole training steps on a GPU."""
    lines = ["| hidden | network | precision | steps per second | warnings of packing | memory, GB |", "|---" * 6 + "|"]
    for row in result["rows"]:
        speed = "cannot run" if row["steps_per_second"] is None else f"{row['steps_per_second']:.0f}"
        memory = "" if row["bytes"] is None else f"{row['bytes'] / 1e9:.2f}"
        cells = [row["hidden"], row["network"], row["precision"], speed, row["repacking_warnings"], memory]
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    environment = result["environment"]
    return "\n".join([*lines, "", f"{environment['gpu'] or environment['cpu']}, torch {environment['torch']}."])


def rule_text(result: dict[str, Any]) -> str:
    """Rates of a product with one vector, and what the order of its weight means to a decoder."""
    lines = ["| matrix | by rows, GB/s | by columns, GB/s |", "|---|---|---|"]
    for row in result["orders"]:
        rates = f"{row['by_rows'] / 1e9:.1f} | {row['by_columns'] / 1e9:.1f}"
        lines.append(f"| {row['rows']} × {row['columns']} | {rates} |")
    lines += ["", "| decoder reads | words | by rows, ms | by columns, ms | columns / rows |", "|---|---|---|---|---|"]
    for row in result["decoders"]:
        words = f"{row['words']}{', with gradients' * row['is_training']}"
        times = f"{row['by_rows_ms']:.2f} | {row['by_columns_ms']:.2f} | {row['ratio']:.2f}"
        lines.append(f"| {row['units']} | {words} | {times} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
