"""The small network that comes along: it is small enough, says a few words, and runs in the package's own code."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import l0rnn
from recipes.g2p.network import G2P, pronounce
from recipes.g2p.package import package_class, package_folder, read_arrays
from recipes.g2p.pruning import multiply_adds_of_a_step

SMALL = l0rnn.models()["g2p"].folder / "checkpoint20.npz"
WORDS = {
    "cat": "K AE1 T",
    "lemon": "L EH1 M AH0 N",
    "station": "S T EY1 SH AH0 N",
    "printing": "P R IH1 N T IH0 NG",
    "plastic": "P L AE1 S T IH0 K",
    "activationist": "AE2 K T AH0 V EY1 SH AH0 N IH0 S T",
}


@pytest.mark.parametrize("name", ["g2p", "g2p_int8"])
def test_it_says_a_few_words(name: str) -> None:
    say = l0rnn.load(name)
    assert {word: " ".join(say(word)) for word in WORDS} == WORDS


def test_it_is_small() -> None:
    assert l0rnn.models()["g2p"].bytes <= 450_000
    assert l0rnn.models()["g2p_int8"].bytes <= 150_000
    published = multiply_adds_of_a_step(G2P().arrays())  # its sizes are the defaults
    assert multiply_adds_of_a_step(read_arrays(SMALL)) <= published / 8


def test_torch_says_the_same() -> None:
    network, say = G2P.from_arrays(read_arrays(SMALL)).eval(), l0rnn.load("g2p")
    assert pronounce(network, list(WORDS)) == [tuple(say(word)) for word in WORDS]


@pytest.mark.skipif(
    importlib.util.find_spec("g2p_en") is None,
    reason="the package g2p_en is not installed: pip install 'l0rnn[g2p]'",
)
def test_the_package_runs_it() -> None:
    package = package_class(Path(package_folder("g2p_en")))()
    for name, array in np.load(SMALL).items():  # as the page of the recipe says
        setattr(package, name, array)
    assert {word: " ".join(package.predict(word)) for word in WORDS} == WORDS
    assert package.enc_w_hh.shape[1] < 256
