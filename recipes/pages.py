"""Pages whose tables come from result files: what stands between ``<!-- name -->`` and ``<!-- /name -->``."""

from __future__ import annotations

import re


def replaced(page: str, mark: str, text: str) -> str:
    """A page with another text between its marks.

    Raises:
        ValueError: if the page has not exactly one such place.

    Example:
        >>> replaced("a\\n<!-- table -->\\nold\\n<!-- /table -->\\nb", "table", "new").split()
        ['a', '<!--', 'table', '-->', 'new', '<!--', '/table', '-->', 'b']
    """
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    line = f"{text}\n" if text else ""
    found, count = pattern.subn(lambda marks: f"{marks[1]}{line}{marks[2]}", page)
    if count != 1:
        raise ValueError(f"`page` must have <!-- {mark} --> and <!-- /{mark} --> once, found {count} times")
    return found
