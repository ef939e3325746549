"""Sounds that are no speech: by sox, and where sox has no effect for it, by numpy."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import numpy as np

from recipes.vad.network import RATE
from recipes.vad.speech import program

Draw = np.random.Generator
Noise = Callable[[Draw, float], np.ndarray]


def noise(kind: str, draw: Draw, seconds: float) -> np.ndarray:
    """A sound of a kind of `KINDS`, at a root mean square of 0.1.

    Args:
        kind: key of `KINDS`.
        draw: where chance comes from.
        seconds: its length.
    """
    samples = np.zeros(round(seconds * RATE), np.float32)
    made = KINDS[kind](draw, seconds)[: len(samples)]
    samples[: len(made)] = made
    loudness = float(np.sqrt(np.square(samples, dtype=np.float64).mean()))
    return samples * (0.1 / max(loudness, 1e-6))


def _sox(seconds: float, *effects: object) -> np.ndarray:
    """What ``sox -n ... effects`` makes, cut to a length; sox repeats its noise, so a part is drawn by who calls."""
    command = [program("sox", "sox"), "-V1", "-R", "-n", "-r", RATE, "-c", 1, "-t", "f32", "-", *effects]
    made = subprocess.run([str(word) for word in [*command, "trim", 0, seconds]], capture_output=True, check=True)
    return np.frombuffer(made.stdout, "<f4")


def _colour(draw: Draw) -> str:
    return str(draw.choice(["whitenoise", "pinknoise", "brownnoise"]))


def _steady(draw: Draw, seconds: float) -> np.ndarray:
    start = draw.uniform(0, 60)
    return _sox(seconds, "synth", start + seconds, _colour(draw), "trim", start)


def _band(draw: Draw, seconds: float) -> np.ndarray:
    centre = float(np.exp(draw.uniform(np.log(150), np.log(6000))))
    width = centre * draw.uniform(0.1, 1.0)
    start = draw.uniform(0, 60)
    return _sox(seconds, "synth", start + seconds, _colour(draw), "trim", start, "band", "-n", centre, width)


def _swelling(draw: Draw, seconds: float) -> np.ndarray:
    start, speed, depth = draw.uniform(0, 60), draw.uniform(0.1, 9), draw.uniform(50, 100)
    return _sox(seconds, "synth", start + seconds, _colour(draw), "trim", start, "tremolo", speed, depth)


def _hum(draw: Draw, seconds: float) -> np.ndarray:
    tone = draw.choice([50, 60, 100, 120]) * draw.uniform(0.98, 1.02)
    shape = str(draw.choice(["sawtooth", "square", "triangle", "sine"]))
    highest = draw.uniform(200, 3000)
    return _sox(
        seconds, "synth", seconds, shape, tone, "synth", seconds, "brownnoise", "mix", "lowpass", highest
    )  # fmt: skip


def _sweep(draw: Draw, seconds: float) -> np.ndarray:
    low, high = sorted(draw.uniform(100, 5000, 2))
    shape, length = str(draw.choice(["sine", "triangle", "square"])), draw.uniform(0.3, 4)
    return _sox(seconds, "synth", length, shape, f"{low:.0f}-{high:.0f}", "repeat", int(seconds / length) + 1)


def _beeps(draw: Draw, seconds: float) -> np.ndarray:
    tone, length, pause = draw.uniform(250, 4000), draw.uniform(0.04, 0.8), draw.uniform(0.05, 1.2)
    shape = str(draw.choice(["sine", "square", "triangle"]))
    every = length + pause
    return _sox(seconds, "synth", length, shape, tone, "pad", 0, pause, "repeat", int(seconds / every) + 1)


def _melody(draw: Draw, seconds: float) -> np.ndarray:
    notes = 110 * 2 ** (draw.integers(0, 30, 4) / 12)
    beat = draw.uniform(0.15, 0.6)
    shape = str(draw.choice(["pluck", "sine", "triangle", "trapezium"]))
    together = [word for note in notes for word in (shape, f"{note:.2f}")]
    delays = [f"{place * beat:.3f}" for place in range(4)]
    length = 4 * beat + 0.5
    return _sox(
        seconds, "channels", 4, "synth", length, *together, "delay", *delays, "remix", "-",
        "reverb", "repeat", int(seconds / length) + 1,
    )  # fmt: skip


def _engine(draw: Draw, seconds: float) -> np.ndarray:
    tone, flutter = draw.uniform(25, 160), draw.uniform(4, 30)
    low, high = draw.uniform(60, 200), draw.uniform(500, 4000)
    return _sox(
        seconds, "synth", seconds, "sawtooth", tone, "synth", seconds, "pinknoise", "mix",
        "tremolo", flutter, draw.uniform(10, 70), "highpass", low, "lowpass", high,
    )  # fmt: skip


def _clicks(draw: Draw, seconds: float) -> np.ndarray:
    """Keys, taps and slams: decaying bursts at random moments."""
    samples = np.zeros(round(seconds * RATE), np.float32)
    for _ in range(int(draw.poisson(draw.uniform(0.5, 8) * seconds)) + 1):
        decay = float(np.exp(draw.uniform(np.log(0.002), np.log(0.15))))
        length = int(5 * decay * RATE)
        start = int(draw.integers(0, len(samples)))
        burst = draw.standard_normal(length) * np.exp(-np.arange(length) / (decay * RATE)) * draw.uniform(0.2, 1)
        kept = samples[start : start + length]
        kept += coloured(burst, draw, 12)[: len(kept)]
    return samples


def _syllables(draw: Draw, seconds: float) -> np.ndarray:
    """Noise that comes and goes as fast as syllables do, with a spectrum that speech does not have."""
    count = round(seconds * RATE)
    beats = int(seconds * draw.uniform(2, 8)) + 2
    level = np.where(draw.random(beats) < 0.6, draw.uniform(0.3, 1, beats), 0.0)
    envelope = np.interp(np.linspace(0, beats - 1, count), np.arange(beats), level)
    return coloured(draw.standard_normal(count), draw, 15) * envelope


def coloured(samples: np.ndarray, draw: Draw, decibels: float) -> np.ndarray:
    """Samples through a smooth random filter.

    Args:
        samples: one sound.
        draw: where chance comes from.
        decibels: how much, at most, each of nine points of its response is louder or softer.
    """
    spectrum = np.fft.rfft(samples)
    points = np.linspace(0, 1, 9) ** 2  # closer together at low frequencies
    response = np.interp(np.linspace(0, 1, len(spectrum)), points, draw.uniform(-decibels, decibels, 9))
    return np.fft.irfft(spectrum * 10 ** (response / 20), len(samples)).astype(np.float32)


KINDS: dict[str, Noise] = {
    "steady": _steady,
    "band": _band,
    "swelling": _swelling,
    "hum": _hum,
    "sweep": _sweep,
    "beeps": _beeps,
    "melody": _melody,
    "engine": _engine,
    "clicks": _clicks,
    "syllables": _syllables,
}
