"""The next letter of the Penn Treebank: one GRU of 96 units."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from recipes.penn_treebank.corpus import Split, load_text
from recipes.selection.tasks.common import Batch, averages, loaders

STEPS = 50
LETTERS: dict[Split, int] = {"train": 600_000, "valid": 100_000, "test": 100_000}
epochs = 1


class Network(nn.Module):
    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, 32)
        self.gru = nn.GRU(32, 96, batch_first=True)
        self.decoder = nn.Linear(96, symbols)

    def forward(self, letters: Tensor) -> Tensor:
        return self.decoder(self.gru(self.embedding(letters))[0])


def _symbols() -> dict[str, int]:
    return {symbol: number for number, symbol in enumerate(sorted(set(load_text("train"))))}


def network() -> nn.Module:
    return Network(len(_symbols()))


def data() -> dict[str, DataLoader[Any]]:
    numbers = _symbols()
    parts: dict[str, Batch] = {}
    for split, length in LETTERS.items():
        text = torch.tensor([numbers[symbol] for symbol in load_text(split)[:length]])
        windows = text.unfold(0, STEPS + 1, STEPS)
        parts[split] = (windows[:, :-1], windows[:, 1:])
    return loaders(parts, 32)


def example_inputs(batch: Batch) -> Tensor:
    return batch[0][:2]


def loss(network: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(network(batch[0]).flatten(0, 1), batch[1].flatten())


def evaluate(network: nn.Module, loader: DataLoader[Any]) -> dict[str, float]:
    return averages(network, loader, lambda network, batch: ({"loss": loss(network, batch)}, len(batch[0])))


def optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=5e-3)
