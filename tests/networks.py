"""Small networks in plain torch with their wirings, and gates set at random, for the tests."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l0rnn.gates import Gates

CELLS: dict[str, tuple[type[nn.RNNBase], dict[str, Any]]] = {
    "LSTM": (nn.LSTM, {}),
    "LSTM_projected": (nn.LSTM, {"proj_size": 4}),
    "GRU": (nn.GRU, {}),
    "RNN_TANH": (nn.RNN, {"nonlinearity": "tanh"}),
    "RNN_RELU": (nn.RNN, {"nonlinearity": "relu"}),
}
STACKS = [
    {"num_layers": layers, "bidirectional": bidirectional, "bias": bias, "batch_first": batch_first}
    for layers, bidirectional, bias, batch_first in itertools.product(
        (1, 2, 3), (False, True), (True, False), (False, True)
    )
]


class WordTagger(nn.Module):
    """Embedding → recurrent stack (→ LayerNorm) → Linear on every step."""

    def __init__(
        self, cell: str, *, normalise: bool = False, hidden: int = 7, embedding: int = 6, **stack: Any
    ) -> None:
        super().__init__()
        layer, extra = CELLS[cell]
        self.embedding = nn.Embedding(11, embedding)
        self.encoder = layer(embedding, hidden, **stack, **extra)
        width = (extra.get("proj_size") or hidden) * (2 if self.encoder.bidirectional else 1)
        self.norm = nn.LayerNorm(width) if normalise else nn.Identity()
        self.decoder = nn.Linear(width, 5)

    def forward(self, words: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        output, state = self.encoder(self.embedding(words), state)
        return self.decoder(self.norm(output)), state


class StateClassifier(nn.Module):
    """Reads the last hidden state of an encoder of raw features, not its output."""

    def __init__(self, cell: str = "LSTM", **stack: Any) -> None:
        super().__init__()
        layer, extra = CELLS[cell]
        self.encoder = layer(3, 6, **stack, **extra)
        self.classifier = nn.Linear(6 * (2 if self.encoder.bidirectional else 1), 4)

    def forward(self, features: Tensor) -> Tensor:
        _, state = self.encoder(features)
        h = state[0] if isinstance(state, tuple) and self.encoder.mode == "LSTM" else state
        last = torch.cat((h[-2], h[-1]), -1) if self.encoder.bidirectional else h[-1]
        return self.classifier(last)


class TiedLanguageModel(nn.Module):
    """Embedding and decoder share their weight."""

    def __init__(self, units: int = 6, words: int = 11, num_layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, units)
        self.encoder = nn.LSTM(units, units, num_layers)
        self.decoder = nn.Linear(units, words)
        self.decoder.weight = self.embedding.weight

    def forward(self, words: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        output, state = self.encoder(self.embedding(words), state)
        return self.decoder(output), state


class TwoReaders(nn.Module):
    """One embedding read by two encoders, whose outputs are joined, one block twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.left = nn.LSTM(6, 5, bidirectional=True)
        self.right = nn.GRU(6, 4)
        self.join = nn.Linear(10 + 4 + 10, 8)
        self.top = nn.RNN(8, 5)
        self.decoder = nn.Linear(5, 3)

    def forward(self, words: Tensor) -> Tensor:
        vectors = self.embedding(words)
        left, right = self.left(vectors)[0], self.right(vectors)[0]
        joined = torch.relu(self.join(torch.cat((left, right, left * left), -1)))
        return self.decoder(self.top(joined)[0])


def skip_without_bfloat16(cell: str = "LSTM", device: str = "cpu") -> None:
    """Skip the test where torch's own LSTM cannot run under autocast: on x86 processors older than AVX-512."""
    if cell.startswith("LSTM") and device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("torch's LSTM cannot run in bfloat16 on this processor")


def set_gates_at_random(network: nn.Module, generator: torch.Generator) -> None:
    """Every mixture that surgery meets: closed, soft and fully open gates; now and then all of an axis closed."""
    for module in network.modules():
        if isinstance(module, Gates):
            values = torch.empty(module.units).uniform_(-5, 4, generator=generator)
            if torch.rand((), generator=generator) < 0.1:
                values.fill_(-5.0)
            module.log_alpha.data.copy_(values)
