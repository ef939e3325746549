"""How long a training is, as its Trainer plans it, and what to say if it has ended too early."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch.callbacks import GradientAccumulationScheduler

from l0rnn.methods import Dense, Method


def steps_of(trainer: Any) -> int:
    """Optimiser steps of a whole training, as its Trainer plans it.

    Lightning's own estimate takes the accumulation of gradients for the same in all epochs; under a
    `GradientAccumulationScheduler` there are fewer steps than that, and schedules would never end.

    Raises:
        ValueError: if it has no end.
    """
    steps = trainer.estimated_stepping_batches
    schedules = [part for part in trainer.callbacks if isinstance(part, GradientAccumulationScheduler)]
    batches = trainer.num_training_batches
    if schedules and trainer.max_epochs not in (None, -1) and batches != float("inf"):
        factors = [schedules[0].get_accumulate_grad_batches(epoch) for epoch in range(trainer.max_epochs)]
        steps = sum(math.ceil(batches / factor) for factor in factors)
        steps = steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)
    if not 0 < steps < float("inf"):  # -1 for data without length
        raise ValueError(
            "`max_epochs` or `max_steps` of the Trainer must be set, and for data without a length `max_steps`, or "
            f"`limit_train_batches`: schedules are fractions of the training, got {steps} steps"
        )
    return int(steps)


def steps_by_hand(trainer: Any, batches: int) -> tuple[int, int]:
    """How far a training under manual optimisation is, and how long it will be: in batches, or else optimiser steps.

    How many steps its user makes of a batch is not known beforehand; ``max_steps`` counts those of all optimisers.

    Args:
        trainer: its Trainer.
        batches: batches so far.

    Raises:
        ValueError: if it has no end.
    """
    epochs, most = trainer.max_epochs, trainer.max_steps
    whole = trainer.num_training_batches * epochs if epochs not in (None, -1) else math.inf
    if whole < math.inf:
        now = batches if most == -1 else max(batches, math.ceil(whole * trainer.global_step / most))
        return int(now), int(whole)
    if most == -1:
        raise ValueError(
            "`max_epochs` or `max_steps` of the Trainer must be set, and for data without a length `max_steps`, or "
            "`limit_train_batches`: schedules are fractions of the training"
        )
    return trainer.global_step, most


def what_is_open(method: Method, step: int, steps: int) -> str | None:
    """What to say at the end of a training in which the method has not chosen what to keep, or None.

    Example:
        >>> what_is_open(Dense(), 5, 10) is None
        True
    """
    if isinstance(method, Dense) or method.has_chosen or step == 0:
        return None
    density = method.figures().get("density")
    now = "" if density is None else f" The density is {density:.2f} now."
    reason = (
        "it ended early, as by EarlyStopping, `max_time` or a signal: give them a `min_epochs` or `min_steps` after "
        "the choice, or plan fewer epochs"
        if step < steps
        else "its schedule ends later: look at its fractions of the training"
    )
    return (
        f"the training ended after step {step} of {steps}, before {type(method).__name__} had chosen what to keep, so "
        f"its budget or density is not met and the rest would not be fine-tuned.{now} In fact {reason}; a run that "
        "goes on from the last checkpoint chooses when its time comes"
    )
