"""The symbols of the published network, in the order of its rows."""

from __future__ import annotations

import re
from collections.abc import Iterable

LETTERS = ("<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz")

_VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
_CONSONANTS = (
    *("B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N"),
    *("NG", "P", "R", "S", "SH", "T", "TH", "V", "W", "Y", "Z", "ZH"),
)

# vowels with each stress; UW is there without one too
PHONEMES = (
    *("<pad>", "<unk>", "<s>", "</s>"),
    *sorted(["UW", *_CONSONANTS, *(vowel + stress for vowel in _VOWELS for stress in "012")]),
)

PAD = 0
BEGIN = 2  # of phonemes
END = 3  # of phonemes

LONGEST = 20  # phonemes; there the package's code stops


def without_stress(phonemes: Iterable[str]) -> tuple[str, ...]:
    """Phonemes without the digits that tell stress.

    Example:
        >>> without_stress(["K", "AE1", "T"])
        ('K', 'AE', 'T')
    """
    return tuple(re.sub(r"\d", "", phoneme) for phoneme in phonemes)
