"""Ready-made models: to train, to sample text from, to share on the Hugging Face Hub, and small ones to take home.

Those to train are imported when they are asked for: they need Lightning, and a model that only runs should not wait for
those seconds.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from l0rnn.models.generation import generate
from l0rnn.models.shipped import ShippedModel, load, models

if TYPE_CHECKING:
    from l0rnn.models.gated_lstm import CLASSES, MODELS, L0GatedGRU, L0GatedLSTM, load_model

_LATE = {"CLASSES", "MODELS", "L0GatedGRU", "L0GatedLSTM", "load_model"}

__all__ = ["CLASSES", "MODELS", "L0GatedGRU", "L0GatedLSTM", "ShippedModel", "generate", "load", "load_model", "models"]


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(importlib.import_module("l0rnn.models.gated_lstm"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Listing(ModuleType):
    """This folder under the name of a function: called, it lists the models to take home."""

    def __call__(self) -> dict[str, ShippedModel]:
        return models()


sys.modules[__name__].__class__ = _Listing
