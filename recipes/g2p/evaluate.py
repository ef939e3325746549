"""Word error and phoneme error of greedy decoding, against the nearest pronunciation of each word."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from recipes.g2p.network import G2P, pronounce
from recipes.g2p.symbols import without_stress
from recipes.g2p.words import Pronunciation


@dataclass(frozen=True)
class Errors:
    """Shares of wrong words and of wrong phonemes, in percent.

    Attributes:
        word_error: words whose phonemes are none of the word's pronunciations.
        phoneme_error: phonemes to insert, delete or replace, of those of the nearest pronunciation.
        word_error_without_stress, phoneme_error_without_stress: the same without the digits of stress.
        words: how many words.
    """

    word_error: float
    phoneme_error: float
    word_error_without_stress: float
    phoneme_error_without_stress: float
    words: int


def distance(left: Sequence[str], right: Sequence[str]) -> int:
    """The fewest insertions, deletions and replacements from one to the other.

    Example:
        >>> distance(["K", "AE1", "T"], ["K", "AH0", "T", "S"])
        2
    """
    row = list(range(len(right) + 1))
    for first, one in enumerate(left, start=1):
        diagonal, row[0] = row[0], first
        for second, other in enumerate(right, start=1):
            diagonal, row[second] = row[second], min(row[second] + 1, row[second - 1] + 1, diagonal + (one != other))
    return row[-1]


def nearest(phonemes: Sequence[str], pronunciations: Sequence[Sequence[str]]) -> tuple[int, int]:
    """The distance to the nearest pronunciation and the length of that; the longest among the nearest."""
    wrong, length = min((distance(phonemes, right), -len(right)) for right in pronunciations)
    return wrong, -length


def errors_of(found: Sequence[Sequence[str]], words: Mapping[str, Sequence[Pronunciation]]) -> Errors:
    """The errors of what was found for each word, in the order of `words`."""

    def shares(change: Callable[[Sequence[str]], tuple[str, ...]]) -> tuple[float, float]:
        rows = [
            nearest(change(phonemes), [change(right) for right in pronunciations])
            for phonemes, pronunciations in zip(found, words.values(), strict=True)
        ]
        wrong, phonemes = sum(row[0] for row in rows), sum(row[1] for row in rows)
        return 100 * sum(row[0] > 0 for row in rows) / len(rows), 100 * wrong / phonemes

    word, phoneme = shares(tuple)
    plain_word, plain_phoneme = shares(without_stress)
    return Errors(word, phoneme, plain_word, plain_phoneme, len(words))


def evaluate(network: G2P, words: Mapping[str, Sequence[Pronunciation]]) -> Errors:
    """Errors of a network on words."""
    network.eval()
    return errors_of(pronounce(network, list(words)), words)
