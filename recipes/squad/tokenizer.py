"""Words of English text with their places, cut so that the spans people mark as answers begin and end with a word.

Punctuation, brackets, quotes, dashes and signs are tokens of their own, also inside words: "Anglo-Saxon" is three. As
in the Penn Treebank, "don't" is "do" and "n't", and "Rome's" is "Rome" and "'s". Numbers keep their inner points and
commas and part from a unit: "1,500km" is "1,500" and "km", while "1990s" and "3rd" stay whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LETTER = r"[^\W\d_]"
_WORD = rf"{_LETTER}(?:[^\W_]|[\u0300-\u036f])*"  # may hold digits ("MP3") and combining accents
_CLITIC = r"['\u2019](?:s|re|ve|ll|d|m)(?!\w)"
_NOT = r"n['\u2019]t(?!\w)"
_TOKEN = re.compile(
    rf"""
      {_CLITIC}
    | {_NOT}
    | (?:{_LETTER}\.){{2,}}                                  # U.S.
    | \d+(?:s|st|nd|rd|th)(?![^\W_])                         # 1990s, 3rd
    | \d+(?:[.,]\d+)*
    | {_LETTER}+?(?={_NOT})                                  # do|n't
    | {_WORD}(?:['\u2019](?!(?:s|re|ve|ll|d|m)\b){_WORD})*   # O'Brien, Qur'an
    | ''|``|\.{{2,}}
    | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True)
class Token:
    """One word or sign; `text` is `context[start:end]` of the text it comes from."""

    text: str
    start: int
    end: int


def tokenize(text: str) -> list[Token]:
    """Cut a text into words and signs.

    Returns:
        The tokens in order. They do not overlap, and what lies between them is white space.
    """
    return [Token(match.group(), match.start(), match.end()) for match in _TOKEN.finditer(text)]
