"""Switch oneDNN on or off for a while: torch's CPU kernels for recurrent layers differ greatly with it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def onednn(enabled: bool) -> Iterator[None]:
    """Use oneDNN (or not) inside the block, whatever it was before; nothing changes on a build without oneDNN.

    Example:
        >>> with onednn(False):
        ...     print(torch.backends.mkldnn.enabled)
        False
    """
    if not torch.backends.mkldnn.is_available():
        yield
        return
    with warnings.catch_warnings():
        # torch 2.13 warns about TF32 on Intel GPUs whenever the switch is touched
        warnings.filterwarnings("ignore", message="TF32 acceleration")
        before = torch.backends.mkldnn.set_flags(_enabled=enabled)
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(*before)
