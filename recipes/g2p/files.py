"""A network as an .npz that the package's own code loads, and as one in int8."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write float32 arrays as the package's `checkpoint20.npz` has them.

    Matrices are laid out by columns: the package multiplies by their transposes, and NumPy is a little faster so.
    """
    np.savez(path, **{name: np.asfortranarray(array, dtype=np.float32) for name, array in arrays.items()})  # type: ignore[arg-type]


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
    """Write an .npz in int8, for `pure_numpy.py`; the package's own code cannot read it."""
    np.savez(path, **rounded(arrays))  # type: ignore[arg-type]
