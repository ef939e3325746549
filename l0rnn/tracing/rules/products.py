"""Sums of products: matrix products of any form, and convolutions. Here units are read.

A weight reads what it is multiplied with where both have the dimension that is summed over: its column is the unit's.
Its other dimension makes the units of the result. Two activations that are multiplied and summed, such as queries and
keys, have no weight that a gate could be folded into, so the units they sum over have to stay.
"""

from __future__ import annotations

import torch
from torch import Tensor

from l0rnn.tracing.atoms import FREE, OUTSIDE, varies
from l0rnn.tracing.rules.elementwise import label_elementwise
from l0rnn.tracing.run import Call, Reading, Shadow


def linear(call: Call) -> None:
    """``linear(input, weight, bias)``."""
    data, weight = call.argument(0, "input"), call.argument(1, "weight")
    batch = [f"b{d}" for d in range(data.dim() - 1)]
    if weight.dim() == 1:
        contract(call, data, weight, [*batch, "i"], ["i"], batch, call.out)
    else:
        contract(call, data, weight, [*batch, "i"], ["o", "i"], [*batch, "o"], call.out)
    _add(call, call.argument(2, "bias"))


def matmul(call: Call) -> None:
    """``matmul``, ``mm``, ``bmm``, ``mv``, ``dot``, ``@``."""
    left, right = call.args[0], call.argument(1, "other" if "other" in call.kwargs else "mat2")
    if call.name == "rmatmul":
        left, right = right, left
    _matmul(call, left, right)


def _matmul(call: Call, left: Tensor, right: Tensor) -> None:
    batch = max(left.dim(), right.dim()) - 2
    names = [f"b{d}" for d in range(max(batch, 0))]
    a = [*names[len(names) - max(0, left.dim() - 2) :], "i", "k"][-left.dim() :]
    b = [*names[len(names) - max(0, right.dim() - 2) :], "k", "j"] if right.dim() > 1 else ["k"]
    out = [*names, *(["i"] if left.dim() > 1 else []), *(["j"] if right.dim() > 1 else [])]
    contract(call, left, right, a, b, out, call.out)


def added_product(call: Call) -> None:
    """``addmm``, ``baddbmm``, ``addmv``: ``beta · input + alpha · left @ right``."""
    _matmul(call, call.args[1], call.args[2])
    _add(call, call.args[0])


def einsum(call: Call) -> None:
    """``einsum`` of two operands, each letter once in each; others have no rule."""
    equation, *operands = call.args
    operands = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], (tuple, list)) else operands
    text = equation.replace(" ", "") if isinstance(equation, str) else ""
    inputs, arrow, result = text.partition("->")
    terms = inputs.split(",")
    if "..." in text and len(operands) == 2:
        dots = [operand.dim() - len(term.replace("...", "")) for term, operand in zip(terms, operands, strict=True)]
        names = [chr(0x391 + d) for d in range(max(dots))]
        terms = [t.replace("...", "".join(names[max(dots) - n :])) for t, n in zip(terms, dots, strict=True)]
        result = result.replace("...", "".join(names))
    if not arrow or len(operands) != 2 or any(len(set(term)) != len(term) for term in (*terms, result)):
        call.unknown()
        return
    contract(call, *operands, list(terms[0]), list(terms[1]), list(result), call.out)


