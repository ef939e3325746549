"""Group lasso on whole units: Intrinsic Sparse Structures."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from l0rnn.arguments import checked
from l0rnn.cost.cost import Cost
from l0rnn.cost.schedule import ramp_done
from l0rnn.methods.group_norms import (
    group_entries,
    group_sizes,
    relative_root_mean_squares,
    unit_square_sums,
)
from l0rnn.methods.method import check_frequency
from l0rnn.methods.units import PrunedUnits, UnitMethod, check_density
from l0rnn.tracing.units import Units

EPSILON = 1e-8  # under the root, as in the published code, so that the gradient of an empty group is 0 and not NaN


@checked
class GroupLasso(UnitMethod):
    """Group lasso on all weights of a unit: Intrinsic Sparse Structures (ISS).

    Removes: whole units. Penalty: ``weight * Σ_units sqrt(sum of squares of the unit's group + 1e-8)``, with the groups
    of `unit_square_sums`. Rule: after each step a weight of a group that is not larger than ``threshold`` becomes 0,
    and a unit closes for good once all weights of its group are 0. At ``freeze`` the penalty and the threshold stop,
    and the rest of the training tunes the network that is left. With ``density``, units with the smallest root mean
    square in their group, as a multiple of the mean of their axis, are closed at that moment until the multiply-adds
    are within it; without, ``weight`` alone decides how many are left. Every axis keeps one unit. Cost at run time:
    that of a smaller dense network.

    The published λ of 0.00245 for the Penn Treebank belongs to a loss that is summed over 35 time steps. For the mean
    over tokens, which is the loss here, the same training has ``weight`` = 0.00245 / 35 = 7.0e-5 with a learning rate
    35 times that of the paper, and gradients clipped at a 35th. A penalty is worth nothing without its learning rate:
    subgradient steps move a group's norm by about ``learning rate * weight`` per step and then oscillate about 0 at
    that distance, which ``threshold`` has to cover. Soft thresholding of whole groups (a proximal step) would reach 0
    exactly; it needs the learning rate, which a method does not know, and is not offered.

    Args:
        weight: λ, in units of the loss (nats per token for a mean loss), > 0.
        units: which units can be removed: ``"hidden"`` as in the paper; ``"both"`` adds those of embeddings and others
            that recurrent layers read, whose groups are the columns that read them.
        threshold: largest weight that is set to 0, ≥ 0; 1e-4 in the paper.
        density: multiply-adds to keep, as a fraction of the dense network's, in (0, 1]; None to promise none.
        freeze: fraction of the training after which units are fixed, in (0, 1].
        ramp: fraction of the training over which the penalty rises from 0, in [0, ``freeze``]; 0 in the paper.
        scale_by_size: multiply each norm by the root of its group's size, as Yuan and Lin do; λ must then be smaller
            by about that factor (about 160 for two layers of 1500 units). The paper does not.
        embedding: whether the weights of an embedding belong to the groups of its units. Without, the columns that read
            a unit can shrink while its embedding grows, at no loss.
        frequency: how often units are looked for that can be closed: a fraction of the training below 1, else
            optimiser steps.
        repair: whether what reads units that the density closes takes over from the others, see `UnitMethod`.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> from l0rnn.language.language_model import LanguageModel
        >>> from l0rnn.tracing import trace
        >>> network = LanguageModel(10, 4, 8, num_layers=1)
        >>> for parameter in network.parameters():
        ...     _ = nn.init.constant_(parameter, 0.1)
        >>> method = GroupLasso(7.0e-5, density=0.5)
        >>> method.attach(network, trace(network, torch.zeros(5, 2, dtype=torch.int64)))
        >>> round(method.penalty().item() / 7.0e-5, 4)  # 4 units of 4·8 weights, 8 of 4·4 + 4·8 + 4·8 + 10
        9.8522

    Reference:
        Wen et al., Learning Intrinsic Sparse Structures within Long Short-Term Memory (2018), arXiv 1709.05027,
        and its code, ``add_structure_grouplasso``. Yuan, Lin (2006), for the scaling by group size.
    """

    def __init__(
        self,
        weight: float,
        *,
        units: PrunedUnits = "all",
        threshold: float = 1e-4,
        density: float | None = None,
        freeze: float = 0.6,
        ramp: float = 0.0,
        scale_by_size: bool = False,
        embedding: bool = False,
        frequency: float = 0.01,
        repair: bool = True,
    ) -> None:
        super().__init__(units, repair=repair)
        if not weight > 0:
            raise ValueError(f"`weight` must be > 0, got {weight}; use the method `Dense` for an unpruned run")
        if not threshold >= 0:
            raise ValueError(f"`threshold` must be >= 0, got {threshold}")
        if density is not None:
            check_density(density)
        if not 0 < freeze <= 1:
            raise ValueError(f"`freeze` must be a fraction of the training in (0, 1], got {freeze}")
        if not 0 <= ramp <= freeze:
            raise ValueError(f"`ramp` must be a fraction of the training in [0, `freeze`] = [0, {freeze}], got {ramp}")
        check_frequency(frequency)
        self.weight = weight
        self.threshold = threshold
        self.density = density
        self.freeze = freeze
        self.ramp = ramp
        self.scale_by_size = scale_by_size
        self.embedding = embedding
        self.frequency = frequency

    def check(self, minimum: Cost, dense: Cost) -> None:
        """Refuse a density below one unit per axis."""
        if self.density is not None:
            check_density(self.density, minimum, dense)

    def attach(self, network: nn.Module, units: Units) -> None:
        """Gate the network; nothing is closed yet."""
        self.gate_(network, units)

    def penalty(self) -> Tensor:
        """``weight * Σ_units sqrt(square sum + 1e-8)``; nothing once the units are fixed."""
        price = self.price()
        if price == 0:
            return super().penalty()
        sums = unit_square_sums(self._network[0], self.traced, embedding=self.embedding)
        roots = (sums + EPSILON).sqrt()
        if self.scale_by_size:
            roots = roots * group_sizes(self.traced, embedding=self.embedding).to(roots).sqrt()
        return price * roots.sum()

    def start_afresh_(self) -> None:
        """Open all units that are there."""
        super().start_afresh_()
        self.open_all_()

    def after_step(self, step: int) -> None:
        """Set small weights to 0, close units that have none left, and fix all units when it is time."""
        super().after_step(step)
        if self.has_chosen:
            return
        self.follow_(self.progress)
        if self.progress >= self.freeze:
            self.settle_()
        elif self.comes_round(self.steps_between(self.frequency)):
            self.close_empty_()

    def price(self) -> float:
        """λ of this moment."""
        return 0.0 if self.has_chosen else self.weight * ramp_done(self.progress, 0.0, self.ramp)

    @torch.no_grad()
    def follow_(self, progress: float) -> None:
        """Set the weights of the groups that are at most ``threshold`` to 0, until the units are fixed."""
        if self.has_chosen:
            return
        for weights in group_entries(self._network[0], self.traced, embedding=self.embedding):
            torch.hardshrink(weights, self.threshold, out=weights)

    @torch.no_grad()
    def close_empty_(self) -> None:
        """Close the units that have no weight left from or to an open one; the first stays where all units are such."""
        open = self.own_gates.keep()
        sums = unit_square_sums(self._network[0], self.traced, embedding=self.embedding, open=open)
        keep = open & (sums != 0)
        for axis in self.traced.axes.values():
            if not bool(keep[axis.units].any()):
                keep[axis.units] = open[axis.units] & (open[axis.units].cumsum(0) == 1)
        self.close_(keep)

    def settle_(self) -> None:
        """Fix the units: close the empty ones, and the smallest down to the density, if there is one."""
        self.close_empty_()
        if self.density is not None:
            network, open = self._network[0], self.own_gates.keep()
            scores = relative_root_mean_squares(network, self.traced, open, embedding=self.embedding)
            self.close_within_(scores, self.density)
        self.choose_()

    def figures(self) -> dict[str, float]:
        """Density, parameters, units kept on every axis, and λ of this moment."""
        return super().figures() | {"price": self.price()}
