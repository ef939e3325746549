"""Ready-made models: to train, to sample text from, to share on the Hugging Face Hub, and small ones to take home.

Those to train are imported when they are asked for: they need Lightning, and a model that only runs should not wait for
those seconds.
"""

import sys
from types import ModuleType
from typing import Any

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


class _Listing(ModuleType):
    """This folder under the name of a function: called, it lists the models to take home."""

    def __call__(self) -> dict[str, Any]:
        return self.models()


sys.modules[__name__].__class__ = _Listing
