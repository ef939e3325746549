"""How the layers and directions of a recurrent module are named, whether torch's or a `RaggedRNN`."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from l0rnn.recurrent.ragged_rnn import RaggedRNN

RECURRENT = (nn.LSTM, nn.GRU, nn.RNN, RaggedRNN)


def recurrent_sizes(module: Any) -> dict[str, tuple[int, int]]:
    """Hidden and projected units (0 for none) of each layer and direction, by key (``l0``, ``l0_reverse`` and so on).

    Example:
        >>> from torch import nn
        >>> recurrent_sizes(nn.GRU(3, 5, num_layers=2))
        {'l0': (5, 0), 'l1': (5, 0)}
    """
    sizes: dict[str, tuple[int, int]] = {}
    for depth in range(int(module.num_layers)):
        for direction in range(2 if module.bidirectional else 1):
            key = f"l{depth}{'_reverse' if direction else ''}"
            if isinstance(module, RaggedRNN):
                projection = module.proj_sizes[depth][direction] if module.proj_sizes else 0
                sizes[key] = (module.hidden_sizes[depth][direction], projection)
            else:
                sizes[key] = (int(module.hidden_size), int(module.proj_size))
    return sizes


def recurrent_parameter_name(module: Any, key: str, kind: str) -> str:
    """Name of a parameter within a recurrent layer, such as ``weight_hh_l0_reverse``."""
    if not isinstance(module, RaggedRNN):
        return f"{kind}_{key}"
    depth, _, reverse = key.removeprefix("l").partition("_")
    return f"layers.{depth}.{int(bool(reverse))}.{kind}_l0"


GATES_PER_CELL: dict[str, int] = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


def gates_of_weight(network: nn.Module, name: str) -> int:
    """How many gates of a cell are packed along the rows of a weight: 4, 3 or 1.

    Example:
        >>> network = nn.Sequential(nn.LSTM(3, 5), nn.Linear(5, 2))
        >>> gates_of_weight(network, "0.weight_hh_l0"), gates_of_weight(network, "1.weight")
        (4, 1)
    """
    layer, _, kind = name.rpartition(".")
    module: Any = network.get_submodule(layer)
    if not isinstance(module, (nn.RNNBase, nn.RNNCellBase)) or kind.startswith("weight_hr"):
        return 1
    if isinstance(module, nn.RNNBase):
        return GATES_PER_CELL[module.mode]
    return {nn.LSTMCell: 4, nn.GRUCell: 3}.get(type(module), 1)


def kind_of_weight(name: str) -> str:
    """The kind of a parameter, without its module and layer: ``weight_hh`` of ``encoder.weight_hh_l0_reverse``.

    Example:
        >>> kind_of_weight("encoder.weight_hh_l0_reverse"), kind_of_weight("decoder.weight")
        ('weight_hh', 'weight')
    """
    return re.sub(r"_l\d+(_reverse)?$", "", name.rpartition(".")[2])
