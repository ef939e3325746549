"""Sound files as samples at 16 kHz."""

from __future__ import annotations

import hashlib
import wave
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recipes.vad.network import RATE

_TAPS = 32  # zero crossings of the filter on each side
_RANGE = {1: 128.0, 2: 32_768.0, 4: 2_147_483_648.0}  # bytes of a sample: its largest value


def read_wav(path: Path) -> Tensor:
    """Samples of a WAV file in [-1, 1] at 16 kHz, channels averaged, `(samples,)`.

    Raises:
        ValueError: if it is not a WAV file of whole numbers at 8 or 16 kHz, or has no samples.
    """
    try:
        with wave.open(str(path), "rb") as file:
            rate, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
            content = file.readframes(file.getnframes())
    except (wave.Error, EOFError, OSError) as error:
        raise ValueError(
            f"`path` must be a WAV file of whole numbers, got {str(path)!r} ({error}); "
            f"convert it with: sox {path.name} -b 16 -r {RATE} -c 1 {path.stem}_16k.wav"
        ) from error
    if rate not in (RATE, RATE // 2) or width not in _RANGE:
        raise ValueError(
            f"`path` must have 8000 or {RATE} samples per second of 8, 16 or 32 bits, got {rate} of {8 * width} in "
            f"{str(path)!r}; convert it with: sox {path.name} -b 16 -r {RATE} -c 1 {path.stem}_16k.wav"
        )
    content = content[: len(content) // (width * channels) * width * channels]
    if not content:
        raise ValueError(f"`path` must have samples, got none in {str(path)!r}")
    values = np.frombuffer(content, {1: "u1", 2: "<i2", 4: "<i4"}[width]).astype(np.float64)
    values = (values - (128 if width == 1 else 0)) / _RANGE[width]
    samples = torch.from_numpy(values.reshape(-1, channels).mean(1)).float()
    return samples if rate == RATE else doubled(samples)


def doubled(samples: Tensor) -> Tensor:
    """The same sound at twice the rate, through a windowed sinc filter."""
    count = samples.numel()
    place = torch.arange(-_TAPS, _TAPS, dtype=torch.float64) + 0.5  # halfway between two samples
    filter_ = torch.sinc(place) * torch.cos(torch.pi * place / (2 * _TAPS)).square()
    padded = torch.nn.functional.pad(samples.double(), (_TAPS - 1, _TAPS))
    between = torch.nn.functional.conv1d(padded.view(1, 1, -1), filter_.view(1, 1, -1)).flatten()[:count]
    return torch.stack([samples, between.float()], dim=1).flatten()


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Samples in [-1, 1] as 16-bit numbers; louder ones are clipped."""
    return np.clip(np.rint(samples * 32_767.0), -32_768, 32_767).astype(np.int16)


def sha256_checked(content: bytes, wanted: str) -> None:
    """Refuse a download that is another file.

    Raises:
        ValueError: if its checksum is not the one wanted.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != wanted:
        raise ValueError(
            f"the downloaded recording must have the sha256 {wanted}, got {found}; "
            "name a folder of WAV files with --recordings"
        )
