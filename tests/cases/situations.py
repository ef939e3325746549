"""What the situations have in common: a small network, its training module, data and a quiet Trainer."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from l0rnn import PrunableModule

INPUTS = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A GRU of 16 units and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(4, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


def square_loss(network: nn.Module, batch: Any) -> Tensor:
    return (network(batch[0]) - batch[1]).square().mean()


def make(method: Any = None, network: nn.Module | None = None, **options: Any) -> PrunableModule:
    """A training module over `Net`, or another network of the same two layers."""
    options = {
        "optimizer": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
        "loss": square_loss,
        "example_inputs": INPUTS,
    } | options
    return PrunableModule(network or Net(), method=method, **options)


def segments() -> DataLoader:
    """Eight batches for `Net`."""
    return DataLoader(TensorDataset(torch.randn(8, 5, 3, 4), torch.randn(8, 5, 3, 2)), batch_size=None)


def trainer(**options: Any) -> Trainer:
    """A Trainer that writes nothing."""
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
    }
    return Trainer(**quiet | options)
