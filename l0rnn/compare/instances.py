"""Methods as a plan says them: a name, or ``class_path`` and ``init_args``, with ``${density}`` for a density."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from l0rnn.methods import METHODS

DENSITY = "${density}"
# prices of the penalties, in units of the loss: a density decides how much goes, the price how well that is prepared
WEIGHTS = {"group_lasso": 1e-4, "block_group_lasso": 2e-5}


def method_at_densities(told: Any) -> dict[str, Any]:
    """What a plan says of a method, as ``class_path`` and ``init_args``.

    Args:
        told: the name of a method in `METHODS`, for its defaults, or the class path and arguments.

    Raises:
        ValueError: if there is no such method.

    Example:
        >>> method_at_densities("structured_magnitude")["init_args"]
        {'density': '${density}'}
    """
    if isinstance(told, Mapping) and "class_path" in told:
        kind_of(str(told["class_path"]))
        return dict(told)
    if not isinstance(told, str) or told not in METHODS:
        raise ValueError(
            f"`methods` must name {', '.join(METHODS)}, or give a `class_path` and `init_args`, got {told!r:.80}"
        )
    kind = METHODS[told]
    wanted = inspect.signature(kind).parameters
    arguments: dict[str, Any] = {"weight": WEIGHTS[told]} if told in WEIGHTS else {}
    if "objective" in wanted:
        arguments["objective"] = {"class_path": "l0rnn.Budget", "init_args": {"density": DENSITY}}
    elif "density" in wanted:
        arguments["density"] = DENSITY
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}


def filled(told: Any, density: float | None) -> Any:
    """The same with a density in its places.

    Example:
        >>> filled({"init_args": {"density": "${density}"}}, 0.3)
        {'init_args': {'density': 0.3}}
    """
    if isinstance(told, Mapping):
        return {key: filled(value, density) for key, value in told.items()}
    if isinstance(told, list):
        return [filled(value, density) for value in told]
    return density if told == DENSITY else told


def instance(told: Any) -> Any:
    """Build what ``class_path`` and ``init_args`` describe, arguments first.

    Raises:
        ValueError: if there is no such class, or the arguments do not fit it.

    Example:
        >>> instance({"class_path": "l0rnn.Budget", "init_args": {"density": 0.3}}).density
        0.3
    """
    if isinstance(told, list):
        return [instance(value) for value in told]
    if not isinstance(told, Mapping):
        return told
    if "class_path" not in told:
        return {key: instance(value) for key, value in told.items()}
    kind = kind_of(str(told["class_path"]))
    arguments = {name: instance(value) for name, value in (told.get("init_args") or {}).items()}
    try:
        return kind(**arguments)
    except TypeError as error:
        takes = ", ".join(inspect.signature(kind).parameters)
        raise ValueError(f"`init_args` of {told['class_path']} do not fit it: {error}; it takes {takes}") from error


def kind_of(path: str) -> type:
    """The class of a dotted name.

    Raises:
        ValueError: if there is none.

    Example:
        >>> kind_of("l0rnn.Budget").__name__
        'Budget'
    """
    module, _, name = path.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"`class_path` must name a class that can be imported, got {path!r}: {error}") from error
    if not isinstance(kind, type):
        raise ValueError(f"`class_path` must name a class, got {path!r}")
    return kind


def class_path(told: Any) -> str:
    """The class path of what is one, or has one.

    Example:
        >>> class_path("a.B"), class_path({"class_path": "a.B", "init_args": {}})
        ('a.B', 'a.B')
    """
    return str(told["class_path"] if isinstance(told, Mapping) and "class_path" in told else told)


def source_hash(path: str) -> str:
    """Short hash of the file that defines the class of a dotted name: another text is another experiment.

    Raises:
        ValueError: if there is no such class.
    """
    kind_of(path)
    found = importlib.util.find_spec(path.rpartition(".")[0])
    text = Path(found.origin).read_bytes() if found is not None and found.origin else path.encode()
    return hashlib.sha256(text).hexdigest()[:10]
