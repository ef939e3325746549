"""Norms of the groups of weights that stand or fall with one unit."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from l0rnn.axes import Blueprint, Weight
from l0rnn.transforms import needs_plain_operations


def unit_square_sums(
    network: nn.Module,
    blueprint: Blueprint,
    axes: Collection[str],
    *,
    embedding: bool = False,
    open: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Sum of squares of all weights that write or read each unit, differentiable.

    The group of a unit is that of Intrinsic Sparse Structures: its rows in all gate blocks of ``weight_ih`` and
    ``weight_hh``, its column of ``weight_hh``, and its columns of all next layers. Biases and LayerNorms do not belong
    to it. A weight from a unit to itself, on the diagonals of ``weight_hh``, both writes and reads the unit and is
    counted twice, as in the published code. Groups overlap: every other weight of ``weight_hh`` is in two of them.

    Each matrix is squared once, and its gradient is written in one piece: for the 51 million weights of a 2×1500
    language model of 10,000 words, sums and gradients together take about 7 % of the time of a training step of 20 × 35
    words on one CPU thread, a third of what autograd takes by itself.

    Args:
        network: modules of plain torch, or gated ones.
        blueprint: the network's blueprint.
        axes: names of the axes whose units are asked for.
        embedding: whether an untied embedding counts among the weights that write its units.
        open: axis → which of its units are left, bool `(unit,)`; weights from and to the others count as 0.

    Returns:
        Axis → sums, `(unit,)`; in float32 where the weights are in half precision.

    Raises:
        ValueError: if ``axes`` names an unknown axis.

    Example:
        >>> from l0rnn.blueprint import draw_blueprint
        >>> from l0rnn.wiring import Wiring
        >>> network = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 1))
        >>> nn.init.ones_(network[0].weight), nn.init.constant_(network[1].weight, 2.0)  # doctest: +ELLIPSIS
        (...)
        >>> blueprint = draw_blueprint(network, Wiring({"0": ["outside"], "1": ["0"]}))
        >>> unit_square_sums(network, blueprint, ["0"])["0"].detach()
        tensor([6., 6., 6.])

    Reference:
        Wen et al. 2018 (arXiv 1709.05027) and its code, ``add_structure_grouplasso``.
    """
    _check_axes(blueprint, axes)
    parts: dict[str, list[Tensor]] = {axis: [] for axis in axes}
    for weight in _matrices(blueprint, embedding=embedding):
        sides = _sides(weight)
        wanted = [i for i, (_, name) in enumerate(sides) if any(axis in parts for axis in weight.axes[name])]
        if not wanted:
            continue
        parameter: Tensor = network.get_parameter(weight.name)
        if open:
            parameter = parameter * _open_entries(parameter, weight, blueprint, open)
        for dimension, sums in zip(wanted, _square_sums(parameter, wanted), strict=True):
            packed, name = sides[dimension]
            per_unit = reduce(sums, f"{packed} -> {name}", "sum", **_gate_size(weight, packed))
            blocks = per_unit.split([blueprint.axes[axis].size for axis in weight.axes[name]])
            for axis, block in zip(weight.axes[name], blocks, strict=True):
                if axis in parts:
                    parts[axis].append(block)
    return {axis: sum(found[1:], found[0]) if found else _zeros(blueprint, axis) for axis, found in parts.items()}


