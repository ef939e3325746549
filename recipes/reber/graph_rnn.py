"""A recurrent network whose layers, and the connections between them, are those of a graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.gates.kernels import KERNELS
from l0rnn.recurrent.names import GATES_PER_CELL
from recipes.reber.layered_graph import LayeredGraph


class MaskedRecurrence(nn.RNNBase):
    """One recurrent layer with a fixed mask on its ``weight_ih``; weights and their names are those of torch.

    The mask is multiplied into the weight in every pass, so masked entries have no effect and no gradient, whatever an
    optimiser does to them. They start at 0; torch's bounds for the others are kept, which depend on the hidden units.

    Args:
        mode: ``"LSTM"``, ``"GRU"``, ``"RNN_TANH"`` or ``"RNN_RELU"``.
        input_size: units that the layer reads.
        hidden_size: units of the layer.
        mask: which unit reads which, bool `(unit, feature)`, the same for all gates; None for all.
    """

    mask: Tensor | None

    def __init__(self, mode: str, input_size: int, hidden_size: int, mask: Tensor | None = None) -> None:
        super().__init__(mode, input_size, hidden_size)
        self.register_buffer("mask", None if mask is None else mask.repeat(GATES_PER_CELL[mode], 1))
        if self.mask is not None:
            self.get_parameter("weight_ih_l0").data.mul_(self.mask)

    def forward(self, data: Tensor) -> Tensor:
        """Run torch's kernel on the masked weights, `(time, batch, feature)` in, `(time, batch, unit)` out."""
        weights: list[Tensor] = [
            self.get_parameter(f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]
        if self.mask is not None:
            weights[0] = weights[0] * self.mask
        zeros = data.new_zeros(1, data.size(1), self.hidden_size)
        kernel: Any = KERNELS[self.mode]
        state = (zeros, zeros) if self.mode == "LSTM" else zeros
        return kernel(data, state, weights, True, 1, 0.0, self.training, False, False)[0]


class GraphRNN(nn.Module):
    """A recurrent network with one layer per layer of a graph, connected as the graph's edges say.

    A layer reads the layer before it where the graph has an edge. Edges that skip layers make a recurrent layer of
    their own, from the output of their source layer; its output is added to that of the target layer, and what reads
    the target layer reads the sum. The first layer reads the whole input, and the units of a layer read one another's
    past without a mask. There is no loop over time: torch's kernels run on masked weights.

    Args:
        mode: ``"LSTM"``, ``"GRU"``, ``"RNN_TANH"`` or ``"RNN_RELU"``.
        input_size: units of the input.
        graph: the structure.

    Reference:
        Darji, Investigating Sparsity in Recurrent Neural Networks (2024), arXiv 2407.20601, the chapter on random
        structures.
    """

    def __init__(self, mode: str, input_size: int, graph: LayeredGraph) -> None:
        super().__init__()
        self.mode, self.graph = mode, graph

        def layer(mask: Any) -> MaskedRecurrence:
            return MaskedRecurrence(mode, mask.shape[1], mask.shape[0], torch.from_numpy(mask))

        first = MaskedRecurrence(mode, input_size, graph.layer_sizes[0])
        self.layers = nn.ModuleList([first, *(layer(mask) for mask in graph.masks)])
        self.skips = nn.ModuleList(layer(mask) for mask in graph.skips.values())

    def forward(self, data: Tensor) -> Tensor:
        """Output of the last layer, `(time, batch, feature)` in, `(time, batch, unit)` out; states start at 0."""
        outputs: list[Tensor] = []
        for depth, layer in enumerate(self.layers):
            data = layer(data)
            for (source, target), skip in zip(self.graph.skips, self.skips, strict=True):
                if target == depth:
                    data = data + skip(outputs[source])
            outputs.append(data)
        return data
