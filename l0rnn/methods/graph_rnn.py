"""A recurrent network whose layers, and the connections between them, are those of a graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from l0rnn.recurrent.names import GATES_PER_CELL
from l0rnn.gates.folding import as_one_block
from l0rnn.gates.kernels import KERNELS
from l0rnn.methods.layered_graph import LayeredGraph


class MaskedRecurrence(nn.RNNBase):
    """One recurrent layer with a fixed mask on its ``weight_ih``; weights and their names are those of torch.

    The mask is multiplied into the weight in every pass, so masked entries have no effect and no gradient, whatever an
    optimiser does to them. They start at 0; torch's bounds for the others are kept, which depend on the hidden units.

    Args:
        mode: ``"LSTM"``, ``"GRU"``, ``"RNN_TANH"`` or ``"RNN_RELU"``.
        input_size: units that the layer reads.
        hidden_size: units of the layer.
        mask: which unit reads which, bool `(unit, feature)`, the same for all gates; None for all.
        bias: whether the layer has biases.
        device: device of the weights.
        dtype: dtype of the weights.

    Example:
        >>> layer = MaskedRecurrence("GRU", 3, 2, mask=torch.tensor([[True, False, True], [False, True, False]]))
        >>> layer.weight_ih_l0.shape, int((layer.weight_ih_l0 != 0).sum())
        (torch.Size([6, 3]), 9)
    """

    mask: Tensor | None

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        *,
        mask: Tensor | None = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(mode, input_size, hidden_size, bias=bias, device=device, dtype=dtype)
        packed = None if mask is None else mask.to(device=device, dtype=torch.bool).repeat(GATES_PER_CELL[mode], 1)
        self.register_buffer("mask", packed)
        self._zero_masked_()

    def reset_parameters(self) -> None:
        """Draw the weights as torch does, and set the masked ones to 0."""
        super().reset_parameters()
        if "mask" in self._buffers:  # not yet while torch's own constructor runs
            self._zero_masked_()

    @torch.no_grad()
    def _zero_masked_(self) -> None:
        if self.mask is not None:
            self.get_parameter("weight_ih_l0").mul_(self.mask)

    def forward(
        self, data: Tensor, batch_sizes: Tensor | None, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run torch's kernel on the masked weights.

        Args:
            data: `(time, batch, feature)`, or the data of a PackedSequence.
            batch_sizes: those of the PackedSequence, or None.
            state: each part `(batch, unit)`; two parts for an LSTM, else one.

        Returns:
            The output, and the final state in the form of ``state``.
        """
        names = ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if self.bias else ()))
        weights: list[Tensor] = [self.get_parameter(f"{name}_l0") for name in names]
        if self.mask is not None:
            weights[0] = weights[0] * self.mask
        parts = tuple(part.unsqueeze(0) for part in state)
        hx = parts if self.mode == "LSTM" else parts[0]
        options = (as_one_block(weights), self.bias, 1, 0.0, self.training, False)
        kernel: Any = KERNELS[self.mode]
        if batch_sizes is None:
            output, *final = kernel(data, hx, *options, False)
        else:
            output, *final = kernel(data, batch_sizes, hx, *options)
        return output, tuple(part.squeeze(0) for part in final)


