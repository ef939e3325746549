"""A network as an .npz that the package's own code loads, and as one in int8."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_BY_ROWS = 100_000  # numbers of a matrix from which on it is kept by rows


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write float32 arrays as the package's `checkpoint20.npz` has them.

    The package multiplies by the transposes of its matrices. Those of a small network are laid out by columns, and its
    transposes by rows: NumPy is faster so, and does not start threads for them; with large ones it is the reverse.
    """
    laid_out: dict[str, Any] = {
        name: np.asarray(array, np.float32, order="F" if array.size < _BY_ROWS else "C")
        for name, array in arrays.items()
    }
    np.savez(path, **laid_out)


def rounded(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Matrices in int8 with a float32 scale for each row, called `…_scale`; biases stay in float32."""
    found: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if array.ndim < 2:
            found[name] = array.astype(np.float32)
            continue
        scale = np.abs(array).max(axis=1, keepdims=True) / 127
        scale = np.where(scale > 0, scale, 1).astype(np.float32)
        found[name] = np.round(array / scale).astype(np.int8)
        found[f"{name}_scale"] = scale
    return found


def unrounded(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The float32 arrays that int8 arrays and their scales stand for."""
    return {
        name: array.astype(np.float32) * arrays.get(f"{name}_scale", np.float32(1))
        for name, array in arrays.items()
        if not name.endswith("_scale")
    }


def save_int8(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz in int8, for `l0rnn.models.g2p`; the package's own code cannot read it."""
    small: dict[str, Any] = rounded(arrays)
    np.savez(path, **small)
