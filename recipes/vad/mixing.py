"""Streams of speech, silence and noise, with what of them is speech."""

from __future__ import annotations

import numpy as np

from recipes.vad.network import CHUNK, RATE
from recipes.vad.noise import KINDS, coloured, noise
from recipes.vad.speech import speak, spoken
from recipes.vad.words import Split

Draw = np.random.Generator


def stream(split: Split, draw: Draw, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """A stream at 16 kHz in [-1, 1], and for each whole chunk whether half of it or more is speech.

    Args:
        split: whose voices and words.
        draw: where chance comes from.
        seconds: its length.
    """
    count = round(seconds * RATE) // CHUNK * CHUNK
    speech, truth = np.zeros(count, np.float32), np.zeros(count, bool)
    if draw.random() < 0.85:
        _talk(split, draw, speech, truth)
    background = np.zeros(count, np.float32)
    for _ in range(int(draw.choice([0, 1, 2], p=[0.12, 0.58, 0.3]))):
        background += noise(str(draw.choice(list(KINDS))), draw, count / RATE) * draw.uniform(0.3, 1)
    if split == "train" and draw.random() < 0.1:  # who overhears many voices has no truth: only the original's word
        background += _babble(draw, count)
    speech_power, noise_power = _power(speech[truth]), _power(background)
    if speech_power and noise_power:
        background *= np.sqrt(speech_power / noise_power) * 10 ** (-draw.uniform(-5, 30) / 20)
    mixed = speech + background + draw.standard_normal(count).astype(np.float32) * 10 ** draw.uniform(-5, -3.3)
    if draw.random() < 0.3:
        mixed = _narrowed(mixed, draw.uniform(3000, 4000))
    loudest = float(np.abs(mixed).max())
    mixed *= 10 ** (draw.uniform(-35, -1) / 20) / max(loudest, 1e-9)
    return mixed, truth.reshape(-1, CHUNK).mean(1) >= 0.5


def _power(samples: np.ndarray) -> float:
    return float(np.square(samples, dtype=np.float64).mean()) if samples.size else 0.0


def _talk(split: Split, draw: Draw, speech: np.ndarray, truth: np.ndarray) -> None:
    """Clips of one room and microphone, with gaps."""
    place = int(draw.exponential(0.8) * RATE)
    room = _echo(draw) if draw.random() < 0.45 else None
    microphone = int(draw.integers(2**31))
    while place < len(speech):
        clip = speak(split, draw)
        heard = spoken(clip)
        clip = coloured(clip, np.random.default_rng(microphone), 8) * 10 ** (draw.uniform(-8, 0) / 20)
        if room is not None:
            clip = _convolved(clip, room)
        end = min(place + len(clip), len(speech))
        speech[place:end] += clip[: end - place]
        heard = heard[: end - place]
        truth[place : place + len(heard)] |= heard
        place += len(heard) + int((0.2 + draw.exponential(1.6)) * RATE)


def _babble(draw: Draw, count: int) -> np.ndarray:
    voices = np.zeros(count, np.float32)
    for _ in range(int(draw.integers(2, 6))):
        clip = speak("train", draw)
        voices += np.resize(np.concatenate([clip, np.zeros(RATE // 2, np.float32)]), count)
    return voices * draw.uniform(0.1, 1)


def _echo(draw: Draw) -> np.ndarray:
    """The response of a room: the sound itself, then noise that dies away."""
    length = draw.uniform(0.1, 0.7)  # seconds until it is 60 dB softer
    time = np.arange(int(length * RATE)) / RATE
    response = draw.standard_normal(len(time)) * np.exp(-6.9 * time / length)
    response *= draw.uniform(0.1, 0.8) / np.sqrt(np.square(response).sum())
    response[0] = 1.0
    return response


def _convolved(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    size = 1 << (len(samples) + len(response)).bit_length()
    spectrum = np.fft.rfft(samples, size) * np.fft.rfft(response, size)
    return np.fft.irfft(spectrum, size)[: len(samples) + len(response)].astype(np.float32)


def _narrowed(samples: np.ndarray, frequency: float) -> np.ndarray:
    """As over a telephone: nothing above a frequency."""
    spectrum = np.fft.rfft(samples)
    spectrum[int(frequency / (RATE / 2) * (len(spectrum) - 1)) :] = 0
    return np.fft.irfft(spectrum, len(samples)).astype(np.float32)
