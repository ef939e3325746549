"""Averages of the weights over the steps of a training, and an end to it by the clock."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from l0rnn.training.callbacks import PauseOnSignal


class AverageWeights(Callback):
    """Keeps an exponential moving average of the network's weights; `apply_` puts it into the network.

    Gates are not averaged: which units there are is decided by the gates as they are. At step n the decay is
    ``min(decay, (1 + n) / (10 + n))``, so that the first weights, which are random, do not stay in the average.

    Args:
        decay: share of the average that stays at each step, in [0, 1).

    Raises:
        ValueError: if ``decay`` is out of range.

    Example:
        >>> AverageWeights(0.999).decay_at(0)
        0.1
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` must be in [0, 1), got {decay}")
        self.decay = decay
        self._averages: dict[str, Tensor] = {}

    def decay_at(self, step: int) -> float:
        """The decay at a step, counted from 0."""
        return min(self.decay, (1 + step) / (10 + step))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the weights as they are, unless a checkpoint told the averages."""
        current = _weights(pl_module)
        self._averages = {
            name: self._averages.get(name, weight).detach().to(weight.device).clone()
            for name, weight in current.items()
        }

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the averages towards the weights."""
        current = _weights(pl_module)
        share = 1 - self.decay_at(trainer.global_step - 1)
        averages = self._averages
        with torch.no_grad():
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
                list(averages.values()), [current[name] for name in averages], share
            )

    @torch.no_grad()
    def apply_(self, module: LightningModule) -> None:
        """Put the averages into the network, if there are any."""
        current = _weights(module)
        for name, average in self._averages.items():
            current[name].copy_(average)

    def state_dict(self) -> dict[str, Any]:
        """The averages."""
        return {"averages": dict(self._averages)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the averages."""
        self._averages = dict(state_dict["averages"])


class TimeLimit(Callback):
    """Asks the training to pause once it has run for a number of minutes.

    Args:
        minutes: > 0; None for no limit.
        pause: what writes the checkpoint and ends the training; it comes after this among the callbacks.

    Raises:
        ValueError: if ``minutes`` is not positive.
    """

    def __init__(self, minutes: float | None, pause: PauseOnSignal) -> None:
        if minutes is not None and not minutes > 0:
            raise ValueError(f"`--time-limit-minutes` must be > 0, got {minutes}")
        self.minutes = minutes
        self.pause = pause
        self._started = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the clock."""
        if self.minutes is not None and time.monotonic() - self._started > 60 * self.minutes:
            self.pause.ask()


def _weights(module: LightningModule) -> dict[str, Tensor]:
    network: Any = module.network
    return {
        name: weight.detach()
        for name, weight in network.named_parameters()
        if not name.endswith("log_alpha") and weight.is_floating_point()
    }
