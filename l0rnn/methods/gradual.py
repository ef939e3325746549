"""What methods share that close units little by little, down to a density."""

from __future__ import annotations

from abc import abstractmethod

from torch import nn

from l0rnn.arguments import checked
from l0rnn.cost.cost import Cost
from l0rnn.cost.schedule import cubic_density
from l0rnn.methods.method import check_frequency
from l0rnn.methods.units import PrunedUnits, UnitMethod, check_density
from l0rnn.tracing.units import Units


@checked
class GradualUnits(UnitMethod):
    """Closes units along a cubic curve, so that methods of this kind differ in nothing but what a unit is worth.

    From ``start`` to ``end`` the multiply-adds kept fall from 1 to ``density``, fast at first and slowly at the end;
    what is left after ``end`` is fine-tuning. Closed units stay closed, and every axis keeps one. A subclass says in
    `close_down_to_` which.

    Args:
        density: multiply-adds to keep, as a fraction of the dense network's, in (0, 1].
        start: fraction of the training before the first unit closes, in [0, ``end``].
        end: fraction of the training at which the density is met; equal to ``start`` to prune in one shot.
        frequency: from one pruning to the next: a fraction of the training below 1, else optimiser steps.
        units: which units can be removed, see `UnitMethod`.
        repair: whether what reads units that close takes over from the others, see `UnitMethod`.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        Zhu, Gupta: To prune, or not to prune (2017), arXiv 1710.01878, equation 1, for the curve.
    """

    def __init__(
        self,
        density: float,
        *,
        start: float = 0.3,
        end: float = 0.55,
        frequency: float = 0.01,
        units: PrunedUnits = "all",
        repair: bool = True,
    ) -> None:
        super().__init__(units, repair=repair)
        check_density(density)
        if not 0 <= start <= end <= 1:
            raise ValueError(
                f"`start` and `end` must be fractions of the training, 0 <= start <= end <= 1, got {start} and {end}"
            )
        check_frequency(frequency)
        self.density = density
        self.start = start
        self.end = end
        self.frequency = frequency

    def check(self, minimum: Cost, dense: Cost) -> None:
        """Refuse a density below one unit per axis."""
        check_density(self.density, minimum, dense)

    def attach(self, network: nn.Module, units: Units) -> None:
        """Gate the network; nothing is closed yet."""
        self.gate_(network, units)

    def start_afresh_(self) -> None:
        """Open all units that are there."""
        super().start_afresh_()
        self.open_all_()

    def after_step(self, step: int) -> None:
        """Close the units that are due."""
        super().after_step(step)
        if self.has_chosen:
            return
        progress = self.progress
        self.follow_(progress)
        if progress >= self.end:
            self.close_down_to_(self.density)
            self.choose_()
        elif progress > self.start and self.comes_round(self.steps_between(self.frequency)):
            self.close_down_to_(cubic_density(progress, self.start, self.end, self.density))

    @abstractmethod
    def close_down_to_(self, density: float) -> None:
        """Close the open units that are worth least, until the multiply-adds are within a density."""
