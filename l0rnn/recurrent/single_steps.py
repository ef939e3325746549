"""A switch for torch's CPU kernels, and the way round oneDNN where it costs more than it gains.

torch's oneDNN LSTM puts its weights into another order in every call. For a whole batch of sequences that is little;
for a single step it is most of the work. `run_recurrent` therefore runs the first few steps of an LSTM as
`torch.lstm_cell`, which reads the weights as they lie. The switch itself is one for the whole process, and is never
touched by it; other threads do not notice.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

# Calls of at most so many time steps and sequences run as cells. Measured with one thread on an AMD EPYC (AVX-512),
# torch 2.13, widths 32 to 650: recipes/penn_treebank/onednn_rule.py. Beyond, oneDNN wins for narrow layers.
MOST_STEPS = 2
MOST_SEQUENCES = 32


@contextmanager
def onednn(enabled: bool) -> Iterator[None]:
    """Have torch's oneDNN on or off inside the block, and afterwards as it was; for proofs and measurements.

    The switch is one for the whole process, so this is for one thread at a time.

    Args:
        enabled: whether to use it; nothing changes on a build without oneDNN.

    Example:
        >>> with onednn(False):
        ...     print(torch.backends.mkldnn.enabled)
        False
    """
    if not torch.backends.mkldnn.is_available():
        yield
        return
    with warnings.catch_warnings():
        # torch 2.13 warns about TF32 on Intel GPUs whenever the switch is touched
        warnings.filterwarnings("ignore", message="TF32 acceleration")
        before = torch.backends.mkldnn.set_flags(_enabled=enabled)
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(*before)


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
    if is_for_cells(data) and is_plain(layer) and fits(layer, data, state):
        return run_stack_as_cells(layer, data, state)
    return layer(data, state)  # which says what is wrong with a state that does not fit


def run_stack_as_cells(layer: nn.LSTM, data: Tensor, state: Any = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run all layers of an nn.LSTM cell by cell: data `(time, batch, feature)`, and a state that `fits`."""
    states = [None] * layer.num_layers if state is None else list(zip(*(part.unbind(0) for part in state), strict=True))
    output, finals = run_cells([(layer, depth) for depth in range(layer.num_layers)], data, states)
    h, c = zip(*finals, strict=True)
    return output, (torch.stack(h), torch.stack(c))


def is_for_cells(data: Any) -> TypeGuard[Tensor]:
    """Whether an input is one that an LSTM had better run as cells, here and now; see `run_recurrent`."""
    if type(data) is not Tensor or torch.is_grad_enabled() or data.dim() != 3:
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


def fits(layer: nn.LSTM, data: Tensor, state: Any) -> bool:
    """Whether a state is one that the layer takes with data `(time, batch, feature)`."""
    if state is None:
        return True
    if not isinstance(state, tuple) or len(state) != 2:
        return False
    shape = (layer.num_layers, data.shape[1], layer.hidden_size)
    return all(isinstance(part, Tensor) and part.shape == shape for part in state)
