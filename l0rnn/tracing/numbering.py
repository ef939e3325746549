"""From what a run has shown to the units of a network: classes of atoms are numbered, axis after axis."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l0rnn.tracing.rules.atoms import OUTSIDE, Atoms, compact
from l0rnn.tracing.rules.run import Run
from l0rnn.tracing.units import STAYS, Axis, Product, Units, Weight


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
        # a name stays with its units when others of that layer are found to be whole
        name = run.names.get(first) or _fresh_name(_axis_name(tensor, root in inner), run.names.values())
        run.names[first] = name
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
        units.projections.append((_numbers(unit_of, rows), _numbers(unit_of, columns)))
    units.numbers = {key: _numbers(unit_of, labels) for key, labels in run.numbers.items()}
    units.input_states = {number: _numbers(unit_of, labels) for number, labels in run.input_states.items()}
    for labels in run.outputs:
        numbers = _numbers(unit_of, labels)
        units.outputs.append(numbers if bool((numbers != STAYS).any()) else None)
    return units


RECURRENT_OPERATIONS = {
    "lstm",
    "gru",
    "rnn_tanh",
    "rnn_relu",
    "lstm_cell",
    "gru_cell",
    "rnn_tanh_cell",
    "rnn_relu_cell",
}


def _classes(atoms: Atoms, labels: list[Tensor]) -> set[int]:
    found: set[int] = set()
    for one in labels:
        found.update(int(root) for root in np.unique(atoms.roots(one).numpy()))
    return found


def _numbers(unit_of: np.ndarray, labels: Tensor) -> Tensor:
    """Labels as numbers of units."""
    return torch.from_numpy(unit_of[compact(labels).clamp(min=0).numpy()]).expand(labels.shape)


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
            why = f"it is normalised over in {normalisation.module!r}, which is no LayerNorm of torch's own"
            atoms.fix(normalisation.labels, why)
    seen: dict[str, np.ndarray] = {}
    for normalisation in run.normalisations:
        roots = atoms.root[np.maximum(normalisation.labels.numpy(), 0)]
        if not np.array_equal(seen.setdefault(normalisation.module, roots), roots):
            atoms.fix(
                torch.from_numpy(np.union1d(seen[normalisation.module], roots)),
                f"{normalisation.module!r} normalises over it, and over other units elsewhere",
            )
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


def _fresh_name(name: str, taken: Collection[str]) -> str:
    number = 2
    fresh = name
    while fresh in taken:
        fresh = f"{name}.{number}"
        number += 1
    return fresh
