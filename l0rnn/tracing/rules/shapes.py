"""Operations that put elements elsewhere without computing with them: the same is done to the labels.

Where an operation names places by number, a removed unit would shift what the number means. So the pieces that units are
cut into are united, as ``chunk`` needs pieces of one size; what cannot be cut alike stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from l0rnn.tracing.atoms import FREE, OUTSIDE, compact, differs, line, thin
from l0rnn.tracing.rules.elementwise import leaves_torch
from l0rnn.tracing.run import Call, Shadow, tensors_in

KEEPS_STATES = {"stack", "cat", "unsqueeze", "squeeze", "contiguous", "clone", "detach", "to", "index_select"}


def rearranged(call: Call) -> None:
    """Permutations, copies and other orders of all elements of one tensor."""
    _relabel(call, lambda labels: _results(_again(call, labels)))


def _again(call: Call, labels: Tensor) -> Any:
    """The operation, done to labels."""
    if call.name in ATTRIBUTES:
        return getattr(labels, call.name)
    args = list(call.args)
    kwargs = {name: _on_host(value) for name, value in call.kwargs.items() if name != "input"}
    args = [labels, *(_on_host(argument) for argument in args[1:])]
    return call.function(*args, **kwargs)


def _results(result: Any) -> list[Tensor]:
    return list(tensors_in(result))


def _relabel(call: Call, change: Any) -> None:
    """Label all results by the changed labels of the first tensor."""
    shadow = call.shadow(call.data)
    outs = list(tensors_in(call.out))
    changed = [change(side) for side in shadow.sides]
    places = None if shadow.places is None else change(shadow.places)
    is_state = shadow.is_state and call.name in KEEPS_STATES
    for number, out in enumerate(outs):
        sides = tuple(thin(side[number]) for side in changed)
        place = None if places is None else places[number]
        call.tracer.set_shadow(out, Shadow(sides, shadow.is_weight, is_state, place, shadow.source))


def reshaped(call: Call) -> None:
    """``view``, ``reshape`` and their like: what units are laid out in must stay a grid."""
    if any(isinstance(argument, torch.dtype) for argument in (*call.args[1:], *call.kwargs.values())):
        call.fix_and_end(f"{call.why} takes its bytes for another type")
        return
    _relabel(call, lambda labels: [_reshape(labels, call.out.shape)])
    for side in call.shadow(call.out).sides:
        call.tracer.keep_grid(side, f"{call.why} lays it out in a grid")


def _reshape(labels: Tensor, shape: torch.Size) -> Tensor:
    """Labels in another shape; the first dimensions stay expanded from one value where they are."""
    taken, left = 0, 1
    best = (0, 0)
    inner = list(labels.shape)
    for number, (size, stride) in enumerate(zip(labels.shape, labels.stride(), strict=True)):
        if size > 1 and stride != 0:
            break
        left *= size
        while taken < len(shape) and left % shape[taken] == 0 and left > 1:
            left //= shape[taken]
            taken += 1
        if left == 1:
            best = (number + 1, taken)
    lead, out = best
    labels = line(labels, *range(lead)).reshape(inner[lead:])
    return labels.reshape(shape[out:]).expand(shape)


def ordered(call: Call) -> None:
    """``permute``, ``flip`` and other orders: of the states of several layers, all have to be of one width."""
    if call.shadow(call.data).is_state:
        for side in call.shadow(call.data).sides:
            call.tracer.keep_grid(side, f"{call.why} takes the states of all layers as one tensor")
    rearranged(call)


def repeated(call: Call) -> None:
    """``expand``, ``repeat``: along a dimension of size 1 the result holds one value for all."""
    tensor, out = call.data, call.out
    shape = call.out.shape
    if call.name in ("expand", "expand_as"):
        _relabel(call, lambda labels: [labels.expand(shape)])
    else:
        rearranged(call)
    lead = out.dim() - tensor.dim()
    spread = [d for d in range(out.dim()) if out.size(d) > 1 and (d < lead or tensor.size(d - lead) == 1)]
    found = call.shadow(out)
    call.tracer.set_shadow(out, Shadow(found.sides, found.is_weight, spread=tuple(spread)))


def same(call: Call) -> None:
    """The same elements in the same order: copies, casts, devices."""
    tensor = call.data
    if not isinstance(call.out, Tensor):
        leaves_torch(call)
    elif call.out.shape == tensor.shape:
        found = call.shadow(tensor)
        strides = zip(tensor.shape, tensor.stride(), strict=True) if tensor.layout == torch.strided else ()
        spread = {d for d, (size, stride) in enumerate(strides) if size > 1 and stride == 0} | set(found.spread)
        is_state = found.is_state and call.name in KEEPS_STATES
        new = Shadow(found.sides, found.is_weight, is_state, found.places, found.source, tuple(spread))
        call.tracer.set_shadow(call.out, new)


def halved(call: Call) -> None:
    """``chunk``: after a removal the pieces are again of one size, so they are united piece by piece."""
    dim = _split_dimension(call)
    if not isinstance(call.argument(1, "indices_or_sections", call.argument(1, "chunks", call.argument(1, "sections"))), int):
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
    _relabel(call, lambda labels: list(labels.split(sizes, dim)))


def cut_at(call: Call, side: Tensor, dim: int, start: int, stop: int) -> None:
    """A piece is taken out along a dimension by numbers.

    If units lie along it, the pieces of that size are united, so that the numbers may follow. Where the piece begins and
    ends at the joint of two weights, as after ``cat``, numbers follow by themselves.
    """
    size, length = side.size(dim), stop - start
    if length >= size or length <= 0 or not differs(call.atoms.roots(side), dim):
        return
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
    _relabel(call, lambda labels: [labels.narrow(dim, start, length)] if call.name == "narrow" else [_again(call, labels)])


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
    _relabel(call, lambda labels: [labels[_on_host(index)]])


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


def joined(call: Call) -> None:
    """``cat`` and ``stack``: along all other dimensions the pieces are of one width, so they are united."""
    tensors = list(call.argument(0, "tensors"))
    shadows = [call.shadow(tensor) for tensor in tensors]
    name = {"concat": "cat", "concatenate": "cat"}.get(call.name, call.name)
    dim = call.argument(1, "dim", call.kwargs.get("axis", 0)) if name in ("cat", "stack") else None
    if dim is not None:
        dim %= call.out.dim()

    def change(sides: list[Tensor]) -> Tensor:
        if dim is None:
            return getattr(torch, name)(sides)  # type: ignore[no-any-return]
        sides = [side.unsqueeze(dim) for side in sides] if name == "stack" else sides
        sides = [side for side in sides if side.dim() == call.out.dim()]  # an empty tensor of any shape may be among them
        whole = [d for d in range(call.out.dim()) if d != dim and all(side.stride(d) == 0 for side in sides)]
        sides = [line(side, *whole) for side in sides]
        return torch.cat(sides, dim).expand(call.out.shape)

    is_weight = all(shadow.is_weight for shadow in shadows) and len({len(s.sides) for s in shadows}) == 1
    if is_weight:
        groups = [[shadow.sides[k] for shadow in shadows] for k in range(len(shadows[0].sides))]
    else:
        groups = [[call.labels(tensor) for tensor in tensors]]
    for pieces in groups:
        _tie_pieces(call, pieces, dim, name)
    sides = [change(pieces) for pieces in groups]
    states = all(shadow.is_state for shadow in shadows)
    sources = {shadow.source for shadow in shadows}
    places = None
    if len(sources) == 1 and -1 not in sources:
        places = change([shadow.places for shadow in shadows])  # type: ignore[misc]
    source = sources.pop() if len(sources) == 1 else -1
    call.tracer.set_shadow(call.out, Shadow(tuple(map(thin, sides)), is_weight, states, places, source))
    for side in sides:
        call.tracer.keep_grid(side, f"{call.why} joins pieces of one width")


def _tie_pieces(call: Call, pieces: list[Tensor], dim: int | None, name: str) -> None:
    first = next((piece for piece in pieces if piece.dim() == pieces[-1].dim()), pieces[0])
    for piece in pieces:
        if piece is first or piece.dim() != first.dim():
            continue
        if name == "stack":
            call.atoms.unite(piece, first, f"{call.why} joins it with what has to stay")
        elif dim is not None and not any(differs(call.atoms.roots(one), dim) for one in (piece, first)):
            call.atoms.unite(line(piece, dim), line(first, dim), f"{call.why} joins it with what has to stay")


def padded(call: Call) -> None:
    """Padding; what is added by a constant matches anything."""
    tensor, pad = call.data, list(call.argument(1, "pad"))
    mode = call.argument(2, "mode", "constant") if call.name == "pad" else "constant"
    labels = call.labels(tensor)
    for number in range(len(pad) // 2):
        dim, amounts = labels.dim() - 1 - number, pad[2 * number : 2 * number + 2]
        if not any(amounts):
            continue
        if not differs(call.atoms.roots(labels), dim):
            labels = line(labels, dim)
        elif mode != "constant" or min(amounts) < 0:
            call.atoms.fix(labels, f"{call.why} repeats it at its ends or cuts it")
            labels = torch.full((1,) * labels.dim(), OUTSIDE)
        else:
            shape = list(labels.shape)
            ends = []
            for amount in amounts:
                shape[dim] = amount
                ends.append(torch.full((), FREE).expand(shape))
            labels = torch.cat((ends[0], labels, ends[1]), dim)
    call.set(call.out, labels)


def fresh(call: Call) -> None:
    """Constants made on the spot, such as a first state: they match anything."""
    for out in tensors_in(call.out):
        call.set(out, torch.full((), FREE))


def written(call: Call) -> None:
    """``tensor[index] = value``."""
    tensor, index, value = call.args
    _write(call, tensor, index, call.labels(value) if isinstance(value, Tensor) else torch.tensor(FREE), value)


def _write(call: Call, tensor: Tensor, index: Any, new: Tensor, value: Any) -> None:
    shadow = call.shadow(tensor)
    labels = call.labels(tensor)
    if not call.tracer.is_written_into(tensor, labels):
        labels = labels.clone(memory_format=torch.contiguous_format)
    host = _on_host(index)
    shape = labels[host].shape
    while new.dim() > len(shape) and new.size(0) == 1:
        new = new.squeeze(0)
    roots = call.atoms.roots(new.expand(shape))
    partly = [(d, item) for d, item in index_items(index, tensor.dim()) if not isinstance(item, int)]
    for dim, item in partly:
        if isinstance(item, slice) and item.indices(tensor.size(dim)) == (0, tensor.size(dim), 1):
            continue
        places = torch.arange(tensor.size(dim)).reshape([-1 if d == dim else 1 for d in range(tensor.dim())])
        places = places.expand(tensor.shape)[host]
        if any(differs(roots, d) and differs(places, d) for d in range(len(shape))):
            call.atoms.fix(new, f"{call.why} writes it to places by number")
    if isinstance(value, Tensor) and value.dim() and shape and not differs(roots, -1) and value.size(-1) == 1 < shape[-1]:
        call.atoms.fix(new, f"{call.why} spreads it over other units")
        new = torch.tensor(FREE)
    labels[host] = new.to(labels)
    call.tracer.set_shadow(tensor, Shadow((labels,), places=shadow.places, source=shadow.source), is_writer=True)


def copied(call: Call) -> None:
    """``tensor.copy_(value)``."""
    target, value = call.args[0], call.argument(1, "src")
    call.set(target, call.labels(value) if isinstance(value, Tensor) else torch.tensor(FREE))


def packed(call: Call) -> None:
    """``pack_padded_sequence``: labels must be the same at all steps and sequences."""
    labels = compact(call.labels(call.data))
    row = line(labels, 0, 1)
    call.atoms.unite(labels, row, call.why)
    call.set(call.out[0], row.reshape(1, *row.shape[2:]))


def unpacked(call: Call) -> None:
    """``pad_packed_sequence``: the padding counts as what it pads."""
    labels = compact(call.labels(call.data))
    row = line(labels, 0)
    call.atoms.unite(labels, row, call.why)
    call.set(call.out[0], row[None])


def padded_list(call: Call) -> None:
    """``pad_sequence``: sequences side by side, of one width."""
    row = None
    for tensor in call.argument(0, "sequences"):
        own = line(call.labels(tensor), 0)
        row = own if row is None else call.join(row, own, call.why)
        call.atoms.unite(call.labels(tensor), row, call.why)
    if row is not None:
        call.set(call.out, row[None])


def indexed_write(call: Call) -> None:
    """``index_add``, ``scatter`` and their like: ``(tensor, dim, index, source)``."""
    tensor, dim = call.data, call.argument(1, "dim")
    source = call.argument(3, "source", call.kwargs.get("src", call.kwargs.get("value")))
    labels = call.labels(tensor)
    if isinstance(source, Tensor):
        index = call.argument(2, "index")
        pieces = [labels, call.labels(source)] if source.dim() else [labels]
        for piece in pieces:
            if differs(call.atoms.roots(piece), dim):
                call.atoms.fix(piece, f"{call.why} writes it to places by number")
        if call.name.startswith("scatter"):
            for d in range(tensor.dim()):
                if d != dim % tensor.dim() and index.size(d) != tensor.size(d) and differs(call.atoms.roots(labels), d):
                    call.atoms.fix(labels, f"{call.why} writes it to places by number")
        if len(pieces) > 1:
            left, right = (line(piece, dim) for piece in pieces)
            if all(a == b for a, b in zip(left.shape, right.shape, strict=True)):
                call.atoms.unite(left, right, f"{call.why} joins it with what has to stay")
                labels = torch.where(labels == FREE, right, labels)
            else:
                call.atoms.fix(right, f"{call.why} writes it to places by number")
                call.atoms.fix(left, f"{call.why} writes to places by number")
                labels = torch.full((), OUTSIDE)
    call.set(call.out, labels)


def set_data(call: Call) -> None:
    """``tensor.data`` is taken, or set."""
    if getattr(call.function, "__name__", "") == "__set__":
        call.set(call.args[0], call.labels(call.args[1]))
    else:
        same(call)


def _on_host(value: Any) -> Any:
    """Indices on the device of the labels, the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, (tuple, list)):
        return type(value)(_on_host(part) for part in value)
    return value