class GraphRNN(nn.Module):
    """A recurrent network with one layer per layer of a graph, connected as the graph's edges say.

    A layer reads the layer before it where the graph has an edge. Edges that skip layers make a recurrent layer of
    their own, from the output of their source layer; its output is added to that of the target layer, and what reads
    the target layer reads the sum. The first layer reads the whole input, and the units of a layer read one another's
    past without a mask. There is no loop over time: torch's kernels run on masked weights.

    Called as the torch layers are. The state differs in form, as that of a `RaggedRNN`: where torch has one tensor,
    this has a tuple of `(batch, unit)` tensors, first one for each layer, then one for each skip, in the order of
    ``graph.skips``. The last layer's entry lacks what skips add to its output; use the output where that is wanted.

    Args:
        mode: ``"LSTM"``, ``"GRU"``, ``"RNN_TANH"`` or ``"RNN_RELU"``.
        input_size: units of the input.
        graph: the structure.
        bias: whether the layers have biases.
        batch_first: whether inputs are `(batch, time, feature)`.
        device: device of the weights.
        dtype: dtype of the weights.

    Raises:
        ValueError: if ``mode`` is unknown or ``input_size`` is ≤ 0.

    Example:
        >>> graph = LayeredGraph(5, [(0, 2), (1, 2), (2, 3), (2, 4), (0, 4)])
        >>> rnn = GraphRNN("LSTM", 3, graph)
        >>> output, (h, c) = rnn(torch.randn(7, 2, 3))  # (time, batch, feature)
        >>> output.shape, [tuple(part.shape) for part in h]
        (torch.Size([7, 2, 2]), [(2, 2), (2, 1), (2, 2), (2, 2)])

    Reference:
        Darji, Investigating Sparsity in Recurrent Neural Networks (2024), arXiv 2407.20601, the chapter on random
        structures.
    """

    def __init__(
        self,
        mode: str,
        input_size: int,
        graph: LayeredGraph,
        *,
        bias: bool = True,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if mode not in KERNELS:
            raise ValueError(f"`mode` must be one of {', '.join(KERNELS)}, got {mode!r}")
        if input_size <= 0:
            raise ValueError(f"`input_size` must be > 0, got {input_size}")
        self.mode = mode
        self.input_size = input_size
        self.graph = graph
        self.bias = bias
        self.batch_first = batch_first
        sizes = graph.layer_sizes
        self.output_size = sizes[-1]

        def layer(features: int, units: int, mask: Any = None) -> MaskedRecurrence:
            reads = None if mask is None else torch.from_numpy(mask)
            return MaskedRecurrence(mode, features, units, mask=reads, bias=bias, device=device, dtype=dtype)

        self.layers = nn.ModuleList(
            [layer(input_size, sizes[0]), *(layer(mask.shape[1], mask.shape[0], mask) for mask in graph.masks)]
        )
        self.skips = nn.ModuleList(layer(mask.shape[1], mask.shape[0], mask) for mask in graph.skips.values())

    def forward(self, input: Tensor | PackedSequence, state: Any = None) -> tuple[Any, Any]:
        """Run the network; see the class for the form of the state.

        Args:
            input: `(time, batch, feature)`, `(batch, time, feature)` with ``batch_first``, `(time, feature)`, or a
                PackedSequence.
            state: the state as this method returns it, or None for zeros.

        Returns:
            ``(output, state)``; the output is that of the last layer, in the form of the input.

        Raises:
            ValueError: if the input has another width, dtype or number of dimensions, or ``state`` is not one of this
                network for this batch.
        """
        is_packed = isinstance(input, PackedSequence)
        is_batched = is_packed or input.dim() == 3
        data = self._time_first(input)
        batch_sizes = input.batch_sizes if is_packed else None
        batch = int(batch_sizes[0]) if batch_sizes is not None else data.size(1)
        states = self._states(state, data, batch, is_batched)
        if is_packed and state is not None and input.sorted_indices is not None:
            states = [tuple(part.index_select(0, input.sorted_indices) for part in parts) for parts in states]
        data, finals = self._run(data, batch_sizes, states)
        if is_packed:
            output: Any = PackedSequence(data, input.batch_sizes, input.sorted_indices, input.unsorted_indices)
            if input.unsorted_indices is not None:
                finals = [tuple(part.index_select(0, input.unsorted_indices) for part in parts) for parts in finals]
        elif not is_batched:
            output = data.squeeze(1)
            finals = [tuple(part.squeeze(0) for part in parts) for parts in finals]
        else:
            output = data.transpose(0, 1) if self.batch_first else data
        return output, tuple(zip(*finals, strict=True)) if self.mode == "LSTM" else tuple(part for (part,) in finals)

    def _run(
        self, data: Tensor, batch_sizes: Tensor | None, states: list[tuple[Tensor, ...]]
    ) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """Output of the last layer, and the final states in the order of ``states``."""
        outputs: list[Tensor] = []
        finals, skip_finals = [], []
        skips = list(zip(self.graph.skips, self.skips, states[len(self.layers) :], strict=True))
        for depth, layer in enumerate(self.layers):
            data, final = layer(data, batch_sizes, states[depth])
            finals.append(final)
            for (source, target), skip, state in skips:
                if target == depth:
                    addend, final = skip(outputs[source], batch_sizes, state)
                    data = data + addend
                    skip_finals.append(final)
            outputs.append(data)
        return data, finals + skip_finals

    def _time_first(self, input: Tensor | PackedSequence) -> Tensor:
        """The input as `(time, batch, feature)`, or the data of a PackedSequence, once it is known to fit."""
        data = input.data if isinstance(input, PackedSequence) else input
        if not isinstance(input, PackedSequence) and data.dim() not in (2, 3):
            raise ValueError(f"`input` must have 2 dimensions (unbatched) or 3 (batched), got {data.dim()}")
        if data.size(-1) != self.input_size:
            raise ValueError(f"`input` must have {self.input_size} units in its last dimension, got {data.size(-1)}")
        dtype = next(self.parameters()).dtype
        if data.dtype != dtype and not torch.is_autocast_enabled(data.device.type):
            raise ValueError(f"`input` must have the dtype of the weights, {dtype}, got {data.dtype}")
        if isinstance(input, PackedSequence):
            return data
        if data.dim() == 2:
            return data.unsqueeze(1)
        return data.transpose(0, 1) if self.batch_first else data

    def _states(self, state: Any, data: Tensor, batch: int, is_batched: bool) -> list[tuple[Tensor, ...]]:
        """The state of each layer and skip, each part `(batch, unit)`; torch's kernels do not check all shapes."""
        parts = 2 if self.mode == "LSTM" else 1
        sizes = [int(layer.hidden_size) for layer in (*self.layers, *self.skips)]  # type: ignore[arg-type]
        if state is None:
            return [tuple(data.new_zeros(batch, size) for _ in range(parts)) for size in sizes]
        given = tuple(state) if self.mode == "LSTM" else (state,)
        wanted = [(batch, size) if is_batched else (size,) for size in sizes]
        found = [[tuple(tensor.shape) for tensor in part] for part in given]
        if found != parts * [wanted]:
            raise ValueError(
                f"`state` must have {parts} part{'s' if parts > 1 else ''} of {len(sizes)} tensors with the shapes "
                f"{wanted}, got {found}; pass on what `forward` returned, or None"
            )
        states = list(zip(*given, strict=True))
        return states if is_batched else [tuple(tensor.unsqueeze(0) for tensor in one) for one in states]

    def extra_repr(self) -> str:
        """Cell and structure, for `print`."""
        return f"{self.mode}, {self.input_size}, {self.graph}"
