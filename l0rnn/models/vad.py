"""Voice activity in a stream of sound: the small network of recipes/vad in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from l0rnn.extras import require

RATE = 16_000
CHUNK, CONTEXT = 512, 64  # new samples of a chunk of 32 ms, and those that it repeats
_STATE = (2, 1, 128)


class VoiceActivity:
    """How likely each 32 ms of a sound are speech; it goes on from where the sound before ended.

    Args:
        path: an ONNX file with the inputs and the state of silero-vad.

    Raises:
        ModuleNotFoundError: if ONNX Runtime is not installed.

    Example:
        >>> import l0rnn, numpy as np
        >>> detector = l0rnn.load("vad")
        >>> detector(np.zeros(16_000, np.float32)).shape
        (31,)
    """

    def __init__(self, path: str | Path) -> None:
        runtime = require("onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1  # a chunk is too little work for more
        options.log_severity_level = 3  # errors only
        self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.reset()

    def reset(self) -> None:
        """Forget what was heard: the next sound is a new one."""
        self._state = np.zeros(_STATE, np.float32)
        self._heard = np.zeros(CONTEXT, np.float32)  # the context, and samples that do not fill a chunk yet

    def __call__(self, sound: Any) -> np.ndarray:
        """Probabilities of speech.

        Args:
            sound: samples at 16 kHz between -1 and 1, `(sample,)`: an array or a tensor. What does not fill a chunk is
                kept for the next call.

        Returns:
            `(chunk,)`, one for each 512 samples; empty while there are fewer.

        Raises:
            ValueError: if ``sound`` is not one channel of finite numbers.
        """
        samples = np.asarray(sound, dtype=np.float32)
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise ValueError(f"`sound` must be samples (sample,), all finite, got shape {samples.shape}")
        heard = np.concatenate([self._heard, samples])
        count = (len(heard) - CONTEXT) // CHUNK
        found = np.zeros(count, np.float32)
        for chunk in range(count):
            window = heard[None, chunk * CHUNK : (chunk + 1) * CHUNK + CONTEXT]
            given = {"input": window, "state": self._state, "sr": np.array(RATE)}
            speech, self._state = self._session.run(None, given)
            found[chunk] = speech[0, 0]
        self._heard = heard[count * CHUNK :]
        return found
