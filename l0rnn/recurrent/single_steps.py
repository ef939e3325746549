"""A switch for torch's CPU kernels, the way round oneDNN where it costs more than it gains, a layout for steps.

torch's oneDNN LSTM puts its weights into another order in every call. For a whole batch of sequences that is little;
for a single step it is most of the work. `run_recurrent` therefore runs the first few steps of an LSTM as
`torch.lstm_cell`, which reads the weights as they lie. The switch itself is one for the whole process, and is never
touched by it; other threads do not notice.

What is left of a step is reading the weights once. `column_major_` stores them in the order in which torch's product of
a matrix with one vector reads them fastest.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

# Calls of at most so many time steps and sequences run as cells. Measured with one thread on an AMD EPYC (AVX-512),
# torch 2.13, widths 32 to 650: recipes/penn_treebank/onednn_rule.py. Beyond, oneDNN wins for narrow layers.
MOST_STEPS = 2
MOST_SEQUENCES = 32

# What a caller asked for with `onednn`, within its own thread and block; torch's switch cannot tell "on" from "asked".
_asked_for: ContextVar[bool | None] = ContextVar("onednn asked for", default=None)

_lock = threading.Lock()
_blocks: dict[object, bool] = {}  # what the blocks that are open ask for, the latest last; of all threads
_outside: tuple[Any, ...] = ()  # torch's flags before the first of them


@contextmanager
def onednn(enabled: bool | None) -> Iterator[None]:
    """Use oneDNN (or not) inside the block, whatever it was before; nothing changes on a build without oneDNN.

    With True, l0rnn's layers use oneDNN in the block even where they know a faster way; with False nothing uses it. For
    an LSTM of one's own that runs single steps, ``with onednn(False)`` is that way. The switch is torch's own, of the
    whole process: where blocks of several threads overlap, the latest counts for all of them, and after the last of
    them the switch is as it was.

    Args:
        enabled: whether to use it; None to leave the choice to l0rnn's layers, as outside of any block.

    Example:
        >>> with onednn(False):
        ...     print(torch.backends.mkldnn.enabled)
        False
    """
    token = _asked_for.set(enabled)
    try:
        if not torch.backends.mkldnn.is_available():
            yield
            return
        block = _open_block(enabled is not False)
        try:
            yield
        finally:
            _close_block(block)
    finally:
        _asked_for.reset(token)


def _open_block(enabled: bool) -> object:
    global _outside
    block = object()
    with _lock:
        before = _switch(enabled)
        _outside = _outside if _blocks else before
        _blocks[block] = enabled
    return block


def _close_block(block: object) -> None:
    with _lock:
        del _blocks[block]
        if _blocks:
            _switch(next(reversed(_blocks.values())))
        else:
            torch.backends.mkldnn.set_flags(*_outside)


def _switch(enabled: bool) -> tuple[Any, ...]:
    """Turn oneDNN on or off; torch's flags as they were."""
    with warnings.catch_warnings():
        # torch 2.13 warns about TF32 on Intel GPUs whenever the switch is touched
        warnings.filterwarnings("ignore", message="TF32 acceleration")
        return torch.backends.mkldnn.set_flags(_enabled=enabled)  # type: ignore[no-any-return]


def run_recurrent(layer: Any, data: Any, state: Any = None) -> tuple[Any, Any]:
    """Call a recurrent layer, or run its few steps as cells if that is faster and nobody would notice.

    That is so for a plain `torch.nn.LSTM` in evaluation mode, without gradients, in float32 on a CPU, for a call of at
    most `MOST_STEPS` steps and `MOST_SEQUENCES` sequences. Everything else is called as it is: layers with hooks or a
    projection, bidirectional ones, packed sequences, other devices, autocast, and whatever is being traced or compiled.

    Args:
        layer: any recurrent layer; only an nn.LSTM that reads `(time, batch, feature)` is ever run as cells.
        data: its input.
        state: as the layer takes it, or None for zeros.

    Returns:
        What the layer returns: output and state.

    Example:
        >>> layer = nn.LSTM(3, 5).eval()
        >>> with torch.no_grad():
        ...     output, (h, c) = run_recurrent(layer, torch.randn(1, 2, 3))
        >>> output.shape, h.shape
        (torch.Size([1, 2, 5]), torch.Size([1, 2, 5]))
    """
    if not (is_for_cells(data) and is_plain(layer)):
        return layer(data, state)
    if state is None:
        states = [None] * layer.num_layers
    elif _fits(layer, data, state):
        states = list(zip(*(part.unbind(0) for part in state), strict=True))
    else:
        return layer(data, state)  # which says what is wrong
    output, finals = run_cells([(layer, depth) for depth in range(layer.num_layers)], data, states)
    h, c = zip(*finals, strict=True)
    return output, (torch.stack(h), torch.stack(c))


