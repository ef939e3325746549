"""The small network of the repository: it is there, small enough, and says a few words."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from recipes.g2p.network import G2P, pronounce
from recipes.g2p.package import package_class, package_folder, read_arrays
from recipes.g2p.pruning import multiply_adds_of_a_step
from recipes.g2p.small import SMALL, SMALL_INT8, load_small, put_small

WORDS = {
    "cat": "K AE1 T",
    "lemon": "L EH1 M AH0 N",
    "station": "S T EY1 SH AH0 N",
    "printing": "P R IH1 N T IH0 NG",
    "plastic": "P L AE1 S T IH0 K",
    "activationist": "AE2 K T AH0 V EY1 SH AH0 N IH0 S T",
}


@pytest.mark.parametrize("int8", [False, True])
def test_it_says_a_few_words(int8: bool) -> None:
    say = load_small(int8=int8)
    assert {word: " ".join(say(word)) for word in WORDS} == WORDS


def test_it_is_small() -> None:
    assert SMALL.stat().st_size <= 450_000
    assert SMALL_INT8.stat().st_size <= 150_000
    published = multiply_adds_of_a_step(G2P().arrays())  # its sizes are the defaults
    assert multiply_adds_of_a_step(read_arrays(SMALL)) <= published / 8


def test_torch_says_the_same() -> None:
    network, say = G2P.from_arrays(read_arrays(SMALL)).eval(), load_small()
    assert pronounce(network, list(WORDS)) == [tuple(say(word)) for word in WORDS]


@pytest.mark.skipif(
    importlib.util.find_spec("g2p_en") is None,
    reason="the package g2p_en is not installed: pip install 'l0rnn[g2p]'",
)
def test_the_package_runs_it() -> None:
    package = put_small(package_class(Path(package_folder("g2p_en")))())
    assert {word: " ".join(package.predict(word)) for word in WORDS} == WORDS
    assert package.enc_w_hh.shape[1] < 256
