"""What the repair at the cut is worth: the same trainings with and without it, on tasks of this folder.

    python -m recipes.selection.repair --out out/repair --seeds 3          # trains what is not there yet
    python -m recipes.selection.repair --out out/repair --seeds 3 --table  # prints what is there

The jump is by how much the loss of a validation batch rises when units close, over all times at which some do. Only the
validation set is looked at.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from l0rnn import Budget, L0Gates, Pruner
from l0rnn.methods import BrainSurgeon, RandomOrder, StructuredMagnitude
from l0rnn.methods.gradual import GradualUnits
from l0rnn.methods.units import UnitMethod

TASKS = ("words", "weather", "speakers")
GRADUAL = (0.1, 0.6)  # fractions of the training between which units close
LATE = (0.6, 0.6)  # all at once
PRUNINGS = 20  # of a gradual method

Make = Callable[[float, bool, int], UnitMethod]  # of a density, whether to repair, and the steps of the training


def _gradual(kind: type[GradualUnits], schedule: tuple[float, float]) -> Make:
    start, end = schedule
    return lambda density, repair, steps: kind(
        density, start=start, end=end, frequency=max(1, math.floor(steps * (end - start) / PRUNINGS)), repair=repair
    )


WAYS: dict[str, Make] = {
    "magnitude, late": _gradual(StructuredMagnitude, LATE),
    "brain surgeon, late": _gradual(BrainSurgeon, LATE),
    "random order, late": _gradual(RandomOrder, LATE),
    "magnitude": _gradual(StructuredMagnitude, GRADUAL),
    "brain surgeon": _gradual(BrainSurgeon, GRADUAL),
    "gates": lambda density, repair, steps: L0Gates(Budget(density), repair=repair),
}


def train(task: Any, make: Make, density: float, repair: bool, seed: int) -> dict[str, float]:
    """Train one network, and give its validation loss, the jumps, and the seconds that prunings took."""
    torch.manual_seed(seed)
    data, network = task.data(), task.network()
    steps = task.epochs * len(data["train"])
    method = make(density, repair, steps)
    pruner = Pruner(network, method, task.example_inputs(next(iter(data["train"]))), steps=steps)
    optimizer = task.optimizer(pruner.weights())
    probe, jumps, seconds = next(iter(data["valid"])), [0.0], [0.0]
    name = "settle_" if isinstance(method, L0Gates) else "close_down_to_"
    close = getattr(method, name)

    def watched(*args: Any) -> None:
        before, start = _loss(task, network, probe), time.perf_counter()
        close(*args)
        seconds.append(time.perf_counter() - start)
        jumps.append(_loss(task, network, probe) - before)

    setattr(method, name, watched)
    start = time.perf_counter()
    for _ in range(task.epochs):
        for batch in data["train"]:
            loss = task.loss(network, batch) + pruner.penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            pruner.step()
    whole = time.perf_counter() - start
    return {
        "loss": task.evaluate(network, data["valid"])["loss"],
        "jump": sum(jumps),
        "prunings": len(jumps) - 1,
        "density": pruner.figures()["density"],
        "seconds": whole,
        "pruning_seconds": sum(seconds),
    }


@torch.no_grad()
def _loss(task: Any, network: Any, batch: Any) -> float:
    was_training = network.training
    network.eval()
    loss = float(task.loss(network, batch))
    network.train(was_training)
    return loss


def main() -> None:
    """Train what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results, one file for each training")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind")
    parser.add_argument("--density", type=float, default=0.2, help="multiply-adds to keep, as a fraction")
    parser.add_argument("--table", action="store_true", help="train nothing, print the results that are there")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results: dict[tuple[str, str, bool], list[dict[str, float]]] = {}
    for seed in range(args.seeds):
        for name in TASKS:
            for way, make in WAYS.items():
                for repair in (False, True):
                    kind = f"{way.replace(', ', '_').replace(' ', '_')}-{'repair' if repair else 'plain'}"
                    file = args.out / f"{name}-{args.density}-{kind}-{seed}.json"
                    if not file.exists() and not args.table:
                        task = importlib.import_module(f"recipes.selection.tasks.{name}")
                        file.write_text(json.dumps(train(task, make, args.density, repair, seed)))
                    if file.exists():
                        results.setdefault((name, way, repair), []).append(json.loads(file.read_text()))
    print("| task | method | seeds | jump | with repair | loss at the end | with repair | ratio | time of prunings |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in TASKS:
        for way in WAYS:
            pairs = list(zip(results.get((name, way, False), []), results.get((name, way, True), []), strict=False))
            if not pairs:
                continue
            cells = [
                f"{statistics.mean(run[kind] for run in side):.4f}"
                for kind in ("jump", "loss")
                for side in zip(*pairs, strict=True)
            ]
            ratios = [math.log(repaired["loss"] / plain["loss"]) for plain, repaired in pairs]
            ratio = math.exp(statistics.mean(ratios))
            spread = statistics.stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) > 1 else float("nan")
            share = statistics.mean(run["pruning_seconds"] / run["seconds"] for _, run in pairs)
            print(f"| {name} | {way} | {len(pairs)} | {' | '.join(cells)} | {ratio:.3f} ± {spread:.3f} | {share:.1%} |")


if __name__ == "__main__":
    main()
