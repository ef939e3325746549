"""Ready-made models: to train, to sample text from, to share on the Hugging Face Hub.

Those to train are imported when they are asked for: they need Lightning, and a model that only runs should not wait for
those seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from l0rnn.models.generation import generate

if TYPE_CHECKING:
    from l0rnn.models.gated_lstm import CLASSES, MODELS, L0GatedGRU, L0GatedLSTM, load_model

_LATE = {"CLASSES", "MODELS", "L0GatedGRU", "L0GatedLSTM", "load_model"}

__all__ = ["CLASSES", "MODELS", "L0GatedGRU", "L0GatedLSTM", "generate", "load_model"]


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(importlib.import_module("l0rnn.models.gated_lstm"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
