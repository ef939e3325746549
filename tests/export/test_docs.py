"""The examples of docs/export.md run, and its lists are complete."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

from l0rnn.cli import FORMATS

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")


def test_the_examples_run() -> None:
    found = re.findall(r"^```pycon\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert len(found) == 2
    for text in found:
        example = doctest.DocTestParser().get_doctest(text, {}, "docs/export.md", "docs/export.md", 0)
        assert doctest.DocTestRunner().run(example).failed == 0


def test_every_format_has_its_row() -> None:
    formats = re.findall(r"^  (\w+)", FORMATS, flags=re.MULTILINE)
    assert formats == re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE)
    assert len(formats) == 7
