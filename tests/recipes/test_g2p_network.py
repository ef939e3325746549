"""The network in plain torch against the package's own code, and against every file that is written of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from l0rnn.models import g2p
from recipes.g2p.files import rounded, save_arrays, save_int8, unrounded
from recipes.g2p.network import G2P, padded, pronounce
from recipes.g2p.onnx_file import save_onnx
from recipes.g2p.package import package_class, published_arrays, read_arrays
from recipes.g2p.sizes import multiply_adds, paired_times
from recipes.g2p.symbols import BEGIN, LETTERS, PHONEMES
from recipes.g2p.words import letter_numbers

WORDS = ("a", "cat", "thorough", "activationist", "zyzzyva")

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("g2p_en") is None,
    reason="the package g2p_en is not installed: pip install 'l0rnn[g2p]'",
)


def small_network() -> G2P:
    """Untrained, but loud enough to say several phonemes."""
    network = G2P(5, 6, 7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    return network.eval()


def theirs(folder: Path, arrays: dict[str, np.ndarray]) -> Any:
    """The package's own class with these arrays in the place of its file."""
    save_arrays(folder / "checkpoint20.npz", arrays)
    return package_class(folder)()


def their_logits(package: Any, word: str, phonemes: list[int]) -> np.ndarray:
    """Teacher forcing with the package's own GRU and arrays."""
    read = package.gru(
        package.encode(word),
        len(word) + 1,
        package.enc_w_ih,
        package.enc_w_hh,
        package.enc_b_ih,
        package.enc_b_hh,
    )
    features = np.take(package.dec_emb, [phonemes], axis=0)
    weights = (package.dec_w_ih, package.dec_w_hh, package.dec_b_ih, package.dec_b_hh)
    said = package.gru(features, len(phonemes), *weights, h0=read[:, -1])
    return (said @ package.fc_w.T + package.fc_b)[0]


@needs_package
def test_the_published_network_equals_the_package(tmp_path: Path) -> None:
    package = theirs(tmp_path, published_arrays())
    network = G2P.from_arrays(published_arrays()).eval()
    assert (tuple(package.graphemes), tuple(package.phonemes)) == (LETTERS, PHONEMES)
    found = pronounce(network, WORDS)
    assert found == [tuple(package.predict(word)) for word in WORDS]
    assert found[1] == ("K", "AE1", "T")

    said = [[BEGIN, *(PHONEMES.index(phoneme) for phoneme in phonemes)] for phonemes in found]
    letters, lengths = padded([letter_numbers(word) for word in WORDS])
    phonemes, _ = padded(said)
    with torch.no_grad():
        logits = network(letters, lengths, phonemes)
    for row, word, numbers in zip(logits, WORDS, said, strict=True):
        ours = row[: len(numbers)].numpy()
        np.testing.assert_allclose(ours, their_logits(package, word, numbers), rtol=1e-5, atol=1e-5)


@needs_package
def test_the_package_runs_smaller_arrays(tmp_path: Path) -> None:
    network = small_network()
    package = theirs(tmp_path, network.arrays())
    assert [tuple(package.predict(word)) for word in WORDS] == pronounce(network, WORDS)
    times = paired_times(tmp_path, tmp_path, WORDS)
    assert times.speedup == pytest.approx(1, abs=0.5)
    assert times.alone > 0
    assert times.alone_speedup > 0


def test_padding_changes_nothing() -> None:
    network = small_network()
    letters, lengths = padded([letter_numbers(word) for word in WORDS])
    phonemes, _ = padded([[BEGIN, 5 + place] for place in range(len(WORDS))])
    with torch.no_grad():
        together = network(letters, lengths, phonemes)
        for row in range(len(WORDS)):
            alone = network(letters[row : row + 1, : lengths[row]], lengths[row : row + 1], phonemes[row : row + 1])
            torch.testing.assert_close(together[row], alone[0])


def test_arrays_and_back(tmp_path: Path) -> None:
    network = small_network()
    save_arrays(tmp_path / "small.npz", network.arrays())
    again = G2P.from_arrays(read_arrays(tmp_path / "small.npz"))
    assert again.encoder.hidden_size == 7
    for name, value in network.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)


def test_numpy_alone_says_the_same(tmp_path: Path) -> None:
    network = small_network()
    save_arrays(tmp_path / "small.npz", network.arrays())
    save_int8(tmp_path / "int8.npz", network.arrays())
    rough = G2P.from_arrays(unrounded(rounded(network.arrays()))).eval()
    assert tuple(g2p.PHONEMES) == PHONEMES
    for file, expected in (("small.npz", network), ("int8.npz", rough)):
        pronouncer = g2p.G2P(str(tmp_path / file))
        assert [tuple(pronouncer(word)) for word in WORDS] == pronounce(expected, WORDS)
    for word in ("", "Cat", "naïve"):
        with pytest.raises(ValueError, match="`word` must be of the letters a to z"):
            pronouncer(word)


def test_onnx_says_the_same(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")
    pytest.importorskip("onnx", reason="the package onnx is not installed")
    network = small_network()
    rough = G2P.from_arrays(unrounded(rounded(network.arrays()))).eval()
    for int8, expected in ((False, network), (True, rough)):
        save_onnx(tmp_path / "small.onnx", network.arrays(), int8=int8)
        session = runtime.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
        found = [session.run(None, {"letters": np.array(letter_numbers(word))})[0].tolist() for word in WORDS]
        assert [tuple(PHONEMES[number] for number in row) for row in found] == pronounce(expected, WORDS)


def test_rounding_is_as_fine_as_a_step_of_each_row() -> None:
    arrays = small_network().arrays()
    again = unrounded(rounded(arrays))
    for name, array in arrays.items():
        limit = np.abs(array).max(axis=-1, keepdims=True) / 127 / 2 * 1.001 if array.ndim > 1 else 0
        assert (np.abs(again[name] - array) <= limit).all()
    assert rounded({"w": np.zeros((2, 3), np.float32)})["w_scale"].tolist() == [[1], [1]]


def test_multiply_adds_of_a_word() -> None:
    arrays = G2P(2, 3, 4).arrays()
    reading, saying = 12 * (2 + 4), 12 * (3 + 4) + 74 * 4
    assert multiply_adds(arrays, {"ab": [("AH0",)]}) == 3 * reading + 2 * saying
