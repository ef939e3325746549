"""Norms of the groups of weights that stand or fall with one unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from l0rnn.gates.transforms import needs_plain_operations
from l0rnn.surgery.sizes import raw_tensor
from l0rnn.tracing.units import STAYS, Units, Weight


def unit_square_sums(
    network: nn.Module, units: Units, *, embedding: bool = False, open: Tensor | None = None
) -> Tensor:
    """Sum of squares of all weights that write or read each unit, differentiable.

    The group of a unit is that of Intrinsic Sparse Structures: its rows in all gate blocks of ``weight_ih`` and
    ``weight_hh``, its column of ``weight_hh``, and its columns of all next layers. Biases and norms do not belong
    to it. A weight from a unit to itself, on the diagonals of ``weight_hh``, both writes and reads the unit and is
    counted twice, as in the published code. Groups overlap: every other weight of ``weight_hh`` is in two of them.

    Each matrix is squared once, and its gradient is written in one piece: for the 51 million weights of a 2×1500
    language model of 10,000 words, sums and gradients together take about 7 % of the time of a training step of 20 × 35
    words on one CPU thread, a third of what autograd takes by itself.

    Args:
        network: modules of plain torch, or gated ones.
        units: its units.
        embedding: whether an untied embedding counts among the weights that write its units.
        open: which units are left, bool `(unit,)`; weights from and to the others count as 0.

    Returns:
        Sums, `(unit,)`; in float32 where the weights are in half precision.

    Example:
        >>> from l0rnn.tracing import trace
        >>> network = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 1))
        >>> nn.init.ones_(network[0].weight), nn.init.constant_(network[1].weight, 2.0)  # doctest: +ELLIPSIS
        (...)
        >>> unit_square_sums(network, trace(network, torch.ones(1, 2))).detach()
        tensor([6., 6., 6.])

    Reference:
        Wen et al. 2018 (arXiv 1709.05027) and its code, ``add_structure_grouplasso``.
    """
    total: Tensor | None = None
    for weight in _matrices(units, embedding=embedding):
        parameter = raw_tensor(network, weight.name)
        if open is not None:
            parameter = parameter * _open_entries(parameter, weight, open)
        dimensions = [d for d, numbers in enumerate(weight.units) if bool((numbers != STAYS).any())][:2]
        for dimension, sums in zip(dimensions, _square_sums(parameter, dimensions), strict=True):
            if total is None:
                total = sums.new_zeros(units.count)
            total = _add_by_unit(total, weight.units[dimension], sums)
    return torch.zeros(units.count) if total is None else total


def _add_by_unit(total: Tensor, numbers: Tensor, sums: Tensor) -> Tensor:
    has_unit = numbers != STAYS
    if not bool(has_unit.all()):
        numbers, sums = numbers[has_unit], sums[has_unit.to(sums.device)]
    return total.index_add(0, numbers.to(sums.device), sums)


def group_sizes(units: Units, *, embedding: bool = False, open: Tensor | None = None) -> Tensor:
    """Number of weights in the group of each unit, `(unit,)`: all units of one axis have groups of one size.

    Args:
        units: the network's units.
        embedding: whether an untied embedding counts among the weights that write its units.
        open: which units are left, bool `(unit,)`; weights from and to the others are not counted.

    Example:
        >>> from l0rnn.tracing import trace
        >>> network = nn.Sequential()
        >>> network.first, network.last = nn.Linear(1500, 6000), nn.Linear(6000, 10)
        >>> int(group_sizes(trace(network, torch.ones(1, 1500)))[0])
        1510
    """
    sizes = torch.zeros(units.count, dtype=torch.int64)
    left = torch.ones(units.count, dtype=torch.bool) if open is None else open.cpu()
    for weight in _matrices(units, embedding=embedding):
        lengths = [int(((numbers == STAYS) | left[numbers.clamp(min=0)]).sum()) for numbers in weight.units]
        for dimension, numbers in enumerate(weight.units):
            across = 1
            for other, length in enumerate(lengths):
                across *= length if other != dimension else 1
            sizes.index_add_(0, numbers[numbers != STAYS], torch.full_like(numbers[numbers != STAYS], across))
    return sizes


@torch.no_grad()
def relative_root_mean_squares(network: nn.Module, units: Units, open: Tensor, *, embedding: bool = False) -> Tensor:
    """Norm of each open unit's group over the root of its size, as a multiple of the mean of its axis, `(unit,)`.

    Without the last division an axis whose weights happen to be small, such as the first layer of a stack or an
    embedding, would lose all its units first.

    Args:
        network: modules of plain torch, or gated ones.
        units: its units.
        open: open units, bool `(unit,)`; weights from and to others do not count, and others have 0.
        embedding: whether an untied embedding belongs to the groups of its units.

    Example:
        >>> from l0rnn.tracing import trace
        >>> network = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 1))
        >>> network[0].weight.data = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
        >>> network[1].weight.data = torch.tensor([[1.0, 2.0, 3.0]])
        >>> units = trace(network, torch.ones(1, 2))
        >>> relative_root_mean_squares(network, units, torch.ones(3, dtype=torch.bool))
        tensor([0.5000, 1.0000, 1.5000])
    """
    sums = unit_square_sums(network, units, embedding=embedding, open=open)
    found = (sums / group_sizes(units, embedding=embedding, open=open).clamp(min=1).to(sums)).sqrt()
    result = torch.zeros_like(found)
    for axis in units.axes.values():
        own = found[axis.units]
        result[axis.units] = own / own[open[axis.units].to(own.device)].mean().clamp(min=1e-12)
    return result


def group_entries(network: nn.Module, units: Units, *, embedding: bool = False) -> Iterator[Tensor]:
    """All weights that belong to a group: the parameters themselves, or views of their rows or columns.

    Args:
        network: modules of plain torch, or gated ones.
        units: its units.
        embedding: whether an untied embedding belongs to the groups of its units.

    Example:
        >>> from l0rnn.tracing import trace
        >>> network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        >>> [view.shape for view in group_entries(network, trace(network, torch.ones(1, 2)))]
        [torch.Size([3, 2]), torch.Size([1, 3])]
    """
    for weight in _matrices(units, embedding=embedding):
        parameter = raw_tensor(network, weight.name)
        if any(bool((numbers != STAYS).all()) for numbers in weight.units):
            yield parameter
            continue
        for dimension, numbers in enumerate(weight.units):
            positions = (numbers != STAYS).nonzero().squeeze(1).tolist()
            while positions:  # runs of neighbours, each one view
                start = positions[0]
                length = next((i for i, place in enumerate(positions) if place != start + i), len(positions))
                yield parameter.narrow(dimension, start, length)
                positions = positions[length:]


class _SquareSums(torch.autograd.Function):
    """Sums of squares of a tensor over all but one dimension, for some dimensions.

    Autograd would make the gradient from one tensor of the matrix's size per operation; here it is one.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, *kept: int) -> tuple[Tensor, ...]:
        ctx.save_for_backward(matrix)
        ctx.kept = kept
        is_half = matrix.dtype in (torch.float16, torch.bfloat16)
        squares = (matrix.float() if is_half else matrix).square()
        others = [[d for d in range(matrix.dim()) if d != dimension] for dimension in kept]
        return tuple(squares.sum(dims) if dims else squares.clone() for dims in others)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (matrix,) = ctx.saved_tensors
        shapes = [[-1 if d == dimension else 1 for d in range(matrix.dim())] for dimension in ctx.kept]
        columns = [2 * g.reshape(shape) for g, shape in zip(gradients, shapes, strict=True)]
        gradient = matrix * columns[0] if len(columns) == 1 else (columns[0] + columns[1]).mul(matrix)
        return gradient.to(matrix.dtype), *(None for _ in ctx.kept)


