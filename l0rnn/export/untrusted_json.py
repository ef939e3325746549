"""Read JSON that a stranger may have written: bounded, without NaN or repeated keys, and one error for all faults."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from l0rnn.arguments import checked
from l0rnn.foreign_text import printable

MOST_BYTES = 32 * 2**20


@checked
def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is larger than 32 MiB or is not plain JSON.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "config.json"
        >>> _ = path.write_text('{"units": NaN}')
        >>> read_json(path)
        Traceback (most recent call last):
        ...
        ValueError: config.json is not plain JSON: it holds NaN
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; name a directory that an export wrote")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes, more than the {MOST_BYTES:,} of any export")
    try:
        return json.loads(
            path.read_text(encoding="utf-8"),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_without_repeats,
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is not plain JSON: {printable(error)}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds {text}, which is not finite")
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("it repeats a key")
    return found
