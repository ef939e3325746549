"""The classifier of the study in plain torch, and its training.

An embedding of ASCII codes, recurrent layers, and a Linear that reads one step of the last layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from l0rnn import RaggedRNN
from recipes.reber.data import Batches, Example, Readout

CODES = 128  # of ASCII
CLASSES = 2
CELLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "tanh": (nn.RNN, {"nonlinearity": "tanh"}),
    "relu": (nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (nn.LSTM, {}),
    "gru": (nn.GRU, {}),
}
MODES = {"tanh": "RNN_TANH", "relu": "RNN_RELU", "lstm": "LSTM", "gru": "GRU"}


class Classifier(nn.Module):
    """Embedding → recurrent layers → Linear at one step.

    Args:
        cell: ``"tanh"``, ``"relu"``, ``"lstm"`` or ``"gru"``.
        embedding: units of the embedding.
        hidden: units of each layer; equal ones make a torch layer, others a `RaggedRNN`.

    Raises:
        ValueError: if ``cell`` is unknown or a width is ≤ 0.
    """

    def __init__(self, cell: str, embedding: int = 50, hidden: Sequence[int] = (50, 50, 50)) -> None:
        super().__init__()
        check_cell(cell)
        if embedding < 1 or not hidden or min(hidden) < 1:
            raise ValueError(f"`embedding` and `hidden` must be widths of at least 1, got {embedding} and {hidden}")
        self.embedding = nn.Embedding(CODES, embedding)
        layer, options = CELLS[cell]
        if len(set(hidden)) == 1:
            self.encoder: nn.Module = layer(embedding, hidden[0], num_layers=len(hidden), **options)
        else:
            self.encoder = RaggedRNN(MODES[cell], embedding, [[width] for width in hidden])
        self.decoder = nn.Linear(hidden[-1], CLASSES)

    def forward(self, codes: Tensor, last: Tensor | None = None) -> Tensor:
        """Scores `(batch, class)` of codes `(time, batch)`, read at the step ``last`` of each, or at the last."""
        output, _ = self.encoder(self.embedding(codes))
        return self.decoder(at_step(output, last))


def at_step(output: Tensor, last: Tensor | None) -> Tensor:
    """`(batch, unit)` of an output `(time, batch, unit)`: at the step ``last`` of each string, or at the last."""
    return output[-1] if last is None else output[last, torch.arange(output.size(1), device=output.device)]


def check_cell(cell: str) -> None:
    """Raise ValueError on a cell that the study does not have."""
    if cell not in CELLS:
        raise ValueError(f"`cell` must be one of {', '.join(CELLS)}, got {cell!r}")


def loss_of(network: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Mean cross entropy, in nats per string."""
    codes, last, labels = batch
    return cross_entropy(network(codes, last), labels)


@torch.no_grad()
def accuracy(network: nn.Module, batches: Batches) -> float:
    """Fraction of the strings that are classified right."""
    network.eval()
    right, total = 0, 0
    for codes, last, labels in batches:
        right += int((network(codes, last).argmax(1) == labels).sum())
        total += len(labels)
    return right / total


def accuracy_by_kind(network: nn.Module, examples: Sequence[Example], readout: Readout) -> dict[str, float]:
    """The fraction that is classified right of the right strings, and of the wrong ones by the kind of their fault."""
    kinds = sorted({example.kind for example in examples})
    parts = {kind: [example for example in examples if example.kind == kind] for kind in kinds}
    return {kind: accuracy(network, Batches(part, 500, readout)) for kind, part in parts.items()}


def fit(
    network: nn.Module,
    batches: Batches,
    *,
    epochs: int,
    learning_rate: float = 1e-3,
    clip: float = 5.0,
    after_epoch: Callable[[int], bool] = lambda epoch: False,
) -> int:
    """Train by Adam with clipped gradients.

    Args:
        network: what to train.
        batches: the batches of each epoch.
        epochs: how many at most.
        learning_rate: of Adam, which starts afresh.
        clip: largest norm of the gradient.
        after_epoch: called with the number of each epoch, from 1; true ends the training.

    Returns:
        The number of epochs trained.

    Raises:
        FloatingPointError: if the loss is no longer a number.
    """
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=learning_rate, fused=True)
    for epoch in range(1, epochs + 1):
        network.train()
        loss = torch.zeros(())
        for batch in batches:
            optimizer.zero_grad()
            loss = loss_of(network, batch)
            loss.backward()
            nn.utils.clip_grad_norm_(weights, clip)
            optimizer.step()
        if not bool(torch.isfinite(loss)):
            raise FloatingPointError(no_number(loss.item(), epoch))
        if after_epoch(epoch):
            return epoch
    return epochs


def no_number(loss: float, epoch: int) -> str:
    """What is said of a training whose loss is no longer a number."""
    return f"the loss became {loss} in epoch {epoch}; lower the learning rate"


class Plateau:
    """Says when every epoch of the last few reached an accuracy: then there is nothing left to train.

    Args:
        enough: the accuracy.
        patience: how many epochs in a row; 0 never says so.
    """

    def __init__(self, enough: float, patience: int) -> None:
        self.enough, self.patience = enough, patience
        self.history: list[float] = []

    def __call__(self, value: float) -> bool:
        """Note the accuracy of an epoch."""
        self.history.append(value)
        recent = self.history[-self.patience :] if self.patience else []
        return len(recent) == self.patience > 0 and min(recent) >= self.enough


def recurrent_weights(network: nn.Module, kinds: Sequence[str]) -> Mapping[str, nn.Parameter]:
    """The weight matrices of the recurrent layers whose name holds ``weight_ih`` or ``weight_hh``, as asked."""
    return {name: weight for name, weight in network.named_parameters() if any(kind in name for kind in kinds)}
