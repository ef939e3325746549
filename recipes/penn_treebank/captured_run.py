"""Train one run of a plan by captured steps instead of Lightning's loop.

The configuration and the result are those of `l0rnn.compare.configured_run`. What differs is the loop: learning rate,
dropout, the target of a budget, the removal of closed units and the average of the weights are looked at every so many
steps and not at each one, and between these looks a GPU is left alone with captured steps (`CapturedSteps`).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint, ModelSummary
from lightning.pytorch.cli import SaveConfigCallback

from l0rnn.compare.configured_run import build, write_result
from l0rnn.compare.outcome import device_name
from l0rnn.cost.cost import cost
from l0rnn.methods import METHODS
from l0rnn.training import AverageLate
from l0rnn.training.configuration import TrainingTime
from recipes.penn_treebank.captured_steps import PRODUCTS, products, rounding
from recipes.penn_treebank.captured_training import CALLBACKS, CapturedTraining
from recipes.penn_treebank.train import perplexity

ROUNDED = "L0RNN_PRODUCTS"  # variable: what products round their factors to in training, of `captured_steps.PRODUCTS`
MONITORS = ("valid/loss", "valid/perplexity")  # one rises where the other does
WITHOUT_EFFECT = (ModelCheckpoint, ModelSummary, SaveConfigCallback, TrainingTime)


def train_run(
    config: Mapping[str, Any],
    folder: Path,
    *,
    quality: str,
    final: str,
    extra: Sequence[str] = (),
    key: str | None = None,
) -> dict[str, Any]:
    """Train from a configuration, or go on where an earlier call was stopped; as `configured_run.train_run`.

    Raises:
        Paused: if the process was asked to stop by a signal; a checkpoint has been written.
        ValueError: if the configuration is wrong, or has something that this loop does not do.
        FloatingPointError: if the loss or a figure is not finite.
    """
    rounded = os.environ.get(ROUNDED, "tf32")
    model, data, trainer = build(config, folder, extra=[*extra, "--trainer.enable_progress_bar=false"])
    check(model, trainer, rounded)
    whole = cost(model.units)
    training = CapturedTraining(model, data, trainer, folder)
    with products(rounded):
        training.run()
    with products("float32"):
        perplexities = {
            "valid/perplexity": perplexity(model.network, data.val_dataloader()),
            "test/perplexity": perplexity(model.network, data.test_dataloader()),
        }
        figures = perplexities | {name.replace("perplexity", "loss"): math.log(p) for name, p in perplexities.items()}
        told = {
            "epochs": trainer.max_epochs,
            "steps": training.step,
            "training_seconds": {"wall": round(training.seconds(), 1), "processor": round(time.process_time(), 1)},
            "device": device_name(training.device),
            "products": rounding(rounded, training.device),
            "loop": "captured steps" if training.device.type == "cuda" else "steps",
            "history": training.history(),
            "seed": config.get("seed_everything"),
            "configuration": key,
            "config": dict(config),
        }
        return write_result(model, whole, figures, folder, quality=quality, final=final, told=told)


def check(model: Any, trainer: Any, rounded: str) -> None:
    """Refuse what only Lightning's loop does.

    Raises:
        ValueError: and says what it is.
    """
    if type(model.method) not in METHODS.values():  # another one may want to be called in every step
        names = ", ".join(method.__name__ for method in METHODS.values())
        raise ValueError(f"`method` must be one of {names} for captured steps, got {type(model.method).__name__}")
    known = CALLBACKS + WITHOUT_EFFECT
    others = [type(callback).__name__ for callback in trainer.callbacks if not isinstance(callback, known)]
    if others:
        names = ", ".join(kind.__name__ for kind in CALLBACKS)
        raise ValueError(f"`callbacks` must be of {names} for captured steps, got {', '.join(others)}")
    for callback in trainer.callbacks:
        if isinstance(callback, AverageLate) and callback.monitor not in MONITORS:
            raise ValueError(f"`monitor` must be {' or '.join(MONITORS)} for captured steps, got {callback.monitor}")
    if rounded not in PRODUCTS:
        raise ValueError(f"the variable {ROUNDED} must be one of {', '.join(PRODUCTS)}, got {rounded!r}")
    for name, wanted in {"accumulate_grad_batches": 1, "precision": "32-true", "world_size": 1}.items():
        if getattr(trainer, name) != wanted:
            raise ValueError(f"`trainer.{name}` must be {wanted} for captured steps, got {getattr(trainer, name)}")
    if trainer.max_epochs is None or trainer.max_epochs < 1 or trainer.max_steps != -1:
        raise ValueError("the length must be given as `trainer.max_epochs`, and not in steps, for captured steps")
