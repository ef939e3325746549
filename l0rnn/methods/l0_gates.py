"""Neuron selection: a hard-concrete gate on every unit, trained with an L0 objective."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.arguments import checked
from l0rnn.cost.cost import Cost
from l0rnn.cost.objective import Objective
from l0rnn.gates.hard_concrete import HardConcrete
from l0rnn.gates.transforms import needs_plain_operations
from l0rnn.methods.units import PrunedUnits, UnitMethod
from l0rnn.tracing.units import Units

log = logging.getLogger(__name__)

WAY = 8.0  # from an open gate to a closed one and back, in log α
SLOWEST, FASTEST = 0.03, 0.4  # learning rates of gates
FEWEST = 40  # steps: with fewer, gates have not come down to the budget by the time they are settled
PULL_RATE = 0.1  # how fast the average pull of the loss at the gates follows that of each step


@checked
class L0Gates(UnitMethod):
    """Neuron selection with hard-concrete gates.

    Removes: whole units. Rule: units whose deterministic gate is 0 when training ends. Cost at run
    time: that of a smaller dense network, nothing else.

    With the defaults a network is a dense one first: gates begin open and are the same in training as in evaluation,
    while the price follows P(gate ≠ 0). From the ``start`` of the objective on units have a price, and at `freeze` the
    gates stop learning, so that the weights spend the rest of the training on exactly the network that will be kept. A
    `Budget` is settled at that moment: as many units are kept, by the order of their ``log_alpha``, as cost just the
    budget. A kept gate is fixed as it is; that of a unit which was open at random, at its mean while open.

    Args:
        objective: `Penalty` or `Budget`.
        units: which units carry gates, see `UnitMethod`.
        open_probability: initial P(gate ≠ 0), in (0, 1).
        spread: standard deviation of the initial ``log_alpha`` around that, so that units do not all start alike.
        freeze: fraction of the training after which gates are fixed, in (0, 1]; the objective has to start before.
        noise: whether gates are random in training, as published; ``open_probability=0.93`` belongs to that.
        repair: whether what reads units that close at ``freeze`` takes over from the others, see `UnitMethod`.
        distribution: the hard concrete distribution.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> from l0rnn.cost.budget import Budget
        >>> from l0rnn.language.language_model import LanguageModel
        >>> from l0rnn.tracing import trace
        >>> network = LanguageModel(10, 4, 8, num_layers=1)
        >>> method = L0Gates(Budget(density=0.5))
        >>> method.attach(network, trace(network, torch.zeros(5, 2, dtype=torch.int64)))
        >>> {axis: gate.shape for axis, gate in method.gates().items()}
        {'embedding': torch.Size([4]), 'encoder.l0': torch.Size([8])}

    Reference:
        Wen et al. 2019 (arXiv 1906.06847), whose gates are random and begin at log_alpha ~ N(1, 0.1), P(open) 0.93;
        the defaults here are those that did best in recipes/selection.
    """

    pull: Tensor

    def __init__(
        self,
        objective: Objective,
        *,
        units: PrunedUnits = "all",
        open_probability: float = 0.98,
        spread: float = 0.1,
        freeze: float = 0.55,
        noise: bool = False,
        repair: bool = True,
        distribution: HardConcrete | None = None,
    ) -> None:
        super().__init__(units, repair=repair)
        if not 0 < open_probability < 1:
            raise ValueError(f"`open_probability` must be in (0, 1) for gates that learn, got {open_probability}")
        if not spread >= 0:
            raise ValueError(f"`spread` must be >= 0, got {spread}")
        if not 0 < freeze <= 1:
            raise ValueError(f"`freeze` must be a fraction of the training in (0, 1], got {freeze}")
        if not objective.start < freeze:
            raise ValueError(
                f"`freeze` must be after the `start` of the objective, {objective.start}, got {freeze}: gates that "
                "are fixed before they have a price choose nothing; raise `freeze` or lower `start`"
            )
        self.objective = objective
        self.open_probability = open_probability
        self.spread = spread
        self.freeze = freeze
        self.noise = noise
        self.distribution = distribution or HardConcrete()
        self.register_buffer("pull", torch.zeros(()))  # root mean square of ∂loss/∂gate, on the average of late
        self._gates_at_first = 0
        self._factor: Tensor | None = None  # by which the loss was multiplied before it was taken back

    def check(self, minimum: Cost, dense: Cost) -> None:
        """Refuse an objective that cannot be met."""
        self.objective.check(minimum, dense)

    def attach(self, network: nn.Module, units: Units) -> None:
        """Gate the network and check that the objective can be met."""
        self.gate_(
            network, units, open_probability=self.open_probability, distribution=self.distribution, noise=self.noise
        )
        self._spread_()
        self._gates_at_first = self.traced.count
        self.objective.start_afresh_()  # it may have priced another network before

    @torch.no_grad()
    def _spread_(self) -> None:
        log_alpha = self.own_gates.log_alpha
        log_alpha.add_(torch.randn_like(log_alpha), alpha=self.spread)

    def start_afresh_(self) -> None:
        """Let the gates learn from their start again, unless they are there, and the price too."""
        has_learnt = int(self.steps) > 0
        super().start_afresh_()
        self.objective.start_afresh_()
        self.pull.zero_()
        if has_learnt:
            self.own_gates.thaw_(self.open_probability)
            self._spread_()

    def penalty(self) -> Tensor:
        """The objective's price of the expected cost; nothing once the gates are frozen."""
        self.own_gates.forget()  # a loss that calls parts of the network, and never the whole, must not meet them again
        if self.is_frozen:
            return super().penalty()
        term = self.objective.term(self.expected_cost(), self.dense)
        if self.objective.is_relative:
            term = term * torch.where(self.pull == 0, 1.0, self.pull * self._gates_at_first)
            if term.requires_grad and not needs_plain_operations():
                term.register_hook(self._keep_factor)
        return term

    def _keep_factor(self, gradient: Tensor) -> None:
        self._factor = gradient.detach()

    def after_step(self, step: int) -> None:
        """Move the price; freeze the gates when it is time."""
        super().after_step(step)
        if self.is_frozen:
            return
        self.follow_(self.progress)
        if self.progress >= self.freeze:
            self.settle_()

    @torch.no_grad()
    def follow_(self, progress: float) -> None:
        """Let the price follow the expected cost, until the gates are frozen."""
        if not self.is_frozen:
            self._follow_pull_()
            self.objective.after_step(self.expected_cost(), self.dense, progress=progress)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        state_dict.setdefault(f"{prefix}pull", self.pull)  # version 0.1 had none
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _follow_pull_(self) -> None:
        pull, factor = self.own_gates.take_pull(), self._factor
        self._factor = None
        if pull is None or factor is None:
            return
        pull = pull / factor  # of a GradScaler, or of accumulated batches
        pull = torch.where(pull.isfinite(), pull, self.pull).to(self.pull)
        self.pull.copy_(torch.where(self.pull == 0, pull, self.pull.lerp(pull, PULL_RATE)))

    @property
    def is_frozen(self) -> bool:
        """Whether the gates are fixed for the rest of the training."""
        return bool(self._own) and self.own_gates.is_frozen

    def expected_cost(self) -> Cost:
        """Expected cost of the open units, differentiable."""
        return self._cost.expected(self.own_gates.open_probability())

    def settle_(self) -> None:
        """Fix all gates for good: those of `settled` open, the others closed."""
        self.close_and_repair_(self.settled())

    def settled(self) -> Tensor:
        """Which units to keep for good, bool `(unit,)`.

        With a `Budget`, as many of those with the largest ``log_alpha``, over all axes, as cost just within it, or
        within each if there are several; with a `Penalty`, those whose deterministic gate is not 0. Of each axis at
        least the unit with the largest.
        """
        scores = self.own_gates.log_alpha.detach()
        limits = self.objective.limits(self.dense)
        if limits:
            return self.best_within(scores, limits)
        keep = self.own_gates.keep()
        for axis in self.traced.axes.values():
            keep[axis.start + scores[axis.units].argmax()] = True
        return keep

    def measured(self) -> list[Tensor]:
        """The pull of the loss at the gates."""
        return [self.pull]

    def gate_learning_rate(self, steps: int) -> float:
        """Fast enough to open and close a gate once while units are chosen, however long the training is."""
        return min(FASTEST, max(SLOWEST, WAY / self._choosing(steps))) if steps else SLOWEST

    def _choosing(self, steps: int) -> float:
        """Steps in which units have a price and gates can move."""
        return (self.freeze - self.objective.start) * steps

    def begin(self, total_steps: int) -> None:
        """Learn how many optimiser steps the training has; a training in which gates can hardly move is told of."""
        super().begin(total_steps)
        choosing = self._choosing(total_steps)
        if not self.is_frozen and choosing < FEWEST:
            log.warning(
                "a training of %d steps leaves %.0f between the start of the objective, at %g of it, and `freeze`, at "
                "%g, but gates need %d to open and close: train for %d steps or longer, or begin earlier",
                total_steps,
                choosing,
                self.objective.start,
                self.freeze,
                FEWEST,
                math.ceil(FEWEST / (self.freeze - self.objective.start)),
            )

    def gate_parameters(self) -> Iterable[nn.Parameter]:
        """``log_alpha`` of every gate."""
        return [self.own_gates.log_alpha]

    @property
    def has_chosen(self) -> bool:
        """Whether what is kept is fixed for the rest of the training."""
        return self.is_frozen

    def figures(self) -> dict[str, float]:
        """Density, price, and units kept on every axis."""
        return super().figures() | self.objective.figures()
