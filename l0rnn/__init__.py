"""Train a recurrent network with a gate on every unit, then shrink it to the smaller dense network that is left."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from l0rnn.cost.budget import Budget
from l0rnn.cost.objective import Penalty
from l0rnn.gates.hard_concrete import HardConcrete
from l0rnn.gates.recurrence import GatedGRU, GatedLSTM, GatedRNN
from l0rnn.methods import Dense, L0Gates, Method
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.surgery.shrink import shrink
from l0rnn.tracing import explain
from l0rnn.training.pruner import Pruner
from l0rnn.version import __version__ as __version__

if TYPE_CHECKING:
    from l0rnn.models import L0GatedGRU, L0GatedLSTM, load, models
    from l0rnn.training import PrunableModule

# what needs Lightning is imported when it is asked for: layers, surgery and loading work without those seconds
_LATE = {
    **dict.fromkeys(("L0GatedGRU", "L0GatedLSTM", "load"), "l0rnn.models"),
    "PrunableModule": "l0rnn.training",
}

__all__ = [
    "Budget",
    "Dense",
    "GatedGRU",
    "GatedLSTM",
    "GatedRNN",
    "HardConcrete",
    "L0GatedGRU",
    "L0GatedLSTM",
    "L0Gates",
    "Method",
    "Penalty",
    "PrunableModule",
    "Pruner",
    "RaggedRNN",
    "explain",
    "load",
    "models",
    "shrink",
]


def __getattr__(name: str) -> Any:
    if name == "models":  # the folder itself, which is called to list the models in it
        return importlib.import_module("l0rnn.models")
    if name in _LATE:
        return getattr(importlib.import_module(_LATE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
