"""GatedLSTM, GatedGRU and GatedRNN: the torch layers of the same cells, with gates."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from l0rnn.hard_concrete import HardConcrete
from l0rnn.layers.gated_recurrence import GatedRecurrence, GatedUnits


class GatedLSTM(GatedRecurrence, nn.LSTM):
    """`torch.nn.LSTM` with a gate on every input and hidden unit.

    Takes all options, inputs and states that `torch.nn.LSTM` takes, and keeps its weights under the same names.

    Args:
        input_size: units of the input.
        hidden_size: hidden units of each layer and direction.
        num_layers: layers.
        bias: whether the layers have biases.
        batch_first: whether inputs are `(batch, time, feature)`.
        dropout: dropout probability between layers.
        bidirectional: whether a second direction runs backwards.
        proj_size: units of the projected output; 0 for none.
        device: device of weights and gates.
        dtype: dtype of weights and gates.
        gates: which units carry gates: ``"input"``, ``"hidden"`` or ``"both"``.
        open_probability: initial P(gate ≠ 0) of every gate; 1 gives exactly the torch layer.
        distribution: the hard concrete distribution.

    Raises:
        ValueError: on sizes ≤ 0 and other options that torch refuses, or an unknown value of ``gates``.

    Example:
        >>> layer = GatedLSTM(4, 8, num_layers=2, open_probability=1.0)
        >>> output, (h, c) = layer(torch.randn(5, 3, 4))  # (time, batch, feature)
        >>> output.shape, h.shape
        (torch.Size([5, 3, 8]), torch.Size([2, 3, 8]))

    Reference:
        Wen et al. 2019 (arXiv 1906.06847), section 3.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        gates: GatedUnits = "both",
        open_probability: float = 0.93,
        distribution: HardConcrete | None = None,
    ) -> None:
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype
        )
        self._add_gates(gates, open_probability, distribution)


class GatedGRU(GatedRecurrence, nn.GRU):
    """`torch.nn.GRU` with a gate on every input and hidden unit; arguments as `GatedLSTM`, without ``proj_size``.

    Example:
        >>> output, h = GatedGRU(4, 8, bidirectional=True)(torch.randn(5, 3, 4))
        >>> output.shape, h.shape
        (torch.Size([5, 3, 16]), torch.Size([2, 3, 8]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        gates: GatedUnits = "both",
        open_probability: float = 0.93,
        distribution: HardConcrete | None = None,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
        )
        self._add_gates(gates, open_probability, distribution)


class GatedRNN(GatedRecurrence, nn.RNN):
    """`torch.nn.RNN` (tanh or relu) with a gate on every input and hidden unit; arguments as `GatedLSTM`.

    Example:
        >>> output, h = GatedRNN(4, 8, nonlinearity="relu", batch_first=True)(torch.randn(3, 5, 4))
        >>> output.shape, h.shape
        (torch.Size([3, 5, 8]), torch.Size([1, 3, 8]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        gates: GatedUnits = "both",
        open_probability: float = 0.93,
        distribution: HardConcrete | None = None,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            nonlinearity,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
        )
        self._add_gates(gates, open_probability, distribution)


_GATED_CLASSES: dict[type[nn.RNNBase], type[GatedRecurrence]] = {
    nn.LSTM: GatedLSTM,
    nn.GRU: GatedGRU,
    nn.RNN: GatedRNN,
}


def gate_layer(
    dense: nn.RNNBase,
    *,
    gates: GatedUnits = "both",
    open_probability: float = 0.93,
    distribution: HardConcrete | None = None,
) -> GatedRecurrence:
    """The gated layer of the same cell as a torch layer, on its weights: `GatedRecurrence.from_dense` for any cell.

    Raises:
        TypeError: if ``dense`` is not exactly an nn.LSTM, nn.GRU or nn.RNN.
    """
    gated = _GATED_CLASSES.get(type(dense))
    if gated is None:
        raise TypeError(f"`dense` must be an nn.LSTM, nn.GRU or nn.RNN, got {type(dense).__name__}")
    return gated.from_dense(dense, gates=gates, open_probability=open_probability, distribution=distribution)
