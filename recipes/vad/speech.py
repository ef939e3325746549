"""Speech by espeak-ng: voices, and clips with what of them is speech."""

from __future__ import annotations

import io
import shutil
import subprocess
import wave

import numpy as np

from recipes.vad.network import CHUNK, RATE
from recipes.vad.words import Split, languages, sentence

VOICES = {
    "train": "m1 m2 m3 m4 m7 f1 f2 f3 f5 adam Alex Alicia Andrea Andy Annie antonio aunty belinda benjamin boris caleb "
    "david Denis Diogo ed edward Gene gustave grandma iven iven2 Jacky john kaukovalta klatt klatt2 klatt3 Lee linda "
    "marcelo Marco Mario max Michael whisper",
    "validation": "m5 f4 Mike miguel steph klatt4 norbert grandpa",
    "test": "m6 m8 Nguyen pablo paul pedro quincy rob robert sandro shelby steph2 Storm travis victor klatt5 anika zac "
    "whisperf croak",
}  # variants of espeak-ng: formants, pitch and roughness
_QUIET = 0.03  # of a clip's loudest chunk: -30 dB, below which a chunk is a pause
_BRIDGED = 8  # chunks (a quarter of a second): shorter pauses are part of speech


def program(name: str, package: str) -> str:
    """Where a program is.

    Raises:
        FileNotFoundError: if it is not installed; it says how to install it.
    """
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"the program {name!r} is not installed; on Debian: apt-get install {package}")
    return found


def speak(split: Split, draw: np.random.Generator) -> np.ndarray:
    """A clip of one to three sentences, at 16 kHz in [-1, 1], without the silence around it.

    Args:
        split: whose voices and words.
        draw: where chance comes from.
    """
    language = str(draw.choice(languages(split)))
    voice = f"{language}+{draw.choice(VOICES[split].split())}"
    text = "".join(sentence(language, split, draw) for _ in range(int(draw.integers(1, 4))))
    speed, pitch = int(draw.integers(110, 230)), int(draw.integers(15, 85))
    command = [program("espeak-ng", "espeak-ng"), "-v", voice, "-s", str(speed), "-p", str(pitch)]
    said = subprocess.run([*command, "--stdout", text], capture_output=True, check=True).stdout
    with wave.open(io.BytesIO(_with_length(said)), "rb") as file:
        rate = file.getframerate()
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32_768
    # played a little faster or slower, voices of other sizes than those of the variants
    return trimmed(resampled(samples, RATE / rate * draw.uniform(0.88, 1.15)))


def _with_length(content: bytes) -> bytes:
    """A WAV file as espeak-ng streams it, with the lengths that it could not know."""
    data = content.index(b"data")
    size = len(content) - data - 8
    lengths = (size + data).to_bytes(4, "little"), size.to_bytes(4, "little")
    return content[:4] + lengths[0] + content[8 : data + 4] + lengths[1] + content[data + 8 :]


def resampled(samples: np.ndarray, factor: float) -> np.ndarray:
    """``factor`` times as many samples of the same sound, by its Fourier transform."""
    count = len(samples)
    size = 1 << (count + 512 - 1).bit_length()
    spectrum = np.fft.rfft(samples, size)
    other = int(round(size * factor / 2)) * 2
    kept = np.zeros(other // 2 + 1, spectrum.dtype)
    lowest = min(len(kept), len(spectrum)) - 1
    kept[:lowest] = spectrum[:lowest]
    return (np.fft.irfft(kept, other) * (other / size))[: int(count * other / size)].astype(np.float32)


def trimmed(samples: np.ndarray) -> np.ndarray:
    """A clip from its first loud sample to its last."""
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max(initial=1e-9))
    return samples[loud[0] : loud[-1] + 1] if len(loud) else samples[:0]


def spoken(samples: np.ndarray) -> np.ndarray:
    """Which samples of a clean clip are speech: all but its pauses of a quarter of a second and more."""
    step = CHUNK // 4
    count = -(-len(samples) // step)
    parts = np.zeros(count * step, np.float32)
    parts[: len(samples)] = samples
    loudness = np.sqrt(np.square(parts.reshape(count, step)).mean(1))
    active = loudness > _QUIET * loudness.max(initial=1e-9)
    places = np.flatnonzero(active)
    for before, after in zip(places[:-1], places[1:], strict=True):
        if after - before <= _BRIDGED * 4:
            active[before:after] = True
    return np.repeat(active, step)[: len(samples)]
