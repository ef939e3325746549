"""A small task: which half of a noise is louder, told by a GRU of two layers."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Louder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.GRU(1, 8, num_layers=2, batch_first=True, dropout=0.1)
        self.decoder = nn.Linear(8, 2)

    def forward(self, x):
        return self.decoder(self.encoder(x)[0][:, -1])


def network():
    return Louder()


def data():
    x = torch.randn(120, 8, 1)
    y = (x[:, :4, 0].square().sum(1) > x[:, 4:, 0].square().sum(1)).long()
    parts = {"train": slice(0, 80), "valid": slice(80, 100), "test": slice(100, 120)}
    return {
        part: DataLoader(TensorDataset(x[rows], y[rows]), batch_size=10, shuffle=part == "train")
        for part, rows in parts.items()
    }


def loss(network, batch):
    return nn.functional.cross_entropy(network(batch[0]), batch[1])


def evaluate(network, loader):
    right = [(network(x).argmax(1) == y).float().mean().item() for x, y in loader]
    losses = [loss(network, batch).item() for batch in loader]
    return {"loss": sum(losses) / len(losses), "accuracy": sum(right) / len(right)}


def optimizer(parameters):
    return torch.optim.Adam(parameters, 0.01)


def scheduler(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)


epochs = 4
