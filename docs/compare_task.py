"""Python's own manual, character by character: an embedding, a GRU of 96 units, and a linear layer."""

from pydoc_data.topics import topics

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

TEXT = " ".join(topics[name] for name in sorted(topics))[:130_000]
CHARACTERS = sorted(set(TEXT))
LENGTH = 50


class NextCharacter(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(len(CHARACTERS), 32)
        self.encoder = nn.GRU(32, 96, batch_first=True)
        self.decoder = nn.Linear(96, len(CHARACTERS))

    def forward(self, characters):
        return self.decoder(self.encoder(self.embedding(characters))[0])


def network():
    return NextCharacter()


def data():
    numbers = torch.tensor([CHARACTERS.index(character) for character in TEXT])
    count = (len(numbers) - 1) // LENGTH
    x, y = (numbers[shift : shift + count * LENGTH].view(count, LENGTH) for shift in (0, 1))
    parts = {"train": slice(0, 2000), "valid": slice(2000, 2300), "test": slice(2300, count)}
    return {
        name: DataLoader(TensorDataset(x[part], y[part]), batch_size=40, shuffle=name == "train")
        for name, part in parts.items()
    }


def loss(network, batch):
    x, y = batch
    return nn.functional.cross_entropy(network(x).flatten(0, 1), y.flatten())


def evaluate(network, loader):
    nats = [loss(network, batch) for batch in loader]
    return {"nats per character": float(torch.stack(nats).mean())}


def optimizer(parameters):
    return torch.optim.Adam(parameters, lr=0.005)


epochs = 8