def group_sizes(
    blueprint: Blueprint,
    axes: Collection[str],
    *,
    embedding: bool = False,
    open: Mapping[str, Tensor] | None = None,
) -> dict[str, int]:
    """Number of weights in the group of each unit of an axis: all units of one axis have groups of one size.

    Args:
        blueprint: the network's blueprint.
        axes: names of the axes whose units are asked for.
        embedding: whether an untied embedding counts among the weights that write its units.
        open: axis → which of its units are left, bool `(unit,)`; weights from and to the others are not counted.

    Raises:
        ValueError: if ``axes`` names an unknown axis.

    Example:
        >>> from l0rnn.blueprint import draw_blueprint
        >>> from l0rnn.wiring import Wiring
        >>> network = nn.Sequential()
        >>> network.encoder, network.decoder = nn.LSTM(1500, 1500, 2), nn.Linear(1500, 10_000)
        >>> blueprint = draw_blueprint(network, Wiring({"encoder": ["outside"], "decoder": ["encoder"]}))
        >>> group_sizes(blueprint, ["encoder.l0", "encoder.l1"])
        {'encoder.l0': 24000, 'encoder.l1': 28000}
    """
    _check_axes(blueprint, axes)
    left = {
        name: int(open[name].sum()) if open and name in open else axis.size for name, axis in blueprint.axes.items()
    }
    sizes = dict.fromkeys(axes, 0)
    for weight in _matrices(blueprint, embedding=embedding):
        for name, along in weight.axes.items():
            across = [axis for other in weight.axes if other != name for axis in weight.axes[other]]
            for axis in along:
                if axis in sizes:
                    sizes[axis] += weight.gates * sum(left[other] for other in across)
    return sizes


@torch.no_grad()
def root_mean_squares(
    network: nn.Module,
    blueprint: Blueprint,
    axes: Collection[str],
    *,
    embedding: bool = False,
    open: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Norm of each group divided by the root of its size, which makes units of different axes comparable.

    Takes the arguments of `unit_square_sums`, raises what it raises and returns axis → root mean square, `(unit,)`.

    Example:
        >>> from l0rnn.blueprint import draw_blueprint
        >>> from l0rnn.wiring import Wiring
        >>> network = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 1))
        >>> nn.init.ones_(network[0].weight), nn.init.constant_(network[1].weight, 2.0)  # doctest: +ELLIPSIS
        (...)
        >>> blueprint = draw_blueprint(network, Wiring({"0": ["outside"], "1": ["0"]}))
        >>> root_mean_squares(network, blueprint, ["0"])["0"]
        tensor([1.4142, 1.4142, 1.4142])
    """
    sizes = group_sizes(blueprint, axes, embedding=embedding, open=open)
    sums = unit_square_sums(network, blueprint, axes, embedding=embedding, open=open)
    return {axis: (values / max(1, sizes[axis])).sqrt() for axis, values in sums.items()}


def relative_root_mean_squares(
    network: nn.Module, blueprint: Blueprint, open: Mapping[str, Tensor], *, embedding: bool = False
) -> dict[str, Tensor]:
    """`root_mean_squares` of the open units as multiples of their mean over the axis, axis → `(unit,)`.

    Without the division an axis whose weights happen to be small, such as the first layer of a stack or an embedding,
    would lose all its units first.

    Args:
        network: modules of plain torch, or gated ones.
        blueprint: the network's blueprint.
        open: axis → open units, bool `(unit,)`; weights from and to others do not count, and others have 0.
        embedding: whether an untied embedding belongs to the groups of its units.

    Example:
        >>> from l0rnn.blueprint import draw_blueprint
        >>> from l0rnn.wiring import Wiring
        >>> network = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 1))
        >>> network[0].weight.data = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
        >>> network[1].weight.data = torch.tensor([[1.0, 2.0, 3.0]])
        >>> blueprint = draw_blueprint(network, Wiring({"0": ["outside"], "1": ["0"]}))
        >>> relative_root_mean_squares(network, blueprint, {"0": torch.ones(3, dtype=torch.bool)})["0"]
        tensor([0.5000, 1.0000, 1.5000])
    """
    found = root_mean_squares(network, blueprint, open, embedding=embedding, open=open)
    return {axis: values / values[open[axis]].mean().clamp(min=1e-12) for axis, values in found.items()}


def group_entries(
    network: nn.Module, blueprint: Blueprint, axes: Collection[str], *, embedding: bool = False
) -> Iterator[Tensor]:
    """Views of all weights that belong to a group of one of the axes; an entry may come twice.

    Args:
        network: modules of plain torch, or gated ones.
        blueprint: the network's blueprint.
        axes: names of the axes.
        embedding: whether an untied embedding belongs to the groups of its units.

    Raises:
        ValueError: if ``axes`` names an unknown axis.

    Example:
        >>> from l0rnn.blueprint import draw_blueprint
        >>> from l0rnn.wiring import Wiring
        >>> network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        >>> blueprint = draw_blueprint(network, Wiring({"0": ["outside"], "1": ["0"]}))
        >>> [view.shape for view in group_entries(network, blueprint, ["0"])]
        [torch.Size([3, 2]), torch.Size([1, 3])]
    """
    _check_axes(blueprint, axes)
    for weight in _matrices(blueprint, embedding=embedding):
        parameter = network.get_parameter(weight.name)
        if any(all(axis in axes for axis in along) for along in weight.axes.values()):
            yield parameter
            continue
        unpacked = rearrange(
            parameter, f"{weight.pattern} -> {' '.join(weight.dimensions)}", **_gate_size(weight, weight.pattern)
        )
        for name, along in weight.axes.items():
            start = 0
            for axis in along:
                size = blueprint.axes[axis].size
                if axis in axes:
                    yield unpacked.narrow(weight.dimensions.index(name), start, size)
                start += size


class _SquareSums(torch.autograd.Function):
    """Sums of squares of a matrix over all but one dimension, for some dimensions.

    Autograd would make the gradient from one tensor of the matrix's size per operation; here it is one.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, *kept: int) -> tuple[Tensor, ...]:
        ctx.save_for_backward(matrix)
        ctx.kept = kept
        is_half = matrix.dtype in (torch.float16, torch.bfloat16)
        squares = (matrix.float() if is_half else matrix).square()
        return tuple(squares.sum(1 - dimension) for dimension in kept)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (matrix,) = ctx.saved_tensors
        columns = [2 * g.unsqueeze(1 - dimension) for g, dimension in zip(gradients, ctx.kept, strict=True)]
        gradient = matrix * columns[0] if len(columns) == 1 else torch.add(*columns).mul_(matrix)
        return gradient.to(matrix.dtype), *(None for _ in ctx.kept)


