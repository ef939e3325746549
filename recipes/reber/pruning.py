"""Part 1: cut a trained network's recurrent weights of least magnitude at once, then train what is left.

Reference:
    Darji, Investigating Sparsity in Recurrent Neural Networks (2024), arXiv 2407.20601, the chapter on pruning. As in
    its code, one threshold is taken over all layers (its text says one for each).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.reber.data import Batches, Example
from recipes.reber.members import member_of
from recipes.reber.network import Classifier, Plateau, accuracy, accuracy_by_kind, fit, recurrent_weights
from recipes.reber.side_by_side import accuracies, fit_side_by_side
from recipes.reber.stack import Stack

KINDS: dict[str, tuple[str, ...]] = {
    "both": ("weight_ih", "weight_hh"),
    "i2h": ("weight_ih",),
    "h2h": ("weight_hh",),
}
# the largest loss of accuracy that leaves all safe percentages as the thesis states them
SAFE_LOSS = 0.05
SIDE_BY_SIDE = 10  # prunings of one base that train as one stack


def check_percentage(percentage: float) -> None:
    """Raise ValueError on a percentage outside 0 to 100."""
    if not 0 <= percentage <= 100:
        raise ValueError(f"`percentage` must be from 0 to 100, the share of weights to cut, got {percentage}")


def magnitude_masks(weights: Mapping[str, Tensor], percentage: float) -> dict[str, Tensor]:
    """Which weights stay: those at least as large as the percentile of all magnitudes together, bool by name.

    At 100 the one largest weight stays, as in the thesis's code.

    Raises:
        ValueError: if ``percentage`` is not from 0 to 100, or there are no weights.
    """
    check_percentage(percentage)
    if not weights:
        raise ValueError("`weights` must not be empty: the network has no recurrent weights of that kind")
    magnitudes = {name: weight.detach().abs().cpu().double() for name, weight in weights.items()}
    every = torch.cat([values.flatten() for values in magnitudes.values()]).numpy()
    threshold = float(np.percentile(every, percentage))
    return {name: values >= threshold for name, values in magnitudes.items()}


def safe_percentage(after: Mapping[float, float], base: float, loss: float = SAFE_LOSS) -> float:
    """The largest percentage up to which every one loses less than ``loss`` of accuracy; 0 if none does.

    Example:
        >>> safe_percentage({10: 1.0, 20: 0.99, 30: 0.7, 40: 0.98}, base=1.0)
        20
    """
    safe: float = 0
    for percentage in sorted(after):
        if not base - after[percentage] < loss:
            break
        safe = percentage
    return safe


def train_base(
    train: list[Example], test: list[Example], *, cell: str, seed: int, config: Mapping[str, Any], weights: Path
) -> dict[str, Any]:
    """Train the network that all prunings of a cell start from, and save its weights.

    Raises:
        FloatingPointError: if the loss is no longer a number.
    """
    torch.manual_seed(seed)
    network = _network(cell, config)
    plateau = Plateau(1.0, config["stop_after_perfect"])
    evaluation = Batches(test, 500, config["readout"])
    fit(
        network,
        Batches(train, config["batch_size"], config["readout"], seed),
        epochs=config["base_epochs"],
        learning_rate=config["learning_rate"],
        after_epoch=lambda epoch: plateau(accuracy(network, evaluation)),
    )
    weights.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), weights)
    return {
        "cell": cell,
        "epochs": len(plateau.history),
        "accuracy": plateau.history[-1],
        "by_kind": accuracy_by_kind(network, test, config["readout"]),
        "history": plateau.history,
    }


def prune_and_retrain(
    train: list[Example],
    test: list[Example],
    members: Sequence[Mapping[str, Any]],
    *,
    cell: str,
    base_accuracy: float,
    seed: int,
    config: Mapping[str, Any],
    weights: Path,
) -> list[dict[str, Any]]:
    """Accuracy of the base without the smallest weights: right away, and after each epoch of retraining.

    Retraining ends before its last epoch once the accuracy was back at that of the base for ``stop_after_recovery``
    epochs in a row; 0 goes on to the end. ``members`` have ``kind`` and ``percentage`` each, and train side by side.
    """
    network = _network(cell, config)
    network.load_state_dict(torch.load(weights, weights_only=True))
    masks = [
        magnitude_masks(recurrent_weights(network, KINDS[member["kind"]]), member["percentage"]) for member in members
    ]
    stack = Stack([member_of(network, own) for own in masks])
    evaluation = Batches(test, 500, config["readout"])
    right_after = accuracies(stack, evaluation)
    enough = base_accuracy - config["recovery_tolerance"]
    plateaus = {number: Plateau(enough, config["stop_after_recovery"]) for number in stack.numbers}
    failed = fit_side_by_side(
        stack,
        Batches(train, config["batch_size"], config["readout"], seed),
        epochs=config["retrain_epochs"],
        learning_rate=config["learning_rate"],
        after_epoch=lambda epoch: {
            number for number, value in accuracies(stack, evaluation).items() if plateaus[number](value)
        },
    )
    return [
        {"cell": cell, "failed": failed[number]}
        if number in failed
        else {
            "cell": cell,
            "kind": member["kind"],
            "percentage": member["percentage"],
            "kept": sum(int(mask.sum()) for mask in masks[number].values()),
            "of": sum(mask.numel() for mask in masks[number].values()),
            "base": base_accuracy,
            "right_after": right_after[number],
            "history": plateaus[number].history,
            "recovered": recovery_epoch([right_after[number], *plateaus[number].history], enough),
        }
        for number, member in enumerate(members)
    ]


def recovery_epoch(accuracies: Sequence[float], enough: float) -> int | None:
    """The number of epochs after which the accuracy is first enough, 0 for right away; None for never.

    Example:
        >>> recovery_epoch([0.5, 0.9, 1.0], 0.995), recovery_epoch([0.5], 0.995)
        (2, None)
    """
    return next((epoch for epoch, value in enumerate(accuracies) if value >= enough), None)


def _network(cell: str, config: Mapping[str, Any]) -> Classifier:
    return Classifier(cell, config["embedding"], [config["hidden"]] * config["layers"])
