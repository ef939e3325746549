"""Which of nine men speaks two Japanese vowels, from 12 cepstrum coefficients: a bidirectional LSTM of 64 units."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from recipes.selection.tasks.common import Batch, averages, classified, loaders, padded, shipped

SPEAKERS, COEFFICIENTS = 9, 12
epochs = 40


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(COEFFICIENTS, 64, batch_first=True, bidirectional=True)
        self.speaker = nn.Linear(128, SPEAKERS)

    def forward(self, sound: Tensor, lengths: Tensor) -> Tensor:
        outputs = self.lstm(sound)[0]
        is_sound = (torch.arange(sound.shape[1], device=sound.device) < lengths[:, None]).unsqueeze(-1)
        return self.speaker((outputs * is_sound).sum(1) / lengths[:, None])


def network() -> nn.Module:
    return Network()


def _recordings(split: str) -> tuple[list[Tensor], list[int]]:
    path = shipped("sktime", f"datasets/data/JapaneseVowels/JapaneseVowels_{split}.ts")
    lines = path.read_text().split("@data\n")[1].strip().splitlines()
    sounds, speakers = [], []
    for line in lines:
        *channels, speaker = line.split(":")
        sounds.append(torch.tensor([[float(value) for value in channel.split(",")] for channel in channels]).T)
        speakers.append(int(speaker) - 1)
    return sounds, speakers


def data() -> dict[str, DataLoader[Any]]:
    """The published training set; every other recording of the published test set is for validation."""
    (train, train_speakers), (rest, rest_speakers) = _recordings("TRAIN"), _recordings("TEST")
    chosen = {
        "train": (train, train_speakers),
        "valid": (rest[::2], rest_speakers[::2]),
        "test": (rest[1::2], rest_speakers[1::2]),
    }
    parts = {
        split: (padded(sounds), torch.tensor([len(sound) for sound in sounds]), torch.tensor(speakers))
        for split, (sounds, speakers) in chosen.items()
    }
    return loaders(parts, 27)


def example_inputs(batch: Batch) -> tuple[Tensor, Tensor]:
    return batch[0][:2], batch[1][:2]


def loss(network: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(network(batch[0], batch[1]), batch[2])


def evaluate(network: nn.Module, loader: DataLoader[Any]) -> dict[str, float]:
    return averages(network, loader, lambda network, batch: classified(network(batch[0], batch[1]), batch[2]))


def optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=3e-3)
