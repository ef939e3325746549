"""The regression benchmark behind ``make bench``: a few ratios that must not get worse, with their limits.

    python -m l0rnn.bench [--seconds 1.0] [--rounds 9]

Prints the tables and each ratio with its limit; ends with status 1 if one is above it. A busy machine measures noise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.bench import benchmark
from l0rnn.bench.report import BenchReport
from l0rnn.recurrent.ragged_rnn import RaggedRNN

MOST_OVER_BY_HAND = 1.02  # a RaggedRNN over torch layers of the same widths, called by hand
MOST_OVER_BEST = 1.15  # one streaming step as it comes, over the best runtime of the network
DENSE, SMALL, BY_HAND = "dense 2 × 650", "small 200, 160", "by hand 200, 160"
INPUTS, WIDTHS = 650, (200, 160)
GRID = ((1, 1), (1, 35), (10, 30), (20, 35))


class ByHand(nn.Module):
    """The layers of a `RaggedRNN` as one would write them without this library."""

    def __init__(self, input_size: int, widths: Sequence[int]) -> None:
        super().__init__()
        sizes = [input_size, *widths]
        self.layers = nn.ModuleList(nn.LSTM(before, width) for before, width in zip(sizes, widths, strict=False))

    def forward(self, data: Tensor, states: Any = None) -> tuple[Tensor, Any]:
        """Output, and a list with the state of each layer as torch has it."""
        finals = []
        for depth, layer in enumerate(self.layers):
            data, final = layer(data, None if states is None else states[depth])
            finals.append(final)
        return data, finals


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and say whether all ratios are within their limits: 0 if so, else 1."""
    parser = argparse.ArgumentParser("l0rnn.bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="measuring time per figure (default: 1.0)")
    parser.add_argument("--rounds", type=int, default=9, help="how often the networks take turns (default: 9)")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    networks: dict[str, nn.Module] = {
        DENSE: nn.LSTM(INPUTS, INPUTS, 2),
        SMALL: RaggedRNN("LSTM", INPUTS, [[width] for width in WIDTHS]),
        BY_HAND: ByHand(INPUTS, WIDTHS),
    }
    report = benchmark(
        networks,
        lambda batch, steps: (torch.randn(steps, batch, INPUTS),),
        grid=GRID,
        seconds=options.seconds,
        rounds=options.rounds,
        roofline=True,
    )
    print(report.table())
    found = ratios(report)
    print("\n| ratio | found | at most |\n|---|---|---|")
    for name, (ratio, most) in found.items():
        print(f"| {name} | {ratio:.3f} | {most} |")
    too_slow = [name for name, (ratio, most) in found.items() if ratio > most]
    if too_slow:
        print(f"slower than it should be: {', '.join(too_slow)}", file=sys.stderr)
    return int(bool(too_slow))


def ratios(report: BenchReport) -> dict[str, tuple[float, float]]:
    """Name → ratio and the most that it may be."""
    found = {
        f"RaggedRNN over torch layers, {batch} × {steps}": (
            report.speedup(BY_HAND, batch, steps) / report.speedup(SMALL, batch, steps),
            MOST_OVER_BY_HAND,
        )
        for batch, steps in GRID
    }
    return found | {"streaming step over the best runtime": (report.over_best(SMALL, 1, 1), MOST_OVER_BEST)}


if __name__ == "__main__":
    sys.exit(main())
