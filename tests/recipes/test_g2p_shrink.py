"""The command from end to end on a small dictionary and small weights, and what it writes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.g2p.files import save_arrays
from recipes.g2p.network import G2P
from recipes.g2p.pure_numpy import G2P as Pronouncer  # noqa: N811
from recipes.g2p.report import table
from recipes.g2p.shrink import main

SOUNDS = {"a": "AE1", "b": "B", "d": "D", "i": "IH1", "n": "N", "o": "OW0", "t": "T"}

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("g2p_en") is None,
    reason="the package g2p_en is not installed: pip install 'l0rnn[g2p]'",
)


@pytest.fixture
def dictionary(tmp_path: Path) -> Path:
    """Words that are spoken as they are spelt."""
    words = [a + b + c + d for a in "bdnt" for b in "aio" for c in "bdnt" for d in "aio"]
    path = tmp_path / "small.dict"
    path.write_text("\n".join(f"{word} {' '.join(SOUNDS[letter] for letter in word)}" for word in words))
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "large.npz"
    save_arrays(path, G2P(6, 7, 16).arrays())
    return path


def test_the_density_must_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"`--density` must be in \(0, 1\], got 1.5"):
        main(["--density=1.5"])


def test_a_table_of_networks() -> None:
    rows = table({"small": {"word_error": 31.254, "density": 0.125, "bytes": 400_000, "milliseconds": 0.2}})
    assert rows.splitlines()[-1] == "| small | 31.25 % |  |  |  |  | 12.5% | 400,000 |  | 0.200 |  |"