def _square_sums(matrix: Tensor, kept: Sequence[int]) -> tuple[Tensor, ...]:
    if needs_plain_operations():
        wide = matrix.float() if matrix.dtype in (torch.float16, torch.bfloat16) else matrix
        return tuple(wide.square().sum(1 - dimension) for dimension in kept)
    return _SquareSums.apply(matrix, *kept)  # type: ignore[return-value]


def _matrices(units: Units, *, embedding: bool) -> Iterator[Weight]:
    """The weights that write or read units: neither biases nor norms, embeddings only when asked for."""
    for weight in units.weights.values():
        is_group = weight.is_parameter and len(weight.units) > 1 and weight.has_units
        if is_group and (embedding or not weight.is_lookup or weight.is_matrix):
            yield weight


def _open_entries(parameter: Tensor, weight: Weight, open: Tensor) -> Tensor:
    """1 where all units of an entry are left, 0 elsewhere, in the shape of the weight."""
    entries = torch.ones_like(parameter, requires_grad=False)
    for dimension, numbers in enumerate(weight.units):
        left = (numbers == STAYS) | open.cpu()[numbers.clamp(min=0)]
        shape = [-1 if d == dimension else 1 for d in range(parameter.dim())]
        entries.mul_(left.to(parameter).reshape(shape))
    return entries
