"""Units in a random order, little by little: what every rule that ranks units has to beat."""

from __future__ import annotations

from torch import nn

from l0rnn.arguments import checked
from l0rnn.methods.gradual import GradualUnits
from l0rnn.methods.random_units import random_ranks
from l0rnn.methods.units import PrunedUnits
from l0rnn.tracing.units import Units


@checked
class RandomOrder(GradualUnits):
    """Closes units little by little in a random order, the same fraction of every axis.

    Removes: whole units. Rule: none; the units of each axis are put in a random order before the training, and close in
    it along the curve of `GradualUnits`. Beside a method with a rule on the same schedule it tells what the rule is
    worth; beside `RandomUnits`, which closes the same units before the first step, what it is worth that the network is
    large while it learns. Cost at run time: that of a smaller dense network.

    Args:
        density: multiply-adds to keep, as a fraction of the dense network's, in (0, 1].
        start: fraction of the training before the first unit closes, in [0, ``end``].
        end: fraction of the training at which the density is met; equal to ``start`` to prune in one shot.
        frequency: from one pruning to the next: a fraction of the training below 1, else optimiser steps.
        seed: of the random order; the global random state is left alone.
        units: which units can be removed, see `UnitMethod`.
        repair: whether what reads units that close takes over from the others, see `UnitMethod`.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch
        >>> from l0rnn.language.language_model import LanguageModel
        >>> from l0rnn.tracing import trace
        >>> network = LanguageModel(10, 4, 8, num_layers=1)
        >>> method = RandomOrder(density=0.5, start=0.5, end=0.5)
        >>> method.attach(network, trace(network, torch.zeros(5, 2, dtype=torch.int64)))
        >>> method.begin(total_steps=2)
        >>> for step in (1, 2):
        ...     method.after_step(step)
        ...     print(int(method.gates()["encoder.l0"].sum()))
        5
        5

    Reference:
        Mittal et al., Recovering from Random Pruning (2018), arXiv 1801.10447: with fine-tuning, random units come
        close to chosen ones.
    """

    def __init__(
        self,
        density: float,
        *,
        start: float = 0.3,
        end: float = 0.55,
        frequency: float = 0.01,
        seed: int = 0,
        units: PrunedUnits = "all",
        repair: bool = True,
    ) -> None:
        super().__init__(density, start=start, end=end, frequency=frequency, units=units, repair=repair)
        if seed < 0:
            raise ValueError(f"`seed` must be ≥ 0, got {seed}")
        self.seed = seed

    def attach(self, network: nn.Module, units: Units) -> None:
        """Gate the network and draw the order."""
        super().attach(network, units)
        self._ranks = random_ranks(self.traced, self.seed)

    def close_down_to_(self, density: float) -> None:
        """Close those that are next."""
        self.close_within_(self._ranks[self.left], density)
