"""Write a directory aside and move it to its place when it is whole, so that nobody ever meets half an export."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from l0rnn.export.untrusted_json import read_json

# every file that an export writes; a directory with any other file in it, or without its config, is never replaced
CONFIG, WEIGHTS, VOCABULARY, CARD = "config.json", "model.safetensors", "vocabulary.json", "README.md"
TORCH_FILE, TORCH_WEIGHTS = "model.py", "weights.pt"
ONNX = "model.onnx"
PROGRAM, COMPILED, EXECUTORCH = "program.pt2", "compiled.pt2", "model.pte"
_CACHE = "__pycache__"  # Python writes it when a model.py is imported
WRITTEN = {CONFIG, WEIGHTS, VOCABULARY, CARD, TORCH_FILE, TORCH_WEIGHTS, ONNX, PROGRAM, COMPILED, EXECUTORCH, _CACHE}


@contextmanager
def written_aside(directory: str | Path, *, overwrite: bool) -> Iterator[Path]:
    """A fresh directory to write to, which takes the place of ``directory`` when the block ends without an error.

    Args:
        directory: where the export shall be. Its parents are made as needed.
        overwrite: whether an export that is there may be replaced.

    Raises:
        FileExistsError: if there is a file, a directory that is not empty without ``overwrite``, or one that holds
            anything but an export.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp()) / "model"
        >>> with written_aside(place, overwrite=False) as aside:
        ...     _ = (aside / "config.json").write_text("{}")
        >>> [path.name for path in place.parent.iterdir()], [path.name for path in place.iterdir()]
        (['model'], ['config.json'])
    """
    place = Path(directory).resolve()
    _check_place(place, overwrite)
    ground = next(parent for parent in place.parents if parent.exists())  # so that moving is renaming
    token = secrets.token_hex(4)
    aside, former = (ground / f".{place.name}.{token}.{kind}" for kind in ("partial", "former"))
    aside.mkdir()
    try:
        yield aside
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists():
            place.rename(former)
        aside.rename(place)
    finally:
        if former.exists() and not place.exists():  # interrupted between the two
            former.rename(place)
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def _check_place(place: Path, overwrite: bool) -> None:
    if place.exists() and not place.is_dir():
        raise FileExistsError(f"`directory` {place} is a file; name a directory")
    inside = sorted(path.name for path in place.iterdir()) if place.is_dir() else []
    if inside and not overwrite:
        raise FileExistsError(
            f"`directory` {place} is not empty; name a new one, or ask for its replacement with overwrite (--overwrite)"
        )
    others = [name for name in inside if name not in WRITTEN]
    if others:
        raise FileExistsError(
            f"`directory` {place} holds files that no export wrote ({', '.join(others[:3])}), so it is not replaced; "
            "name another directory"
        )
    if inside and not _is_export(place):
        raise FileExistsError(
            f"`directory` {place} holds {', '.join(inside[:3])}, but no {CONFIG} of an export, so it is not replaced; "
            "name another directory, or empty it"
        )


def _is_export(place: Path) -> bool:
    try:
        content = read_json(place / CONFIG)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"format", "export", "l0rnn"} <= content.keys()
