"""Recurrent layers for inference whose matrices may be sparse: a loop over time around sparse products.

No library that torch brings has a fused recurrent kernel for sparse weights. The input part of all time steps is one
product; then each step is one product with the recurrent matrix and a few elementwise operations. Inside, activations
are `(unit, time, batch)`, as the products want them, and are turned round only at both ends of the stack.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from l0rnn.arguments import checked
from l0rnn.recurrent.names import recurrent_parameter_name, recurrent_sizes
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.recurrent.stack import run_stack
from l0rnn.sparse.linear import refuse_training
from l0rnn.sparse.matrix import DenseMatrix

ATTRIBUTES = (
    "mode",
    "input_size",
    "hidden_size",
    "hidden_sizes",
    "proj_size",
    "proj_sizes",
    "output_size",
    "num_layers",
    "bidirectional",
    "bias",
    "batch_first",
    "dropout",
)


class SparseCell(nn.Module):
    """One layer in one direction; the biases of both parts are added to the input part, once for all time steps.

    Args:
        mode: ``"LSTM"``, ``"GRU"``, ``"RNN_TANH"`` or ``"RNN_RELU"``.
        matrices: ``weight_ih``, ``weight_hh`` and, with a projection, ``weight_hr``, dense or sparse.
        biases: ``bias_ih`` and ``bias_hh``, or empty.
    """

    bias: Tensor | None
    bias_new: Tensor | None

    def __init__(self, mode: str, matrices: Mapping[str, nn.Module], biases: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.mode = mode
        self.weight_ih: Any = matrices["weight_ih"]
        self.weight_hh: Any = matrices["weight_hh"]
        self.weight_hr: Any = matrices.get("weight_hr")
        self.cells = self.weight_hh.rows // {"LSTM": 4, "GRU": 3}.get(mode, 1)
        self.units = self.weight_hh.columns
        bias, bias_new = None, None
        if biases:
            both = biases["bias_ih"].detach(), biases["bias_hh"].detach()
            bias = (both[0] + both[1]).unsqueeze(1)
            if mode == "GRU":  # the reset gate scales the recurrent part of the new state, bias included
                bias[2 * self.cells :] = both[0][2 * self.cells :, None]
                bias_new = both[1][2 * self.cells :, None].clone()
        self.register_buffer("bias", bias)
        self.register_buffer("bias_new", bias_new)

    def forward(self, features: Tensor, state: list[Tensor], is_backward: bool) -> tuple[Tensor, list[Tensor]]:
        """Run over all time steps.

        Args:
            features: `(feature, time, batch)`, contiguous.
            state: h `(unit, batch)` and, for an LSTM, c `(cell, batch)`; both are overwritten.
            is_backward: whether to run from the last time step to the first.

        Returns:
            Output `(unit, time, batch)` and the state after the last step that was run.
        """
        _, steps, batch = features.shape
        rows = self.weight_ih.rows
        bias = features.new_zeros(rows, 1) if self.bias is None else self.bias
        multiply = self.weight_ih.multiplier(steps * batch)
        inputs = multiply(features.flatten(1), bias.expand(rows, steps * batch)).view(rows, steps, batch)
        output = features.new_empty(self.units, steps, batch)
        times = range(steps - 1, -1, -1) if is_backward else range(steps)
        run = {"LSTM": self._run_lstm, "GRU": self._run_gru}.get(self.mode, self._run_rnn)
        return output, run(inputs, state, output, times)

    def _run_lstm(self, inputs: Tensor, state: list[Tensor], output: Tensor, times: range) -> list[Tensor]:
        h, c = state
        batch, n = h.shape[1], self.cells
        multiply = self.weight_hh.multiplier(batch)
        project = None if self.weight_hr is None else self.weight_hr.multiplier(batch)
        nothing = h.new_zeros(1, 1).expand(self.units, batch)
        for time in times:
            gates = multiply(h, inputs[:, time])  # (gate unit) × batch, torch's order: input, forget, new, output
            gates[: 2 * n].sigmoid_()
            gates[3 * n :].sigmoid_()
            c.mul_(gates[n : 2 * n]).addcmul_(gates[:n], gates[2 * n : 3 * n].tanh_())
            if project is None:
                torch.tanh(c, out=h).mul_(gates[3 * n :])
            else:
                h = project(torch.tanh(c).mul_(gates[3 * n :]), nothing)
            output[:, time] = h
        return [h, c]

    def _run_gru(self, inputs: Tensor, state: list[Tensor], output: Tensor, times: range) -> list[Tensor]:
        (h,) = state
        n = self.cells
        multiply = self.weight_hh.multiplier(h.shape[1])
        addend = h.new_zeros(3 * n, h.shape[1])
        if self.bias_new is not None:
            addend[2 * n :] = self.bias_new
        for time in times:
            addend[: 2 * n] = inputs[: 2 * n, time]
            gates = multiply(h, addend)  # (gate unit) × batch, torch's order: reset, update, new
            gates[: 2 * n].sigmoid_()
            new = torch.addcmul(inputs[2 * n :, time], gates[:n], gates[2 * n :]).tanh_()
            torch.lerp(new, h, gates[n : 2 * n], out=h)
            output[:, time] = h
        return [h]

    def _run_rnn(self, inputs: Tensor, state: list[Tensor], output: Tensor, times: range) -> list[Tensor]:
        (h,) = state
        multiply = self.weight_hh.multiplier(h.shape[1])
        squash: Any = torch.tanh_ if self.mode == "RNN_TANH" else torch.relu_
        for time in times:
            h = squash(multiply(h, inputs[:, time]))
            output[:, time] = h
        return [h]


@checked
class SparseRNN(nn.Module):
    """A recurrent layer called as torch's LSTM, GRU and RNN, or as a `RaggedRNN`, for inference on a CPU.

    States have the form that the layer it was made of takes and returns. The layer's settings, such as ``hidden_size``
    and ``batch_first``, are attributes of the same names.

    Args:
        layer: an nn.LSTM, nn.GRU, nn.RNN or `RaggedRNN`; copied.
        matrices: parameter name within the layer → the matrix to hold instead; the others stay dense.

    Example:
        >>> from l0rnn.sparse.csr import CSRMatrix
        >>> layer = nn.GRU(3, 4)
        >>> sparse = SparseRNN(layer, {"weight_hh_l0": CSRMatrix(layer.weight_hh_l0)})
        >>> output, h = sparse(torch.randn(5, 2, 3))  # (time, batch, feature)
        >>> output.shape, h.shape
        (torch.Size([5, 2, 4]), torch.Size([1, 2, 4]))
    """

    mode: str
    input_size: int
    batch_first: bool
    bidirectional: bool

    def __init__(self, layer: nn.Module, matrices: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name in ATTRIBUTES:
            if hasattr(layer, name):
                setattr(self, name, getattr(layer, name))
        self.is_ragged = isinstance(layer, RaggedRNN)
        self.cells = nn.ModuleDict()
        for key, (_, projected) in recurrent_sizes(layer).items():
            names = {
                kind: recurrent_parameter_name(layer, key, kind)
                for kind in ("weight_ih", "weight_hh", *["weight_hr"] * bool(projected))
            }
            held = {
                kind: matrices[name] if name in matrices else DenseMatrix(layer.get_parameter(name))
                for kind, name in names.items()
            }
            kinds = ("bias_ih", "bias_hh") if layer.bias else ()
            biases = {kind: layer.get_parameter(recurrent_parameter_name(layer, key, kind)) for kind in kinds}
            self.cells[key] = SparseCell(self.mode, held, biases)
        self.training = False

    @torch.no_grad()
    def forward(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """Run the stack.

        Args:
            input: `(time, batch, feature)`, or `(batch, time, feature)` with ``batch_first``.
            hx: the state as this method returns it, or None for zeros.

        Returns:
            ``(output, state)``, in the forms of the layer it was made of; no gradients flow.

        Raises:
            ValueError: if the input is packed, not batched or of another width, or ``hx`` is not a state of this stack.
        """
        self._check_input(input)
        data = input.permute((2, 1, 0) if self.batch_first else (2, 0, 1)).contiguous()  # (feature, time, batch)
        states = self._states(hx, data)
        runs = [partial(cell, is_backward=key.endswith("_reverse")) for key, cell in self.cells.items()]
        directions = 2 if self.bidirectional else 1
        rows = [runs[start : start + directions] for start in range(0, len(runs), directions)]
        data, finals = run_stack(rows, data, states, join=torch.cat)
        output = data.permute((2, 1, 0) if self.batch_first else (1, 2, 0)).contiguous()
        return output, self._handed_back(finals)

    def train(self, mode: bool = True) -> SparseRNN:
        """Only evaluation; see `refuse_training`."""
        refuse_training(mode)
        return super().train(mode)

    def flatten_parameters(self) -> None:
        """Nothing to do: some networks call it, since torch's layers have it for cuDNN."""

    def extra_repr(self) -> str:
        """Cell, for `print`."""
        return self.mode

    def _check_input(self, input: Any) -> None:
        if isinstance(input, PackedSequence):
            raise ValueError(
                "`input` must be a tensor, got a PackedSequence, which sparse layers do not take; "
                "pad the sequences, or run those of one length together"
            )
        if input.dim() != 3:
            raise ValueError(
                f"`input` must have 3 dimensions, a batch of sequences, got shape {tuple(input.shape)}; "
                "give a single sequence a batch dimension of 1"
            )
        if input.shape[2] != self.input_size:
            raise ValueError(
                f"`input` must have {self.input_size} units in its last dimension, got {input.shape[2]}; "
                "is it the input of another layer?"
            )

    def _sizes(self) -> list[list[int]]:
        """Rows of each part of the state (h, and c for an LSTM), for each layer and direction."""
        cells: list[Any] = list(self.cells.values())
        return [[cell.units, cell.cells] if self.mode == "LSTM" else [cell.units] for cell in cells]

    def _states(self, hx: Any, data: Tensor) -> list[list[Tensor]]:
        """For each layer and direction its state, `(unit, batch)` each, in new memory."""
        batch = data.shape[2]
        if hx is None:
            return [[data.new_zeros(size, batch) for size in sizes] for sizes in self._sizes()]
        parts = list(hx) if self.mode == "LSTM" else [hx]
        found = [[tuple(state.shape) for state in part] for part in parts]
        wanted = [[(batch, size) for size in sizes] for sizes in zip(*self._sizes(), strict=True)]
        if found != wanted:
            raise ValueError(
                f"`hx` must hold states of shapes {wanted}, got {found}; pass on what `forward` returned, or None"
            )
        return [
            [state.t().clone(memory_format=torch.contiguous_format) for state in states]
            for states in zip(*parts, strict=True)
        ]

    def _handed_back(self, finals: list[list[Tensor]]) -> Any:
        parts = [tuple(state.t().contiguous() for state in states) for states in zip(*finals, strict=True)]
        if not self.is_ragged:
            parts = [torch.stack(states) for states in parts]
        return tuple(parts) if self.mode == "LSTM" else parts[0]
