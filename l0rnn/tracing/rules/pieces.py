"""Pieces of tensors: what is cut, picked or moved by numbers.

Where an operation names places by number, a removed unit would shift what the number means. So the pieces that units
are cut into are united, as ``chunk`` needs pieces of one size; what cannot be cut alike stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from l0rnn.tracing.rules.atoms import differs, line
from l0rnn.tracing.rules.run import Call, tensors_in
from l0rnn.tracing.rules.shapes import again, count_along, on_host, rearranged, relabel


def halved(call: Call) -> None:
    """``chunk``: after a removal the pieces are again of one size, so they are united piece by piece."""
    dim = _split_dimension(call)
    if not isinstance(
        call.argument(1, "indices_or_sections", call.argument(1, "chunks", call.argument(1, "sections"))), int
    ):
        split(call)
        return
    outs = list(tensors_in(call.out))
    for side in call.shadow(call.data).sides:
        sizes = {out.size(dim) for out in outs}
        if differs(call.atoms.roots(side), dim):
            if len(sizes) == 1:
                for piece in side.split(sizes.pop(), dim)[1:]:
                    call.atoms.unite(piece, side.narrow(dim, 0, piece.size(dim)), call.why)
            else:
                call.atoms.fix(side, f"{call.why} cuts it into unequal pieces")
    _split_like(call, outs, dim)


def split(call: Call) -> None:
    """``split`` by sizes, ``tensor_split`` by places."""
    outs = list(tensors_in(call.out))
    dim = _split_dimension(call)
    ends = [0]
    for out in outs:
        ends.append(ends[-1] + out.size(dim))
    for side in call.shadow(call.data).sides:
        for start, stop in pairwise(ends):
            cut_at(call, side, dim, start, stop)
    _split_like(call, outs, dim)


def _split_dimension(call: Call) -> int:
    default = {"hsplit": 1 if call.data.dim() > 1 else 0, "dsplit": 2}.get(call.name, 0)
    return int(call.argument(2, "dim", default))


def _split_like(call: Call, outs: list[Tensor], dim: int) -> None:
    sizes = [out.size(dim) for out in outs]
    relabel(call, lambda labels: list(labels.split(sizes, dim)))


def cut_at(call: Call, side: Tensor, dim: int, start: int, stop: int) -> None:
    """A piece is taken out along a dimension by numbers.

    If units lie along it, the pieces of that size are united, so that the numbers may follow. Where the piece begins
    and ends at the joint of two weights, as after ``cat``, numbers follow by themselves.
    """
    size, length = side.size(dim), stop - start
    if length >= size or length <= 0 or not differs(call.atoms.roots(side), dim):
        return
    for begin, end in ((0, start), (0, stop), (start, stop)):
        if 0 < end - begin < size:
            count_along(call, side.narrow(dim, begin, end - begin), dim)
    at_joints = all(end in (0, size) or _is_joint(call, side, dim, end) for end in (start, stop))
    if size % length == 0 and start % length == 0:
        pieces = side.split(length, dim)
        if not at_joints or all(call.atoms.has_units(piece) for piece in pieces):
            for piece in pieces[1:]:
                call.atoms.unite(piece, pieces[0], f"{call.why} cuts it into pieces of one size")
        return
    step = math.gcd(size, start, stop)
    if at_joints:
        return
    if step > 1 and size // step <= 16:
        for piece in side.split(step, dim)[1:]:
            call.atoms.unite(piece, side.narrow(dim, 0, step), f"{call.why} cuts it into pieces of one size")
    else:
        call.atoms.fix(side, f"{call.why} cuts it at a number")


def _is_joint(call: Call, side: Tensor, dim: int, place: int) -> bool:
    """Whether the labels on both sides of a place come from different weights."""
    before, after = side.narrow(dim, place - 1, 1), side.narrow(dim, place, 1)
    owners = [call.atoms.owner(labels) for labels in (before, after)]
    return bool((owners[0] != owners[1]).all())


def narrowed(call: Call) -> None:
    """``narrow``, and ``slice`` as the compiler writes it."""
    dim = call.argument(1, "dim", 0)
    if call.name == "narrow":
        start = int(call.argument(2, "start"))
        start = start % max(1, call.data.size(dim))
    else:
        start = call.argument(2, "start") or 0
        start = min(start + call.data.size(dim) if start < 0 else start, call.data.size(dim))
        if call.argument(4, "step", 1) != 1:
            _fix_along(call, [dim], "takes every few of it")
    length = call.out.size(dim)
    for side in call.shadow(call.data).sides:
        cut_at(call, side, dim, start, start + length)
    relabel(
        call, lambda labels: [labels.narrow(dim, start, length)] if call.name == "narrow" else [again(call, labels)]
    )


def picked(call: Call) -> None:
    """``select`` and ``unbind``: one by one along a dimension."""
    dim = call.argument(1, "dim", 0)
    _pick(call, dim)
    rearranged(call)


def _pick(call: Call, dim: int) -> None:
    shadow = call.shadow(call.data)
    if shadow.is_state and dim == 0:  # states of layers, which may differ in width
        return
    for side in shadow.sides:
        roots = call.atoms.roots(side)
        if differs(roots, dim):
            if any(differs(roots, d) for d in range(side.dim()) if d != dim % side.dim()):
                call.atoms.unite(side, line(side, dim), f"{call.why} takes its rows one by one")
            else:
                call.atoms.fix(side, f"{call.why} picks it by number")


def _fix_along(call: Call, dims: list[int], what: str) -> None:
    for side in call.shadow(call.data).sides:
        if any(differs(call.atoms.roots(side), d) for d in dims):
            call.atoms.fix(side, f"{call.why} {what}")


def indexed(call: Call) -> None:
    """``tensor[index]``."""
    tensor, index = call.args
    if call.shadow(tensor).is_state and isinstance(index, tuple):
        for side in call.shadow(tensor).sides:
            call.tracer.keep_grid(side, f"{call.why} takes the states of all layers as one tensor")
    for dim, item in index_items(index, tensor.dim()):
        if isinstance(item, slice):
            start, stop, step = item.indices(tensor.size(dim))
            if step != 1:
                _fix_along(call, [dim], "takes every few of it")
                continue
            for side in call.shadow(tensor).sides:
                cut_at(call, side, dim, start, stop)
        elif isinstance(item, Tensor) and item.dim() == 0 and item.dtype not in (torch.bool, torch.uint8):
            _fix_along(call, [dim], "picks it by a number that is computed")
        elif isinstance(item, int):
            _pick(call, dim)
        else:
            _fix_along(call, [dim], "picks it by numbers")
    relabel(call, lambda labels: [labels[on_host(index)]])


def index_items(index: Any, ndim: int) -> Iterator[tuple[int, Any]]:
    """Each dimension of a tensor with what an index takes of it; those that are taken whole are left out."""
    items = list(index) if isinstance(index, tuple) else [index]
    taken = sum(_consumed(item) for item in items)
    dim = 0
    for item in items:
        if item is Ellipsis:
            dim += ndim - taken
        elif item is None or isinstance(item, bool):
            continue
        else:
            for _ in range(_consumed(item)):
                if not (isinstance(item, slice) and item == slice(None)):
                    yield dim, item
                dim += 1


def _consumed(item: Any) -> int:
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    return item.dim() if isinstance(item, Tensor) and item.dtype in (torch.bool, torch.uint8) else 1


def selected(call: Call) -> None:
    """``index_select``, ``gather`` and others that take numbers along one dimension."""
    dim = call.argument(1, "dim", 0)
    _fix_along(call, [dim], "picks it by numbers")
    if call.name in ("gather", "take_along_dim"):
        index = call.argument(2, "index", call.argument(1, "indices"))
        smaller = [d for d in range(call.data.dim()) if index.size(d) not in (1, call.data.size(d))]
        _fix_along(call, smaller, "picks it by numbers")
    rearranged(call)


def shifted(call: Call) -> None:
    """``roll``, ``unfold``, ``diagonal`` and their like: neighbours by number."""
    dims = {
        "roll": call.argument(2, "dims"),
        "unfold": call.argument(1, "dimension"),
        "diagonal": (call.argument(2, "dim1", 0), call.argument(3, "dim2", 1)),
    }.get(call.name)
    dims = range(call.data.dim()) if dims is None else dims
    _fix_along(call, list(dims) if isinstance(dims, (tuple, list, range)) else [dims], "moves it by a number of places")
    rearranged(call)


def multiplied(call: Call) -> None:
    """``repeat_interleave``: with a number for all the labels follow; with one for each they are taken by number."""
    repeats, dim = call.argument(1, "repeats"), call.argument(2, "dim")
    if isinstance(repeats, Tensor) and repeats.numel() > 1:
        _fix_along(call, list(range(call.data.dim())) if dim is None else [dim], "repeats it by numbers")
    rearranged(call)


RULES = {
    "chunk unsafe_chunk tensor_split hsplit vsplit dsplit": halved,
    "split split_with_sizes unsafe_split unsafe_split_with_sizes": split,
    "narrow slice": narrowed,
    "select unbind": picked,
    "getitem": indexed,
    "index_select gather take_along_dim": selected,
    "roll unfold diagonal rot90 channel_shuffle": shifted,
    "repeat_interleave": multiplied,
}
