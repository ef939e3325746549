"""Two networks on the same words: the difference of their word errors, with an interval over words.

python -m recipes.g2p.versus ONE.npz OTHER.npz
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from recipes.g2p.network import G2P, Pronouncer, pronounce
from recipes.g2p.package import read_arrays
from recipes.g2p.words import Pronunciation, Side, read_dictionary, split

_SIDES: tuple[Side, ...] = ("test", "later")


def difference(
    one: Pronouncer, other: Pronouncer, words: Mapping[str, Sequence[Pronunciation]]
) -> tuple[float, float, float]:
    """Word error of one less that of the other, in percentage points, and the ends of its 95 % interval."""
    rights = [
        [said in many for said, many in zip(pronounce(network, list(words)), words.values(), strict=True)]
        for network in (one, other)
    ]
    rows = [int(theirs) - int(ours) for ours, theirs in zip(*rights, strict=True)]
    mean = sum(rows) / len(rows)
    spread = 1.96 * math.sqrt(sum((row - mean) ** 2 for row in rows)) / len(rows)
    return 100 * mean, 100 * (mean - spread), 100 * (mean + spread)


def main(argv: Sequence[str]) -> None:
    if len(argv) != 2:
        raise SystemExit(f"two files are needed, got {len(argv)}: python -m recipes.g2p.versus ONE.npz OTHER.npz")
    torch.set_num_threads(1)
    one, other = (G2P.from_arrays(read_arrays(Path(path))).eval() for path in argv)
    sides = split(read_dictionary())
    for side in _SIDES:
        mean, low, high = difference(one, other, sides[side])
        print(f"{side}: {mean:+.2f} points of word error, {low:+.2f} to {high:+.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
