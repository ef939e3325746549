"""Prune the network of silero-vad, teach what is left, and write it as a file that the package's own wrapper runs.

    python -m recipes.vad.shrink --density 0.25

Called again, it goes on after the last whole epoch. With `--like RESULT.json` a network of the widths of that result is
taught from random weights instead, in as many epochs: what pruning is worth beyond a choice of widths.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from recipes.vad.data import QUICK, Amounts, Streams, prepare
from recipes.vad.evaluate import find_recordings
from recipes.vad.measure import measured
from recipes.vad.network import VoiceDetector, Widths
from recipes.vad.original import load_original
from recipes.vad.plot import plot
from recipes.vad.pruning import METHODS, MethodName, pruned
from recipes.vad.results import table
from recipes.vad.sound import read_wav
from recipes.vad.train import Course, teach
from recipes.vad.words import Split

PRUNING = Course(epochs=3, learning_rate=1e-3, remixed=0.5)
TEACHING = Course(epochs=40, learning_rate=2e-3, remixed=0.5)
BINS = 40  # frequencies: speech of people needs more of them than the voices of espeak-ng show (README.md)


def main() -> None:
    """Read the options, run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--density", type=float, default=0.25, help="share of the multiply-adds to keep")
    parser.add_argument("--out", type=Path, default=Path("out/vad"), help="folder for everything it writes")
    parser.add_argument("--cache", type=Path, default=Path("out/vad_cache"), help="folder for the data it makes")
    parser.add_argument("--recordings", type=Path, help="folder of WAV files to compare on (default: download two)")
    parser.add_argument("--like", type=Path, help="result whose widths are taught from random weights")
    parser.add_argument("--bins", type=int, default=BINS, help="frequencies to keep; 0: as many as the price leaves")
    parser.add_argument("--method", choices=METHODS, default="gates", help="what chooses the units that leave")
    parser.add_argument("--epochs", type=int, default=TEACHING.epochs, help="of teaching, after those of pruning")
    parser.add_argument("--seed", type=int, default=0, help="of all chance but that of the data")
    parser.add_argument("--quick", action="store_true", help="a few seconds of data and one epoch, to try it out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = run(
        options.density,
        options.out,
        cache=options.cache,
        recordings=options.recordings,
        like=options.like,
        method=options.method,
        bins=options.bins,
        epochs=options.epochs,
        seed=options.seed,
        quick=options.quick,
    )
    print(table([result]))


def run(
    density: float,
    out: Path,
    *,
    cache: Path,
    recordings: Path | None = None,
    like: Path | None = None,
    method: MethodName = "gates",
    bins: int = BINS,
    epochs: int = TEACHING.epochs,
    seed: int = 0,
    quick: bool = False,
) -> dict[str, Any]:
    """Prune, teach, write and measure; returns what it writes to `out/result.json`.

    Raises:
        ValueError: if an option is out of range.
    """
    if not 0 < density < 1:
        raise ValueError(f"`--density` must be in (0, 1), got {density}")
    if epochs < 1:
        raise ValueError(f"`--epochs` must be at least 1, got {epochs}")
    sounds = {path.stem: read_wav(path) for path in find_recordings(recordings)}
    data = prepare(cache, QUICK if quick else Amounts())
    courses = [replace(PRUNING, seed=seed), replace(TEACHING, seed=seed, epochs=epochs)]
    courses = [replace(course, epochs=1) for course in courses] if quick else courses
    torch.manual_seed(seed)
    if like is None:
        network, history = pruned_and_taught(density, data, courses, out, method, bins or None)
    else:
        whole = replace(courses[1], epochs=sum(course.epochs for course in courses))
        network = VoiceDetector(_widths(json.loads(like.read_text())))
        history = teach(
            network, data["train"], data["validation"], whole, out=out / "teaching.pt", title="from scratch"
        )
    result = {
        "name": _name(density, like, history, seed),
        "asked": density if like is None else None,
        "method": method if like is None else None,
        "bins": bins or None if like is None else None,
        "like": None if like is None else like.stem,
        "seed": seed,
        **measured(network, out, sounds, data["test"], rounds=2 if quick else 60),
        "courses": [asdict(course) for course in courses],
        "history": history,
        "minutes": sum(row["seconds"] for row in history) / 60,  # of training
    }
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    (out / "table.md").write_text(table([result]) + "\n")
    plot(network, load_original(), sounds, out / "recordings.png")
    return result


def pruned_and_taught(
    density: float,
    data: dict[Split, Streams],
    courses: list[Course],
    out: Path,
    method: MethodName,
    bins: int | None,
) -> tuple[VoiceDetector, list[dict[str, float]]]:
    """The published network pruned under the first course, and what is left taught by the second."""
    network, history = pruned(load_original(), density, data, courses[0], out=out, method=method, bins=bins)
    history += teach(network, data["train"], data["validation"], courses[1], out=out / "teaching.pt", title="teaching")
    return network, history


def _name(density: float, like: Path | None, history: list[dict[str, float]], seed: int) -> str:
    if like is None:
        return f"pruned to {density:.0%}, seed {seed}, {len(history)} epochs"
    return f"its widths from scratch, seed {seed}, {len(history)} epochs"


def _widths(result: dict[str, Any]) -> Widths:
    given = result["widths"]
    return Widths(given["bins"], tuple(given["channels"]), given["units"])


if __name__ == "__main__":
    main()
