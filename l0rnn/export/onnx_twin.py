"""Recurrent layers as single ONNX operators, for torch's ONNX exporter to meet in place of the torch layers.

Traced as it is, a torch recurrent layer may come out unrolled, its length silently frozen. Its twin here is called in
the same way, but its forward pass is one ONNX ``LSTM``, ``GRU`` or ``RNN`` for each layer and direction, with batch and
length left open. A twin computes nothing in torch: it is only ever traced.

Reference:
    ONNX operator specification, LSTM-14, GRU-14, RNN-14: weights `(1, gate·unit, feature)`, gates in the orders below.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.export.describe import outer_modules
from l0rnn.recurrent.names import RECURRENT, recurrent_parameter_name, recurrent_sizes
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.recurrent.stack import run_stack

# cell → where ONNX's gates are found among torch's: i o f c from i f g o, z r h from r z n
GATE_ORDERS = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}

_ATTRIBUTES = ("mode", "input_size", "hidden_size", "hidden_sizes", "num_layers", "bidirectional", "batch_first")


def onnx_twin(network: nn.Module) -> nn.Module:
    """A copy of a network with every recurrent layer replaced by its twin.

    Raises:
        ValueError: if a layer has a form that ONNX does not know, or is not in float32; it names the layer.

    Example:
        >>> type(onnx_twin(nn.Sequential(nn.GRU(2, 3)))[0]).__name__
        'OnnxStack'
    """
    network = copy.deepcopy(network).cpu().eval()
    layers = [(name, module) for name, module in outer_modules(network, RECURRENT) if isinstance(module, RECURRENT)]
    projected = [name for name, module in layers if any(size for _, size in recurrent_sizes(module).values())]
    if projected:
        raise ValueError(
            f"`network` has layers that ONNX cannot hold: {', '.join(projected) or 'the layer'} "
            "(LSTM with proj_size; its operator has no projection)"
        )
    others = sorted({str(parameter.dtype) for parameter in network.parameters()} - {"torch.float32"})
    if others:
        raise ValueError(f"`network` must be in float32 for ONNX, got {', '.join(others)}; convert it with .float()")
    for name, module in layers:
        if not name:
            return OnnxStack(module)
        network.set_submodule(name, OnnxStack(module))
    return network


class OnnxStack(nn.Module):
    """The twin of a torch recurrent layer or a `RaggedRNN`, called as that is.

    Args:
        recurrent: the layer to take the weights of.
    """

    def __init__(self, recurrent: nn.Module) -> None:
        super().__init__()
        for name in _ATTRIBUTES:  # a network's forward pass may ask for them
            if hasattr(recurrent, name):
                setattr(self, name, getattr(recurrent, name))
        self.is_ragged = isinstance(recurrent, RaggedRNN)
        self.has_cell_state = recurrent.mode == "LSTM"
        self.directions = 2 if recurrent.bidirectional else 1
        self.layers = nn.ModuleList(_OnnxLayer(recurrent, key) for key in recurrent_sizes(recurrent))

    def forward(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """As the layer's own; a single sequence too, which torch's layers take without a batch."""
        if input.dim() == 2 and not self.is_ragged:
            state = None if hx is None else (hx,) if isinstance(hx, Tensor) else hx
            parts = None if state is None else tuple(part.unsqueeze(1) for part in state)
            one = parts[0] if parts is not None and not self.has_cell_state else parts
            output, final = self(input.unsqueeze(0 if self.batch_first else 1), one)
            alone = tuple(part.squeeze(1) for part in final) if self.has_cell_state else final.squeeze(1)
            return output.squeeze(0 if self.batch_first else 1), alone
        data = input.transpose(0, 1) if self.batch_first else input
        layers: Any = list(self.layers)
        rows = [layers[start : start + self.directions] for start in range(0, len(layers), self.directions)]
        data, finals = run_stack(rows, data, [self._state_of(index, hx) for index in range(len(layers))])
        parts = tuple(self._joined(part) for part in zip(*finals, strict=True))
        return data.transpose(0, 1) if self.batch_first else data, parts if self.has_cell_state else parts[0]

    def _state_of(self, index: int, hx: Any) -> list[Tensor]:
        """The state of one layer and direction, `(1, batch, unit)` each; none for zeros."""
        if hx is None:
            return []
        parts = hx if self.has_cell_state else (hx,)
        return [part[index].unsqueeze(0) if self.is_ragged else part[index : index + 1] for part in parts]

    def _joined(self, parts: tuple[Tensor, ...]) -> Any:
        """One part of the state of all layers and directions, in the form that the layer has it."""
        return tuple(part.squeeze(0) for part in parts) if self.is_ragged else torch.cat(parts, 0)


class _OnnxLayer(nn.Module):
    """One layer in one direction: one operator."""

    def __init__(self, recurrent: nn.Module, key: str) -> None:
        super().__init__()
        self.cell = str(recurrent.mode).split("_")[0]
        self.units = recurrent_sizes(recurrent)[key][0]
        self.attributes: dict[str, Any] = {
            "hidden_size": self.units,
            "direction": "reverse" if key.endswith("_reverse") else "forward",
        }
        if self.cell == "GRU":
            self.attributes["linear_before_reset"] = 1  # torch multiplies the reset gate after the matrix, not before
        if self.cell == "RNN":
            self.attributes["activations"] = ["Tanh" if recurrent.mode == "RNN_TANH" else "Relu"]
        self.input_weight = nn.Parameter(self._ordered(recurrent, key, "weight_ih")[None])
        self.state_weight = nn.Parameter(self._ordered(recurrent, key, "weight_hh")[None])
        self.bias = None
        if recurrent.bias:
            both = [self._ordered(recurrent, key, kind) for kind in ("bias_ih", "bias_hh")]
            self.bias = nn.Parameter(torch.cat(both)[None])

    def _ordered(self, recurrent: nn.Module, key: str, kind: str) -> Tensor:
        weight = recurrent.get_parameter(recurrent_parameter_name(recurrent, key, kind)).detach()
        gates = weight.unflatten(0, (len(GATE_ORDERS[self.cell]), self.units))  # (gate, unit, …)
        return gates[list(GATE_ORDERS[self.cell])].flatten(0, 1)

    def forward(self, data: Tensor, state: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Output `(time, batch, unit)` and final state, `(1, batch, unit)` each."""
        time, batch = data.shape[0], data.shape[1]
        states = [(1, batch, self.units)] * (2 if self.cell == "LSTM" else 1)
        lengths = None  # all sequences have the same
        found = torch.onnx.ops.symbolic_multi_out(
            self.cell,
            [data, self.input_weight, self.state_weight, self.bias, lengths, *state],
            self.attributes,
            dtypes=[data.dtype] * (1 + len(states)),
            shapes=[(time, 1, batch, self.units), *states],
        )
        return found[0].squeeze(1), tuple(found[1:])
