"""Write a directory aside and move it to its place when it is whole, so that nobody ever meets half an export."""

from __future__ import annotations

import glob
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from l0rnn.export.untrusted_json import read_json

# every file that an export writes; a directory with any other file in it, or without its config, is never replaced
CONFIG, WEIGHTS, VOCABULARY, CARD = "config.json", "model.safetensors", "vocabulary.json", "README.md"
TORCH_FILE, TORCH_WEIGHTS = "model.py", "weights.pt"
ONNX = "model.onnx"
PROGRAM, COMPILED, EXECUTORCH = "program.pt2", "compiled.pt2", "model.pte"
PAGE = ("index.html", "page.css", "page.js", "sha256.js")
MODELS, RUNTIME, CHECKSUMS = "models", "runtime", "SHA256SUMS"
_KINDS = ("partial", "former")
_A_DAY = 24 * 3600
_CACHE = "__pycache__"  # Python writes it when a model.py is imported
WRITTEN = {
    *(CONFIG, WEIGHTS, VOCABULARY, CARD, TORCH_FILE, TORCH_WEIGHTS, ONNX, PROGRAM, COMPILED, EXECUTORCH, _CACHE),
    *(*PAGE, MODELS, RUNTIME, CHECKSUMS),
}


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
    _clear_away(ground, place)
    _check_place(place, overwrite)  # again, where a former export was put back
    token = f"{_machine()}-{os.getpid()}-{secrets.token_hex(4)}"
    aside, former = (ground / f".{place.name}.{token}.{kind}" for kind in _KINDS)
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


def _clear_away(ground: Path, place: Path) -> None:
    """Remove what exports to this place left when they were killed, and put back what one had just moved away."""
    for kind in reversed(_KINDS):
        for left in ground.glob(f".{glob.escape(place.name)}.*.{kind}"):
            if not _is_left(left):
                continue
            if kind == "former" and not place.exists():  # killed between the two renamings
                left.rename(place)
            else:
                shutil.rmtree(left, ignore_errors=True)


def _is_left(path: Path) -> bool:
    """Whether nobody writes to a folder any more: its process has ended, or it has not changed for a day."""
    found = re.fullmatch(r".*\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.(partial|former)", path.name)
    if found is None or not path.is_dir() or path.is_symlink():
        return False
    if found[1] == _machine() and not _is_running(int(found[2])):
        return True
    return time.time() - path.stat().st_mtime > _A_DAY


def _machine() -> str:
    """This machine among those that may share a disk, in 8 characters."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _is_running(process: int) -> bool:
    if os.name != "posix":  # elsewhere to ask is to kill
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


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
