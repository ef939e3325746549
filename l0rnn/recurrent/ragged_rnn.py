"""A plain recurrent stack whose layers and directions may have different widths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from l0rnn.arguments import checked
from l0rnn.recurrent.single_steps import is_for_cells, is_plain, run_cells
from l0rnn.recurrent.stack import Run, run_stack

CLASSES = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN_TANH": nn.RNN, "RNN_RELU": nn.RNN}


@checked
class RaggedRNN(nn.Module):
    """What `torch.nn.LSTM`, `GRU` and `RNN` cannot hold: layers and directions of unequal width.

    It is made of ordinary one-layer, one-direction torch layers, and is called as the torch layer is. The state differs
    in form, since tensors of unequal width do not stack: where torch has one tensor `(layer·direction, batch, unit)`,
    this has a tuple of `(batch, unit)` tensors in the same order, so ``h[-1]`` is the last layer's state as there.

    In inference on a CPU, calls of one or two steps go round oneDNN, see `l0rnn.recurrent.single_steps.run_recurrent`.

    Args:
        mode: ``"LSTM"``, ``"GRU"``, ``"RNN_TANH"`` or ``"RNN_RELU"``.
        input_size: units of the input.
        hidden_sizes: for each layer, the hidden units of each direction (one number, or two if bidirectional).
        proj_sizes: likewise the projected units, for an LSTM with projection; None for none.
        bias: whether the layers have biases.
        batch_first: whether inputs are `(batch, time, feature)`.
        dropout: dropout probability between layers, in training.
        device: device of the weights.
        dtype: dtype of the weights.

    Raises:
        ValueError: if ``mode`` is unknown, a size is ≤ 0, or the numbers of layers and directions do not agree.

    Example:
        >>> rnn = RaggedRNN("LSTM", 4, [[5], [3]])
        >>> output, (h, c) = rnn(torch.randn(7, 2, 4))  # (time, batch, feature)
        >>> output.shape, [tuple(state.shape) for state in h]
        (torch.Size([7, 2, 3]), [(2, 5), (2, 3)])
    """

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_sizes: Sequence[Sequence[int]],
        *,
        proj_sizes: Sequence[Sequence[int]] | None = None,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if mode not in CLASSES:
            raise ValueError(f"`mode` must be one of {', '.join(CLASSES)}, got {mode!r}")
        if not hidden_sizes or len({len(sizes) for sizes in hidden_sizes}) != 1 or len(hidden_sizes[0]) not in (1, 2):
            raise ValueError(
                f"`hidden_sizes` must list 1 or 2 directions, the same number for every layer, got {hidden_sizes}"
            )
        if proj_sizes is not None and [len(sizes) for sizes in proj_sizes] != [len(sizes) for sizes in hidden_sizes]:
            raise ValueError(
                f"`proj_sizes` must have the form of `hidden_sizes`, {hidden_sizes}, got {proj_sizes}; None for none"
            )
        for name, sizes in {"hidden_sizes": hidden_sizes, "proj_sizes": proj_sizes or [[1]]}.items():
            if min(min(widths) for widths in sizes) <= 0:
                raise ValueError(f"`{name}` must be > 0, got {sizes}")
        if input_size <= 0:
            raise ValueError(f"`input_size` must be > 0, got {input_size}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"`dropout` must be in [0, 1], got {dropout}")
        self.mode = mode
        self.input_size = input_size
        self.hidden_sizes = [list(sizes) for sizes in hidden_sizes]
        self.proj_sizes = None if proj_sizes is None else [list(sizes) for sizes in proj_sizes]
        self.num_layers = len(hidden_sizes)
        self.bidirectional = len(hidden_sizes[0]) == 2
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = dropout
        self.layers = nn.ModuleList()
        width = input_size
        for layer, sizes in enumerate(self.hidden_sizes):
            projections = self.proj_sizes[layer] if self.proj_sizes else [0] * len(sizes)
            options: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
            self.layers.append(
                nn.ModuleList(
                    self._one_layer(width, size, projection, options)
                    for size, projection in zip(sizes, projections, strict=True)
                )
            )
            width = sum(projection or size for size, projection in zip(sizes, projections, strict=True))
        self.output_size = width

    def _one_layer(self, input_size: int, size: int, projection: int, options: dict[str, Any]) -> nn.RNNBase:
        extra: dict[str, Any] = {"proj_size": projection} if projection else {}
        if self.mode.startswith("RNN_"):
            extra["nonlinearity"] = self.mode.removeprefix("RNN_").lower()
        return CLASSES[self.mode](input_size, size, **options, **extra)

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any]:
        """Run the stack; see the class for the form of the state.

        Args:
            input: `(time, batch, feature)`, `(batch, time, feature)` with ``batch_first``, `(time, feature)`, or a
                PackedSequence.
            hx: the state as this method returns it, or None for zeros.

        Returns:
            ``(output, state)``.

        Raises:
            ValueError: if the input's last dimension is not ``input_size``, or ``hx`` is not a state of this stack.
        """
        is_packed = isinstance(input, PackedSequence)
        width = (input.data if is_packed else input).size(-1)
        if width != self.input_size:
            raise ValueError(f"`input` must have {self.input_size} units in its last dimension, got {width}")
        is_batched = is_packed or input.dim() == 3
        if not is_packed:
            if not is_batched:
                input = input.unsqueeze(1)
            elif self.batch_first:
                input = input.transpose(0, 1)
        states = self._states_per_layer(hx)
        if is_for_cells(input) and self._is_for_cells(input, states):
            layers = [(directions[0], 0) for directions in self.layers]  # type: ignore[index]
            output, finals = run_cells(layers, input, states)
            if not is_batched:
                finals = [(h[0], c[0]) for h, c in finals]
        else:
            output, finals = self._stack(input, states, is_batched)
        if not is_packed:
            if not is_batched:
                output = output.squeeze(1)
            elif self.batch_first:
                output = output.transpose(0, 1)
        if self.mode == "LSTM":
            return output, (tuple(h for h, _ in finals), tuple(c for _, c in finals))
        return output, tuple(finals)

    def _stack(self, data: Any, states: list[Any], is_batched: bool) -> tuple[Any, list[Any]]:
        def runner(layer: nn.RNNBase, is_backward: bool) -> Run:
            def run(data: Any, state: Any) -> tuple[Any, Any]:
                output, final = layer(reverse_time(data) if is_backward else data, _with_layer_axis(state, is_batched))
                return reverse_time(output) if is_backward else output, _without_layer_axis(final, is_batched)

            return run

        def dropped(data: Any) -> Any:
            return _map_data(data, lambda values: nn.functional.dropout(values, self.dropout))

        stack: Any = self.layers
        layers = [[runner(layer, bool(direction)) for direction, layer in enumerate(row)] for row in stack]
        options = {"between": dropped} if self.dropout and self.training else {}
        return run_stack(layers, data, states, join=_concatenate, **options)

    def _is_for_cells(self, data: Tensor, states: list[Any]) -> bool:
        """Whether cells can stand for all layers, and the states are theirs; if not, torch's layers shall say so."""
        if self.mode != "LSTM" or self.bidirectional or (self.dropout and self.training):
            return False
        batch = data.shape[1]
        layers: list[Any] = [directions[0] for directions in self.layers]  # type: ignore[index]
        return all(map(is_plain, layers)) and all(
            state is None or all(part.shape == (batch, layer.hidden_size) for part in state)
            for layer, state in zip(layers, states, strict=True)
        )

    def _states_per_layer(self, hx: Any) -> list[Any]:
        """One torch-like state per layer and direction, or None each."""
        rows = self.num_layers * (2 if self.bidirectional else 1)
        if hx is None:
            return [None] * rows
        states = list(zip(*hx, strict=True)) if self.mode == "LSTM" else list(hx)
        if len(states) != rows:
            raise ValueError(
                f"`hx` must hold one state for each of the {rows} layers and directions, got {len(states)}; "
                "pass on what `forward` returned, or None"
            )
        return states

    def flatten_parameters(self) -> None:
        """For networks that call it on a torch layer; torch's own, in here, do it by themselves."""

    def extra_repr(self) -> str:
        """Cell and widths, for `print`."""
        return f"{self.mode}, {self.input_size}, {self.hidden_sizes}"


