"""One operation between a layer that makes six units and a layer that reads them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn import shrink
from l0rnn.tracing import trace
from l0rnn.tracing.units import STAYS, Units

WIDTH = 6


class Probe(nn.Module):
    """``make`` → ``operation(units, parts)`` → ``read`` → output."""

    def __init__(self, operation: Callable[..., Tensor], parts: dict[str, Any], batch: int = 2, time: int = 5):
        super().__init__()
        self.make = nn.Linear(3, WIDTH)
        self.parts = nn.Module()
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.parts.add_module(name, part)
            elif isinstance(part, nn.Parameter):
                self.parts.register_parameter(name, part)
            else:
                self.parts.register_buffer(name, part)
        self.operation = operation
        self.inputs = torch.randn(batch, time, 3)
        with torch.no_grad():
            self.read = nn.Linear(self.middle(self.inputs).size(-1), 2)

    def middle(self, x: Tensor) -> Tensor:
        return self.operation(self.make(x), self.parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.middle(x))


def probe(operation: Callable[..., Tensor], batch: int = 2, time: int = 5, **parts: Any) -> tuple[Probe, Units]:
    """A network around an operation, and its units."""
    torch.manual_seed(0)
    network = Probe(operation, parts, batch, time).eval()
    return network, trace(network, (network.inputs,))


def groups(units: Units, weight: str = "make.weight", dimension: int = 0) -> list[list[int]]:
    """Which indices of a weight are one unit; those that stay are left out."""
    numbers = units.weights[weight].units[dimension].tolist()
    return [[i for i, n in enumerate(numbers) if n == unit] for unit in dict.fromkeys(numbers) if unit != STAYS]


FREE = [[0], [1], [2], [3], [4], [5]]
HALVES = [[0, 3], [1, 4], [2, 5]]
PAIRS = [[0, 1], [2, 3], [4, 5]]
THIRDS = [[0, 2, 4], [1, 3, 5]]
WHOLE: list[list[int]] = []


def assert_exact(network: Probe, units: Units, seed: int = 0) -> None:
    """Random soft gates: the shrunken network gives the outputs of the gated one, or `shrink` raises."""
    generator = torch.Generator().manual_seed(seed)
    gates = {}
    for axis in units.axes.values():
        order = torch.randperm(axis.size, generator=generator)
        gates[axis.name] = torch.rand(axis.size, generator=generator) * (order < max(1, axis.size - 1))
    shrink(network, gates, example_inputs=(network.inputs,), units=units)
