"""The small network that is in this repository, in one line: `load_small()`."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np

from recipes.g2p import pure_numpy

FOLDER = Path(__file__).parent / "weights"
SMALL = FOLDER / "checkpoint20.npz"
SMALL_INT8 = FOLDER / "int8.npz"

_Package = TypeVar("_Package")


def load_small(*, int8: bool = False) -> pure_numpy.G2P:
    """The small network, by NumPy alone: called with a word, it gives a list of phonemes.

    Args:
        int8: from the file with whole numbers, a quarter as large.

    Example:
        >>> load_small()("cat")
        ['K', 'AE1', 'T']
    """
    return pure_numpy.G2P(str(SMALL_INT8 if int8 else SMALL))


def put_small(g2p: _Package) -> _Package:
    """Put the small network's weights into a `g2p_en.G2p`, which goes on as before, and return it.

    Example:
        >>> put_small(G2p())("activationist")  # doctest: +SKIP
    """
    with np.load(SMALL, allow_pickle=False) as arrays:
        for name in arrays.files:
            setattr(g2p, name, arrays[name])
    return g2p
