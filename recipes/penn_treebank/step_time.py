"""What gates cost, and what closed gates save, in a training step of the recurrent stack.

    python -m recipes.penn_treebank.step_time --out recipes/penn_treebank/results/step_time.json

Forward and backward of a gated two-layer LSTM against the plain torch.nn.LSTM of the same size, in turns (A B A B …);
the figure is the median of the ratios of neighbours, so that a machine that slows down for a while slows both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.bench.report import environment
from l0rnn.gates import GatedLSTM, Gates

OPEN = (1.0, 0.75, 0.5, 0.25, 0.1)
AT_START = 0.93  # P(open) that training starts with: all gates are drawn afresh, most are 1, some in between, a few 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, nargs="+", default=[650, 1500])
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--steps", type=int, default=35)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--skips",
        choices=["chosen", "never", "always"],
        default="chosen",
        help="whether to leave closed units out",
    )
    parser.add_argument("--out", type=Path, help="where to write the rows as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [
        row
        for hidden in options.hidden
        for row in compare(
            hidden,
            options.batch,
            options.steps,
            rounds=options.rounds,
            device=options.device,
            skips={"chosen": None, "never": False, "always": True}[options.skips],
        )
    ]
    print("| hidden | open | nn.LSTM, ms | gated, ms | gated / nn.LSTM | least to most |\n|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['hidden']} | {row['open']:.0%}{', drawn' * row['drawn']} | {row['dense_ms']:.1f} | "
            f"{row['gated_ms']:.1f} | {row['ratio']:.3f} | {row['least']:.3f} to {row['most']:.3f} |"
        )
    if options.out is not None:
        size = {name: getattr(options, name) for name in ("batch", "steps", "threads", "rounds", "skips")}
        result = {"size": {**size, "num_layers": 2}, "rows": rows, "environment": environment(options.device)}
        options.out.write_text(json.dumps(result, indent=2) + "\n")


def compare(
    hidden: int, batch: int, steps: int, *, rounds: int, device: str = "cpu", skips: bool | None = None
) -> list[dict[str, Any]]:
    """One row per share of open units: milliseconds of both, and the paired ratio."""
    torch.manual_seed(0)
    dense = nn.LSTM(hidden, hidden, 2).to(device)
    gated = GatedLSTM(hidden, hidden, 2, open_probability=1.0).to(device)
    gated.skips_closed_units = skips
    inputs = torch.randn(steps, batch, hidden, device=device, requires_grad=True)
    rows = []
    for share in (*OPEN, AT_START):
        if share == AT_START:
            draw_units_(gated, share)
        else:
            open_units_(gated, share)
        step(dense, inputs)
        step(gated, inputs)
        pairs = [(step(dense, inputs), step(gated, inputs)) for _ in range(rounds)]
        ratios = [ours / plain for plain, ours in pairs]
        rows.append(
            {
                "hidden": hidden,
                "open": share,
                "drawn": share == AT_START,
                "dense_ms": statistics.median(plain for plain, _ in pairs),
                "gated_ms": statistics.median(ours for _, ours in pairs),
                "ratio": statistics.median(ratios),
                "least": min(ratios),
                "most": max(ratios),
            }
        )
    return rows


def open_units_(layer: GatedLSTM, share: float) -> None:
    """Open the first so many units of every axis, input included, and close the others, whatever the noise."""
    for gates in layer.modules():
        if isinstance(gates, Gates):
            is_open = torch.arange(gates.units) < round(share * gates.units)
            gates.log_alpha.data.copy_(torch.where(is_open, 50.0, -50.0))


def draw_units_(layer: GatedLSTM, probability: float) -> None:
    """Let every gate be open with a probability, drawn in each pass."""
    for gates in layer.modules():
        if isinstance(gates, Gates):
            gates.log_alpha.data.fill_(gates.distribution.log_alpha(torch.tensor(probability)).item())


def step(layer: nn.Module, inputs: Tensor) -> float:
    """Milliseconds of one forward and backward pass."""
    for parameter in [*layer.parameters(), inputs]:
        parameter.grad = None
    _wait(inputs)
    started = time.perf_counter()
    output, _ = layer(inputs)
    output.sum().backward()
    _wait(inputs)
    return (time.perf_counter() - started) * 1e3


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


if __name__ == "__main__":
    main()
