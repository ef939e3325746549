"""Structured magnitude pruning: whole units, those with the smallest weights first."""

from __future__ import annotations

from torch import Tensor

from l0rnn.arguments import checked
from l0rnn.methods.gradual import GradualUnits
from l0rnn.methods.group_norms import relative_root_mean_squares
from l0rnn.methods.units import PrunedUnits


@checked
class StructuredMagnitude(GradualUnits):
    """Closes the units whose weights are smallest, little by little.

    Removes: whole units. Rule: a unit is worth the root mean square of all weights that write or read it
    (`unit_square_sums` divided by the size of the group), not counting those from and to units that are closed already,
    as a multiple of the mean of its axis (`relative_root_mean_squares`). They close along the curve of `GradualUnits`.
    The weights themselves are not changed. Cost at run time: that of a smaller dense network.

    Args:
        density: multiply-adds to keep, as a fraction of the dense network's, in (0, 1].
        start: fraction of the training before the first unit closes, in [0, ``end``].
        end: fraction of the training at which the density is met; equal to ``start`` to prune in one shot.
        frequency: from one pruning to the next: a fraction of the training below 1, else optimiser steps.
        units: which units can be removed, see `UnitMethod`.
        repair: whether what reads units that close takes over from the others, see `UnitMethod`.
        embedding: whether the weights of an embedding count for its units, beside those that read them.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch
        >>> from l0rnn.language.language_model import LanguageModel
        >>> from l0rnn.tracing import trace
        >>> network = LanguageModel(10, 4, 8, num_layers=1)
        >>> method = StructuredMagnitude(density=0.5, start=0.5, end=0.5)
        >>> method.attach(network, trace(network, torch.zeros(5, 2, dtype=torch.int64)))
        >>> method.begin(total_steps=2)
        >>> for step in (1, 2):
        ...     method.after_step(step)
        >>> 0.4 < method.figures()["density"] <= 0.5
        True

    Reference:
        Zhu, Gupta: To prune, or not to prune (2017), arXiv 1710.01878, equation 1, for the curve; the groups of Wen et
        al. 2018 (arXiv 1709.05027).
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
        embedding: bool = False,
    ) -> None:
        super().__init__(density, start=start, end=end, frequency=frequency, units=units, repair=repair)
        self.embedding = embedding

    def close_down_to_(self, density: float) -> None:
        """Close the smallest."""
        self.close_within_(self.scores(), density)

    def scores(self) -> Tensor:
        """Root mean square of the weights of each unit over that of its axis, `(unit,)`; closed units have 0."""
        network, open = self._network[0], self.own_gates.keep()
        return relative_root_mean_squares(network, self.traced, open, embedding=self.embedding)
