"""Neuron selection: a hard-concrete gate on every input and hidden unit, trained with an L0 objective."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from l0rnn.axes import Blueprint
from l0rnn.blueprint import draw_blueprint
from l0rnn.cost import Cost, cost
from l0rnn.expected_cost import ExpectedCost
from l0rnn.hard_concrete import HardConcrete
from l0rnn.latency_measurement import find_table
from l0rnn.latency_table import LatencyTable
from l0rnn.layers.gated_recurrence import GatedUnits
from l0rnn.layers.gating import axes_to_gate
from l0rnn.methods.units import UnitMethod
from l0rnn.objective import Objective
from l0rnn.wiring import Wiring


class L0Gates(UnitMethod):
    """Neuron selection with hard-concrete gates.

    Removes: whole units, input and hidden. Rule: units whose deterministic gate is 0 when training ends. Cost at run
    time: that of a smaller dense network, nothing else.

    At `freeze` (a fraction of the training) the gates stop being random and stop learning, so that the weights spend
    the rest of the training on exactly the network that will be kept. A `Budget` is settled at that moment: as many
    units are kept, by the order of their ``log_alpha``, as cost just the budget. A kept gate is fixed at its mean while
    open, so that the network goes on much as it was when it saw about as many open units at random.

    Args:
        objective: `Penalty` or `Budget`.
        units: which units carry gates: ``"input"``, ``"hidden"`` or ``"both"``.
        open_probability: initial P(gate ≠ 0), in (0, 1).
        spread: standard deviation of the initial ``log_alpha`` around that, so that units do not all start alike.
        freeze: fraction of the training after which gates are fixed, in (0, 1]; the objective has to start before.
        distribution: the hard concrete distribution.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> from l0rnn.budget import Budget
        >>> network = nn.Sequential()
        >>> network.encoder, network.decoder = nn.LSTM(4, 8), nn.Linear(8, 2)
        >>> method = L0Gates(Budget(density=0.5))
        >>> method.attach(network, Wiring({"encoder": ["outside"], "decoder": ["encoder"]}))
        >>> {axis: gate.shape for axis, gate in method.gates().items()}
        {'encoder.l0': torch.Size([8])}

    Reference:
        Wen et al. 2019 (arXiv 1906.06847); initial open probability 0.93 is its log_alpha ~ N(1, 0.1).
    """

    def __init__(
        self,
        objective: Objective,
        *,
        units: GatedUnits = "both",
        open_probability: float = 0.93,
        spread: float = 0.1,
        freeze: float = 0.6,
        distribution: HardConcrete | None = None,
    ) -> None:
        super().__init__(units)
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
        self.distribution = distribution or HardConcrete()
        self._table: LatencyTable | None = None  # until the objective has accepted it
        self._expected: ExpectedCost | None = None  # of the blueprint as it is

    def check(self, minimum: Cost, dense: Cost) -> None:
        """Refuse an objective that cannot be met."""
        self.objective.check(minimum, dense)

    def cost_of(self, blueprint: Blueprint, open: Mapping[str, Tensor] | None = None) -> Cost:
        """As `cost`, with milliseconds where the objective prices them."""
        return cost(blueprint, open, latency=self._table or self.objective.latency)

    def attach(self, network: nn.Module, wiring: Wiring) -> None:
        """Gate the network and check that the objective can be met; a budget in milliseconds is measured first."""
        size = self.objective.call_size
        if size is not None:
            gated = axes_to_gate(network, draw_blueprint(network, wiring), self.units)
            self._table = find_table(network, wiring, size, gated=gated, given=self.objective.table)
        self.gate_(network, wiring, open_probability=self.open_probability, distribution=self.distribution)
        self._spread_()
        self.objective.start_afresh_()  # it may have priced another network before
        if self._table is not None:
            self.objective.use_table_(self._table)
            self._table = None

    @torch.no_grad()
    def _spread_(self) -> None:
        for gates in self._gates.values():
            gates.log_alpha.add_(torch.randn_like(gates.log_alpha), alpha=self.spread)

    def start_afresh_(self) -> None:
        """Let the gates learn from their start again, unless they are there, and the price too."""
        has_learnt = int(self.steps) > 0
        super().start_afresh_()
        self.objective.start_afresh_()
        if has_learnt:
            for gates in self._gates.values():
                gates.thaw_(self.open_probability)
            self._spread_()

    def penalty(self) -> Tensor:
        """The objective's price of the expected cost; nothing once the gates are frozen."""
        for gates in self._gates.values():
            gates.forget()  # a loss that calls parts of the network, and never the whole, must not meet them again
        if self.is_frozen:
            return super().penalty()
        return self.objective.term(self.expected_cost(), self.dense)

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
            self.objective.after_step(self.expected_cost(), self.dense, progress=progress)

    @property
    def is_frozen(self) -> bool:
        """Whether the gates are fixed for the rest of the training."""
        return any(gates.is_frozen for gates in self._gates.values())

    def expected_cost(self) -> Cost:
        """Expected cost of the open units, differentiable."""
        if self._table is not None or self.objective.latency is not None:
            return self.cost_of(self.blueprint, {axis: gates.open_probability() for axis, gates in self._gates.items()})
        log_alpha = torch.cat([gates.log_alpha for gates in self._gates.values()])
        if self._expected is None or self._expected.blueprint is not self.blueprint:
            self._expected = ExpectedCost(self.blueprint, list(self._gates))
        return self._expected(self.distribution.open_probability(log_alpha))

    def settle_(self) -> None:
        """Fix all gates for good: those of `settled` open, the others closed."""
        self.close_(self.settled())

    def settled(self) -> dict[str, Tensor]:
        """Which units to keep for good, bool `(unit,)` per axis.

        With a `Budget`, as many of those with the largest ``log_alpha``, over all axes, as cost just within it, or
        within each if there are several; with a `Penalty`, those whose deterministic gate is not 0. Of each axis at
        least the unit with the largest.
        """
        scores = {axis: gates.log_alpha.detach() for axis, gates in self._gates.items()}
        limits = self.objective.limits(self.dense)
        if not limits:
            return {
                axis: gates.keep().index_fill(0, scores[axis].argmax(), True) for axis, gates in self._gates.items()
            }
        return self.best_within(scores, limits)

    def gate_parameters(self) -> Iterable[nn.Parameter]:
        """``log_alpha`` of every gate."""
        return [gates.log_alpha for gates in self._gates.values()]

    @property
    def has_chosen(self) -> bool:
        """Whether what is kept is fixed for the rest of the training."""
        return self.is_frozen

    def figures(self) -> dict[str, float]:
        """Density, price, units kept on every axis, and the milliseconds of those units where they are priced."""
        figures = super().figures() | self.objective.figures()
        return figures | ({} if self.objective.latency is None else {"milliseconds": self.kept_cost().milliseconds})