def _square_sums(matrix: Tensor, kept: Sequence[int]) -> tuple[Tensor, ...]:
    if needs_plain_operations():
        wide = matrix.float() if matrix.dtype in (torch.float16, torch.bfloat16) else matrix
        return tuple(wide.square().sum(1 - dimension) for dimension in kept)
    return _SquareSums.apply(matrix, *kept)  # type: ignore[return-value]


def _matrices(blueprint: Blueprint, *, embedding: bool) -> Iterator[Weight]:
    """The weights that write or read units: neither biases nor LayerNorms, embeddings only when asked for."""
    for weight in blueprint.weights:
        if weight.reads is not None or (embedding and weight.pattern == "word unit"):
            yield weight


def _sides(weight: Weight) -> list[tuple[str, str]]:
    """For each packed dimension: its pattern and what lies along it besides gates: ``("(gate unit)", "unit")``."""
    packed = re.findall(r"\([^)]*\)|\w+", weight.pattern)
    return [(pattern, pattern.strip("()").split()[-1]) for pattern in packed]


def _gate_size(weight: Weight, pattern: str) -> dict[str, int]:
    return {"gate": weight.gates} if "gate" in pattern else {}


def _open_entries(parameter: Tensor, weight: Weight, blueprint: Blueprint, open: Mapping[str, Tensor]) -> Tensor:
    """1 where both units of an entry are left, 0 elsewhere, in the shape of the packed weight."""
    entries = torch.ones_like(parameter, requires_grad=False)
    for dimension, (packed, name) in enumerate(_sides(weight)):
        along = [open.get(axis, torch.ones(blueprint.axes[axis].size)).to(parameter) for axis in weight.axes[name]]
        values = repeat(torch.cat(along), f"{name} -> {packed}", **_gate_size(weight, packed))
        entries.mul_(values.unsqueeze(1 - dimension))
    return entries


def _zeros(blueprint: Blueprint, axis: str) -> Tensor:
    return torch.zeros(blueprint.axes[axis].size)


def _check_axes(blueprint: Blueprint, axes: Collection[str]) -> None:
    for axis in axes:
        if axis not in blueprint.axes:
            raise ValueError(f"`axes` names {axis!r}, which is none of the axes {', '.join(blueprint.axes)}")
