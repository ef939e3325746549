"""The network of a `GraphRNN`, computed one depth at a time: the same outputs and gradients in fewer operations.

A `GraphRNN` runs a kernel for each layer and for each pair of layers that a skip connection joins: in a random graph of
30 nodes about 30 kernels of 4 units. All that lead to one layer have its width and do not read one another, so here
they run as one recurrent layer, whose weights are masked to blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from l0rnn.axes import GATES_PER_CELL
from l0rnn.layers.gated_recurrence import KERNELS
from l0rnn.layers.graph_rnn import GraphRNN, MaskedRecurrence
from recipes.reber.time_loops import GruLoop, SimpleLoop


class DepthRNN(nn.Module):
    """What a `GraphRNN` computes, on its weights.

    Args:
        rnn: the network to take over; it is not changed.

    Raises:
        ValueError: if it has no biases.
    """

    def __init__(self, rnn: GraphRNN) -> None:
        super().__init__()
        if not rnn.bias:
            raise ValueError("`rnn` must have biases, got one without")
        cells: list[list[tuple[int, MaskedRecurrence]]] = [
            [(depth - 1, layer)]
            for depth, layer in enumerate(rnn.layers)  # type: ignore[arg-type]
        ]
        for (source, target), skip in zip(rnn.graph.skips, rnn.skips, strict=True):
            cells[target].append((source, skip))  # type: ignore[arg-type]
        widths = {-1: rnn.input_size, **dict(enumerate(rnn.graph.layer_sizes))}  # -1 is the input
        self.sources = [sorted({source for source, _ in inside}) for inside in cells]
        self.depths = nn.ModuleList(
            DepthLayer(rnn.mode, inside, {source: widths[source] for source in sources})
            for inside, sources in zip(cells, self.sources, strict=True)
        )

    def forward(self, input: Tensor) -> Tensor:
        """Output of the last layer, `(time, batch, unit)`, of an input `(time, batch, feature)`."""
        outputs = {-1: input.transpose(1, 2)}  # units before strings, as the time loops want them
        for depth, (sources, layer) in enumerate(zip(self.sources, self.depths, strict=True)):
            read = [outputs[source] for source in sources]
            outputs[depth] = layer(read[0] if len(read) == 1 else torch.cat(read, 1))
        return outputs[len(self.depths) - 1].transpose(1, 2)

    def connections(self) -> int:
        """Number of recurrent weights that are not masked, biases aside."""
        return sum(int(mask.sum()) for name, mask in self.named_buffers() if "mask" in name)


class DepthLayer(nn.Module):
    """All recurrent layers that lead to one layer of a graph, as one.

    Args:
        mode: ``"LSTM"``, ``"GRU"``, ``"RNN_TANH"`` or ``"RNN_RELU"``.
        cells: source and recurrent layer of each, all of one width.
        widths: source → its units, in the order in which they are read.
    """

    mask_ih: Tensor
    mask_hh: Tensor

    def __init__(self, mode: str, cells: list[tuple[int, MaskedRecurrence]], widths: dict[int, int]) -> None:
        super().__init__()
        self.mode, self.cells = mode, len(cells)
        gates, units = GATES_PER_CELL[mode], int(cells[0][1].hidden_size)
        dtype = cells[0][1].get_parameter("weight_ih_l0").dtype
        starts, features = {}, 0
        for source, width in widths.items():
            starts[source], features = features, features + width
        ih, mask_ih = (torch.zeros(gates, self.cells, units, features, dtype=dtype) for _ in range(2))
        hh, mask_hh = (torch.zeros(gates, self.cells, units, self.cells, units, dtype=dtype) for _ in range(2))
        biases = torch.zeros(2, gates, self.cells, units, dtype=dtype)
        for number, (source, cell) in enumerate(cells):
            columns = slice(starts[source], starts[source] + widths[source])
            ih[:, number, :, columns] = _by_gate(cell.get_parameter("weight_ih_l0"), gates)
            mask = cell.mask
            mask_ih[:, number, :, columns] = 1.0 if mask is None else _by_gate(mask.to(dtype), gates)
            hh[:, number, :, number] = _by_gate(cell.get_parameter("weight_hh_l0"), gates)
            mask_hh[:, number, :, number] = 1.0
            for place, name in enumerate(("bias_ih_l0", "bias_hh_l0")):
                biases[place, :, number] = cell.get_parameter(name).detach().unflatten(0, (gates, -1))
        rows, columns = gates * self.cells * units, self.cells * units
        self.weight_ih, self.weight_hh = nn.Parameter(ih.view(rows, -1)), nn.Parameter(hh.view(rows, columns))
        self.bias_ih, self.bias_hh = (nn.Parameter(bias.reshape(rows).clone()) for bias in biases)
        self.register_buffer("mask_ih", mask_ih.view(rows, -1))
        self.register_buffer("mask_hh", mask_hh.view(rows, columns))

    def forward(self, input: Tensor) -> Tensor:
        """The sum of all layers' outputs, `(time, unit, batch)`, of an input `(time, feature, batch)`."""
        weight_ih, weight_hh = self.weight_ih * self.mask_ih, self.weight_hh * self.mask_hh
        if self.mode == "LSTM":
            states = self._lstm(input, weight_ih, weight_hh)
        elif self.mode == "GRU":
            states = GruLoop.apply(_projected(input, weight_ih, self.bias_ih), weight_hh, self.bias_hh)
        else:
            projected = _projected(input, weight_ih, self.bias_ih + self.bias_hh)
            states = SimpleLoop.apply(projected, weight_hh, self.mode.removeprefix("RNN_").lower())
        assert isinstance(states, Tensor)  # torch gives `apply` no type
        return states if self.cells == 1 else states.unflatten(1, (self.cells, -1)).sum(1)

    def _lstm(self, input: Tensor, weight_ih: Tensor, weight_hh: Tensor) -> Tensor:
        zeros = input.new_zeros(1, input.size(2), weight_hh.size(1))
        weights = [weight_ih, weight_hh, self.bias_ih, self.bias_hh]
        data = input.transpose(1, 2).contiguous()
        output, *_ = KERNELS["LSTM"](data, (zeros, zeros), weights, True, 1, 0.0, self.training, False, False)
        return output.transpose(1, 2)


def _projected(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What the input adds before the recurrence, `(time, gate unit, batch)`."""
    steps = input.size(0)
    return torch.baddbmm(bias.unsqueeze(1), weight.expand(steps, -1, -1), input)


def _by_gate(weight: Tensor, gates: int) -> Tensor:
    return weight.detach().unflatten(0, (gates, -1))
