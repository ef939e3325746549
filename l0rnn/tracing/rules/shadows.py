"""What lies beside tensors while a network runs, and what the run shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from l0rnn.tracing.rules.atoms import Atoms, differs, line


@dataclass(frozen=True)
class Shadow:
    """Labels beside a tensor.

    Attributes:
        sides: labels in the tensor's shape: one for an activation, one per dimension for what is made of weights alone.
        is_weight: whether the tensor is made of weights alone.
        is_state: whether it is a final state of recurrent layers, as they return it.
        places: where its elements stand in the example input that it is a piece of, or None.
        source: number of that example input.
        spread: dimensions along which the tensor repeats one value, as a mask does that was expanded over units.
        counted: of a constant, the modules and names of the numbers of the user's that may be its width.
    """

    sides: tuple[Tensor, ...]
    is_weight: bool = False
    is_state: bool = False
    places: Tensor | None = None
    source: int = -1
    spread: tuple[int, ...] = ()
    counted: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Reading:
    """One operation that sums over units, times a weight.

    Attributes:
        module: name of the module that ran it.
        operation: such as ``linear``.
        rows: labels of what it computes, `(row,)`.
        columns: labels of what it reads, `(column,)`.
        positions: how often it ran over: time steps, sequences, places of a convolution.
        is_diagonal: whether row i reads column i alone, as in a depthwise convolution.
        source: labels of what was read as it was made, `(column,)`, or None.
    """

    module: str
    operation: str
    rows: Tensor
    columns: Tensor
    positions: int
    is_diagonal: bool = False
    source: Tensor | None = None


@dataclass
class Normalisation:
    """One operation that normalises over units.

    Attributes:
        module: name of the module that ran it.
        labels: labels of what it normalises over, `(unit,)`.
    """

    module: str
    labels: Tensor


@dataclass
class TensorAtoms:
    """The atoms of one parameter or buffer, a tensor int64 per dimension."""

    name: str
    tensor: Tensor
    dimensions: list[Tensor]


@dataclass
class Run:
    """What one run of a network showed."""

    atoms: Atoms = field(default_factory=Atoms)
    tensors: dict[str, TensorAtoms] = field(default_factory=dict)
    aliases: dict[str, list[str]] = field(default_factory=dict)
    readings: list[Reading] = field(default_factory=list)
    normalisations: list[Normalisation] = field(default_factory=list)
    numbers: dict[tuple[str, str], Tensor] = field(default_factory=dict)  # module and its integer → labels it counts
    projections: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # labels of projected and of cell units
    recurrent: list[Tensor] = field(default_factory=list)  # labels of units that recurrent layers compute
    lookups: list[Tensor] = field(default_factory=list)  # labels of units that an embedding computes
    grids: dict[bytes, tuple[Tensor, str]] = field(
        default_factory=dict
    )  # labels that must stay a grid, and what said so
    names: dict[int, str] = field(default_factory=dict)  # first atom of an axis → the name it was given
    input_states: dict[int, Tensor] = field(default_factory=dict)  # example tensor → labels of its elements
    outputs: list[Tensor] = field(default_factory=list)  # labels of every output tensor, in order
    unknown: dict[str, str] = field(default_factory=dict)  # operation without a rule → module


def operation_name(func: Any) -> str:
    """Name of an operation without the underscores that tell its variants: ``add_`` and ``__add__`` are ``add``.

    Example:
        >>> (
        ...     operation_name(torch.relu_),
        ...     operation_name(torch.Tensor.__getitem__),
        ...     operation_name(torch.Tensor.T.__get__),
        ... )
        ('relu', 'getitem', 'T')
    """
    if isinstance(func, torch._ops.OpOverload):
        return func._schema.name.partition("::")[2].strip("_")
    name = getattr(func, "__name__", str(func))
    if name in ("__get__", "__set__"):
        name = getattr(getattr(func, "__self__", None), "__name__", name)
    return name.strip("_")


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in any nesting of tuples, lists, dicts, packed sequences and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors_in(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors_in(part)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from tensors_in(getattr(value, name))


def settle(run: Run) -> None:
    """Make what has to stay a grid one: units that differ along two of its dimensions are united along the first."""
    is_settled = False
    while not is_settled:
        is_settled = True
        for grid, why in run.grids.values():
            classes = run.atoms.roots(grid)
            along = [d for d in range(grid.dim()) if differs(classes, d)]
            if len(along) > 1:
                run.atoms.unite(grid, line(grid, along[0]), why)
                is_settled = False
