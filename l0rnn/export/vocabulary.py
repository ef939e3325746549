"""The words of a language model: kept beside the weights, and between text and word ids."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from l0rnn.arguments import checked
from l0rnn.export.directory import VOCABULARY
from l0rnn.export.untrusted_json import read_json
from l0rnn.foreign_text import shown

END_OF_SENTENCE = "<eos>"
# a terminal would obey them, or turn the direction of all that follows
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def checked_vocabulary(words: Any, size: int | None = None) -> tuple[str, ...]:
    """The words, if they can be a vocabulary.

    Args:
        words: the words in the order of their ids.
        size: how many the model knows; None if that does not matter.

    Raises:
        ValueError: if they are not a list of different words, or not as many as the model knows.

    Example:
        >>> checked_vocabulary(["the", "cat"], 2)
        ('the', 'cat')
    """
    if isinstance(words, str) or not isinstance(words, Sequence):
        raise ValueError(f"`vocabulary` must be a list of words, got {type(words).__name__}")
    if not words:
        raise ValueError("`vocabulary` must hold at least one word")
    for word in words:
        if not isinstance(word, str) or word.split() != [word] or _CONTROL.search(word):
            raise ValueError(f"`vocabulary` must hold words without spaces or control characters, got {shown(word)}")
    if len(set(words)) != len(words):
        raise ValueError("`vocabulary` must hold each word once")
    if size is not None and len(words) != size:
        raise ValueError(f"`vocabulary` must hold the {size} words that the model knows, got {len(words)}")
    return tuple(words)


def write_vocabulary(words: Sequence[str], directory: Path) -> None:
    """Write the words to the directory of a model."""
    text = json.dumps(list(words), ensure_ascii=False, indent=0)
    (directory / VOCABULARY).write_text(f"{text}\n", encoding="utf-8")


@checked
def read_vocabulary(directory: Path, size: int | None = None) -> tuple[str, ...]:
    """The words in the directory of a model, checked.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if they are not a vocabulary of that size.
    """
    found = read_json(directory / VOCABULARY)
    try:
        return checked_vocabulary(found, size)
    except ValueError as error:
        raise ValueError(f"{VOCABULARY} is not right: {error}") from error


def encode(vocabulary: Sequence[str], text: str) -> list[int]:
    r"""Word ids of a text; where the vocabulary has ``<eos>``, it stands for each line break.

    Raises:
        ValueError: if a word is not in the vocabulary.

    Example:
        >>> encode(("<eos>", "the", "cat"), "the cat")
        [1, 2]
        >>> encode(("<eos>", "the", "cat"), "the cat\n")
        [1, 2, 0]
    """
    ids = {word: index for index, word in enumerate(vocabulary)}
    marked = text.replace("\n", f" {END_OF_SENTENCE} ") if END_OF_SENTENCE in ids else text
    words = marked.split()
    missing = next((word for word in words if word not in ids), None)
    if missing is not None:
        hint = "; write <unk> for it" if "<unk>" in ids else ""
        raise ValueError(
            f"`text` has {shown(missing)}, which is none of the {len(ids)} words that the model knows{hint}"
        )
    return [ids[word] for word in words]


def decode(vocabulary: Sequence[str], ids: Iterable[int]) -> str:
    r"""Text of word ids, with a line break for ``<eos>``.

    Example:
        >>> decode(("<eos>", "the", "cat"), [1, 2, 0, 1])
        'the cat\nthe'
    """
    words = (vocabulary[index] for index in ids)
    lines = " ".join("\n" if word == END_OF_SENTENCE else word for word in words).split("\n")
    return "\n".join(line.strip() for line in lines)
