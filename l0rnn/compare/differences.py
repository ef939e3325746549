"""Differences between two runs over the same seeds, with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from l0rnn.arguments import checked

DRAWS, COVERED = 10_000, 0.95


@dataclass(frozen=True)
class Difference:
    """A mean difference, seed by seed.

    Attributes:
        mean: over the pairs.
        low: lower end of the interval; the mean if there is one pair.
        high: its upper end.
        pairs: number of pairs.
    """

    mean: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        if self.pairs < 2:
            return f"{self.mean:+.3g}"
        return f"{self.mean:+.3g} [{self.low:+.3g}, {self.high:+.3g}]"


@checked
def paired_difference(
    ours: Sequence[float] | np.ndarray, theirs: Sequence[float] | np.ndarray, *, seed: int = 0
) -> Difference:
    """Mean of ours less theirs, pair by pair, with a bootstrap interval of 95 %.

    The pairs are drawn with replacement 10,000 times, and the interval holds the middle 95 % of their means. With few
    pairs it is too narrow: three pairs of the same sign never give one that holds 0, by whatever they differ.

    Args:
        ours: one figure per seed.
        theirs: of the same seeds, in the same order.
        seed: of the bootstrap.

    Raises:
        ValueError: if they are not pairs.

    Example:
        >>> print(paired_difference([2.0, 3.0, 4.0], [1.0, 1.0, 1.0]))
        +2 [+1, +3]
    """
    if len(ours) != len(theirs) or not len(ours):
        raise ValueError(f"`ours` and `theirs` must be pairs, got {len(ours)} and {len(theirs)} figures")
    if seed < 0:
        raise ValueError(f"`seed` must be >= 0, got {seed}")
    differences = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    drawn = np.random.default_rng(seed).integers(len(differences), size=(DRAWS, len(differences)))
    low, high = np.quantile(differences[drawn].mean(axis=1), [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return Difference(float(differences.mean()), float(low), float(high), len(differences))
