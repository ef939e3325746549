"""Which units stay: those with an open gate, and closed ones where a layer's form asks for more."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from l0rnn.surgery.sizes import raw_tensor, width
from l0rnn.tracing.units import STAYS, Units


def units_to_keep(units: Units, gates: Tensor, *, multiple_of: int = 1) -> Tensor:
    """Which units stay, bool `(unit,)`.

    Those with an open gate, of each axis at least one, and more where ``multiple_of`` or torch's rule ``proj_size <
    hidden_size`` asks for it; a closed unit that stays has weight 0 where it is read.

    Args:
        units: the network's units.
        gates: the gate of each, `(unit,)`.
        multiple_of: widths are rounded up to a multiple, as far as there are units.
    """
    keep = (gates > 0).cpu()
    normalised = {axis for numbers in units.normalised.values() for axis in units.axes_of(numbers)}
    for name, axis in units.axes.items():
        wanted = max(1, int(keep[axis.units].sum()))
        if name not in normalised:  # a closed unit would count in the LayerNorm's mean
            wanted = -(-wanted // multiple_of) * multiple_of
        keep[axis.units] = filled(keep[axis.units], min(wanted, axis.size))
    _keep_more_cells_(units, keep)
    return keep


def _keep_more_cells_(units: Units, keep: Tensor) -> None:
    """Keep more cell units of an LSTM than projected ones, as torch wants it."""
    for projected, cells in units.projections:
        missing = width(projected, keep) + 1 - width(cells, keep)
        own = cells[cells != STAYS]
        if missing > 0 and len(own):
            keep[own] = filled(keep[own], int(keep[own].sum()) + missing)


def uniform(network: nn.Module, units: Units, keep: Tensor) -> Tensor:
    """Keep as many units in all layers and directions of each stack of torch as in the one with most.

    Args:
        network: the network.
        units: its units.
        keep: which are to be kept, bool `(unit,)`; the closed ones that fill up are the first.
    """
    keep = keep.clone()
    rows = _stacks(network, units)
    before = None
    while before is None or not torch.equal(before, keep):
        before = keep.clone()
        for stack in rows:
            most = max(width(numbers, keep) for numbers in stack)
            for numbers in stack:
                own = numbers[numbers != STAYS].unique()
                missing = most - width(numbers, keep)
                if missing > 0 and len(own):
                    keep[own] = filled(keep[own], int(keep[own].sum()) + missing)
        _keep_more_cells_(units, keep)
    return keep


def _stacks(network: nn.Module, units: Units) -> list[list[Tensor]]:
    """For each stack of torch the units of every layer and direction; its cells, where it projects, by themselves."""
    found = []
    for name, module in network.named_modules():
        if isinstance(module, nn.RNNBase):
            prefix = f"{name}." if name else ""
            for kind in ("weight_hh", "weight_hr"):
                own = [own for own in module._parameters if own.startswith(kind)]
                rows = [weight_units(network, units, f"{prefix}{parameter}") for parameter in own]
                if rows:
                    found.append(rows)
    return found


def weight_units(network: nn.Module, units: Units, name: str) -> Tensor:
    """The unit of each column of a matrix, by any of its names."""
    if name in units.weights:
        return units.weights[name].units[1]
    source = raw_tensor(network, name)
    return next(weight.units[1] for weight in units.weights.values() if raw_tensor(network, weight.name) is source)


def filled(keep: Tensor, wanted: int) -> Tensor:
    """Keep the first closed units too, until there are as many as wanted.

    Example:
        >>> filled(torch.tensor([False, False, True]), 2)
        tensor([ True, False,  True])
    """
    missing = max(0, wanted - int(keep.sum()))
    return keep | (~keep & ((~keep).cumsum(0) <= missing))