ATTRIBUTES = {"T", "mT", "H", "mH"}
RULES = {
    "view reshape flatten unflatten ravel view_as reshape_as view_copy unsafe_view": reshaped,
    "permute transpose swapaxes swapdims movedim moveaxis t T mT H mH flip fliplr flipud adjoint": ordered,
    "squeeze unsqueeze atleast_1d atleast_2d atleast_3d": rearranged,
    "expand repeat tile expand_as broadcast_to": repeated,
    "chunk unsafe_chunk tensor_split hsplit vsplit dsplit": halved,
    "split split_with_sizes unsafe_split unsafe_split_with_sizes": split,
    "narrow slice": narrowed,
    "select unbind": picked,
    "getitem": indexed,
    "index_select gather take_along_dim": selected,
    "roll unfold diagonal rot90 channel_shuffle": shifted,
    "repeat_interleave": multiplied,
    "real imag clone contiguous detach requires_grad to float double half bfloat16 int long short bool type type_as cpu cuda alias "
    "resolve_conj resolve_neg pin_memory lift_fresh to_copy set_grad_enabled retain_grad": same,
    "data": set_data,
    "cat concat concatenate stack hstack vstack dstack column_stack row_stack": joined,
    "pad constant_pad_nd": padded,
    "zeros ones full empty zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty scalar_tensor "
    "zero fill": fresh,
    "setitem": written,
    "copy": copied,
    "pack_padded_sequence": packed,
    "pad_packed_sequence": unpacked,
    "pad_sequence": padded_list,
    "index_add index_copy scatter scatter_add scatter_reduce index_fill index_reduce": indexed_write,
}
__all__ = ["OUTSIDE", "RULES"]
