"""The interval of a difference, against the formula for two outcomes of each word."""

from __future__ import annotations

import math

import pytest
from torch import Tensor

from recipes.g2p.symbols import PHONEMES
from recipes.g2p.versus import difference, main

AH = PHONEMES.index("AH0")
WORDS = {letter: [("AH0",)] for letter in "abcdefgh"}


class Says:
    """A network that says the right phoneme to letters below a number, and nothing to others."""

    def __init__(self, below: int) -> None:
        self.below = below

    def greedy(self, letters: Tensor, lengths: Tensor) -> list[list[int]]:
        return [[AH] if row[0] < self.below else [] for row in letters.tolist()]


def test_the_difference_and_its_interval() -> None:
    mean, low, high = difference(Says(3 + 8), Says(3 + 6), WORDS)  # letters begin with the number 3
    assert mean == -25  # of eight words, two are wrong by the other alone
    half = 100 * 1.96 * math.sqrt(8 * (0.25 - 0.25**2)) / 8
    assert (low, high) == pytest.approx((-25 - half, -25 + half))


def test_two_files_are_needed() -> None:
    with pytest.raises(SystemExit, match="two files are needed, got 1"):
        main(["one.npz"])
