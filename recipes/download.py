"""Fetch a file from its public place, and keep it only if it is the right one."""

from __future__ import annotations

import http.client
import os
import urllib.request
from collections.abc import Callable
from pathlib import Path

_TIMEOUT = 60.0  # seconds without any data


def fetch(url: str, path: Path, *, check: Callable[[bytes], object], other_ways: str) -> None:
    """Download a file.

    Args:
        url: where it is.
        path: where to keep it.
        check: raises an error if the content is not the right one; nothing is kept then.
        other_ways: what to do where there is no network, for the message.

    Raises:
        ConnectionError: the download failed.
    """
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
            content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(f"could not download {url}: {error}. {other_ways}") from error
    check(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed, so that a file under its final name is always whole.
    aside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    aside.write_bytes(content)
    aside.replace(path)
