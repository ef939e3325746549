"""Training a network while it is pruned: in any loop, or under Lightning, which is imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from l0rnn.training.pruner import Pruner

if TYPE_CHECKING:
    from l0rnn.training.averaging import AverageLate
    from l0rnn.training.callbacks import ScaleDropout
    from l0rnn.training.module import PrunableModule
    from l0rnn.training.removal import RemoveClosedUnits

_LATE = {
    "AverageLate": "averaging",
    "PrunableModule": "module",
    "RemoveClosedUnits": "removal",
    "ScaleDropout": "callbacks",
}

__all__ = ["AverageLate", "PrunableModule", "Pruner", "RemoveClosedUnits", "ScaleDropout"]


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(importlib.import_module(f"l0rnn.training.{_LATE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