def is_for_cells(data: Any) -> TypeGuard[Tensor]:
    """Whether an input is one that an LSTM had better run as cells, here and now; see `run_recurrent`."""
    if type(data) is not Tensor or torch.is_grad_enabled() or data.dim() != 3 or _asked_for.get():
        return False
    steps, batch, _ = data.shape
    return (
        0 < steps <= MOST_STEPS
        and 0 < batch <= MOST_SEQUENCES
        and data.dtype == torch.float32
        and data.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]
        and not torch.is_autocast_enabled("cpu")
    )


def is_plain(layer: Any) -> bool:
    """Whether cells can stand for a layer: an LSTM in evaluation mode that reads forwards, with nothing added to it."""
    return (
        type(layer) is nn.LSTM
        and not layer.training
        and not (layer.batch_first or layer.bidirectional or layer.proj_size)
        and not (layer._forward_hooks or layer._forward_pre_hooks)
    )


def run_cells(
    layers: Sequence[tuple[nn.LSTM, int]], data: Tensor, states: Sequence[tuple[Tensor, Tensor] | None]
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Run a stack of LSTM layers cell by cell.

    Args:
        layers: pairs of an nn.LSTM and the number of one of its layers.
        data: `(time, batch, feature)`.
        states: for each layer h and c `(batch, unit)`, or None for zeros.

    Returns:
        The output `(time, batch, unit)` and the states after the last step.
    """
    steps = list(data.unbind(0))
    finals = []
    for (layer, depth), state in zip(layers, states, strict=True):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if layer.bias else ("weight_ih", "weight_hh")
        weights = [getattr(layer, f"{name}_l{depth}") for name in names]
        if state is None:
            zeros = data.new_zeros(data.shape[1], layer.hidden_size)
            state = (zeros, zeros)
        for time, features in enumerate(steps):
            state = torch.lstm_cell(features, state, *weights)
            steps[time] = state[0]
        finals.append(state)
    return steps[0].unsqueeze(0) if len(steps) == 1 else torch.stack(steps), finals


def chooses_path(network: nn.Module, steps: int) -> bool:
    """Whether a network may run so few steps otherwise than the switch says: it has a module that asks the rule above.

    Example:
        >>> chooses_path(nn.LSTM(3, 5), steps=1)
        False
    """
    return steps <= MOST_STEPS and any(getattr(module, "chooses_path", False) for module in network.modules())


def _fits(layer: nn.LSTM, data: Tensor, state: Any) -> bool:
    """Whether a state is one that the layer takes."""
    if not isinstance(state, tuple) or len(state) != 2:
        return False
    shape = (layer.num_layers, data.shape[1], layer.hidden_size)
    return all(isinstance(part, Tensor) and part.shape == shape for part in state)


@torch.no_grad()
def column_major_(network: nn.Module) -> nn.Module:
    """Store the matrices of recurrent and Linear layers column by column, for a network that runs single steps.

    Names, shapes, values and the ways to call the network stay as they are; only the order in memory changes. A product
    with one vector then adds up columns, for which MKL reads memory faster than for dot products of rows; how much is
    measured by recipes/penn_treebank/onednn_rule.py. For longer calls it is of no use, and oneDNN's LSTM has to turn
    the weights round in each of them.

    Args:
        network: on the CPU; changed in place.

    Returns:
        The same network.

    Example:
        >>> layer = column_major_(nn.Linear(3, 5))
        >>> layer.weight.shape, layer.weight.stride()
        (torch.Size([5, 3]), (1, 5))
    """
    for module in network.modules():
        if isinstance(module, (nn.RNNBase, nn.Linear)):
            for parameter in module.parameters(recurse=False):
                if parameter.dim() == 2:
                    parameter.data = parameter.t().contiguous().t()
    return network


@torch.no_grad()
def row_major_(network: nn.Module) -> nn.Module:
    """Store all matrices row by row, as torch makes them; takes `column_major_` back.

    Args:
        network: changed in place.

    Returns:
        The same network.

    Example:
        >>> layer = row_major_(column_major_(nn.Linear(3, 5)))
        >>> layer.weight.stride()
        (3, 1)
    """
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()
    return network
