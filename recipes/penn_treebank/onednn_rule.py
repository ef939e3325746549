"""Where an LSTM call is faster without oneDNN, and what the order of its weights in memory does to a single step.

    python -m recipes.penn_treebank.onednn_rule [--out recipes/penn_treebank/results/onednn_rule.json]

For several widths and calls of few steps: milliseconds of torch.nn.LSTM with oneDNN, and of the same steps as cells,
in turns; from the ratios follow MOST_STEPS and MOST_SEQUENCES of l0rnn/recurrent/single_steps.py. Then the rate at
which a product with one vector reads matrices that lie row by row and column by column, too many of them for any cache;
and what the order means for a decoder over 10,000 words in one step, in a sequence, and in a training step with its
gradients.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from l0rnn.bench import sample_seconds
from l0rnn.bench.report import environment
from l0rnn.export.streaming import column_major_
from l0rnn.recurrent.single_steps import is_for_cells, onednn, run_cells

WIDTHS = (32, 128, 300, 650, 1500)
CALLS = ((1, 1), (8, 1), (32, 1), (64, 1), (1, 2), (8, 2), (16, 2), (32, 2), (1, 4), (8, 4), (1, 8))  # (batch, steps)
MATRICES = ((10_000, 247), (1184, 300), (6000, 1500))
DECODERS, WORDS = (80, 247, 1500), (1, 35, 700)  # units that a decoder reads, words per call
BEYOND_CACHES = 120_000_000  # bytes of all copies of a matrix


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.1, help="measuring time per figure and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="where to write the rows as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    timing = {"threads": options.threads, "seconds": options.seconds, "rounds": options.rounds}
    calls = [call_row(width, batch, steps, **timing) for width in options.widths for batch, steps in CALLS]
    print("| width | batch | steps | oneDNN, ms | cells, ms | cells / oneDNN | rule |\n|---|---|---|---|---|---|---|")
    for row in calls:
        chosen = "cells" if row["runs_as_cells"] else "oneDNN"
        print(
            f"| {row['width']} | {row['batch']} | {row['steps']} | {row['onednn_ms']:.3f} | {row['cells_ms']:.3f} | "
            f"{row['ratio']:.2f} | {chosen} |"
        )
    orders = [order_row(size, **timing) for size in MATRICES]
    print("\n| matrix | by rows, GB/s | by columns, GB/s |\n|---|---|---|")
    for row in orders:
        print(f"| {row['rows']} × {row['columns']} | {row['by_rows'] / 1e9:.1f} | {row['by_columns'] / 1e9:.1f} |")
    decoders = [
        decoder_row(units, words, is_training=is_training, **timing)
        for units in DECODERS
        for words, is_training in [*((words, False) for words in WORDS), (WORDS[-1], True)]
    ]
    print("\n| decoder reads | words | | by rows, ms | by columns, ms | columns / rows |\n|---|---|---|---|---|---|")
    for row in decoders:
        kind = "with gradients" if row["is_training"] else ""
        print(
            f"| {row['units']} | {row['words']} | {kind} | {row['by_rows_ms']:.3f} | {row['by_columns_ms']:.3f} | "
            f"{row['ratio']:.2f} |"
        )
    if options.out is not None:
        result = {
            "timing": timing,
            "calls": calls,
            "orders": orders,
            "decoders": decoders,
            "environment": environment(),
        }
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


@torch.inference_mode()
def call_row(width: int, batch: int, steps: int, *, threads: int, seconds: float, rounds: int) -> dict[str, Any]:
    """One layer and size of call, both ways: medians, and the median of the ratios within rounds."""
    layer = nn.LSTM(width, width).eval()
    inputs = torch.randn(steps, batch, width)
    state = (torch.zeros(1, batch, width), torch.zeros(1, batch, width))

    def milliseconds(call: Callable[[], Any]) -> float:
        return statistics.median(sample_seconds(call, threads=threads, seconds=seconds)) * 1e3

    pairs = []
    for _ in range(rounds):
        with onednn(True):
            pairs.append(
                (
                    milliseconds(lambda: layer(inputs, state)),
                    milliseconds(lambda: run_cells([(layer, 0)], inputs, [(state[0][0], state[1][0])])),
                )
            )
    return {
        "width": width,
        "batch": batch,
        "steps": steps,
        "onednn_ms": statistics.median(pair[0] for pair in pairs),
        "cells_ms": statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(cells / fused for fused, cells in pairs),
        "runs_as_cells": is_for_cells(inputs),
    }


@torch.inference_mode()
def order_row(size: tuple[int, int], *, threads: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Bytes per second of a product with one vector, for both orders in memory; the best round of each."""
    rows, columns = size
    copies = max(1, BEYOND_CACHES // (4 * rows * columns))
    by_rows = [torch.randn(rows, columns) for _ in range(copies)]
    by_columns = [matrix.t().contiguous().t() for matrix in by_rows]
    vector, bias = torch.randn(1, columns), torch.randn(rows)

    def rate(matrices: list[torch.Tensor]) -> float:
        def call() -> None:
            for matrix in matrices:
                nn.functional.linear(vector, matrix, bias)

        taken = [min(sample_seconds(call, threads=threads, seconds=seconds)) for _ in range(rounds)]
        return copies * 4 * rows * columns / min(taken)

    return {"rows": rows, "columns": columns, "by_rows": rate(by_rows), "by_columns": rate(by_columns)}


def decoder_row(
    units: int, words: int, *, is_training: bool, threads: int, seconds: float, rounds: int
) -> dict[str, Any]:
    """A Linear over 10,000 words with its weight in either order: medians, and the median of the ratios in a round."""
    by_rows = nn.Linear(units, MATRICES[0][0])
    by_columns = copy.deepcopy(by_rows)
    column_major_(by_columns)
    inputs = torch.randn(words, units, requires_grad=is_training)

    def milliseconds(layer: nn.Linear) -> float:
        def call() -> None:
            layer.zero_grad()
            output = layer(inputs)
            if is_training:
                output.sum().backward()

        with torch.set_grad_enabled(is_training):
            return statistics.median(sample_seconds(call, threads=threads, seconds=seconds)) * 1e3

    pairs = [(milliseconds(by_rows), milliseconds(by_columns)) for _ in range(rounds)]
    return {
        "units": units,
        "words": words,
        "is_training": is_training,
        "by_rows_ms": statistics.median(pair[0] for pair in pairs),
        "by_columns_ms": statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(columns / rows for rows, columns in pairs),
    }


if __name__ == "__main__":
    main()
