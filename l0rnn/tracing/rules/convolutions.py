"""Convolutions and pooling: channels are units, positions are not."""

from __future__ import annotations

import torch
from torch import Tensor

from l0rnn.tracing.rules.atoms import OUTSIDE, differs, line, varies
from l0rnn.tracing.rules.products import FROM_OUTSIDE
from l0rnn.tracing.rules.run import Call, Reading


def convolution(call: Call) -> None:
    """``conv1d`` to ``conv3d`` and their transposes: ``(input, weight, bias, stride, padding, dilation, groups)``."""
    data, weight, bias = call.argument(0, "input"), call.argument(1, "weight"), call.argument(2, "bias")
    is_transposed = call.name.startswith("conv_transpose")
    groups = call.argument(6, "groups", 1)
    if not call.shadow(weight).is_weight:
        call.fix_and_end(f"{call.why} with a weight that is not a parameter")
        return
    is_batched = data.dim() == weight.dim()
    labels = call.labels(data)
    labels = labels if is_batched else labels.unsqueeze(0)
    labels = over_positions(call, labels, range(2, labels.dim()))
    channels = line(labels, 0, *range(2, labels.dim())).expand(1, labels.size(1), *labels.shape[2:]).reshape(-1)
    first, second = along_dimension(call, weight, 0), along_dimension(call, weight, 1)
    across, inner = (second, first) if is_transposed else (first, second)
    out_channels = call.out.size(1 if is_batched else 0)
    positions = call.out.numel() // out_channels * weight[0, 0].numel()
    if is_transposed:
        positions = data.numel() // data.size(1 if is_batched else 0) * weight[0, 0].numel()
    readings = call.tracer.run.readings
    if groups == len(channels) and groups > 1:
        rows = _depthwise(call, across, inner, channels, is_transposed)
        readings.append(Reading(call.tracer.module, call.name, rows, rows, positions, True))
    else:
        rows = _grouped(call, across, inner, channels, groups, is_transposed)
        columns = inner[: len(inner) // groups] if is_transposed else inner
        source = channels[: len(channels) // groups]
        readings.append(Reading(call.tracer.module, call.name, rows, columns, positions, source=source.clone()))
    call.atoms.write(rows)
    if isinstance(bias, Tensor):
        call.atoms.unite(rows, along_dimension(call, bias, 0), call.why)
    shape = [1] * call.out.dim()
    shape[1 if is_batched else 0] = -1
    call.set(call.out, rows.reshape(shape))


def _grouped(call: Call, across: Tensor, inner: Tensor, channels: Tensor, groups: int, is_transposed: bool) -> Tensor:
    """Labels of what a convolution makes; of several groups, channel i of each is one unit, so that all stay alike."""
    pieces = channels.reshape(groups, -1)
    call.atoms.unite(inner.reshape(groups, -1) if is_transposed else inner[None], pieces, FROM_OUTSIDE)
    call.atoms.read(inner)
    if groups == 1:
        return across
    if is_transposed:
        call.atoms.unite(inner.reshape(groups, -1), inner.reshape(groups, -1)[:1], call.why)
        return across.repeat(groups)
    rows = across.reshape(groups, -1)
    call.atoms.unite(rows, rows[:1], f"{call.why} works in groups")
    return across


def _depthwise(call: Call, across: Tensor, inner: Tensor, channels: Tensor, is_transposed: bool) -> Tensor:
    """Each channel by itself; those that are made of it live and die with it."""
    own = inner if is_transposed else across
    if is_transposed:
        call.atoms.unite(inner, channels, FROM_OUTSIDE)
        if len(across) > 1:
            call.atoms.fix(across, f"{call.why} makes several channels of each")
        return channels.repeat_interleave(len(across))
    rows = own.reshape(len(channels), -1)
    call.atoms.unite(rows, channels[:, None], FROM_OUTSIDE)
    return across


def along_dimension(call: Call, weight: Tensor, d: int) -> Tensor:
    """The labels of a weight along one of its dimensions, `(index,)`; OUTSIDE where it has none."""
    shadow = call.shadow(weight)
    if len(shadow.sides) == weight.dim() and all(
        not varies(side, other)
        for own, side in enumerate(shadow.sides)
        for other in range(weight.dim())
        if other != own
    ):
        return line(shadow.sides[d], *(other for other in range(weight.dim()) if other != d)).reshape(-1)
    found = torch.full((weight.size(d),), OUTSIDE)
    for side in shadow.sides:
        others = [other for other in range(side.dim()) if other != d]
        if not varies(side, d):
            continue
        if any(varies(side, other) for other in others):
            call.atoms.unite(side, line(side, *others), call.why)
        found = line(side, *others).reshape(-1)
    return found


def over_positions(call: Call, labels: Tensor, dims: range) -> Tensor:
    """An operation slides over these dimensions. Units that differ along them are whole channels, or stay."""
    along = [d for d in dims if differs(call.atoms.roots(labels), d)]
    if along and labels.size(1) > 1 and differs(call.atoms.roots(labels), 1):
        call.atoms.unite(labels, line(labels, *along), f"{call.why} slides over it")
    elif along:
        call.atoms.fix(labels, f"{call.why} slides over it")
    return line(labels, *dims)


def pooled(call: Call) -> None:
    """Pooling and resizing over positions: channels stay what they are."""
    data = call.data
    labels = call.labels(data)
    spatial = data.dim() - 2 if "pool" not in call.name else int(call.name.partition("pool")[2][0])
    dims = range(data.dim() - spatial, data.dim())
    moved = [d for d in dims if not _is_untouched(call, d - dims.start, spatial)]
    channel = dims.start - 1
    along = [d for d in moved if differs(call.atoms.roots(labels), d)]
    if along and channel >= 0 and differs(call.atoms.roots(labels), channel):
        call.atoms.unite(labels, line(labels, *along), f"{call.why} slides over it")
    elif along:
        call.atoms.fix(labels, f"{call.why} slides over it")
    labels = line(labels, *moved)
    for out in call.out if isinstance(call.out, tuple) else (call.out,):
        call.set(out, labels)


def _is_untouched(call: Call, d: int, spatial: int) -> bool:
    """Whether pooling leaves a dimension as it is."""

    def of(position: int, name: str, default: object) -> object:
        value = call.argument(position, name, default)
        return value[d if len(value) == spatial else 0] if isinstance(value, (tuple, list)) and value else value

    if call.name.startswith("adaptive"):
        return of(1, "output_size", 0) is None
    if not call.name.startswith(("max_pool", "avg_pool")):
        return False
    kernel = of(1, "kernel_size", 0)
    stride = of(2, "stride", None)
    return kernel == 1 and (stride in (None, [], ()) or stride == 1) and of(3, "padding", 0) == 0


RULES = {
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d": convolution,
    "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d lp_pool1d lp_pool2d interpolate "
    "upsample max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool1d_with_indices "
    "adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices": pooled,
}
