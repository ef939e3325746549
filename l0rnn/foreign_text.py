"""Text out of files that a stranger may have written, as messages may show it: on one line, short, and harmless."""

from __future__ import annotations

from typing import Any


def shown(value: Any) -> str:
    r"""A value from a file as an error may show it: on one line and short.

    Example:
        >>> shown("a\nb" + 100 * "c")[:12]
        "'a\\nbccccccc"
    """
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def printable(text: Any, most: int = 200) -> str:
    r"""Text that may come from a file, such as a library's message about it, without anything that a terminal obeys.

    Args:
        text: the text, or an error.
        most: characters to show at most.

    Example:
        >>> printable("cannot read \x1b[2J\nword")
        'cannot read \\x1b[2J word'
    """
    # a little more than is shown is looked at, however long it is
    words = " ".join(str(text)[: 2 * most].split())
    plain = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in words)
    return plain if len(plain) <= most else f"{plain[: most - 3]}..."
