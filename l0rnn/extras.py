"""Packages of optional extras: imported when used, and named with their extra where they are missing."""

from __future__ import annotations

import importlib
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

# what torch and onnxruntime say about themselves while they export; none of it is about the user's network
_KNOWN_WARNINGS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    "# The axis name",
    "The tensor attributes?",
    "`torch.jit",
)


def require(package: str, extra: str, *, at_least: tuple[int, ...] = ()) -> ModuleType:
    """Import a package of an optional extra.

    Args:
        package: name to import.
        extra: the extra of l0rnn that brings it.
        at_least: oldest version that will do.

    Raises:
        ModuleNotFoundError: if it is not installed; it says how to install it.
        ValueError: if it is too old.

    Example:
        >>> require("safetensors", "export").__name__
        'safetensors'
    """
    install = f"pip install 'l0rnn[{extra}]'"
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != package.split(".")[0]:
            raise
        message = f"the package {package!r} is not installed; install it with: {install}"
        raise ModuleNotFoundError(message, name=error.name) from error
    found = getattr(module, "__version__", "")
    if at_least and version_numbers(found) < at_least:
        wanted = ".".join(map(str, at_least))
        raise ValueError(f"{package} {found} is too old, {wanted} or newer is needed; update it with: {install} -U")
    return module


def version_numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version.

    Example:
        >>> version_numbers("2.13.0+cpu")
        (2, 13, 0)
    """
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Silence what torch and onnxruntime log and warn about themselves inside the block; errors pass."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _KNOWN_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        logging.disable(before)
