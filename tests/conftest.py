"""For all tests: one thread, since on tiny networks threads spend their time waiting for each other."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from recipes.penn_treebank import corpus

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


SMALL_TEXTS: dict[corpus.Split, str] = {
    "train": "".join(f" the {word} sat on the mat \n" for word in ("cat", "dog", "cow", "ant", "cat", "bee")),
    "valid": " the cat sat on the dog \n the dog sat \n",
    "test": " the ant sat on the bee \n the mat sat \n",
}


@pytest.fixture
def small_treebank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with small texts, whose md5s stand in for the published ones."""
    folder = tmp_path / "small"
    folder.mkdir()
    for split, text in SMALL_TEXTS.items():
        (folder / f"ptb.{split}.txt").write_bytes(text.encode())
        monkeypatch.setitem(corpus._PUBLISHED_MD5, split, hashlib.md5(text.encode()).hexdigest())
    return folder


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked ``many``, unless it is asked for by name."""
    if "many" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("many")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("many")]
