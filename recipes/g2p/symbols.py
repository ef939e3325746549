"""The symbols of the published network, in the order of its rows."""

from __future__ import annotations

import re
from collections.abc import Iterable

LETTERS = ("<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz")

PHONEMES = tuple(
    "<pad> <unk> <s> </s> AA0 AA1 AA2 AE0 AE1 AE2 AH0 AH1 AH2 AO0 AO1 AO2 AW0 AW1 AW2 AY0 AY1 AY2 B CH D DH EH0 EH1 EH2 "
    "ER0 ER1 ER2 EY0 EY1 EY2 F G HH IH0 IH1 IH2 IY0 IY1 IY2 JH K L M N NG OW0 OW1 OW2 OY0 OY1 OY2 P R S SH T TH UH0 "
    "UH1 UH2 UW UW0 UW1 UW2 V W Y Z ZH".split()
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
