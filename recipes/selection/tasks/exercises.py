"""Which of seven exercises for the shoulder somebody does, by the sensors of a watch: two GRUs of 48 units."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from recipes.selection.tasks.common import Batch, averages, classified, loaders, shipped

EXERCISES, CHANNELS = 7, 6
EVERY, STEPS, STRIDE = 4, 38, 13  # of 50 samples a second every fourth; 3 seconds; a window every second
SPLITS = {"train": (0.0, 0.6), "valid": (0.6, 0.8), "test": (0.8, 1.0)}  # of the time of each recording
epochs = 5


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(CHANNELS, 48, num_layers=2, batch_first=True)
        self.exercise = nn.Linear(48, EXERCISES)

    def forward(self, movement: Tensor) -> Tensor:
        return self.exercise(self.gru(movement)[0].mean(1))


def network() -> nn.Module:
    return Network()


def data() -> dict[str, DataLoader[Any]]:
    kept = np.load(shipped("seglearn", "data/watch_dataset.npy"), allow_pickle=True).item()
    recordings = [torch.tensor(np.asarray(series)[::EVERY], dtype=torch.float32) for series in kept["X"]]
    training = torch.cat([series[: int(len(series) * SPLITS["train"][1])] for series in recordings])
    mean, deviation = training.mean(0), training.std(0)
    parts = {}
    for split, (start, end) in SPLITS.items():
        windows, exercises = [], []
        for series, exercise in zip(recordings, kept["y"], strict=True):
            own = (series[int(len(series) * start) : int(len(series) * end)] - mean) / deviation
            if len(own) >= STEPS:
                found = own.unfold(0, STEPS, STRIDE).transpose(1, 2)
                windows.append(found)
                exercises.append(torch.full((len(found),), int(exercise)))
        parts[split] = (torch.cat(windows), torch.cat(exercises))
    return loaders(parts, 32)


def example_inputs(batch: Batch) -> Tensor:
    return batch[0][:2]


def loss(network: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(network(batch[0]), batch[1])


def evaluate(network: nn.Module, loader: DataLoader[Any]) -> dict[str, float]:
    return averages(network, loader, lambda network, batch: classified(network(batch[0]), batch[1]))


def optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=3e-3)
