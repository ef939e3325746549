"""The large network of the recipes, dense, with zeros, shrunken and built by hand, in all runtimes and at all sizes.

    python -m recipes.penn_treebank.bench_large --out recipes/penn_treebank/results/bench_large.json
    python -m recipes.penn_treebank.bench_large --dense 256 256 --small 250,80 --block 8 \\
        --out recipes/penn_treebank/results/bench_demo.json

Widths only, no training: latency does not depend on the values of weights. Written are three benchmarks, each as
`l0rnn.bench.report.BenchReport` reads it:

    bench_large.json            dense, with zeros, CSR, BSR and shrunken; all sizes
    bench_large_by_hand.json    shrunken against plain torch layers of the same widths, called by hand; all sizes
    bench_large_steps.json      a single streaming step: as it comes, in a TorchStreamer, and in the other runtimes

About six minutes on two cores; the machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.bench import benchmark
from l0rnn.bench.report import BenchReport
from l0rnn.bench.runtimes import RUNTIMES, STREAMER, benchmark_in
from l0rnn.bench.zeros import forms_with_zeros
from l0rnn.language.language_model import LanguageModel

GRID = ((1, 1), (1, 35), (10, 30), (20, 35))
DENSITY = 0.1
BY_HAND = "by hand"
KINDS = ("large", "by_hand", "steps")


@dataclass(frozen=True)
class Settings:
    """What is measured, and for how long.

    Attributes:
        vocabulary: words.
        dense: units of the embedding and of each layer.
        small: the same of each shrunken network.
        block: rows and columns of a block of BSR.
        grid: pairs (batch, steps).
        threads: CPU thread counts.
        runtimes: as `l0rnn.bench.benchmark` takes them.
        seconds: on each figure of the large networks, over all rounds; the small ones get more rounds.
        tied: whether embedding and decoder of the small ones share their weight.
    """

    vocabulary: int = 10_000
    dense: tuple[int, ...] = (1500, 1500, 1500)
    small: tuple[tuple[int, ...], ...] = ((300, 296, 247), (1500, 373, 315))
    block: int = 16
    grid: tuple[tuple[int, int], ...] = GRID
    threads: tuple[int, ...] = (1,)
    runtimes: tuple[str, ...] = ("torch",)
    seconds: float = 0.3
    tied: bool = False


class ByHand(nn.Module):
    """The shrunken network as one would write it in torch alone."""

    def __init__(self, vocabulary: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, widths[0])
        self.layers = nn.ModuleList(nn.LSTM(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.decoder = nn.Linear(widths[-1], vocabulary)

    def forward(self, tokens: Tensor, states: Any = None) -> tuple[Tensor, Any]:
        data = self.embedding(tokens)
        finals = []
        for depth, layer in enumerate(self.layers):
            data, final = layer(data, None if states is None else states[depth])
            finals.append(final)
        return self.decoder(data), finals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=Settings.vocabulary)
    parser.add_argument("--dense", type=int, nargs="+", default=list(Settings.dense), help="embedding, layer, layer, …")
    parser.add_argument("--small", type=_widths, nargs="+", default=list(Settings.small), help="like 300,296,247")
    parser.add_argument("--block", type=int, default=Settings.block)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--runtimes", nargs="+", default=installed_runtimes(), help="default: all that are installed")
    parser.add_argument("--seconds", type=float, default=Settings.seconds)
    parser.add_argument("--tied", action="store_true", help="the small ones share one weight; not for by_hand")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), help="of the three benchmarks")
    parser.add_argument("--out", type=Path, required=True, help="JSON file; the others lie beside it")
    options = parser.parse_args()
    if options.tied and "by_hand" in options.only:
        parser.error("`--tied` must go without by_hand, whose torch layers are untied; name the others with `--only`")
    settings = Settings(
        options.vocabulary,
        tuple(options.dense),
        tuple(options.small),
        options.block,
        GRID,
        tuple(options.threads),
        tuple(options.runtimes),
        options.seconds,
        options.tied,
    )
    for kind, report in measure(settings, only=options.only).items():
        path = report_path(options.out, kind)
        report.save(path)
        print(f"{report.table()}\n\nwritten: {path}\n")
    paths = {kind: report_path(options.out, kind) for kind in KINDS}
    if all(path.exists() for path in paths.values()):
        reports = {kind: BenchReport.from_json(path.read_text(encoding="utf-8")) for kind, path in paths.items()}
        print(summary(reports, settings))


def measure(settings: Settings, *, only: Sequence[str] = KINDS) -> dict[str, BenchReport]:
    """The benchmarks asked for."""
    torch.manual_seed(0)
    dense = _model(settings.vocabulary, settings.dense)
    small = {name_of(widths): _model(settings.vocabulary, widths, tied=settings.tied) for widths in settings.small}

    def make_inputs(batch: int, steps: int) -> tuple[Tensor]:
        return (torch.randint(settings.vocabulary, (steps, batch)),)

    def large() -> BenchReport:
        example = make_inputs(2, 3)
        zeros = forms_with_zeros(dense, DENSITY, block=settings.block, example_inputs=example)
        forms = {f"{form}, {DENSITY:.0%} kept": network for form, network in zeros.items()}
        networks = {name_of(settings.dense): dense, **forms, **small}
        options = {**shared, "grid": settings.grid, "seconds": settings.seconds, "rounds": 3}
        return benchmark_in(settings.runtimes, networks, make_inputs, roofline=True, **options)

    def by_hand() -> BenchReport:
        pairs: dict[str, nn.Module] = {}
        for widths in settings.small:
            pairs[name_of(widths)] = small[name_of(widths)]
            pairs[f"{name_of(widths)}, {BY_HAND}"] = ByHand(settings.vocabulary, widths)
        return benchmark(pairs, make_inputs, grid=settings.grid, seconds=settings.seconds, rounds=9, **shared)

    def steps() -> BenchReport:
        networks, runtimes = {name_of(settings.dense): dense, **small}, (*settings.runtimes, STREAMER)
        options = {**shared, "grid": [(1, 1)], "seconds": 2 * settings.seconds, "rounds": 9}
        return benchmark_in(runtimes, networks, make_inputs, roofline=True, **options)

    shared: dict[str, Any] = {"threads": settings.threads}
    return {kind: run() for kind, run in zip(KINDS, (large, by_hand, steps), strict=True) if kind in only}


def summary(reports: dict[str, BenchReport], settings: Settings) -> str:
    """The ratios that matter, in Markdown: as torch layers by hand, and a streaming step against the best runtime."""
    lines = ["| network | threads | batch × steps | over layers by hand |", "|---|---|---|---|"]
    by_hand, steps = reports["by_hand"], reports["steps"]
    for widths in settings.small:
        for count in settings.threads:
            for batch, length in settings.grid:
                ratio = over_by_hand(by_hand, name_of(widths), (batch, length), count)
                lines.append(f"| {name_of(widths)} | {count} | {batch} × {length} | {ratio:.3f} |")
    lines += [
        "",
        "| network, one step | threads | as it comes, over the best runtime | in a TorchStreamer |",
        "|---|---|---|---|",
    ]
    for widths in (settings.dense, *settings.small):
        for count in settings.threads:
            own, streamer = (steps.over_best(name_of(widths), 1, 1, count, runtime=way) for way in (None, STREAMER))
            lines.append(f"| {name_of(widths)} | {count} | {own:.3f} | {streamer:.3f} |")
    return "\n".join(lines)


def over_by_hand(report: BenchReport, name: str, size: tuple[int, int], threads: int) -> float:
    """Time of the shrunken network over that of torch layers called by hand, each in its best runtime."""
    return report.speedup(f"{name}, {BY_HAND}", *size, threads) / report.speedup(name, *size, threads)


def name_of(widths: Sequence[int]) -> str:
    """Name of a network by its widths, such as ``300-296-247``."""
    return "-".join(map(str, widths))


def report_path(out: Path, kind: str) -> Path:
    """Where one of the benchmarks is written."""
    return out if kind == KINDS[0] else out.with_name(f"{out.stem}_{kind}{out.suffix}")


def installed_runtimes() -> list[str]:
    """torch, and those of the others that are there."""
    return [name for name in RUNTIMES if name != STREAMER and importlib.util.find_spec(name) is not None]


def _model(vocabulary: int, widths: Sequence[int], *, tied: bool = False) -> LanguageModel:
    embedding, *layers = widths
    return LanguageModel(vocabulary, embedding, layers, num_layers=len(layers), tied=tied).eval()


def _widths(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    main()