def reverse_time(data: Tensor | PackedSequence) -> Any:
    """Each sequence back to front; twice is the identity. A tensor is `(time, batch, …)`.

    Example:
        >>> reverse_time(torch.tensor([[1], [2]])).tolist()
        [[2], [1]]
    """
    if not isinstance(data, PackedSequence):
        return data.flip(0)
    sizes = data.batch_sizes
    starts = sizes.cumsum(0) - sizes
    lengths = (sizes[:, None] > torch.arange(int(sizes[0]))[None, :]).sum(0)  # (batch,)
    time = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    batch = torch.arange(int(sizes.sum())) - starts[time]
    mirrored = starts[lengths[batch] - 1 - time] + batch
    return data._replace(data=data.data.index_select(0, mirrored.to(data.data.device)))


def _map_data(data: Any, function: Any) -> Any:
    return data._replace(data=function(data.data)) if isinstance(data, PackedSequence) else function(data)


def _concatenate(outputs: list[Any]) -> Any:
    if isinstance(outputs[0], PackedSequence):
        return outputs[0]._replace(data=torch.cat([output.data for output in outputs], -1))
    return torch.cat(outputs, -1)


def _with_layer_axis(state: Any, is_batched: bool) -> Any:
    if state is None:
        return None
    grow = (lambda part: part.unsqueeze(0)) if is_batched else (lambda part: part[None, None])
    return tuple(grow(part) for part in state) if isinstance(state, tuple) else grow(state)


def _without_layer_axis(state: Any, is_batched: bool) -> Any:
    shrink = (lambda part: part.squeeze(0)) if is_batched else (lambda part: part[0, 0])
    return tuple(shrink(part) for part in state) if isinstance(state, tuple) else shrink(state)
