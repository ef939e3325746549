"""Neuron selection: a hard-concrete gate on every input and hidden unit, trained with an L0 objective."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from l0rnn.axes import Blueprint
from l0rnn.blueprint import draw_blueprint
from l0rnn.cost import Cost, cost
from l0rnn.hard_concrete import HardConcrete
from l0rnn.layers.gated_recurrence import GatedUnits
from l0rnn.layers.gates import Gates
from l0rnn.layers.gating import axes_to_gate, gate_network_
from l0rnn.methods.method import Method
from l0rnn.objective import Objective
from l0rnn.surgery import units_to_keep
from l0rnn.wiring import Wiring


class L0Gates(Method):
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
        freeze: fraction of the training after which gates are fixed, in (0, 1].
        distribution: the hard concrete distribution.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> from l0rnn.objective import Budget
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
        super().__init__()
        if not 0 < open_probability < 1:
            raise ValueError(f"`open_probability` must be in (0, 1) for gates that learn, got {open_probability}")
        if not spread >= 0:
            raise ValueError(f"`spread` must be >= 0, got {spread}")
        if not 0 < freeze <= 1:
            raise ValueError(f"`freeze` must be a fraction of the training in (0, 1], got {freeze}")
        self.objective = objective
        self.units: GatedUnits = units
        self.open_probability = open_probability
        self.spread = spread
        self.freeze = freeze
        self.distribution = distribution or HardConcrete()
        # the modules belong to the network; this dict is not registered, so that no parameter is saved twice
        self._gates: dict[str, Gates] = {}
        self.blueprint = Blueprint()

    def attach(self, network: nn.Module, wiring: Wiring) -> None:
        """Gate the network and check that the objective can be met."""
        blueprint = draw_blueprint(network, wiring)
        dense = cost(blueprint)
        self.objective.check(self._minimum(network, blueprint), dense)
        self._gates = gate_network_(
            network,
            blueprint,
            units=self.units,
            open_probability=self.open_probability,
            distribution=self.distribution,
        )
        with torch.no_grad():
            for gates in self._gates.values():
                gates.log_alpha.add_(torch.randn_like(gates.log_alpha), alpha=self.spread)
        self.blueprint = blueprint
        self.dense = dense

    def _minimum(self, network: nn.Module, blueprint: Blueprint) -> Cost:
        """Cost of the smallest network that surgery can build."""
        closed = {axis: torch.zeros(size) for axis, size in axes_to_gate(network, blueprint, self.units).items()}
        return cost(blueprint, units_to_keep(blueprint, closed))

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
        with torch.no_grad():
            self.objective.after_step(self.expected_cost(), self.dense, progress=self.progress)
        if self.progress >= self.freeze:
            self.settle_()

    @property
    def is_frozen(self) -> bool:
        """Whether the gates are fixed for the rest of the training."""
        return any(gates.is_frozen for gates in self._gates.values())

    def gates(self) -> dict[str, Tensor]:
        """The deterministic gates of every gated axis."""
        return {axis: gates.deterministic().detach() for axis, gates in self._gates.items()}

    def expected_cost(self) -> Cost:
        """Expected cost of the open units, differentiable."""
        return cost(self.blueprint, {axis: gates.open_probability() for axis, gates in self._gates.items()})

    def kept_cost(self) -> Cost:
        """Exact cost of the units that would be kept now, at least one per axis."""
        return cost(self.blueprint, self._keep())

    def _keep(self) -> dict[str, Tensor]:
        """Units that surgery would keep now."""
        return self._kept({axis: gates.keep().float() for axis, gates in self._gates.items()})

    def _kept(self, gates: dict[str, Tensor]) -> dict[str, Tensor]:
        keep = units_to_keep(self.blueprint, gates)
        return {axis: keep[axis] for axis in gates}

    def settle_(self) -> None:
        """Fix all gates for good: those of `settled` open, the others closed."""
        for axis, keep in self.settled().items():
            self._gates[axis].freeze_(keep)

    @torch.no_grad()
    def settled(self) -> dict[str, Tensor]:
        """Which units to keep for good, bool `(unit,)` per axis.

        With a `Budget`, as many of those with the largest ``log_alpha``, over all axes, as cost just within it; with a
        `Penalty`, those whose deterministic gate is not 0.
        """
        limit = self.objective.limit(self.dense)
        if limit is None:
            return {axis: gates.keep() for axis, gates in self._gates.items()}
        order = torch.cat([gates.log_alpha for gates in self._gates.values()]).argsort(descending=True, stable=True)
        fewest, most = 0, len(order)  # the cost grows with the number of units kept: find the largest within the limit
        while fewest < most:
            units = (fewest + most + 1) // 2
            if cost(self.blueprint, self._kept(self._largest(order, units)))[self.objective.kind] <= limit:
                fewest = units
            else:
                most = units - 1
        return {axis: units > 0 for axis, units in self._largest(order, fewest).items()}

    def _largest(self, order: Tensor, units: int) -> dict[str, Tensor]:
        """1 for the first units of an order over all axes, 0 for the others, by axis."""
        first = torch.zeros(len(order)).index_fill(0, order[:units].cpu(), 1.0)
        sizes = [gates.units for gates in self._gates.values()]
        return dict(zip(self._gates, first.split(sizes), strict=True))

    def gate_parameters(self) -> Iterable[nn.Parameter]:
        """``log_alpha`` of every gate."""
        return [gates.log_alpha for gates in self._gates.values()]

    def figures(self) -> dict[str, float]:
        """Density, price, and units kept on every axis."""
        kept = self.kept_cost()
        figures = {"density": kept.multiply_adds / self.dense.multiply_adds, "parameters": float(kept.parameters)}
        price = getattr(self.objective, "price", None)
        if price is not None:
            figures["price"] = float(price)
        return figures | {f"kept/{axis}": float(keep.sum()) for axis, keep in self._keep().items()}
