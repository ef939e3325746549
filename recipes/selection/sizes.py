"""Many sizes from one training, against a training for each size.

    python -m recipes.selection.sizes --out out/sizes --task weather --seeds 3          # trains what is not there yet
    python -m recipes.selection.sizes --out out/sizes --task weather --seeds 3 --table  # prints what is there

"One training" is a dense one, then for each size, the largest first, a cut, a repair and a quarter as many
epochs of tuning. "Separate" is a training for each size, as long as the dense one, with the same cut and repair
after 60 % of it. "From scratch" trains the widths of the separate one anew. Only the validation set is looked at.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import nn

from l0rnn import Pruner
from l0rnn.methods import StructuredMagnitude
from l0rnn.surgery.fresh import fresh
from l0rnn.training import shrink_series

DENSITIES = (0.4, 0.2, 0.08)
TUNING = 0.25  # of the epochs of a training


def train(task: Any, network: nn.Module, data: Any, steps: int, pruner: Pruner | None = None) -> None:
    """Train for so many steps."""
    optimizer = task.optimizer(list(network.parameters()) if pruner is None else pruner.weights())
    step = 0
    while step < steps:
        for batch in data["train"]:
            loss = task.loss(network, batch)
            optimizer.zero_grad()
            (loss if pruner is None else loss + pruner.penalty()).backward()
            optimizer.step()
            if pruner is not None:
                pruner.step()
            step += 1
            if step == steps:
                break


def results(task: Any, seed: int) -> dict[str, Any]:
    """Validation losses of all sizes in all three ways, and the optimiser steps that each way took."""
    torch.manual_seed(seed)
    data = task.data()
    steps = task.epochs * len(data["train"])
    some = [batch for batch, _ in zip(data["train"], range(8), strict=False)]
    example = task.example_inputs(some[0])
    dense = task.network()
    train(task, dense, data, steps)
    loss = task.evaluate(dense, data["valid"])["loss"]
    found: dict[str, Any] = {"dense": loss, "one training": {}, "separate": {}, "from scratch": {}}
    found["steps"] = {"one training": steps, "separate": 0, "from scratch": 0}

    def tune(network: nn.Module, density: float) -> None:
        found["steps"]["one training"] += round(TUNING * steps)
        train(task, network, data, round(TUNING * steps))

    batches = [batch[0] for batch in some]
    for size in shrink_series(dense, DENSITIES, example, tune=tune, batches=batches):
        found["one training"][str(size.density)] = task.evaluate(size.network, data["valid"])["loss"]
    for density in DENSITIES:
        network = task.network()
        pruner = Pruner(network, StructuredMagnitude(density, start=0.6, end=0.6), example, steps=steps)
        train(task, network, data, steps, pruner)
        found["separate"][str(density)] = task.evaluate(network, data["valid"])["loss"]
        found["steps"]["separate"] += steps
        small = pruner.shrink()
        small = fresh(small, getattr(task, "initialise", None))
        train(task, small, data, steps)
        found["from scratch"][str(density)] = task.evaluate(small, data["valid"])["loss"]
        found["steps"]["from scratch"] += steps
    return found


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results, one file for each seed")
    parser.add_argument("--task", choices=("weather", "words", "letters"), default="weather", help="what is learnt")
    parser.add_argument("--seeds", type=int, default=3, help="how many times all is trained")
    parser.add_argument("--table", action="store_true", help="train nothing, print the results that are there")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    runs = []
    for seed in range(args.seeds):
        file = args.out / f"{args.task}-{seed}.json"
        if not file.exists() and not args.table:
            task = importlib.import_module(f"recipes.selection.tasks.{args.task}")
            file.write_text(json.dumps(results(task, seed)))
        if file.exists():
            runs.append(json.loads(file.read_text()))
    if not runs:
        return
    print(f"{args.task}, {len(runs)} seeds, validation loss; dense {statistics.mean(run['dense'] for run in runs):.4f}")
    print("| way | steps | " + " | ".join(f"{density:.0%}" for density in DENSITIES) + " |")
    print("|---|---|" + "---|" * len(DENSITIES))
    for way in ("one training", "separate", "from scratch"):
        cells = []
        for density in DENSITIES:
            losses = [run[way][str(density)] for run in runs]
            spread = statistics.stdev(losses) / len(losses) ** 0.5 if len(losses) > 1 else float("nan")
            cells.append(f"{statistics.mean(losses):.4f} ± {spread:.4f}")
        print(f"| {way} | {runs[0]['steps'][way]} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
