"""The next word of the Penn Treebank, of the 800 most frequent: two LSTMs of 64 units."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from recipes.penn_treebank.corpus import load_text
from recipes.selection.tasks.common import Batch, averages, loaders

WORDS, STEPS, SIZE = 800, 35, 64
TRAIN_WORDS = 200_000
epochs = 2


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, SIZE)
        self.lstm = nn.LSTM(SIZE, SIZE, num_layers=2, batch_first=True)
        self.decoder = nn.Linear(SIZE, WORDS)

    def forward(self, words: Tensor) -> Tensor:
        return self.decoder(self.lstm(self.embedding(words))[0])


def network() -> nn.Module:
    return Network()


def data() -> dict[str, DataLoader[Any]]:
    texts = {split: load_text(split).replace("\n", " <eos> ").split() for split in ("train", "valid", "test")}
    counted = Counter(texts["train"])
    numbers = {word: number for number, (word, _) in enumerate(counted.most_common(WORDS))}
    parts = {}
    for split, text in texts.items():
        text = text[:TRAIN_WORDS] if split == "train" else text
        known = torch.tensor([numbers.get(word, numbers["<unk>"]) for word in text])
        windows = known.unfold(0, STEPS + 1, STEPS)
        parts[split] = (windows[:, :-1], windows[:, 1:])
    return loaders(parts, 20)


def example_inputs(batch: Batch) -> Tensor:
    return batch[0][:2]


def loss(network: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(network(batch[0]).flatten(0, 1), batch[1].flatten())


def evaluate(network: nn.Module, loader: DataLoader[Any]) -> dict[str, float]:
    return averages(network, loader, lambda network, batch: ({"loss": loss(network, batch)}, len(batch[0])))


def optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=4e-3)