def contract(
    call: Call, left: Tensor, right: Tensor, a: list[str], b: list[str], result: list[str], out: Tensor
) -> None:
    """Multiply two tensors and sum over the dimensions that the result has not.

    Args:
        call: the operation.
        left: the first tensor.
        right: the second.
        a: names of the first's dimensions; size 1 is broadcast.
        b: names of the second's dimensions.
        result: names of the result's dimensions.
        out: the result, or any tensor of its shape.
    """
    names = list(dict.fromkeys([*a, *b]))
    summed = [name for name in names if name not in result]
    sizes = dict(zip(a, left.shape, strict=True))
    for name, size in zip(b, right.shape, strict=True):
        sizes[name] = max(sizes.get(name, 1), size)
    left_is_weight, right_is_weight = call.shadow(left).is_weight, call.shadow(right).is_weight
    if left_is_weight and right_is_weight:
        _weights_by_weights(call, left, right, a, b, names, summed, result, out)
        return
    if not left_is_weight and not right_is_weight:
        _activations(call, left, right, a, b, names, summed, result, out)
        return
    weight, data, of_weight, of_data = (left, right, a, b) if left_is_weight else (right, left, b, a)
    read = _aligned(call.labels(data), of_data, names)
    sides = [_aligned(side, of_weight, names) for side in call.shadow(weight).sides]
    places = {name: d for d, name in enumerate(names)}
    columns, rows = [], []
    for side in sides:
        along = [name for name in names if varies(side, places[name])]
        if any(name in summed for name in along):
            columns.append(side)
        elif any(name in of_data and sizes[name] > 1 for name in along):
            call.atoms.fix(side, f"{call.why} runs over it one by one")
        elif along:
            rows.append(side)
    roots = call.atoms.roots(read)
    is_free = bool((roots == FREE).all())
    for side in columns:
        over_units = any(varies(roots, places[name]) for name in summed)
        if over_units or bool((roots == OUTSIDE).all()):
            call.atoms.unite(side, read, "what it reads comes from outside the network")
        elif not is_free:
            call.atoms.fix(side, f"{call.why} sums over positions by it, not over units")
        call.atoms.read(side)
    if not columns and any(varies(roots, places[name]) for name in summed):
        call.atoms.fix(read, f"{call.why} sums over it without a weight of its own")
    passed = [name for name in names if name not in summed and varies(call.atoms.roots(read), places[name])]
    if passed:
        for side in rows:
            call.atoms.fix(side, f"{call.why} spreads other units over it")
        kept = _aligned(call.labels(data), of_data, names)
        if all(not varies(call.atoms.roots(kept), places[name]) for name in summed):
            label = _without(kept, names, summed, result)
        else:
            label = torch.full((1,) * len(result), OUTSIDE)
    elif rows:
        for side in rows[:-1]:
            call.atoms.fix(side, f"{call.why} makes several kinds of units at once")
        call.atoms.write(rows[-1])
        label = _without(rows[-1], names, summed, result)
    else:
        label = torch.full((1,) * len(result), OUTSIDE)
    call.set(out, label)
    _note(call, columns, [] if passed else rows[-1:], read, names, summed, sizes, out)


