"""What methods that remove whole units share: gates on a network, and which units a budget leaves."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from l0rnn.arguments import checked
from l0rnn.cost.budget import Budget
from l0rnn.cost.cost import Cost, CostOf
from l0rnn.gates.gates import Gates
from l0rnn.gates.hard_concrete import HardConcrete
from l0rnn.gates.network import draws_of, gate_network_
from l0rnn.methods.method import Method
from l0rnn.surgery.kept import units_to_keep
from l0rnn.surgery.repair import repair_
from l0rnn.tracing.units import Units

log = logging.getLogger(__name__)

PrunedUnits = Literal["input", "hidden", "both", "all"]
KINDS: dict[str, tuple[str, ...]] = {
    "input": ("input",),
    "hidden": ("hidden",),
    "both": ("input", "hidden"),
    "all": ("input", "hidden", "other"),
}
LEAST_SHARE = 0.5  # of what an axis would keep if all lost the same share of their units


@checked
class UnitMethod(Method):
    """A method that closes units, in a network whose readers multiply what they read by gates.

    Closed units are not computed, so training gets faster as they close, and surgery cuts them out. A subclass gates
    the network in `attach` by `gate_`, and closes units by `close_`, or, where gates are trained, by training them.

    Args:
        units: which units can be removed: ``"hidden"``, those of recurrent layers; ``"input"``, those that recurrent
            layers read from others; ``"both"``; or ``"all"``, every unit that can be, such as the channels of
            convolutions in front.
        repair: whether what reads units that close takes over from those that stay, see `l0rnn.surgery.repair`. It
            costs one more pass, in evaluation mode, over the batches of each step in which units close.
    """

    def __init__(self, units: PrunedUnits = "all", *, repair: bool = True) -> None:
        super().__init__()
        self.units: PrunedUnits = units
        self.repair = repair
        self._not_repaired: dict[str, str] = {}  # weights → why, as far as it has been said
        # the module belongs to the network; in a list it is not registered, so that no parameter is saved twice
        self._own: list[Gates] = []
        self.group: Any = None  # torch's group of the processes of this training, if there are several
        self.traced = Units()

    @property
    def own_gates(self) -> Gates:
        """The gates of the network."""
        return self._own[0]

    def check(self, minimum: Cost, dense: Cost) -> None:
        """Raise ValueError if what was asked cannot be had between the cost of one unit per axis and the dense one."""

    def gate_(
        self,
        network: nn.Module,
        units: Units,
        *,
        open_probability: float = 1.0,
        distribution: HardConcrete | None = None,
        noise: bool = True,
    ) -> None:
        """Check what was asked, then gate the network in place; with ``open_probability`` 1 no gate is trained."""
        self.refuse_second_network()
        chosen = units.only(KINDS[self.units], f"`units={self.units!r}` leaves it out")
        if not chosen.axes:
            why = "; ".join(f"{name}: {reason}" for name, reason in chosen.whole.items())
            raise ValueError(f"`network` has no units of the kind `units={self.units!r}` that can be removed ({why})")
        own_cost = CostOf(chosen)
        self.check(own_cost.kept(chosen.by_axis(units_to_keep(chosen, torch.zeros(chosen.count)))), own_cost.kept())
        gates = gate_network_(
            network, chosen, open_probability=open_probability, distribution=distribution, noise=noise
        )
        super().attach(network, units)
        self._own = [gates]
        draws_of(network).keeps_calls = self.repair
        self.traced, self._cost, self.dense = chosen, own_cost, own_cost.kept()
        self.left = torch.arange(chosen.count)
        if open_probability == 1:
            self.close_(torch.ones(chosen.count, dtype=torch.bool))

    def close_(self, keep: Tensor) -> None:
        """Fix all gates: open for the units to keep, bool `(unit,)`, closed for the others."""
        self.own_gates.freeze_(keep)

    @torch.no_grad()
    def close_and_repair_(self, keep: Tensor) -> None:
        """As `close_`, and let what reads the units that close take over from the others, unless ``repair`` is False.

        The batches are those of this step, so that a training that goes on from a checkpoint does the same.
        """
        before = self.own_gates.mean().clone()
        self.close_(keep)
        after = self.own_gates.deterministic()
        if not self.repair or not bool(((before != 0) & (after == 0)).any()):
            return
        network = self._network[0]
        calls = draws_of(network).calls
        if calls:
            left_out = repair_(
                network, self.traced, torch.where(after != 0, after, before), after, calls, group=self.group
            )
        else:
            left_out = {"any layer": "the network as a whole has not been called in training mode in this step"}
        if new := {name: why for name, why in left_out.items() if name not in self._not_repaired}:
            self._not_repaired |= new
            log.info("not repaired where units close: %s", "; ".join(f"{name}: {why}" for name, why in new.items()))

    def after_step(self, step: int) -> None:
        """Follow an optimiser step, the ``step``-th, counted from 1. Subclasses call this first."""
        super().after_step(step)
        draws_of(self._network[0]).is_step_over = True  # calls from now on are of the next one

    def open_all_(self) -> None:
        """Fix all gates open, and choose again; for `start_afresh_` where gates are not trained."""
        self.forget_choice_()
        self.close_(torch.ones_like(self.own_gates.keep()))

    def close_within_(self, scores: Tensor, density: float) -> None:
        """Close the open units with the smallest scores, until the multiply-adds are within a density.

        Units that are closed already stay closed whatever their score, and the best open unit of each axis stays open.

        Args:
            scores: what each unit is worth, `(unit,)`; comparable over axes.
            density: most multiply-adds to keep, as a fraction of the dense network's.
        """
        is_open = self.own_gates.keep()
        ranked = scores.to(is_open.device).masked_fill(~is_open, -torch.inf)
        within = self.best_within(ranked, {"multiply_adds": density * self.dense.multiply_adds})
        self.close_and_repair_(within.to(is_open.device) & is_open)

    def redraw_(self, units: Units, left: Tensor) -> None:
        """Go on with fewer units, after some have been removed from the network.

        Densities stay fractions of the network there was in the beginning. What a subclass holds of each unit, such as
        a buffer, keeps the size it had then; `left` says where the units of now are in it.

        Args:
            units: the units of now.
            left: which of those in the beginning they are, bool `(unit,)`.
        """
        self.traced, self._cost, self.left = units, CostOf(units), left.nonzero().squeeze(1)

    def open_units(self) -> dict[str, Tensor]:
        """Units whose gate is not 0, bool `(unit,)` per axis."""
        return self.traced.by_axis(self.own_gates.keep())

    def gates(self) -> dict[str, Tensor]:
        """The deterministic gate of every unit, by axis."""
        return self.traced.by_axis(self.own_gates.deterministic().detach())

    def kept_cost(self) -> Cost:
        """Exact cost of the units that would be kept now, at least one per axis."""
        return self._cost.kept(self.kept_units())

    def kept_units(self) -> dict[str, Tensor]:
        """Units that surgery would keep now, bool `(unit,)` per axis."""
        return self.traced.by_axis(units_to_keep(self.traced, self.own_gates.keep().float()))

    @torch.no_grad()
    def best_within(self, scores: Tensor, limits: Mapping[str, float]) -> Tensor:
        """As many of the units with the largest scores, over all axes, as cost just within all limits.

        Args:
            scores: what each unit is worth, `(unit,)`; comparable over axes.
            limits: attribute of `Cost` → most that the kept units may cost.

        Returns:
            Which units those are, bool `(unit,)`. Of each axis there are at least half as many as if all axes lost the
            same share of their units, and at least one: an order over all axes would else starve one, most often the
            first layer, for the sake of others.
        """
        axes = self.traced.axes.values()
        alike = torch.empty(len(scores))  # place in the order of the unit's axis, from the last at 0 to the first at 1
        for axis in axes:
            places = scores[axis.units].argsort(stable=True).argsort().cpu()
            alike[axis.units] = (places + 1) / axis.size
        uniform = self._as_many_as_cost(alike.argsort(descending=True, stable=True), limits)
        ranks = scores.clone().cpu()
        for axis in axes:
            own = scores[axis.units].argsort(descending=True, stable=True).cpu()
            fewest = max(1, math.floor(LEAST_SHARE * int(uniform[axis.units].sum())))
            ranks[axis.start + own[:fewest]] = torch.inf
        return self._as_many_as_cost(ranks.argsort(descending=True, stable=True), limits)

    def _as_many_as_cost(self, order: Tensor, limits: Mapping[str, float]) -> Tensor:
        """As many of the first units of an order as cost just within all limits, bool `(unit,)`."""
        fewest, most = 0, len(order)  # the cost grows with the number of units kept: find the largest within the limits
        while fewest < most:
            count = (fewest + most + 1) // 2
            kept = self._cost.kept(self.traced.by_axis(units_to_keep(self.traced, _first(order, count))))
            if all(kept[kind] <= limit for kind, limit in limits.items()):
                fewest = count
            else:
                most = count - 1
        return _first(order, fewest) > 0

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


def _first(order: Tensor, units: int) -> Tensor:
    """1 for the first units of an order over all axes, 0 for the others."""
    return torch.zeros(len(order)).index_fill(0, order[:units], 1.0)
