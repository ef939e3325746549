"""The SQuAD v1.1 files by their checksums, and a download that keeps only what has the right one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from recipes.download import fetch

Split = Literal["train", "dev"]

OFFICIAL_MD5 = {"train": "981b29407e0affa3b1b156f72073b945", "dev": "3e85deb501d4e538b6bc56f786231552"}
REBUILT_TRAIN_MD5 = "301c840d5146a3c4cc59c7dfd517a2b1"  # same articles, paragraphs and questions; other question ids
_URL = "https://rajpurkar.github.io/SQuAD-explorer/dataset/{split}-v1.1.json"
WAYS_TO_GET_IT = (
    "Two ways to get SQuAD v1.1: name a folder with train-v1.1.json and dev-v1.1.json (also as .json.xz or .json.gz) "
    "as `data_dir`; or leave `data_dir` out on a machine with a network, and the files are downloaded to "
    "~/.cache/l0rnn/squad"
)


def md5_of(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def which_file(split: Split, md5: str) -> str:
    """``"official"``, ``"rebuilt"`` or ``"another"``, by the md5 of the unpacked file."""
    if md5 == OFFICIAL_MD5[split]:
        return "official"
    return "rebuilt" if split == "train" and md5 == REBUILT_TRAIN_MD5 else "another"


def download(split: Split) -> Path:
    """The official file in ``~/.cache/l0rnn/squad``, fetched at the first call."""
    path = Path.home() / ".cache" / "l0rnn" / "squad" / f"{split}-v1.1.json"
    if path.is_file():
        _check(path.read_bytes(), split, source=str(path))
        return path
    url = _URL.format(split=split)
    fetch(url, path, check=lambda content: _check(content, split, source=url), other_ways=WAYS_TO_GET_IT)
    return path


def _check(content: bytes, split: Split, *, source: str) -> None:
    md5 = md5_of(content)
    if md5 != OFFICIAL_MD5[split]:
        raise ValueError(
            f"the downloaded {split} file must have the official md5 {OFFICIAL_MD5[split]}, but {source} has {md5}: "
            f"it is another version or damaged; remove or replace it. {WAYS_TO_GET_IT}"
        )
