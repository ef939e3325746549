"""What a traced network is made of: units on axes, and the units along each dimension of each weight.

Units are numbered through, axis after axis. `Units` is all that gates, cost, methods and surgery know of a network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

STAYS = -1  # instead of the number of a unit: an index that is never removed


@dataclass(frozen=True)
class Axis:
    """Units that are alike: each has as many rows and columns of the same weights as any other.

    Attributes:
        name: that of the layer that computes them first, such as ``encoder.l0`` or ``embedding``.
        size: number of units.
        start: number of the first.
        layer: name of the module that computes them first.
        kind: ``"hidden"`` for units of recurrent layers, ``"input"`` for others that recurrent layers read, else
            ``"other"``.
    """

    name: str
    size: int
    start: int
    layer: str
    kind: str

    @property
    def units(self) -> slice:
        """Their numbers."""
        return slice(self.start, self.start + self.size)


@dataclass(frozen=True)
class Weight:
    """A parameter or buffer and the units along its dimensions.

    Attributes:
        name: its name in the network; the first if it has several.
        aliases: all its names.
        units: for each dimension the unit of each index, int64 `(index,)`, `STAYS` where there is none.
        is_read: for each dimension which indices a sum runs over, so that gates fold in there, bool `(index,)`.
        is_prescaled: for each dimension which of those indices read what a tied embedding has scaled already, since
            the gates of its units are folded into the weight that it shares with its decoder, bool `(index,)`. They
            only leave out units whose gate is 0.
        is_parameter: whether it is a parameter, and not a buffer.
        is_lookup: whether rows of it are looked up by number.
    """

    name: str
    aliases: tuple[str, ...]
    units: tuple[Tensor, ...]
    is_read: tuple[Tensor, ...]
    is_prescaled: tuple[Tensor, ...]
    is_parameter: bool
    is_lookup: bool = False

    @property
    def is_matrix(self) -> bool:
        """Whether it is a matrix that something is multiplied by, and so costs multiply-adds."""
        return self.is_parameter and len(self.units) == 2 and bool(self.is_read[1].any())

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(len(units) for units in self.units)

    @property
    def has_units(self) -> bool:
        """Whether anything of it can be removed."""
        return any(bool((units != STAYS).any()) for units in self.units)


@dataclass(frozen=True)
class Product:
    """Multiply-adds of one operation: ``factor · rows · columns``.

    Attributes:
        module: name of the module that ran it.
        operation: such as ``linear``.
        rows: axis → rows per unit; under ``""`` the number of rows that stay.
        columns: likewise for what it reads.
        factor: how often per step of the network.
        is_diagonal: whether it costs ``factor · rows``, as row i reads column i alone.
        weight: name of the weight that it multiplies by, or an empty string if that is not one parameter.
    """

    module: str
    operation: str
    rows: Mapping[str, int]
    columns: Mapping[str, int]
    factor: float
    is_diagonal: bool = False
    weight: str = ""


@dataclass
class Units:
    """The units of a network, who writes and reads them, and what stays whole.

    Attributes:
        axes: the axes whose units can be removed.
        weights: every parameter and floating-point buffer by name.
        products: every operation that costs multiply-adds.
        whole: what stays → why: layers that compute units which cannot be removed.
        normalised: module → units that its LayerNorm or RMSNorm runs over, `(unit,)`.
        projections: pairs of projected units, `(unit,)`, and of the cell units they are made of, `(unit,)`.
        input_states: number of an example tensor → unit of each of its elements.
        outputs: unit of each element of every output tensor that follows the widths, or None.
        unknown: operations without a rule → the module that ran them.
        fixed: layers and axes that the user wants whole.
        numbers: module of the user's, and the name of an integer of its → the units that it counts, `(index,)`.
    """

    axes: dict[str, Axis] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    products: list[Product] = field(default_factory=list)
    whole: dict[str, str] = field(default_factory=dict)
    normalised: dict[str, Tensor] = field(default_factory=dict)
    projections: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    input_states: dict[int, Tensor] = field(default_factory=dict)
    outputs: list[Tensor | None] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()
    numbers: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of units that can be removed."""
        return sum(axis.size for axis in self.axes.values())

    def vector(self, by_axis: Mapping[str, Tensor], default: float | bool) -> Tensor:
        """Values of all units in the order of their numbers, given those of some axes: `(unit,)`."""
        parts = [
            by_axis[axis.name] if axis.name in by_axis else torch.full((axis.size,), default)
            for axis in self.axes.values()
        ]
        return torch.cat([part.cpu() for part in parts]) if parts else torch.full((0,), default)

    def by_axis(self, values: Tensor) -> dict[str, Tensor]:
        """The parts of a vector over all units."""
        return {name: values[axis.units] for name, axis in self.axes.items()}

    def only(self, kinds: Iterable[str], why: str) -> Units:
        """The same without the axes of other kinds, whose units then stay.

        Args:
            kinds: kinds of axes to keep, see `Axis`.
            why: the reason to give for the others.
        """
        wanted = set(kinds)
        left = [axis for axis in self.axes.values() if axis.kind in wanted]
        number = torch.full((self.count + 1,), STAYS)
        axes, start = {}, 0
        for axis in left:
            number[axis.units] = torch.arange(start, start + axis.size)
            axes[axis.name] = replace(axis, start=start)
            start += axis.size
        gone = {axis.name for axis in self.axes.values()} - axes.keys()

        def renumbered(units: Tensor) -> Tensor:
            return number[units]  # STAYS is -1: the last entry

        def counts(old: Mapping[str, int]) -> dict[str, int]:
            stays = sum(count * self.axes[name].size for name, count in old.items() if name in gone)
            return {"": old.get("", 0) + stays} | {n: c for n, c in old.items() if n and n not in gone}

        return Units(
            axes,
            {name: replace(w, units=tuple(map(renumbered, w.units))) for name, w in self.weights.items()},
            [replace(p, rows=counts(p.rows), columns=counts(p.columns)) for p in self.products],
            self.whole | dict.fromkeys(sorted(gone), why),
            {name: renumbered(units) for name, units in self.normalised.items()},
            [(renumbered(rows), renumbered(cells)) for rows, cells in self.projections],
            {number_: renumbered(units) for number_, units in self.input_states.items()},
            [None if units is None else renumbered(units) for units in self.outputs],
            dict(self.unknown),
            self.fixed,
            {key: renumbered(units) for key, units in self.numbers.items()},
        )

    def kept(self, keep: Tensor) -> Units:
        """The same after units were removed.

        Args:
            keep: which units are kept, bool `(unit,)`.
        """
        number = torch.full((self.count + 1,), STAYS)
        number[:-1][keep] = torch.arange(int(keep.sum()))
        axes, start = {}, 0
        for name, axis in self.axes.items():
            axes[name] = replace(axis, start=start, size=int(keep[axis.units].sum()))
            start += axes[name].size

        def cut_all(weight: Weight, vectors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            positions = [kept_indices(numbers, keep) for numbers in weight.units]
            return tuple(v if p is None else v[p] for v, p in zip(vectors, positions, strict=True))

        weights = {
            name: replace(
                weight,
                units=tuple(number[numbers] for numbers in cut_all(weight, weight.units)),
                is_read=cut_all(weight, weight.is_read),
                is_prescaled=cut_all(weight, weight.is_prescaled),
            )
            for name, weight in self.weights.items()
        }

        def fewer(numbers: Tensor) -> Tensor:
            return number[cut_elements(numbers, numbers, keep)]  # type: ignore[no-any-return]

        return replace(
            self,
            axes=axes,
            weights=weights,
            normalised={name: fewer(numbers) for name, numbers in self.normalised.items()},
            projections=[(fewer(rows), fewer(cells)) for rows, cells in self.projections],
            input_states={tensor: fewer(numbers) for tensor, numbers in self.input_states.items()},
            outputs=[None if numbers is None else fewer(numbers) for numbers in self.outputs],
            numbers={key: fewer(numbers) for key, numbers in self.numbers.items()},
        )

    def axes_of(self, units: Tensor) -> list[str]:
        """Names of the axes that some units lie on."""
        return [
            name
            for name, axis in self.axes.items()
            if bool(((units >= axis.start) & (units < axis.start + axis.size)).any())
        ]

    def per_unit(self, units: Tensor) -> dict[str, int]:
        """Axis → how many indices each of its units has along a dimension; under ``""`` those that stay."""
        counts = {"": int((units == STAYS).sum())}
        for name, axis in self.axes.items():
            found = int(((units >= axis.start) & (units < axis.start + axis.size)).sum())
            if found:
                counts[name] = found // axis.size
        return counts


def kept_indices(units: Tensor, keep: Tensor) -> Tensor | None:
    """Positions along a dimension that are kept, int64 `(kept,)`, or None where all are.

    Args:
        units: the unit of each index, `(index,)`.
        keep: which units are kept, bool `(unit,)`.
    """
    stays = units == STAYS
    if bool(stays.all()):
        return None
    kept = stays | keep[units.clamp(min=0)]
    return None if bool(kept.all()) else kept.nonzero().squeeze(1)


def cut_elements(tensor: Tensor, units: Tensor, keep: Tensor) -> Any:
    """The elements of a state that belong to kept units.

    Args:
        tensor: such as a recurrent state `(layer, batch, unit)`.
        units: the unit of each of its elements, in its shape, or in that of a state of another batch.
        keep: which units are kept, bool `(unit,)`.

    Returns:
        A tensor with a smaller last dimension; or, where its rows keep different numbers of units, a tuple of them, as
        `RaggedRNN` takes and returns states.
    """
    for dimension in range(min(units.dim(), tensor.dim()) - 1):
        if units.size(dimension) != tensor.size(dimension):  # of a batch, all of which is alike
            units = units.narrow(dimension, 0, 1)
    units = units.expand(tensor.shape)
    kept = ((units == STAYS) | keep[units.clamp(min=0)]).to(tensor.device)
    if tensor.dim() < 2:
        return tensor[kept]
    widths = kept.reshape(len(kept), -1, kept.size(-1))[:, 0].sum(-1)
    if len(widths.unique()) <= 1:
        return tensor[kept].reshape(*tensor.shape[:-1], -1)
    return tuple(row[own].reshape(*row.shape[:-1], -1) for row, own in zip(tensor, kept, strict=True))


def cut(tensor: Tensor, weight: Weight, keep: Tensor) -> Tensor:
    """The part of a weight that is kept, as a new tensor.

    Args:
        tensor: the weight, or any tensor of its shape.
        weight: its units.
        keep: which units are kept, bool `(unit,)`.
    """
    result = tensor
    for dimension, units in enumerate(weight.units):
        positions = kept_indices(units, keep)
        if positions is not None:
            result = result.index_select(dimension, positions.to(result.device))
    return result.clone(memory_format=torch.contiguous_format) if result is tensor else result.contiguous()


def scales(weight: Weight, gates: Tensor) -> list[tuple[int, Tensor]]:
    """Dimensions in which gates are multiplied into a weight, with the factor of each index.

    Args:
        weight: the weight.
        gates: gates of all units, `(unit,)`.
    """
    found = []
    for dimension, (units, is_read) in enumerate(zip(weight.units, weight.is_read, strict=True)):
        gated = is_read & (units != STAYS)
        if bool(gated.any()):
            own = gates[units.clamp(min=0)]
            own = torch.where(weight.is_prescaled[dimension], (own != 0).to(own.dtype), own)
            found.append((dimension, torch.where(gated, own, torch.ones((), dtype=gates.dtype))))
    return found
