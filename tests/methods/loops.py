"""Networks of three kinds, their data, and the plain loop that trains them under a method, for the tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from l0rnn import Method, Pruner
from l0rnn.language.language_model import LanguageModel
from l0rnn.tracing import trace
from l0rnn.tracing.units import Units

STEPS = 20


class Loop(nn.Module):
    """Convolution → batch norm → GRU → an LSTM cell in a loop → its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv1d(3, 8, 3, padding=1), nn.BatchNorm1d(8)
        self.encoder, self.cell = nn.GRU(8, 10, batch_first=True), nn.LSTMCell(10, 9)
        self.decoder = nn.Linear(9, 5)

    def forward(self, signals: Tensor) -> Tensor:  # (batch, feature, time)
        vectors = torch.relu(self.norm(self.convolution(signals))).transpose(1, 2)
        output, _ = self.encoder(vectors)
        h = c = output.new_zeros(len(output), self.cell.hidden_size)
        for step in output.unbind(1):
            h, c = self.cell(step, (h, c))
        return self.decoder(h)


class Residual(nn.Module):
    """A stack whose layers add to what they read, so that all have the same units."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(3, 12)
        self.layers = nn.ModuleList([nn.GRU(12, 12), nn.LSTM(12, 12)])
        self.norms = nn.ModuleList([nn.LayerNorm(12), nn.LayerNorm(12)])
        self.decoder = nn.Linear(12, 5)

    def forward(self, features: Tensor) -> Tensor:  # (time, batch, feature)
        vectors = self.embedding(features)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            vectors = vectors + layer(norm(vectors))[0]
        return self.decoder(vectors)


class Kind(NamedTuple):
    """A network, and inputs for it."""

    make: Callable[[], Any]
    inputs: Callable[[], Tensor]


KINDS = {
    "language model": Kind(lambda: LanguageModel(11, 8, 8, dropout=0.1), lambda: torch.randint(11, (6, 3))),
    "loop": Kind(Loop, lambda: torch.randn(4, 3, 6)),
    "residual": Kind(Residual, lambda: torch.randn(5, 4, 3)),
}


def output(network: nn.Module, inputs: Tensor) -> Tensor:
    result = network(inputs)
    return result[0] if isinstance(result, tuple) else result


class Run:
    """A training in a plain loop; what is random in a step depends on its number alone."""

    def __init__(self, method: Method, kind: str = "language model", *, steps: int = STEPS, **options: Any) -> None:
        torch.manual_seed(1)
        self.kind = KINDS[kind]
        self.network = self.kind.make()
        self.example = self.kind.inputs()
        self.pruner = Pruner(self.network, method, self.example, steps=steps, **options)
        self.method = self.pruner.method
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.01)
        self.losses: list[float] = []
        self.densities: list[float] = []

    def train(self, steps: range = range(1, STEPS + 1)) -> Run:
        for step in steps:
            torch.manual_seed(step)
            logits = output(self.network, self.kind.inputs())
            loss = nn.functional.cross_entropy(logits.flatten(0, -2), torch.randint(5, logits.shape[:-1]).flatten())
            self.optimizer.zero_grad()
            (loss + self.pruner.penalty()).backward()
            self.optimizer.step()
            self.pruner.step()
            self.losses.append(float(loss.detach()))
            self.densities.append(self.pruner.figures().get("density", 1.0))
        return self

    def states(self) -> list[dict[str, Any]]:
        return [self.network.state_dict(), self.pruner.state_dict(), self.optimizer.state_dict()]

    def load(self, states: list[dict[str, Any]]) -> Run:
        for part, state in zip((self.network, self.pruner, self.optimizer), states, strict=True):
            part.load_state_dict(state)
        return self


def attached(network: Any, method: Any, inputs: Any = None, *, steps: int = STEPS, **options: Any) -> Any:
    """The method, attached to a network of words unless other inputs are given."""
    method.attach(network, traced(network, inputs, **options))
    method.begin(steps)
    return method


def traced(network: Any, inputs: Any = None, **options: Any) -> Units:
    return trace(network, torch.randint(11, (5, 2)) if inputs is None else inputs, **options)


def same(a: Any, b: Any) -> bool:
    """Whether two nested states are the same, tensors bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)
