"""What methods that remove whole units share: gates on a network, and which units a budget leaves."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from l0rnn.axes import Blueprint
from l0rnn.blueprint import draw_blueprint
from l0rnn.budget import Budget
from l0rnn.cost import Cost, cost
from l0rnn.hard_concrete import HardConcrete
from l0rnn.layers.gated_recurrence import GatedUnits
from l0rnn.layers.gates import Gates
from l0rnn.layers.gating import axes_to_gate, gate_network_
from l0rnn.methods.method import Method
from l0rnn.surgery import units_to_keep
from l0rnn.wiring import Wiring


class UnitMethod(Method):
    """A method that closes units, in a network whose readers multiply what they read by gates.

    Closed units are not computed, so training gets faster as they close, and surgery cuts them out. A subclass gates
    the network in `attach` by `gate_`, and closes units by `close_`, or, where gates are trained, by training them.

    Args:
        units: which units can be removed: ``"input"``, ``"hidden"`` or ``"both"``.
    """

    def __init__(self, units: GatedUnits = "both") -> None:
        super().__init__()
        self.units: GatedUnits = units
        # the modules belong to the network; this dict is not registered, so that no parameter is saved twice
        self._gates: dict[str, Gates] = {}
        self.blueprint = Blueprint()

    def check(self, minimum: Cost, dense: Cost) -> None:
        """Raise ValueError if what was asked cannot be had between the cost of one unit per axis and the dense one."""

    def cost_of(self, blueprint: Blueprint, open: Mapping[str, Tensor] | None = None) -> Cost:
        """As `cost`; a method that prices more than sizes adds it here."""
        return cost(blueprint, open)

    def gate_(
        self,
        network: nn.Module,
        wiring: Wiring,
        *,
        open_probability: float = 1.0,
        distribution: HardConcrete | None = None,
    ) -> None:
        """Check what was asked, then gate the network in place; with ``open_probability`` 1 no gate is trained."""
        blueprint = draw_blueprint(network, wiring)
        dense = self.cost_of(blueprint)
        closed = {
            axis: torch.zeros(size, device="cpu") for axis, size in axes_to_gate(network, blueprint, self.units).items()
        }
        self.check(self.cost_of(blueprint, units_to_keep(blueprint, closed)), dense)
        self._gates = gate_network_(
            network, blueprint, units=self.units, open_probability=open_probability, distribution=distribution
        )
        self.blueprint, self.dense = blueprint, dense
        if open_probability == 1:
            self.close_({axis: gates.keep() for axis, gates in self._gates.items()})

    def close_(self, keep: Mapping[str, Tensor]) -> None:
        """Fix all gates: open for the units to keep, bool `(unit,)` per axis, closed for the others."""
        for axis, units in keep.items():
            self._gates[axis].freeze_(units)

    def open_all_(self) -> None:
        """Fix all gates open, and choose again; for `start_afresh_` where gates are not trained."""
        self.forget_choice_()
        self.close_({axis: torch.ones_like(units) for axis, units in self.open_units().items()})

    def close_within_(self, scores: Mapping[str, Tensor], density: float) -> None:
        """Close the open units with the smallest scores, until the multiply-adds are within a density.

        Units that are closed already stay closed whatever their score, and the best open unit of each axis stays open.

        Args:
            scores: axis → what its units are worth, `(unit,)`; comparable over axes.
            density: most multiply-adds to keep, as a fraction of the dense network's.
        """
        ranked = {
            axis: scores[axis].to(units.device).masked_fill(~units, -torch.inf)
            for axis, units in self.open_units().items()
        }
        within = self.best_within(ranked, {"multiply_adds": density * self.dense.multiply_adds})
        self.close_({axis: within[axis].to(units.device) & units for axis, units in self.open_units().items()})

    def redraw_(self, blueprint: Blueprint) -> None:
        """Go on with fewer units, after some have been removed from the network.

        Densities stay fractions of the network there was in the beginning. A subclass that holds
        a tensor with one value per unit cuts it here.
        """
        self.blueprint = blueprint

    def open_units(self) -> dict[str, Tensor]:
        """Units whose gate is not 0, bool `(unit,)` per axis."""
        return {axis: gates.keep() for axis, gates in self._gates.items()}

    def gates(self) -> dict[str, Tensor]:
        """The deterministic gates of every gated axis."""
        return {axis: gates.deterministic().detach() for axis, gates in self._gates.items()}

    def kept_cost(self) -> Cost:
        """Exact cost of the units that would be kept now, at least one per axis."""
        return self.cost_of(self.blueprint, self.kept_units())

    def kept_units(self) -> dict[str, Tensor]:
        """Units that surgery would keep now, bool `(unit,)` per axis."""
        return self._buildable({axis: gates.keep().float() for axis, gates in self._gates.items()})

    def _buildable(self, gates: Mapping[str, Tensor]) -> dict[str, Tensor]:
        keep = units_to_keep(self.blueprint, gates)
        return {axis: keep[axis] for axis in gates}

    @torch.no_grad()
    def best_within(self, scores: Mapping[str, Tensor], limits: Mapping[str, float]) -> dict[str, Tensor]:
        """As many of the units with the largest scores, over all axes, as cost just within all limits.

        Args:
            scores: axis → what its units are worth, `(unit,)`; comparable over axes.
            limits: attribute of `Cost` → most that the kept units may cost.

        Returns:
            Which units those are, bool `(unit,)` per axis; of each axis at least the best, without which nothing would
            pass.
        """
        ranks = [values.index_fill(0, values.argmax(), torch.inf) for values in scores.values()]
        order = torch.cat(ranks).argsort(descending=True, stable=True).cpu()
        sizes = {axis: len(values) for axis, values in scores.items()}
        fewest, most = 0, len(order)  # the cost grows with the number of units kept: find the largest within the limits
        while fewest < most:
            units = (fewest + most + 1) // 2
            kept = self.cost_of(self.blueprint, self._buildable(_first(order, units, sizes)))
            if all(kept[kind] <= limit for kind, limit in limits.items()):
                fewest = units
            else:
                most = units - 1
        return {axis: units > 0 for axis, units in _first(order, fewest, sizes).items()}

    def figures(self) -> dict[str, float]:
        """Density, parameters, and units kept on every axis."""
        kept = self.kept_cost()
        figures = {"density": kept.multiply_adds / self.dense.multiply_adds, "parameters": float(kept.parameters)}
        return figures | {f"kept/{axis}": float(units.sum()) for axis, units in self.kept_units().items()}


def unit_method(method: Method) -> UnitMethod:
    """A method that closes whole units, as removing them during training needs.

    Raises:
        ValueError: if it is another one, by its name.

    Example:
        >>> from l0rnn.methods.random_units import RandomUnits
        >>> type(unit_method(RandomUnits(density=0.5))).__name__
        'RandomUnits'
    """
    if not isinstance(method, UnitMethod):
        raise ValueError(
            f"`method` must close whole units for them to be removed during training, got {type(method).__name__}; "
            "use L0Gates, GroupLasso, StructuredMagnitude or RandomUnits, or leave RemoveClosedUnits out"
        )
    return method


def check_density(density: float, minimum: Cost | None = None, dense: Cost | None = None) -> None:
    """Refuse a density that no network, or not this one, can be brought to.

    Args:
        density: multiply-adds to keep, as a fraction of the dense network's.
        minimum: cost of one unit per axis, once the network is known.
        dense: cost of the whole network.

    Raises:
        ValueError: if it is not in (0, 1], or less than one unit per axis costs.

    Example:
        >>> check_density(0.1, Cost(12, 0, 10), Cost(120, 0, 100))
    """
    budget = Budget(density)
    if minimum is not None and dense is not None:
        budget.check(minimum, dense)


def _first(order: Tensor, units: int, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """1 for the first units of an order over all axes, 0 for the others, by axis."""
    first = torch.zeros(len(order)).index_fill(0, order[:units], 1.0)
    return dict(zip(sizes, first.split(list(sizes.values())), strict=True))
