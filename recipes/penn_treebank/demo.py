"""The whole story in a few minutes: train dense and gated, shrink, prove it equal, measure the speed-up.

    python -m recipes.penn_treebank.demo [--data-dir DIR] [--out out/demo]

Both networks are trained for the same epochs on the same text. Written to the folder: result.json, report.md,
report.png and the shrunken model in gated/shrunk.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from l0rnn.bench.report import RUNTIMES, BenchReport
from l0rnn.bench.runtimes import benchmark_in, check_runtimes
from l0rnn.models import L0GatedLSTM
from recipes.penn_treebank.data import PennTreebank
from recipes.penn_treebank.plot import plot_demo
from recipes.penn_treebank.train import build, describe, shrink_and_evaluate, write_json

CONFIG = Path(__file__).parent / "configs" / "demo.yaml"
GRID = ((1, 1), (1, 35), (20, 35))
DENSE = "--model.init_args.method=l0rnn.Dense"
SECONDS = 2.0  # spent on each figure of the benchmark
HEADLINE = (1, 35)  # batch x steps of the latency in result.json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder with ptb.{train,valid,test}.txt")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="where to write (default: out/demo)")
    options, extra = parser.parse_known_args()
    started = time.perf_counter()
    for part in ("dense", "gated"):  # a demo starts afresh; `train` is what resumes
        shutil.rmtree(options.out / part, ignore_errors=True)
    print("1/4  training the dense network")
    dense, data, dense_seconds = train(options.out / "dense", options.data_dir, [*extra, DENSE])
    print("2/4  training the same network with gates")
    gated, data, gated_seconds = train(options.out / "gated", options.data_dir, extra)
    print("3/4  shrinking, and comparing the outputs")
    figures, surgery = shrink_and_evaluate(gated, data, options.out / "gated")
    print(surgery)
    print("4/4  measuring latency")
    networks = {"dense": dense.network, "gated": gated.network, "shrunk": surgery.network}
    words = data.vocabulary_size
    bench = benchmark_in(
        runtimes(), networks, lambda batch, steps: (torch.randint(words, (steps, batch)),), grid=GRID, seconds=SECONDS
    )
    columns = {"dense": describe(dense.network, dense, data), "gated": figures["trained"], "shrunk": figures["shrunk"]}
    result: dict[str, Any] = {
        name: {**column, "latency_ms": best_latency(bench, name, HEADLINE)} for name, column in columns.items()
    }
    result |= {
        "max_abs_difference": figures["max_abs_difference"],
        "widths": {axis: {"kept": kept, "of": full} for axis, (kept, full) in surgery.widths.items()},
        "not_pruned": figures["not_pruned"],
        "latency": {"batch": HEADLINE[0], "steps": HEADLINE[1], "threads": 1, "runtime": "the best of each network"},
        "speedup": {f"{batch}x{steps}": round(bench.speedup("shrunk", batch, steps), 2) for batch, steps in GRID},
        "epochs": gated.trainer.current_epoch,
        "train_tokens": data.train_tokens,
        "training_seconds": {"dense": dense_seconds, "gated": gated_seconds},
        "demo_seconds": round(time.perf_counter() - started, 1),
        "environment": bench.environment,
    }
    write_json(result, options.out / "result.json")
    bench.save(options.out / "bench.json")
    text = report(result, bench)
    (options.out / "report.md").write_text(text)
    plot_demo(result, options.out / "report.png")
    print(f"\n{text}\nwritten to {options.out}: result.json, report.md, report.png, bench.json, gated/shrunk")


def train(out: Path, data_dir: Path | None, extra: list[str]) -> tuple[L0GatedLSTM, PennTreebank, float]:
    """One run of the demo's configuration: the trained model, its data, and the seconds it took."""
    model, data, trainer = build(CONFIG, out, data_dir=data_dir, extra=extra)
    started = time.perf_counter()
    trainer.fit(model, data)
    return model.eval(), data, round(time.perf_counter() - started, 1)


def runtimes() -> list[str]:
    """torch, and ONNX Runtime where it is installed."""
    both = ["torch", "onnxruntime"]
    try:
        check_runtimes(both, "cpu")
    except (ModuleNotFoundError, ValueError):
        return ["torch"]
    return both


def best_latency(bench: BenchReport, network: str, size: tuple[int, int]) -> float:
    """Milliseconds per call in the network's best runtime."""
    rows = [row for row in bench.rows if row.network == network and (row.batch, row.steps) == size and row.is_best]
    return round(rows[0].milliseconds, 3)


def report(result: dict[str, Any], bench: BenchReport) -> str:
    """The table of the demo, in Markdown."""
    rows = [
        ("validation perplexity", "valid_perplexity", "{:.1f}"),
        ("test perplexity", "test_perplexity", "{:.1f}"),
        ("parameters", "parameters", "{:,}"),
        ("parameters without embedding", "parameters_without_embedding", "{:,}"),
        ("multiply-adds per word", "multiply_adds", "{:,}"),
        (f"milliseconds, batch {HEADLINE[0]} × {HEADLINE[1]} words", "latency_ms", "{:.2f}"),
    ]
    lines = ["| | dense | gated | shrunk | dense / shrunk |", "|---|---|---|---|---|"]
    for title, key, form in rows:
        values = [result[name][key] for name in ("dense", "gated", "shrunk")]
        lines.append(
            f"| {title} | {' | '.join(form.format(value) for value in values)} | {values[0] / values[2]:.2f} |"
        )
    kept = ", ".join(f"{axis} {width['kept']} of {width['of']}" for axis, width in result["widths"].items())
    seconds = result["training_seconds"]
    text = "all" if result["train_tokens"] is None else f"the first {result['train_tokens']:,} tokens"
    timed = "; ".join(RUNTIMES[runtime] for runtime in dict.fromkeys(row.runtime for row in bench.rows))
    speedups = ", ".join(f"{size.replace('x', ' × ')}: {ratio}×" for size, ratio in result["speedup"].items())
    return (
        "\n".join(lines)
        + f"\n\nUnits kept: {kept}. Gated and shrunken outputs differ by at most {result['max_abs_difference']:.1e}.\n"
        f"{result['epochs']} epochs of {text} of Penn Treebank; training took {seconds['dense']:.0f} s dense, "
        f"{seconds['gated']:.0f} s with gates.\n"
        f"Speed-up, best runtime against best ({timed}), batch × words, 1 thread: {speedups}.\n\n{bench.table()}\n"
    )


if __name__ == "__main__":
    main()
