"""What a traced network is made of: units on axes, and the units along each dimension of each weight.

Units are numbered through, axis after axis. `Units` is all that gates, cost, methods and surgery know of a network.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l0rnn.tracing.atoms import OUTSIDE, Atoms
from l0rnn.tracing.run import Run

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
            the gates of its units are folded into the weight that it shares with its decoder, bool `(index,)`.
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
        projections: pairs of the axes of projected units and of the cell units they are made of.
        input_states: number of an example tensor → unit of each of its elements.
        outputs: unit of each element of every output tensor that follows the widths, or None.
        unknown: operations without a rule → the module that ran them.
    """

    axes: dict[str, Axis] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    products: list[Product] = field(default_factory=list)
    whole: dict[str, str] = field(default_factory=dict)
    normalised: dict[str, Tensor] = field(default_factory=dict)
    projections: list[tuple[str, str]] = field(default_factory=list)
    input_states: dict[int, Tensor] = field(default_factory=dict)
    outputs: list[Tensor | None] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)

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
            [pair for pair in self.projections if not gone & set(pair)],
            {number_: renumbered(units) for number_, units in self.input_states.items()},
            [None if units is None else renumbered(units) for units in self.outputs],
            dict(self.unknown),
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
            input_states={tensor: fewer(numbers) for tensor, numbers in self.input_states.items()},
            outputs=[None if numbers is None else fewer(numbers) for numbers in self.outputs],
        )

    def axes_of(self, units: Tensor) -> list[str]:
        """Names of the axes that some units lie on."""
        return [name for name, axis in self.axes.items() if bool(((units >= axis.start) & (units < axis.start + axis.size)).any())]

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
        units: the unit of each of its elements, in its shape.
        keep: which units are kept, bool `(unit,)`.

    Returns:
        A tensor with a smaller last dimension; or, where its rows keep different numbers of units, a tuple of them, as
        `RaggedRNN` takes and returns states.
    """
    units = units.reshape(tensor.shape)
    kept = ((units == STAYS) | keep[units.clamp(min=0)]).to(tensor.device)
    if tensor.dim() < 2:
        return tensor[kept]
    widths = kept.reshape(len(kept), -1, kept.size(-1))[:, 0].sum(-1) if kept.dim() > 2 else kept[:1].sum(-1)
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
        gated = is_read & (units != STAYS) & ~weight.is_prescaled[dimension]
        if bool(gated.any()):
            values = torch.where(gated, gates[units.clamp(min=0)], torch.ones((), dtype=gates.dtype))
            found.append((dimension, values))
    return found


def units_of(run: Run, parameters: set[str], norms: set[str]) -> Units:
    """Number the units that a run has shown.

    Args:
        run: what the run noted.
        parameters: names of tensors that are parameters.
        norms: names of modules that normalise over units and can leave out some.
    """
    atoms = run.atoms
    prescaled = _fix_what_cannot_be_gated(run, norms)
    blocks: list[tuple[str, int, np.ndarray]] = [
        (name, dimension, labels.numpy())
        for name, found in run.tensors.items()
        for dimension, labels in enumerate(found.dimensions)
    ]
    block_of, tensor_of = np.full(len(atoms), -1), np.full(len(atoms), -1)
    names = list(run.tensors)
    for number, (name, _, labels) in enumerate(blocks):
        block_of[labels] = number
        tensor_of[labels] = names.index(name)
    written, is_read = atoms.written, atoms.is_read
    inner = {int(root) for pair in run.projections for root in atoms.root[pair[1].numpy()]}
    recurrent = _classes(atoms, run.recurrent)
    read_by_recurrent = _classes(atoms, [r.columns for r in run.readings if r.operation in RECURRENT_OPERATIONS])
    members: dict[int, list[int]] = defaultdict(list)
    for atom in np.flatnonzero((block_of >= 0) & (atoms.root != OUTSIDE)):
        members[int(atoms.root[atom])].append(int(atom))
    families: dict[tuple[tuple[int, int], ...], list[tuple[int, int]]] = defaultdict(list)
    for root, own in members.items():
        first = [atom for atom in own if written[atom]]
        if not first or not any(is_read[atom] for atom in own):
            continue
        numbers, counts = np.unique(block_of[own], return_counts=True)
        signature = tuple(zip(numbers.tolist(), counts.tolist(), strict=True))
        families[signature].append((min(first, key=lambda atom: (written[atom], atom)), root))
    units = Units(unknown=dict(run.unknown))
    number_of = np.full(len(atoms), STAYS)
    single = {}
    order = sorted(families.values(), key=lambda family: min((written[atom], atom) for atom, _ in family))
    start = 0
    for family in order:
        family.sort()
        first, root = family[0]
        tensor, _, _ = blocks[block_of[first]]
        name = _fresh_name(_axis_name(tensor, root in inner), units.axes)
        if len(family) == 1:
            single[name] = "it is a single unit"
            continue
        layer = tensor.rpartition(".")[0]
        kind = "hidden" if root in recurrent else "input" if root in read_by_recurrent else "other"
        units.axes[name] = Axis(name, len(family), start, layer, kind)
        for number, (_, own_root) in enumerate(family, start):
            number_of[own_root] = number
        start += len(family)
    unit_of = number_of[atoms.root]
    unit_of[OUTSIDE] = STAYS
    _fill_weights(units, run, unit_of, parameters, prescaled)
    _fill_products(units, run, unit_of, tensor_of, names)
    units.whole = single | _reasons(run, unit_of)
    for normalisation in run.normalisations:
        units.normalised[normalisation.module] = _numbers(unit_of, normalisation.labels)
    for rows, columns in run.projections:
        pair = [units.axes_of(_numbers(unit_of, labels)) for labels in (rows, columns)]
        if all(pair):
            units.projections.append((pair[0][0], pair[1][0]))
    units.input_states = {number: _numbers(unit_of, labels) for number, labels in run.input_states.items()}
    for labels in run.outputs:
        numbers = _numbers(unit_of, labels)
        units.outputs.append(numbers if bool((numbers != STAYS).any()) else None)
    return units


RECURRENT_OPERATIONS = {"lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"}


def _classes(atoms: Atoms, labels: list[Tensor]) -> set[int]:
    found: set[int] = set()
    for one in labels:
        found.update(int(root) for root in np.unique(atoms.roots(one).numpy()))
    return found


def _numbers(unit_of: np.ndarray, labels: Tensor) -> Tensor:
    """Labels as numbers of units."""
    return torch.from_numpy(unit_of[labels.clamp(min=0).numpy()])


def _fill_weights(units: Units, run: Run, unit_of: np.ndarray, parameters: set[str], prescaled: np.ndarray) -> None:
    lookups = set(torch.cat(run.lookups).tolist()) if run.lookups else set()
    for name, found in run.tensors.items():
        of = [labels.numpy() for labels in found.dimensions]
        numbers = tuple(torch.from_numpy(unit_of[labels]) for labels in of)
        is_read = tuple(torch.from_numpy(run.atoms.is_read[labels]) for labels in of)
        is_prescaled = tuple(torch.from_numpy(prescaled[labels]) for labels in of)
        is_lookup = len(of) == 2 and bool(lookups & set(of[1].tolist()))
        aliases = tuple(run.aliases[name])
        units.weights[name] = Weight(name, aliases, numbers, is_read, is_prescaled, name in parameters, is_lookup)


def _fill_products(units: Units, run: Run, unit_of: np.ndarray, tensor_of: np.ndarray, names: list[str]) -> None:
    step = math.gcd(*(reading.positions for reading in run.readings)) if run.readings else 1
    merged: dict[tuple[Any, ...], int] = {}
    for reading in run.readings:
        rows = units.per_unit(_numbers(unit_of, reading.rows))
        columns = units.per_unit(_numbers(unit_of, reading.columns))
        own = {int(tensor_of[int(labels[0])]) for labels in (reading.rows, reading.columns) if len(labels)} - {-1}
        weight = names[own.pop()] if len(own) == 1 else ""
        key = (reading.module, reading.operation, weight, tuple(rows.items()), tuple(columns.items()))
        key = (*key, reading.is_diagonal)
        merged[key] = merged.get(key, 0) + reading.positions
    for (module, operation, weight, rows, columns, is_diagonal), positions in merged.items():
        units.products.append(
            Product(module, operation, dict(rows), dict(columns), positions / step, is_diagonal, weight)
        )


def _fix_what_cannot_be_gated(run: Run, norms: set[str]) -> np.ndarray:
    """Fix units whose gates have no place to act; which columns read what is scaled already, bool `(atom,)`.

    An embedding that shares its weight with a decoder hands its units on scaled, since the gates are folded into the
    shared weight. Whatever else reads them must know, so it must not read other units by the same columns.
    """
    atoms = run.atoms
    for normalisation in run.normalisations:
        if normalisation.module not in norms:
            atoms.fix(normalisation.labels, f"it is normalised over in {normalisation.module!r}, which is no LayerNorm")
    looked_up = np.zeros(len(atoms), dtype=bool)
    for labels in run.lookups:
        looked_up[labels.numpy()] = True
    tied = looked_up & atoms.is_read
    prescaled = np.zeros(len(atoms), dtype=bool)
    unscaled = np.zeros(len(atoms), dtype=bool)
    mixed = np.zeros(len(atoms), dtype=bool)
    has_twin = np.flatnonzero(atoms.twin)
    mixed[atoms.twin[has_twin]] = tied[has_twin]
    for reading in run.readings:
        if reading.source is None:
            continue
        columns, source = reading.columns.numpy(), np.maximum(reading.source.numpy(), 0)
        if len(columns) != len(source):
            continue
        prescaled[columns] |= tied[source] & ~tied[columns]
        unscaled[columns] |= ~tied[source]
        atoms.fix(reading.columns[torch.from_numpy(mixed[source])], "it joins a tied embedding with something else")
    both = np.flatnonzero(prescaled & unscaled)
    atoms.fix(torch.from_numpy(both), "it reads a tied embedding and other units by the same columns")
    atoms.fix(torch.from_numpy(np.flatnonzero(atoms.both_ways & ~looked_up)), "its weight is used both ways round")
    return prescaled


def _reasons(run: Run, unit_of: np.ndarray) -> dict[str, str]:
    """Layer → why units that it computes stay."""
    reasons: dict[str, str] = {}
    for name, found in run.tensors.items():
        for labels in found.dimensions:
            own = labels.numpy()
            stays = own[(run.atoms.written[own] > 0) & (unit_of[own] == STAYS)]
            if len(stays):
                why = run.atoms.why(int(stays[0]))
                is_read = bool(run.atoms.is_read[np.isin(run.atoms.root, run.atoms.root[stays[:1]])].any())
                why = why or ("nothing reads it by a weight" if not is_read else "it is a single unit")
                reasons.setdefault(_axis_name(name, False), why)
    return reasons


def _axis_name(tensor: str, is_inner: bool) -> str:
    """``encoder.weight_ih_l0_reverse`` makes ``encoder.l0_reverse``, ``decoder.weight`` makes ``decoder``."""
    layer, _, parameter = tensor.rpartition(".")
    if layer.startswith("parametrizations.") or ".parametrizations." in layer:
        layer, _, parameter = layer.replace("parametrizations.", "").rpartition(".")
    key = re.search(r"_(l\d+(_reverse)?)$", parameter)
    if key is not None:
        return f"{layer}.{key.group(1)}{'_cell' if is_inner else ''}".removeprefix(".")
    if re.fullmatch(r"(weight|bias)(_ih|_hh|_g|_v)?", parameter):
        return layer or parameter
    return tensor


def _fresh_name(name: str, taken: Mapping[str, object]) -> str:
    number = 2
    fresh = name
    while fresh in taken:
        fresh = f"{name}.{number}"
        number += 1
    return fresh
