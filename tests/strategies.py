"""Random networks, gates and kept units for hypothesis.

A network is a chain of small steps; each reads tensors `(batch, time, unit)` that the input or steps before it have
made, and makes one more. Sizes are small and odd, so that no two of them agree by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from l0rnn.gates import Gates
from l0rnn.tracing import trace
from l0rnn.tracing.units import Units

CELLS: dict[str, tuple[type[nn.RNNBase], dict[str, Any]]] = {
    "LSTM": (nn.LSTM, {}),
    "LSTM_projected": (nn.LSTM, {"proj_size": 3}),
    "GRU": (nn.GRU, {}),
    "RNN_TANH": (nn.RNN, {"nonlinearity": "tanh"}),
    "RNN_RELU": (nn.RNN, {"nonlinearity": "relu"}),
}
WORDS, FEATURES, BATCH, TIME = 11, 3, 2, 4


def holds_for(*drawn: st.SearchStrategy[Any], few: int) -> Callable[[Callable[..., None]], Any]:
    """A test of a property: for a few examples at every push, and for a thousand with ``-m many``."""

    def decorate(check: Callable[..., None]) -> Any:
        @pytest.mark.parametrize("examples", [few, pytest.param(1000, marks=pytest.mark.many)])
        def test(examples: int) -> None:
            options: dict[str, Any] = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
            if examples == few:  # the same ones every time, and no search for a smaller one that fails too
                options |= {"derandomize": True, "phases": [Phase.explicit, Phase.generate]}
            settings(max_examples=examples, **options)(given(*drawn)(check))()

        test.__doc__ = check.__doc__
        return test

    return decorate


class Recurrent(nn.Module):
    """A stack of torch; hands on its output, its final state at every step, or both, and keeps its state."""

    def __init__(self, layer: nn.RNNBase, reads: str = "output") -> None:
        super().__init__()
        self.layer, self.reads = layer, reads
        self.state: Any = None  # of the last call

    def forward(self, x: Tensor, state: Any = None) -> Tensor:
        output, self.state = self.layer(x if self.layer.batch_first else x.transpose(0, 1), state)
        if not self.layer.batch_first:
            output = output.transpose(0, 1)
        h = self.state[0] if isinstance(self.state, tuple) and self.layer.mode == "LSTM" else self.state
        last = h[-1][:, None].expand(-1, x.size(1), -1)
        return {"output": output, "final": last, "both": torch.cat((output, last), -1)}[self.reads]


class CellLoop(nn.Module):
    """A loop over time with an LSTMCell, GRUCell or RNNCell; the first state is made in it, or is None."""

    def __init__(self, cell: nn.RNNCellBase, starts: bool) -> None:
        super().__init__()
        self.cell, self.starts = cell, starts

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        if self.starts:
            zeros = x.new_zeros(x.size(0), self.cell.hidden_size)
            state = (zeros, zeros) if isinstance(self.cell, nn.LSTMCell) else zeros
        outputs = []
        for step in x.unbind(1):
            state = self.cell(step, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs, 1)


class Convolution(nn.Module):
    """Over time, with channels in dimension 1, and a BatchNorm or none."""

    def __init__(self, size: int, out: int, groups: int, normalises: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(size, out, 3, padding=1, groups=groups)
        self.norm = nn.BatchNorm1d(out) if normalises else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x.transpose(1, 2))).transpose(1, 2)


class Glu(nn.Module):
    """Two halves of one Linear, one of which gates the other."""

    def __init__(self, size: int, out: int) -> None:
        super().__init__()
        self.both = nn.Linear(size, 2 * out)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.both(x).chunk(2, -1)
        return value * torch.sigmoid(gate)


class Scale(nn.Module):
    """A parameter for each unit."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.randn(size)), nn.Parameter(torch.randn(size))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class Apply(nn.Module):
    """A function of one or more tensors."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.function(*tensors)


class Network(nn.Module):
    """Steps in a row, each on results before it; the last ones are decoded, and some handed out."""

    def __init__(
        self,
        steps: Sequence[tuple[nn.Module, tuple[int, ...]]],
        decoded: Sequence[int],
        handed_out: Sequence[int],
        states: Sequence[int],
    ) -> None:
        super().__init__()
        self.steps = nn.ModuleList(step for step, _ in steps)
        self.reads = [reads for _, reads in steps]
        self.decoded, self.handed_out, self.states = list(decoded), list(handed_out), list(states)
        self.decoder: nn.Module = nn.Identity()

    def forward(self, start: Tensor) -> Any:
        results = [start]
        for step, reads in zip(self.steps, self.reads, strict=True):
            results.append(step(*(results[i] for i in reads)))
        output = self.decoder(torch.cat([results[i] for i in self.decoded], -1))
        states = {str(i): self.steps[i].state for i in self.states}
        for step in self.steps:
            if isinstance(step, Recurrent):
                step.state = None
        return output, [results[i] for i in self.handed_out], states


UNARY = (
    torch.relu,
    torch.tanh,
    nn.functional.gelu,
    lambda x: 2 * x + 1,
    lambda x: x.flip(1),
    lambda x: x[:, :-1, :].cumsum(1),
)
SIZES = st.integers(2, 6)


@st.composite
def recurrent_layers(draw: st.DrawFn, size: int) -> tuple[nn.RNNBase, int]:
    """A stack of torch, and the width of its output."""
    kind, options = CELLS[draw(st.sampled_from(sorted(CELLS)))]
    layer: Any = kind(
        size,
        draw(st.integers(4, 6)),
        num_layers=draw(st.integers(1, 3)),
        bias=draw(st.booleans()),
        batch_first=draw(st.booleans()),
        bidirectional=draw(st.booleans()),
        **options,
    )
    return layer, (layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1)


@st.composite
def networks(draw: st.DrawFn, most_steps: int = 6) -> tuple[Network, Tensor]:
    """A random network and inputs for it."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    steps: list[tuple[nn.Module, tuple[int, ...]]] = []
    sizes = [FEATURES]
    states: list[int] = []
    is_text = draw(st.booleans())
    if is_text:
        size = draw(SIZES)
        steps.append((nn.Embedding(WORDS, size), (0,)))
        sizes = [0, size]

    def readable() -> int:
        return draw(st.sampled_from(range(int(is_text), len(sizes))))

    def add(step: nn.Module, size: int, *reads: int) -> None:
        steps.append((step, reads))
        sizes.append(size)

    for _ in range(draw(st.integers(2, most_steps))):
        kind = draw(
            st.sampled_from(
                [
                    "linear",
                    "unary",
                    "sum",
                    "product",
                    "cat",
                    "norm",
                    "recurrent",
                    "cell",
                    "conv",
                    "glu",
                    "scale",
                    "dropout",
                    "again",
                ]
            )
        )
        at = readable()
        size, out = sizes[at], draw(SIZES)
        if kind == "linear":
            add(nn.Linear(size, out, bias=draw(st.booleans())), out, at)
        elif kind == "unary":
            function = draw(st.sampled_from(UNARY[:5]))
            add(Apply(function), size, at)
        elif kind in ("sum", "product"):
            others = [i for i in range(int(is_text), len(sizes)) if sizes[i] == size]
            other = draw(st.sampled_from(others))
            add(Apply(torch.add if kind == "sum" else torch.mul), size, at, other)
        elif kind == "cat":
            other = readable()
            add(Apply(lambda a, b: torch.cat((a, b), -1)), size + sizes[other], at, other)
        elif kind == "norm":
            norm = draw(st.sampled_from([nn.LayerNorm, nn.RMSNorm]))
            add(norm(size, elementwise_affine=draw(st.booleans())), size, at)
        elif kind == "recurrent":
            layer, out = draw(recurrent_layers(size))
            reads = draw(st.sampled_from(["output", "final", "both"]))
            one = layer.proj_size or layer.hidden_size
            states.append(len(steps))
            add(Recurrent(layer, reads), {"output": out, "final": one, "both": out + one}[reads], at)
        elif kind == "cell":
            cell = draw(st.sampled_from([nn.LSTMCell, nn.GRUCell, nn.RNNCell]))
            add(CellLoop(cell(size, out, bias=draw(st.booleans())), draw(st.booleans())), out, at)
        elif kind == "conv":
            is_depthwise = draw(st.booleans())
            out = size if is_depthwise else out
            add(Convolution(size, out, size if is_depthwise else 1, draw(st.booleans())), out, at)
        elif kind == "glu":
            add(Glu(size, out), out, at)
        elif kind == "scale":
            add(Scale(size), size, at)
        elif kind == "dropout":
            add(nn.Dropout(0.3), size, at)
        elif steps:  # a module before it, once more
            again = draw(st.sampled_from(range(len(steps))))
            step, reads = steps[again]
            if len(reads) == 1 and not isinstance(step, (nn.Embedding, Recurrent)):
                fits = [i for i in range(int(is_text), len(sizes)) if sizes[i] == sizes[reads[0]]]
                add(step, sizes[again + 1], draw(st.sampled_from(fits)))
    decoded = sorted({len(steps), readable()} - ({0} if is_text else set())) if steps else [0]
    handed_out = [readable()] if draw(st.integers(0, 3)) == 0 else []
    network = Network(steps, decoded, handed_out, [i for i in states if draw(st.booleans())])
    width = sum(sizes[i] for i in decoded)
    embedding: Any = steps[0][0] if is_text else None
    if is_text and draw(st.booleans()):
        network.decoder = nn.Sequential(nn.Linear(width, sizes[1]), nn.Linear(sizes[1], WORDS))
        network.decoder[1].weight = embedding.weight
    else:
        network.decoder = nn.Linear(width, 5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):  # as after some training
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
        elif isinstance(module, nn.LayerNorm) and module.weight is not None:
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    inputs = torch.randint(WORDS, (BATCH, TIME)) if is_text else torch.randn(BATCH, TIME, FEATURES)
    return network, inputs


