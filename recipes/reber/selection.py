"""Part 3: neuron selection, and small networks of the same and smaller widths trained from scratch as the control."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor

from l0rnn import Budget, L0Gates, PrunableModule
from l0rnn.bench import benchmark
from l0rnn.cost.cost import cost
from l0rnn.surgery.shrink import operate
from l0rnn.tracing import trace
from recipes.reber.data import Batches, Example
from recipes.reber.network import CODES, Classifier, accuracy, fit, loss_of

VALIDATION_SHARE = 0.1  # of the training strings; sizes are chosen by these, and the test strings only confirm


def hold_out(train: list[Example]) -> tuple[list[Example], list[Example]]:
    """Strings to train on, and strings to choose sizes by."""
    held = max(1, round(VALIDATION_SHARE * len(train)))
    return train[:-held], train[-held:]


def train_gated(
    train: list[Example],
    test: list[Example],
    *,
    cell: str,
    layers: int,
    density: float,
    seed: int,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """Train a network with gates towards a budget, shrink it, and evaluate what is left."""
    torch.manual_seed(seed)
    network = Classifier(cell, config["embedding"], [config["hidden"]] * layers)
    used, held = hold_out(train)
    batches = Batches(used, config["batch_size"], config["readout"], seed)
    codes, last, _ = next(iter(Batches(held, 8, config["readout"])))
    budget = Budget(density, start=config["budget_start"], ramp=config["budget_ramp"], relative=False)
    module = PrunableModule(
        network,
        loss_of,
        L0Gates(budget, open_probability=0.93, noise=True, repair=False, freeze=config["freeze"]),
        optimizer=lambda weights: torch.optim.Adam(weights, lr=config["learning_rate"]),
        gate_learning_rate=config["gate_learning_rate"],
        example_inputs=(codes[:1], torch.zeros_like(last)),  # one step, so that the budget counts each layer once
    )
    _lightning_fit(module, batches, config["epochs"])
    module.eval()
    surgery = operate(module, example_inputs=(codes, last))
    found = {axis: kept for axis, (kept, _) in surgery.widths.items()}
    widths = {"embedding": found["embedding"], "hidden": [found[f"encoder.l{layer}"] for layer in range(layers)]}
    return {
        "cell": cell,
        "layers": layers,
        "density": density,
        "seed": seed,
        **widths,
        **_evaluated(surgery.network, held, test, config),
        "max_abs_difference": surgery.max_abs_difference,
    }


def train_from_scratch(
    train: list[Example],
    test: list[Example],
    *,
    cell: str,
    embedding: int,
    hidden: Sequence[int],
    seed: int,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """Train a plain network of given widths on the same strings for as many epochs."""
    torch.manual_seed(seed)
    network = Classifier(cell, embedding, hidden)
    used, held = hold_out(train)
    batches = Batches(used, config["batch_size"], config["readout"], seed)
    fit(network, batches, epochs=config["epochs"], learning_rate=config["learning_rate"])
    return {
        "cell": cell,
        "layers": len(hidden),
        "embedding": embedding,
        "hidden": list(hidden),
        "seed": seed,
        **_evaluated(network, held, test, config),
    }


def smallest_enough(rows: Sequence[Mapping[str, Any]], enough: float) -> Mapping[str, Any]:
    """The row of fewest multiply-adds whose validation accuracy is enough; if none is, the most accurate one.

    Raises:
        ValueError: if there are no rows.
    """
    if not rows:
        raise ValueError("`rows` must not be empty: there is nothing to choose from")
    good = [row for row in rows if row["valid_accuracy"] >= enough]
    if good:
        return min(good, key=lambda row: row["multiply_adds"])
    return max(rows, key=lambda row: (row["valid_accuracy"], -row["multiply_adds"]))


def scaled(hidden: Sequence[int], scale: float) -> list[int]:
    """Widths times a scale, at least one unit each.

    Example:
        >>> scaled([9, 1], 0.5)
        [4, 1]
    """
    return [max(1, int(width * scale)) for width in hidden]


def latency(
    cell: str, dense: Mapping[str, Any], small: Mapping[str, Any], grid: Sequence[Sequence[int]], seconds: float
) -> list[dict[str, Any]]:
    """Milliseconds per call of the dense network and of the small one, each in its best runtime, on one thread."""
    networks = {
        name: Classifier(cell, widths["embedding"], widths["hidden"])
        for name, widths in (("dense", dense), ("small", small))
    }
    report = benchmark(networks, _random_codes, grid=[(batch, steps) for batch, steps in grid], seconds=seconds)
    return [
        {
            "cell": cell,
            "network": row.network,
            "batch": row.batch,
            "steps": row.steps,
            "runtime": row.runtime,
            "milliseconds": row.milliseconds,
            "speedup": row.speedup,
        }
        for row in report.rows
        if row.is_best
    ]


def _random_codes(batch: int, steps: int) -> tuple[Tensor]:
    return (torch.randint(CODES, (steps, batch)),)


def _evaluated(
    network: torch.nn.Module, held: list[Example], test: list[Example], config: Mapping[str, Any]
) -> dict[str, Any]:
    whole = cost(trace(network, torch.zeros(1, 1, dtype=torch.long)))  # one step: each layer once
    return {
        "valid_accuracy": accuracy(network, Batches(held, 500, config["readout"])),
        "test_accuracy": accuracy(network, Batches(test, 500, config["readout"])),
        "parameters": whole.parameters,
        "parameters_without_embedding": whole.parameters_without_embedding,
        "multiply_adds": whole.multiply_adds,
    }


def _lightning_fit(module: PrunableModule, batches: Batches, epochs: int) -> None:
    """Lightning's loop without its files and talk: many of these trainings run side by side."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
            trainer = Trainer(
                accelerator="cpu",
                max_epochs=epochs,
                gradient_clip_val=5.0,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(module, batches)
    finally:
        logger.setLevel(level)