def _note(
    call: Call,
    columns: list[Tensor],
    rows: list[Tensor],
    read: Tensor,
    names: list[str],
    summed: list[str],
    sizes: dict[str, int],
    out: Tensor,
) -> None:
    """Note a reading with its multiply-adds: ``positions · rows · columns`` of them."""
    places = {name: d for d, name in enumerate(names)}
    width = 1
    for name in summed:
        width *= sizes[name]
    column_labels = torch.full((width,), OUTSIDE)
    source = None
    if columns:
        shape = [sizes[name] if name in summed else 1 for name in names]
        column = columns[0]
        for name in names:
            if name not in summed and column.size(places[name]) > 1:
                column = column.narrow(places[name], 0, 1)
        column_labels = column.expand(shape).reshape(-1)
        origin = read
        for name in names:
            if name not in summed and origin.size(places[name]) > 1:
                origin = origin.narrow(places[name], 0, 1)
        source = origin.expand(shape).reshape(-1)
    row_labels = torch.full((1,), OUTSIDE)
    if rows:
        own = [name for name in names if varies(rows[0], places[name])]
        row = rows[0]
        for name in names:
            if name not in own and row.size(places[name]) > 1:
                row = row.narrow(places[name], 0, 1)
        row_labels = row.reshape(-1)
    positions = max(1, out.numel() // max(1, len(row_labels)))
    call.tracer.run.readings.append(
        Reading(call.tracer.module, call.name, row_labels, column_labels, positions, source=source)
    )


def _weights_by_weights(
    call: Call,
    left: Tensor,
    right: Tensor,
    a: list[str],
    b: list[str],
    names: list[str],
    summed: list[str],
    result: list[str],
    out: Tensor,
) -> None:
    """A weight made of two: the units between them are written by one and read by the other."""
    places = {name: d for d, name in enumerate(names)}
    inner, outer = [], []
    for tensor, own in ((left, a), (right, b)):
        for side in call.shadow(tensor).sides:
            aligned = _aligned(side, own, names)
            is_inner = any(varies(aligned, places[name]) for name in summed)
            (inner if is_inner else outer).append(aligned)
    if len(inner) == 2:
        call.atoms.unite(inner[0], inner[1], call.why)
        call.atoms.read(inner[0])
        call.atoms.write(inner[1])
        positions = max(1, out.numel())
        flat = [_without(side, names, [n for n in names if n not in summed], summed).reshape(-1) for side in inner]
        rows = torch.full((1,), OUTSIDE)
        call.tracer.run.readings.append(Reading(call.tracer.module, call.name, rows, flat[0], positions))
    else:
        for side in inner:
            call.atoms.fix(side, f"{call.why} sums over it")
    sides = tuple(_without(side, names, summed, result).expand(out.shape) for side in outer)
    call.tracer.set_shadow(out, Shadow(sides or (torch.full((), OUTSIDE).expand(out.shape),), is_weight=True))


def _activations(
    call: Call,
    left: Tensor,
    right: Tensor,
    a: list[str],
    b: list[str],
    names: list[str],
    summed: list[str],
    result: list[str],
    out: Tensor,
) -> None:
    """Two activations, such as queries and keys, or weights of attention and values."""
    places = {name: d for d, name in enumerate(names)}
    found = [_aligned(call.labels(tensor), own, names) for tensor, own in ((left, a), (right, b))]
    if all(bool((labels == FREE).all()) for labels in found):
        call.set(out, torch.full((), FREE))
        return
    for labels in found:
        if any(varies(call.atoms.roots(labels), places[name]) for name in summed):
            call.atoms.fix(labels, f"{call.why} sums products of two activations over it")
    passed = []
    for labels, tensor in zip(found, (left, right), strict=True):
        roots = call.atoms.roots(labels)
        if any(varies(roots, d) for d in range(roots.dim())) and bool((roots > OUTSIDE).any()):
            passed.append((len(roots.unique()), labels))
        width = 1
        for name in summed:
            width *= tensor.size((a if tensor is left else b).index(name)) if name in (a if tensor is left else b) else 1
    passed.sort(key=lambda pair: -pair[0])
    for _, labels in passed[1:]:
        call.atoms.fix(labels, f"{call.why} multiplies it with other units")
    if passed:
        call.set(out, _without(passed[0][1], names, summed, result))
        label = call.shadow(out).sides[0]
    else:
        label = torch.full((1,) * len(result), OUTSIDE)
        call.set(out, label)
    width = 1
    for name in summed:
        width *= max(
            left.size(a.index(name)) if name in a else 1,
            right.size(b.index(name)) if name in b else 1,
        )
    own = [d for d in range(label.dim()) if varies(label, d)]
    row = label
    for d in range(label.dim()):
        if d not in own and row.size(d) > 1:
            row = row.narrow(d, 0, 1)
    rows = row.reshape(-1)
    positions = max(1, out.numel() // max(1, len(rows)))
    outside = torch.full((width,), OUTSIDE)
    call.tracer.run.readings.append(Reading(call.tracer.module, call.name, rows, outside, positions))


def _aligned(labels: Tensor, own: list[str], names: list[str]) -> Tensor:
    """Labels with one dimension for each name, of size 1 for those that the tensor has not."""
    order = sorted(range(len(own)), key=lambda d: names.index(own[d]))
    labels = labels.permute(order)
    for d, name in enumerate(names):
        if name not in own:
            labels = labels.unsqueeze(d)
    return labels


def _without(labels: Tensor, names: list[str], gone: list[str], result: list[str]) -> Tensor:
    """Labels without the dimensions that were summed, in the order of the result."""
    left = [name for name in names if name not in gone]
    for name in gone:
        place = names.index(name)
        labels = labels.narrow(place, 0, 1)
    labels = labels.reshape([labels.size(names.index(name)) for name in left])
    return labels.permute([left.index(name) for name in result])


def _add(call: Call, bias: Tensor | None) -> None:
    if isinstance(bias, Tensor):
        label_elementwise(call, [call.out, bias], call.out)


def convolution(call: Call) -> None:
    """``conv1d`` to ``conv3d`` and their transposes: ``(input, weight, bias, stride, padding, dilation, groups)``."""
    data, weight = call.argument(0, "input"), call.argument(1, "weight")
    is_transposed = call.name.startswith("conv_transpose")
    groups = call.argument(6, "groups", 1)
    spatial = weight.dim() - 2
    is_batched = data.dim() == spatial + 2
    labels = call.labels(data)
    labels = labels if is_batched else labels.unsqueeze(0)
    roots = call.atoms.roots(labels)
    if any(varies(roots, d) for d in range(2, labels.dim())):
        call.atoms.fix(labels, f"{call.why} slides over it")
    shadow = call.shadow(weight)
    if not shadow.is_weight or len(shadow.sides) != weight.dim():
        call.fix_and_end(f"{call.why} with a weight that is not a parameter")
        return
    sides = [_line(side, d) for d, side in enumerate(shadow.sides[:2])]
    across, inner = (sides[1], sides[0]) if is_transposed else (sides[0], sides[1])
    channels = labels
    for d in (0, *range(2, labels.dim())):
        channels = channels.narrow(d, 0, 1) if channels.size(d) > 1 else channels
    channels = channels.reshape(-1)
    out_channels = call.out.size(1 if is_batched else 0)
    positions = call.out.numel() // out_channels
    taps = weight[0, 0].numel()
    why = "what it reads comes from outside the network"
    readings = call.tracer.run.readings
    if groups == 1:
        call.atoms.unite(inner, channels, why)
        call.atoms.read(inner)
        rows = across
        readings.append(Reading(call.tracer.module, call.name, rows, inner, positions * taps, source=channels))
    else:
        rows = _grouped(call, across, inner, channels, groups, is_transposed, why)
        readings.append(Reading(call.tracer.module, call.name, rows, rows, positions * taps * (len(channels) // groups), True))
    call.atoms.write(rows)
    bias = call.argument(2, "bias")
    if isinstance(bias, Tensor):
        call.atoms.unite(rows, call.shadow(bias).sides[0], call.why)
    shape = [1] * call.out.dim()
    shape[1 if is_batched else 0] = -1
    call.set(call.out, rows.reshape(shape))


def _grouped(
    call: Call, across: Tensor, inner: Tensor, channels: Tensor, groups: int, is_transposed: bool, why: str
) -> Tensor:
    """Labels of what a grouped convolution makes.

    Depthwise, each channel goes by itself. Otherwise all groups keep the same channels, since they share one shape.
    """
    if groups == len(channels) and not is_transposed:
        per_channel = len(across) // groups
        call.atoms.unite(across, channels.repeat_interleave(per_channel), why)
        if per_channel > 1:
            call.atoms.fix(channels, f"{call.why} makes several channels of each")
        return across
    call.atoms.fix(channels, f"{call.why} reads it in groups")
    for side in (across, inner):
        call.atoms.fix(side, f"{call.why} works in groups")
    return across if not is_transposed else torch.full((len(across) * groups,), OUTSIDE)


def _line(side: Tensor, dimension: int) -> Tensor:
    """The labels along one dimension, `(index,)`."""
    for d in range(side.dim()):
        if d != dimension:
            side = side.narrow(d, 0, 1)
    return side.reshape(-1)


def pooled(call: Call) -> None:
    """Pooling and resizing over positions: channels stay what they are."""
    data = call.args[0]
    labels = call.labels(data)
    results = [out for out in (call.out if isinstance(call.out, tuple) else (call.out,)) if isinstance(out, Tensor)]
    spatial = int(call.name[-2]) if call.name[-1] == "d" and call.name[-2].isdigit() else data.dim() - 2
    dims = range(data.dim() - spatial, data.dim())
    if any(varies(call.atoms.roots(labels), d) for d in dims):
        call.fix(data, f"{call.why} slides over it")
        labels = torch.full(labels.shape, OUTSIDE)
    for d in dims:
        labels = labels.narrow(d, 0, 1)
    for out in results:
        call.set(out, labels)


RULES = {
    "linear": linear,
    "matmul rmatmul mm bmm mv dot inner": matmul,
    "addmm baddbmm addmv": added_product,
    "einsum": einsum,
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d": convolution,
    "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d lp_pool1d lp_pool2d interpolate "
    "upsample max_pool1d_with_indices max_pool2d_with_indices": pooled,
}