@st.composite
def gates_of(draw: st.DrawFn, units: Units) -> Tensor:
    """A gate for every unit: 0, soft or 1; now and then all of an axis closed."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    values = torch.rand(units.count, generator=generator)
    values[torch.rand(units.count, generator=generator) < draw(st.sampled_from([0.2, 0.5, 0.8]))] = 0.0
    values[torch.rand(units.count, generator=generator) < 0.3] = 1.0
    for axis in units.axes.values():
        if draw(st.integers(0, 9)) == 0:
            values[axis.units] = 0.0
    return values


@st.composite
def traced_networks(draw: st.DrawFn, most_steps: int = 6) -> tuple[Network, Tensor, Units, Tensor]:
    """A random network of which something can be removed, inputs, its units, and a gate for each."""
    network, inputs = draw(networks(most_steps).filter(lambda pair: bool(trace(*pair).axes)))
    units = trace(network, inputs)
    return network.eval(), inputs, units, draw(gates_of(units))


def set_gates(gates: Gates, values: Tensor) -> None:
    """Let deterministic gates have these values, in evaluation and, as far as noise leaves them, in training."""
    shape = gates.distribution
    squeezed = (values - shape.gamma) / (shape.zeta - shape.gamma)
    ends = torch.where(values == 0, -50.0, 50.0)
    gates.log_alpha.data = torch.where((values == 0) | (values == 1), ends, torch.logit(squeezed)).to(gates.log_alpha)
