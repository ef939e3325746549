"""Dropout that is drawn once for a whole pass: on what goes from layer to layer, and on the recurrent weights.

Torch's recurrent layers drop other units at every step, and nothing inside a layer. Here the layers of a stack run one
by one, each in torch's fused kernel, so a mask over all steps goes between two of them, and one over the weights in
front of each; there is no loop over time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.gates.kernels import KERNELS, call_kernel
from l0rnn.recurrent.ragged_rnn import RaggedRNN


@dataclass(frozen=True)
class RecurrentDropout:
    """What is dropped in training, for sequences `(time, batch, unit)`.

    Attributes:
        is_locked: whether one mask serves all steps of a sequence.
        weights: share of the weights from hidden to hidden units that are dropped, in [0, 1).

    Example:
        >>> dropped = RecurrentDropout(is_locked=True).of_units(torch.ones(3, 2, 4), 0.5)  # (time, batch, unit)
        >>> bool((dropped == dropped[0]).all())
        True

    Reference:
        Masks over all steps: Gal, Ghahramani, A Theoretically Grounded Application of Dropout in Recurrent Neural
        Networks (2016), arXiv 1512.05287. Weights: Merity, Keskar, Socher, Regularizing and Optimizing LSTM Language
        Models (2017), arXiv 1708.02182.
    """

    is_locked: bool = False
    weights: float = 0.0

    def acts(self) -> bool:
        """Whether it does anything that torch's own dropout does not."""
        return self.is_locked or self.weights > 0

    def of_units(self, data: Tensor, rate: float) -> Tensor:
        """Drop units of activations `(time, batch, unit)`."""
        if not self.is_locked or rate == 0:
            return nn.functional.dropout(data, rate)
        return data * nn.functional.dropout(data.new_ones(1, *data.shape[1:]), rate)

    def of_weight(self, weight: Tensor) -> Tensor:
        """Drop weights from hidden to hidden units."""
        if not self.weights:
            return weight
        if weight.device.type != "cpu":
            return nn.functional.dropout(weight, self.weights)
        # as above, but for a large matrix torch draws uniform numbers much faster than ones and zeros
        kept = 1 - self.weights
        return weight * torch.rand_like(weight).ge_(self.weights).mul_(1 / kept if kept else 0.0)


def is_stack_of_layers(encoder: nn.Module) -> bool:
    """Whether `run_layers` can run it.

    Example:
        >>> is_stack_of_layers(nn.LSTM(3, 5, num_layers=2)), is_stack_of_layers(nn.LSTM(3, 5, bidirectional=True))
        (True, False)
    """
    stack: Any = encoder
    is_ragged = isinstance(encoder, RaggedRNN)
    if not (is_ragged or type(encoder) in (nn.LSTM, nn.GRU)) or stack.bidirectional or stack.batch_first:
        return False
    return not (stack.proj_sizes if is_ragged else stack.proj_size)


def run_layers(encoder: nn.Module, dropout: RecurrentDropout, data: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    """Run a stack of torch layers in training, with this dropout; otherwise as calling it.

    Args:
        encoder: an nn.LSTM, nn.GRU or `RaggedRNN` of these, in one direction, time first and without projections.
        dropout: what is dropped.
        data: `(time, batch, feature)`.
        state: as the encoder takes it, or None for zeros.

    Raises:
        ValueError: if it is another encoder.

    Example:
        >>> output, (h, c) = run_layers(nn.LSTM(3, 5, num_layers=2), RecurrentDropout(True), torch.randn(7, 2, 3))
        >>> output.shape, h.shape
        (torch.Size([7, 2, 5]), torch.Size([2, 2, 5]))
    """
    if not is_stack_of_layers(encoder):
        raise ValueError(
            "`locked_dropout` and `weight_dropout` must be for LSTM or GRU layers in one direction, time first and "
            f"without projections, got {encoder}; leave them out"
        )
    is_ragged = isinstance(encoder, RaggedRNN)
    stack: Any = encoder
    layers = [(row[0], 0) for row in stack.layers] if is_ragged else [(stack, i) for i in range(stack.num_layers)]
    parts = _parts(state, [layer for layer, _ in layers], data)
    finals = []
    for depth, (layer, place) in enumerate(layers):
        if depth:
            data = dropout.of_units(data, stack.dropout)
        names = ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if layer.bias else ()))
        weights = {name: getattr(layer, f"{name}_l{place}") for name in names}
        weights["weight_hh"] = dropout.of_weight(weights["weight_hh"])
        data, ends = call_kernel(layer, KERNELS[layer.mode], data, parts[depth], list(weights.values()))
        finals.append(ends)
    after = [tuple(end[0] for end in ends) if is_ragged else torch.cat(ends) for ends in zip(*finals, strict=True)]
    return data, tuple(after) if stack.mode == "LSTM" else after[0]


def _parts(state: Any, layers: Sequence[Any], data: Tensor) -> list[list[Tensor]]:
    """For each layer the parts of its state, `(1, batch, unit)`."""
    is_lstm = layers[0].mode == "LSTM"
    shapes = [(1, data.size(1), layer.hidden_size) for layer in layers]
    if state is None:
        return [[data.new_zeros(shape)] * (1 + is_lstm) for shape in shapes]
    found = [[part[None] for part in parts] for parts in zip(*(state if is_lstm else [state]), strict=True)]
    if [[part.shape for part in parts] for parts in found] != [[shape] * (1 + is_lstm) for shape in shapes]:
        told = [[tuple(part.shape[1:]) for part in parts] for parts in found]
        raise ValueError(
            f"`state` must have parts of {[shape[1:] for shape in shapes]} for these layers, got {told}; "
            "pass on what the call before returned, or None"
        )
    return found
