"""What depends on the number of units beside the network: optimiser state, and recurrent state that is carried on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from l0rnn.language.distillation import TEACHERS
from l0rnn.recurrent.nested import sequence_like
from l0rnn.surgery.kept import weight_units
from l0rnn.tracing.units import Units, kept_indices


def check_optimizer_state(optimizer: Optimizer) -> None:
    """Refuse an optimiser that remembers something that cannot be cut along with its parameters.

    What has the shape of the parameter can be cut, and single numbers are left as they are. All its parameters are
    looked at, whether they are to be cut or not, since L-BFGS keeps the history of all under the first.

    Raises:
        ValueError: if there is anything else, such as the factors of Adafactor or the history of L-BFGS.

    Example:
        >>> weight = nn.Parameter(torch.ones(2, 3))
        >>> optimizer = torch.optim.Adam([weight])
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> check_optimizer_state(optimizer)
    """
    for parameter, remembered in optimizer.state.items():
        shape = tuple(parameter.shape) if isinstance(parameter, Tensor) else None
        for name, value in (remembered if shape is not None else {parameter: remembered}).items():
            is_number = value is None or isinstance(value, (bool, int, float))
            if isinstance(value, Tensor):
                is_number = value.numel() == 1
                if tuple(value.shape) == shape:
                    continue
            if not is_number:
                what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"type {type(value).__name__}"
                raise ValueError(
                    f"the state {name!r} of {type(optimizer).__name__}, of {what} for a parameter of shape {shape}, "
                    "cannot be cut when units are removed; use an optimiser whose state has the shape of its "
                    "parameters, such as SGD or Adam, or do not remove units during training"
                )


def cut_optimizer_state_(optimizer: Optimizer, parameter: Tensor, cut: Callable[[Tensor], Tensor]) -> None:
    """Cut what an optimiser remembers of a parameter, before the parameter itself is cut."""
    remembered = optimizer.state.get(parameter, {})
    for name, value in remembered.items():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            remembered[name] = cut(value)


@dataclass(frozen=True)
class RecurrentState:
    """A tensor of a recurrent layer's state, `(layer·direction, batch, unit)`, or of a cell's, `(batch, unit)`.

    Attributes:
        layer: the recurrent layer or cell.
        units: for each row the unit of each place, int64 `(place,)`.
        is_cell: whether it is a cell, so that all rows are alike.
    """

    layer: str
    units: tuple[Tensor, ...]
    is_cell: bool = False

    @property
    def size(self) -> int:
        """Places in a row."""
        return len(self.units[0])

    def fits(self, state: Tensor) -> bool:
        """Whether a tensor has the shape of this state."""
        dimensions = (1, 2) if self.is_cell else (2, 3)  # without batch, with it
        if state.dim() not in dimensions or state.size(-1) != self.size:
            return False
        return self.is_cell or state.size(0) == len(self.units)


def recurrent_states(network: nn.Module, units: Units) -> list[RecurrentState]:
    """The tensors of all recurrent layers' states; projected units before the cell units they are made of."""
    states = []
    for layer, module in network.named_modules():
        if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
            for kind in ("weight_hh", "weight_hr"):
                own = [f"{layer}.{name}".removeprefix(".") for name in module._parameters if name.startswith(kind)]
                rows = tuple(weight_units(network, units, name) for name in own)
                if rows:
                    states.append(RecurrentState(layer, rows, isinstance(module, nn.RNNCellBase)))
    return states


def cut_state(state: Any, known: Sequence[RecurrentState], keep: Tensor) -> Any:
    """Cut a carried state, in any nesting of tuples, lists and dicts.

    Args:
        state: tensors of the network's recurrent layers; whatever has the shape of none of them, or is that of the
            teachers of a `DistilledLoss`, is left as it is.
        known: `recurrent_states` of the network.
        keep: which units are kept, bool `(unit,)`.

    Raises:
        ValueError: if a tensor may belong to several layers, of which some are cut.
    """
    if isinstance(state, dict):
        by_layer = {name: [rows for rows in known if rows.layer == name] or known for name in state}
        return {
            name: part if name == TEACHERS else cut_state(part, by_layer[name], keep) for name, part in state.items()
        }
    if isinstance(state, (tuple, list)):
        return sequence_like(state, (cut_state(part, known, keep) for part in state))
    if not isinstance(state, Tensor):
        return state
    fitting = [rows for rows in known if rows.fits(state)]
    touched = [rows for rows in fitting if any(kept_indices(units, keep) is not None for units in rows.units)]
    if not touched:
        return state
    if len(fitting) > 1:
        layers = " and ".join(repr(rows.layer) for rows in fitting)
        raise ValueError(
            f"a carried state of shape {tuple(state.shape)} may be that of {layers}; carry it in a dict by their names"
        )
    positions = [kept_indices(units, keep) for units in touched[0].units]
    if touched[0].is_cell:
        return state if positions[0] is None else state.index_select(-1, positions[0].to(state.device))
    rows = [
        row if place is None else row.index_select(-1, place.to(state.device))
        for row, place in zip(state, positions, strict=True)
    ]
    return torch.stack(rows)
