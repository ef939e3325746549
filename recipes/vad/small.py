"""The small network that comes with l0rnn in the package's own wrapper: `load_small()`."""

from __future__ import annotations

import warnings
from typing import Any

from l0rnn.extras import require
from l0rnn.models import models
from recipes.vad.original import package

SMALL = models()["vad"].folder / "silero_vad_small_16k.onnx"


def load_small() -> Any:
    """The small network in the package's own wrapper, to be used as what `silero_vad.load_silero_vad()` returns.

    Raises:
        ModuleNotFoundError: if silero-vad or ONNX Runtime is not installed.

    Example:
        >>> get_speech_timestamps(sound, load_small())  # doctest: +SKIP
    """
    require("onnxruntime", "onnx")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This model support only 16000")
        return package().OnnxWrapper(str(SMALL), force_onnx_cpu=True)
