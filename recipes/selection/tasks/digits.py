"""Handwritten digits of 8 × 8 pixels, read row by row: one LSTM of 64 units."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from recipes.selection.tasks.common import Batch, averages, classified, loaders, shipped

ROWS = 8
epochs = 16


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(ROWS, 64, batch_first=True)
        self.digit = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.digit(self.lstm(image)[0][:, -1])


def network() -> nn.Module:
    return Network()


def data() -> dict[str, DataLoader[Any]]:
    rows = np.loadtxt(shipped("sklearn", "datasets/data/digits.csv.gz"), delimiter=",", dtype=np.float32)
    images, digits = torch.tensor(rows[:, :-1]).reshape(-1, ROWS, ROWS) / 16, torch.tensor(rows[:, -1]).long()
    place = torch.arange(len(rows)) % 6  # neighbours are of different writers
    splits = {"train": place < 4, "valid": place == 4, "test": place == 5}
    return loaders({name: (images[chosen], digits[chosen]) for name, chosen in splits.items()}, 32)


def example_inputs(batch: Batch) -> Tensor:
    return batch[0][:2]


def loss(network: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(network(batch[0]), batch[1])


def evaluate(network: nn.Module, loader: DataLoader[Any]) -> dict[str, float]:
    return averages(network, loader, lambda network, batch: classified(network(batch[0]), batch[1]))


def optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=5e-3)
