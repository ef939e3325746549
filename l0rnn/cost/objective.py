"""How the cost of a network enters the loss: what every objective has, and a fixed price."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.arguments import checked
from l0rnn.cost.cost import Cost
from l0rnn.cost.schedule import check_schedule, ramp_done


class Objective(nn.Module, ABC):
    """The term that makes units close.

    Subclasses say how the expected cost is priced (`term`) and how the price moves (`after_step`). Costs enter as
    fractions of the dense network's, so that one price means the same on any network.
    """

    start: float = 0.0  # fraction of the training before which nothing has a price
    is_relative = False  # whether a price is a multiple of what the loss does to the gates, whatever its scale

    @abstractmethod
    def check(self, minimum: Cost, dense: Cost) -> None:
        """Raise ValueError if the objective cannot be met between these two costs."""

    @abstractmethod
    def term(self, expected: Cost, dense: Cost) -> Tensor:
        """What is added to the loss, in nats per token where the loss is: a differentiable scalar."""

    @abstractmethod
    def after_step(self, expected: Cost, dense: Cost, *, progress: float) -> None:
        """Move the price after an optimiser step.

        Args:
            expected: expected cost of the open units.
            dense: cost of the whole network.
            progress: fraction of the training steps done, in [0, 1].
        """

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        try:
            return super()._apply(fn, recurse)
        except TypeError:  # a device that does not know float64, such as Apple's; float32 will do for a price there
            for name, buffer in self.named_buffers(recurse=False):
                if buffer.dtype == torch.float64:
                    self._buffers[name] = buffer.float()
            return super()._apply(fn, recurse)

    def start_afresh_(self) -> None:
        """Forget the price that a training before has come to; nothing by default."""

    def limits(self, dense: Cost) -> dict[str, float]:
        """Attribute of `Cost` → most that it may be in the end; empty where nothing is promised."""
        return {}

    @abstractmethod
    def figures(self) -> dict[str, float]:
        """The price, or each price, to be logged."""


@checked
class Penalty(Objective):
    """A fixed price: ``weight`` times the expected fraction of the dense cost.

    Args:
        weight: price of the whole dense network, in units of the loss; > 0. It takes effect over `ramp`.
        kind: ``"multiply_adds"``, ``"parameters"`` or ``"parameters_without_embedding"``.
        start: fraction of the training before the price begins to rise from 0.
        ramp: fraction of the training over which it rises.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> dense, half = Cost(100, 0, 100), Cost(50, 0, torch.tensor(50.0))
        >>> penalty = Penalty(0.1, ramp=0.0)
        >>> penalty.after_step(dense, dense, progress=0.0)
        >>> penalty.term(half, dense)
        tensor(0.0500)

    Reference:
        Louizos et al. 2018 (arXiv 1712.01312), equation 9; Wen et al. 2019 (arXiv 1906.06847).
    """

    price: Tensor

    def __init__(self, weight: float, *, kind: str = "multiply_adds", start: float = 0.0, ramp: float = 0.1) -> None:
        super().__init__()
        if not weight > 0:
            raise ValueError(f"`weight` must be > 0, got {weight}; use the method `Dense` for an unpruned run")
        _check_kind(kind)
        check_schedule(start, ramp)
        self.weight, self.kind, self.start, self.ramp = weight, kind, start, ramp
        self.register_buffer("price", torch.zeros((), dtype=torch.float64))

    def check(self, minimum: Cost, dense: Cost) -> None:
        """A price can always be paid."""

    def start_afresh_(self) -> None:
        """Back to a price of 0."""
        self.price.zero_()

    def term(self, expected: Cost, dense: Cost) -> Tensor:
        """``price * E[cost] / dense cost``."""
        return (self.price * (expected[self.kind] / dense[self.kind])).float()

    def after_step(self, expected: Cost, dense: Cost, *, progress: float) -> None:
        """Raise the price along the ramp."""
        self.price.fill_(self.weight * ramp_done(progress, self.start, self.ramp))

    def figures(self) -> dict[str, float]:
        """The price."""
        return {"price": float(self.price)}


def _check_kind(kind: str) -> None:
    kinds = ("multiply_adds", "parameters", "parameters_without_embedding")
    if kind not in kinds:
        raise ValueError(f"`kind` must be one of {', '.join(kinds)}, got {kind!r}")
