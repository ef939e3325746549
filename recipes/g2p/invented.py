"""Invented words: letters strung together as in the dictionary, for a teacher to pronounce."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable


def invented_words(
    words: Iterable[str], count: int, *, avoid: Collection[str] = (), context: int = 4, seed: int = 0
) -> list[str]:
    """Words in which every letter follows the few before it as somewhere in `words`.

    Args:
        words: the words to learn from.
        count: how many different ones, at most; a few words allow few others.
        avoid: words that must not be among them, such as those held out.
        context: how many letters before one decide about it; the more, the more the words are like true ones.
        seed: of the draw.

    Example:
        >>> invented_words(["banana", "bandana", "cabana"], 1, context=2, seed=1)
        ['bana']
    """
    chooser = random.Random(seed)
    followers: dict[str, list[str]] = {}
    known = list(words)
    for word in known:
        marked = "^" * context + word + "$"
        for place in range(context, len(marked)):
            followers.setdefault(marked[place - context : place], []).append(marked[place])
    forbidden = {*known, *avoid}
    longest = max(map(len, known))
    found: dict[str, None] = {}
    for _ in range(100 * count):
        text = "^" * context
        while not text.endswith("$") and len(text) <= longest + context:
            text += chooser.choice(followers[text[-context:]])
        word = text.strip("^$")
        if text.endswith("$") and word not in forbidden:
            found[word] = None
        if len(found) == count:
            break
    return list(found)
