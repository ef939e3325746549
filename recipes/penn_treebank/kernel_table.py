"""What zeros in a matrix are worth: one product of a recurrent weight in every form it can be run in.

    python -m recipes.penn_treebank.kernel_table --out recipes/penn_treebank/results/kernel_table.json

The recurrent weight of a 1500-unit LSTM, 6000 × 1500, times the states of a batch: dense, dense with zeros in it, CSR,
BSR of several block sizes, and a smaller dense matrix with as many weights as the others keep. The blocks of BSR are
chosen at random at the same density. All forms take turns, for several rounds; a ratio is taken within a round, and
the figure is the median over the rounds, so that a machine that slows down for a while slows all of them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.bench.report import environment
from l0rnn.sparse import BSRMatrix, CSRMatrix, stored_bytes

SECONDS = 0.005  # of one sample, at least


@dataclass(frozen=True)
class Product:
    """One form of the matrix, multiplied by one kernel.

    Attributes:
        form: such as ``"BSR 16 × 16"``.
        kernel: the torch function.
        is_chosen: whether the library would use it for a form and batch.
        stored: bytes of the matrix as stored.
        dense: the matrix, `(row, column)`.
        right: what it is multiplied with, `(column, batch)`.
        call: gives `(row, batch)`, or its transpose for ``linear``.
    """

    form: str
    kernel: str
    is_chosen: bool
    stored: int
    dense: Tensor
    right: Tensor
    call: Callable[[], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--columns", type=int, default=1500)
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 10, 20, 64])
    parser.add_argument("--block", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="where to write the rows as JSON")
    options = parser.parse_args()
    if not 0 < options.density <= 1:
        parser.error(f"--density must be in (0, 1], got {options.density}")
    torch.set_num_threads(options.threads)
    size = (options.rows, options.columns)
    rows = [
        row
        for batch in options.batch
        for row in compare(products(size, options.density, batch, options.block), batch, rounds=options.rounds)
    ]
    print(table(rows))
    if options.out is not None:
        sizes = {name: getattr(options, name) for name in ("rows", "columns", "density", "threads")}
        others = {"mkl": torch.backends.mkl.is_available(), "load_average": os.getloadavg()}  # 1, 5 and 15 minutes
        result = {
            "size": {
                **sizes,
                "rounds_of_timing": options.rounds,
                "smaller_dense": list(smaller(size, options.density)),
            },
            "rows": rows,
            "environment": environment() | others,
        }
        options.out.write_text(json.dumps(result, indent=2) + "\n")


def smaller(size: tuple[int, int], density: float) -> tuple[int, int]:
    """Rows and columns scaled alike, so that there are as many weights as at this density."""
    rows, columns = (max(1, round(part * math.sqrt(density))) for part in size)
    return rows, columns


def products(size: tuple[int, int], density: float, batch: int, blocks: list[int]) -> list[Product]:
    """All forms by all kernels; the plain dense ones first."""
    torch.manual_seed(0)
    rows, columns = size
    right = torch.randn(columns, batch)
    whole = torch.randn(rows, columns)
    singles = whole * block_mask(size, 1, density)
    found = [
        *_dense("dense", whole, right),
        *_dense("dense with zeros", singles, right),
        *_dense("smaller dense", torch.randn(smaller(size, density)), torch.randn(smaller(size, density)[1], batch)),
        *_sparse("CSR", CSRMatrix(singles), right),
    ]
    for block in blocks:
        matrix = BSRMatrix(whole * block_mask(size, block, density), block)
        found += _sparse(f"BSR {block} × {block}", matrix, right)
    return found


def block_mask(size: tuple[int, int], block: int, density: float) -> Tensor:
    """Blocks kept at random, as many as the density says, tiled from the top left corner: `(row, column)`, 0 or 1."""
    down, across = (-(-part // block) for part in size)
    mask = torch.zeros(down * across)
    mask[torch.randperm(down * across)[: max(1, round(density * down * across))]] = 1.0
    whole = mask.view(down, across).repeat_interleave(block, 0).repeat_interleave(block, 1)
    return whole[: size[0], : size[1]]


def _dense(form: str, weight: Tensor, right: Tensor) -> list[Product]:
    """Weight on the right, as nn.Linear has it, and on the left, as the sparse products have it."""
    left = right.t().contiguous()
    calls = {"linear": lambda: nn.functional.linear(left, weight), "matmul": lambda: weight @ right}
    return [
        Product(form, kernel, kernel == "linear", weight.nbytes, weight, right, call) for kernel, call in calls.items()
    ]


def _sparse(form: str, matrix: CSRMatrix | BSRMatrix, right: Tensor) -> list[Product]:
    batch = right.shape[1]
    addend = torch.zeros(matrix.rows, batch)
    found = []
    for kernel in matrix.kernels(batch):
        multiply = matrix.multiplier(batch, kernel)
        is_chosen = kernel == matrix.fastest(batch)
        found.append(
            Product(
                form,
                kernel,
                is_chosen,
                stored_bytes(matrix),
                matrix.dense(),
                right,
                lambda multiply=multiply: multiply(right, addend),
            )
        )
    return found


@torch.inference_mode()
def compare(found: list[Product], batch: int, *, rounds: int) -> list[dict[str, Any]]:
    """One row per product: milliseconds, and how many times faster than the dense matrix in its best kernel."""
    repeats = []
    for product in found:
        product.call()
        repeats.append(max(1, math.ceil(SECONDS / max(_seconds(product.call, 1), 1e-7))))
    samples: list[list[float]] = [[] for _ in found]
    for _ in range(rounds):
        for product, times, repeat in zip(found, samples, repeats, strict=True):
            times.append(_seconds(product.call, repeat))
    dense = min((times for times, product in zip(samples, found, strict=True) if product.form == "dense"), key=_median)
    rows = []
    for product, times in zip(found, samples, strict=True):
        speedups = [base / own for base, own in zip(dense, times, strict=True)]
        rows.append(
            {
                "batch": batch,
                "form": product.form,
                "kernel": product.kernel,
                "is_chosen": product.is_chosen,
                "density": float(product.dense.count_nonzero()) / product.dense.numel(),
                "bytes": product.stored,
                "ms": _median(times) * 1e3,
                "speedup": _median(speedups),
                "least": min(speedups),
                "most": max(speedups),
            }
        )
    return rows


_median = statistics.median


def _seconds(call: Callable[[], Tensor], repeat: int) -> float:
    started = time.perf_counter()
    for _ in range(repeat):
        call()
    return (time.perf_counter() - started) / repeat


def speed_table(rows: list[dict[str, Any]]) -> str:
    """Markdown: speedups of every form as the library runs it."""
    batches = list(dict.fromkeys(row["batch"] for row in rows))
    forms = {row["form"]: row["bytes"] for row in rows}
    lines = [
        f"| speed over dense | MB | {' | '.join(f'batch {batch}' for batch in batches)} |",
        f"|---|---|{'---|' * len(batches)}",
    ]
    for form, size in forms.items():
        chosen = {row["batch"]: row for row in rows if row["form"] == form and row["is_chosen"]}
        cells = [f"{chosen[batch]['speedup']:.2f}× ({chosen[batch]['kernel']})" for batch in batches]
        lines.append(f"| {form} | {size / 1e6:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: speedups of every form as the library runs it, then every kernel."""
    lines = [
        speed_table(rows),
        "",
        "| batch | form | kernel | chosen | ms | speed over dense | least to most |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['batch']} | {row['form']} | {row['kernel']} | {'yes' if row['is_chosen'] else ''} | {row['ms']:.3f} | "
        f"{row['speedup']:.2f}× | {row['least']:.2f} to {row['most']:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
