"""The layers of a network by themselves: what is measured of each, and fresh ones to measure it on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.axes import Blueprint, is_by_columns
from l0rnn.bench.latency.grid import CallSize, LayerGrid, LayerPlace, grid_widths
from l0rnn.blueprint import RECURRENT
from l0rnn.recurrent.single_steps import column_major_


def layout(
    network: nn.Module, blueprint: Blueprint, gated: set[str]
) -> tuple[dict[str, LayerPlace], tuple[LayerGrid, ...]]:
    """The layers of a network, and the grids to measure them on; equal ones share a grid.

    Raises:
        ValueError: if a layer is an LSTM with ``proj_size``.
    """
    modules = dict(network.named_modules())
    places: dict[str, LayerPlace] = {}
    grids: list[LayerGrid] = []

    def widths(axes: tuple[str, ...], per_octave: int) -> tuple[int, ...]:
        sizes = [blueprint.axes[axis].size for axis in axes]  # an axis may be read twice
        least = [1 if axis in gated else size for axis, size in zip(axes, sizes, strict=True)]
        return grid_widths(sum(least), sum(sizes), per_octave=per_octave)

    for weight in blueprint.weights:
        if "cell" in weight.axes:
            raise ValueError(
                f"`milliseconds` cannot be a budget with the `proj_size` of {weight.layer!r}, whose latency depends on "
                "three widths; give `multiply_adds` or `density`"
            )
        if weight.pattern not in ("(gate unit) feature", "unit feature"):
            continue
        reads, units = weight.axes["feature"], weight.axes["unit"]
        per_octave = 1 if gated & set(reads) and gated & set(units) else 2  # finer, where one width alone changes
        module: Any = modules[weight.layer]
        is_recurrent = isinstance(module, RECURRENT)
        bias = bool(module.bias) if is_recurrent else module.bias is not None
        grid = LayerGrid(
            str(module.mode) if is_recurrent else "Linear", bias, widths(reads, per_octave), widths(units, per_octave)
        )
        if grid not in grids:
            grids.append(grid)
        name = f"{weight.layer}.{weight.key}" if weight.key else weight.layer
        places[name] = LayerPlace(grids.index(grid), reads, units)
    return places, tuple(grids)


def kept_units(blueprint: Blueprint, gated: Collection[str], share: float) -> dict[str, Tensor]:
    """The first units of every gated axis: axis → bool `(unit,)`, at least one.

    Args:
        blueprint: the network's blueprint.
        gated: axes whose widths change.
        share: how many of their units, in [0, 1]. Between 0 and 1, every second axis has one unit less: after training
            the layers of a stack are unequal too, and then each is a call of its own.

    Example:
        >>> from l0rnn.axes import Axis
        >>> blueprint = Blueprint({name: Axis(name, 8, name) for name in ("a", "b", "c")})
        >>> {axis: int(keep.sum()) for axis, keep in kept_units(blueprint, {"a", "b"}, 0.5).items()}
        {'a': 4, 'b': 3, 'c': 8}
    """
    keep = {}
    for axis in blueprint.axes.values():
        units = axis.size
        if axis.name in gated:
            less = sum(other in gated for other in keep) % 2 if 0 < share < 1 else 0
            units = max(1, round(share * axis.size) - less)
        keep[axis.name] = torch.arange(axis.size) < units
    return keep


class LayerAlone(nn.Module):
    """One fresh layer, on input of its own."""

    features: Tensor

    def __init__(self, grid: LayerGrid, reads: int, units: int, network: nn.Module, size: CallSize) -> None:
        super().__init__()
        dtype = next(network.parameters()).dtype
        if grid.layer == "Linear":
            layer = nn.Linear(reads, units, bias=grid.bias)
            own = [module.weight for module in network.modules() if isinstance(module, nn.Linear)]
            if any(map(is_by_columns, own)):  # the order in memory matters: see `column_major_`
                column_major_(layer)
        elif grid.layer.startswith("RNN_"):
            layer = nn.RNN(reads, units, bias=grid.bias, nonlinearity=grid.layer.removeprefix("RNN_").lower())
        else:
            layer = {"LSTM": nn.LSTM, "GRU": nn.GRU}[grid.layer](reads, units, bias=grid.bias)
        self.layer = layer.to(dtype)
        self.register_buffer("features", torch.randn(size.steps, size.batch, reads, dtype=dtype))

    def forward(self) -> Any:
        """Run the layer."""
        return self.layer(self.features)


class Chain(nn.Module):
    """Layers called one after another, each on input of its own."""

    def __init__(self, layers: list[LayerAlone]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self) -> None:
        """Run all layers."""
        for layer in self.layers:
            layer()


def chain(
    keep: Mapping[str, Tensor],
    places: Mapping[str, LayerPlace],
    grids: tuple[LayerGrid, ...],
    network: nn.Module,
    size: CallSize,
) -> Chain:
    """Fresh layers of the kept widths, one after another: a network without the code around its layers."""

    def width(axes: tuple[str, ...]) -> int:
        return sum(int(keep[axis].sum()) for axis in axes)

    alone = [
        LayerAlone(grids[place.grid], width(place.reads), width(place.units), network, size)
        for place in places.values()
    ]
    return Chain(alone)
