"""Torch's fused kernels for recurrent stacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from l0rnn.gates.folding import as_one_block

KERNELS = {"LSTM": torch.lstm, "GRU": torch.gru, "RNN_TANH": torch.rnn_tanh, "RNN_RELU": torch.rnn_relu}


def call_kernel(
    layer: Any,
    kernel: Any,
    data: Tensor,
    state: Sequence[Tensor],
    weights: list[Tensor],
    batch_sizes: Tensor | None = None,
    num_layers: int = 1,
    dropout: float = 0.0,
) -> tuple[Tensor, list[Tensor]]:
    """Torch's fused function with the options of a stack: the output and the parts of the final state."""
    hx = tuple(state) if layer.mode == "LSTM" else state[0]
    shared = (as_one_block(weights), layer.bias, num_layers, dropout, layer.training, layer.bidirectional)
    if batch_sizes is None:
        output, *ends = kernel(data, hx, *shared, layer.batch_first)
    else:
        output, *ends = kernel(data, batch_sizes, hx, *shared)
    return output, ends
