"""What an LSTM layer whose products round their factors to bfloat16 saves in a training step on a CPU.

    python -m recipes.penn_treebank.rounding_time --out recipes/penn_treebank/results/rounding_time.json

Forward and backward of one layer, torch's kernel and `l0rnn.gates.rounded_lstm`, in turns (A B A B …); the figure is
the median of the ratios of neighbours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.bench.report import environment
from l0rnn.gates.rounded_lstm import multiplies_bfloat16, rounded_lstm
from recipes.penn_treebank.captured_steps import products


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, nargs="+", default=[100, 200, 256, 300, 400, 650, 1500])
    parser.add_argument("--batch", type=int, nargs="+", default=[20, 128])
    parser.add_argument("--steps", type=int, default=35)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="where to write the rows as JSON")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = [
        compare(hidden, batch, options.steps, rounds=options.rounds)
        for batch in options.batch
        for hidden in options.hidden
    ]
    result = {
        "steps": options.steps,
        "threads": options.threads,
        "rounds": options.rounds,
        "multiplies_bfloat16": multiplies_bfloat16(),
        "rows": rows,
        "environment": environment("cpu"),
    }
    print(table(result))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


def compare(hidden: int, batch: int, steps: int, *, rounds: int) -> dict[str, Any]:
    """Milliseconds of both, the paired ratio, and how far the gradient of the recurrent weights is from torch's."""
    torch.manual_seed(0)
    layer = nn.LSTM(hidden, hidden)
    data = torch.randn(steps, batch, hidden, requires_grad=True)
    state = (torch.zeros(1, batch, hidden), torch.zeros(1, batch, hidden))
    upstream = torch.randn(steps, batch, hidden)
    weights = list(layer.parameters())

    def step(run: Callable[[], tuple[Tensor, Any]]) -> tuple[float, Tensor]:
        started = time.perf_counter()
        output, _ = run()
        gradients = torch.autograd.grad(output, [data, *weights], upstream)
        return (time.perf_counter() - started) * 1e3, gradients[2]

    def torchs() -> tuple[float, Tensor]:
        return step(lambda: layer(data, state))

    def rounded() -> tuple[float, Tensor]:
        with products("bf16"):
            return step(lambda: rounded_lstm(data, state, weights))

    (_, exact), (_, near) = torchs(), rounded()
    pairs = [(torchs()[0], rounded()[0]) for _ in range(rounds)]
    ratios = [ours / plain for plain, ours in pairs]
    return {
        "hidden": hidden,
        "batch": batch,
        "torch_ms": statistics.median(plain for plain, _ in pairs),
        "rounded_ms": statistics.median(ours for _, ours in pairs),
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "difference": float((near - exact).norm() / exact.norm()),
    }


def table(result: dict[str, Any]) -> str:
    """The rows, and what they were measured on."""
    lines = [
        "| hidden | batch × steps | torch, ms | rounded, ms | rounded / torch | least to most | difference |",
        "|---" * 7 + "|",
    ]
    lines += [
        f"| {row['hidden']} | {row['batch']} × {result['steps']} | {row['torch_ms']:.1f} | {row['rounded_ms']:.1f} | "
        f"{row['ratio']:.2f} | {row['least']:.2f} to {row['most']:.2f} | {row['difference']:.1%} |"
        for row in result["rows"]
    ]
    found = result["environment"]
    return "\n".join([*lines, "", f"{found['cpu']}, {result['threads']} thread, torch {found['torch']}."])


if __name__ == "__main__":
    main()
