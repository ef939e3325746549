"""Teach a network the original's probabilities."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from l0rnn import Pruner
from recipes.vad.data import Streams
from recipes.vad.evaluate import scored
from recipes.vad.network import RATE, VoiceDetector, probabilities
from recipes.vad.original import load_original


@dataclass(frozen=True)
class Course:
    """How a network is taught.

    Attributes:
        epochs: times that all streams are heard.
        learning_rate: the highest, reached after a twentieth of the steps; from there it falls as a cosine.
        batch: streams of a step.
        seed: of their order and of the remixing.
        remixed: share of the steps whose streams are mixed anew, with the original asked again.
    """

    epochs: int = 20
    learning_rate: float = 2e-3
    batch: int = 4
    seed: int = 0
    remixed: float = 0.0

    def steps(self, streams: Streams) -> int:
        """Of the whole course."""
        return self.epochs * math.ceil(len(streams) / self.batch)


def divergence(logits: Tensor, taught: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the network's decisions from the original's, in nats per chunk."""
    entropy = F.binary_cross_entropy(taught, taught)
    return F.binary_cross_entropy_with_logits(logits, taught) - entropy


def teach(
    network: VoiceDetector,
    streams: Streams,
    validation: Streams,
    course: Course,
    *,
    out: Path,
    pruner: Pruner | None = None,
    title: str = "teaching",
) -> list[dict[str, float]]:
    """Teach a network, in place; called again with the same arguments it goes on after the last whole epoch.

    Args:
        network: which.
        streams: to learn from.
        validation: to report on after each epoch.
        course: how.
        out: file for what is needed to go on.
        pruner: what prunes the network meanwhile.
        title: of the progress bar.

    Returns:
        For each epoch the mean loss, the mean difference of the probabilities on the validation streams, seconds,
        and with a pruner the share of the multiply-adds that is left.

    Raises:
        ValueError: if the file is of another course.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=course.learning_rate)
    total = course.steps(streams)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, total))
    parts: dict[str, Any] = {"network": network, "optimizer": optimizer, "scheduler": scheduler}
    parts |= {} if pruner is None else {"pruner": pruner}
    history = _resume(out, parts, course)
    original = load_original() if course.remixed else None
    for epoch in range(len(history), course.epochs):
        started = time.perf_counter()
        draw = np.random.default_rng([course.seed, epoch])
        order = draw.permutation(len(streams))
        batches = [np.sort(order[at : at + course.batch]) for at in range(0, len(order), course.batch)]
        network.train()
        losses = []
        for places in tqdm(batches, desc=f"{title} {epoch + 1}/{course.epochs}", unit="step", leave=False):
            sound, taught = streams.sound(places), torch.from_numpy(streams.taught[places])
            if original is not None and draw.random() < course.remixed:
                sound = remixed(sound, draw)
                taught = probabilities(original, sound)
            loss = divergence(network(sound), taught)
            losses.append(loss.item())
            if pruner is not None:
                loss = loss + pruner.penalty()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            if pruner is not None:
                pruner.step()
        difference = float(np.abs(scored(network, validation) - validation.taught).mean())
        row = {"loss": float(np.mean(losses)), "mean_difference": difference, "seconds": time.perf_counter() - started}
        row |= {} if pruner is None else {"density": pruner.figures()["density"]}
        history.append(row)
        tqdm.write(f"{title} {epoch + 1}/{course.epochs}: " + ", ".join(f"{key} {row[key]:.4f}" for key in row))
        _save(out, parts, course, history)
    network.eval()
    return history


def remixed(sound: Tensor, draw: np.random.Generator) -> Tensor:
    """Other streams out of some: each with another one behind it, through a smooth filter of its own, at another level.

    Every third has nothing above 4 kHz, as what was recorded at 8 kHz, or above a frequency between 3 and 8 kHz.

    Args:
        sound: `(batch, samples)`.
        draw: where chance comes from.
    """
    batch, samples = sound.shape
    partners = sound.roll(int(draw.integers(samples)), dims=1).roll(1, dims=0)
    behind = torch.from_numpy(10 ** (draw.uniform(-40, 0, (batch, 1)) / 20)).float()
    spectrum = torch.fft.rfft(sound + behind * partners)
    points = np.linspace(0, 1, 9) ** 2 * (spectrum.size(1) - 1)
    places = np.arange(spectrum.size(1))
    decibels = [np.interp(places, points, draw.uniform(-8, 8, 9)) for _ in range(batch)]
    highest = np.where(draw.random((batch, 1)) < 0.5, 4_000, draw.uniform(3_000, RATE / 2, (batch, 1)))
    is_narrow = draw.random((batch, 1)) < 1 / 3
    passes = ~is_narrow | (places / spectrum.size(1) * RATE / 2 < highest)
    filtered = torch.fft.irfft(spectrum * torch.from_numpy(10 ** (np.stack(decibels) / 20) * passes).float(), samples)
    loudest = torch.from_numpy(10 ** (draw.uniform(-35, -1, (batch, 1)) / 20)).float()
    return filtered * (loudest / filtered.abs().amax(1, keepdim=True).clamp_min(1e-6))


def _share(step: int, total: int) -> float:
    """Share of the highest learning rate at a step."""
    rise = max(1, total // 20)
    if step < rise:
        return (step + 1) / rise
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))


def _save(path: Path, parts: dict[str, Any], course: Course, history: list[dict[str, float]]) -> None:
    states = {name: part.state_dict() for name, part in parts.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.partial")
    torch.save({"states": states, "course": asdict(course), "history": history, "chance": torch.get_rng_state()}, aside)
    aside.replace(path)


def _resume(path: Path, parts: dict[str, Any], course: Course) -> list[dict[str, float]]:
    """History of the epochs that were done, with everything as it was after them."""
    if not path.is_file():
        return []
    saved = torch.load(path, weights_only=True)
    if saved["course"] != asdict(course):
        raise ValueError(
            f"`out` must hold no other course than {asdict(course)}, got {saved['course']} in {str(path)!r}; "
            "name another folder"
        )
    for name, part in parts.items():
        part.load_state_dict(saved["states"][name])
    torch.set_rng_state(saved["chance"])
    return saved["history"]
