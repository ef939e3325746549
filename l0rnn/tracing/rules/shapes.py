"""Operations that put elements elsewhere without computing with them: the same is done to the labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l0rnn.tracing.rules.atoms import FREE, OUTSIDE, compact, differs, line, thin
from l0rnn.tracing.rules.elementwise import leaves_torch
from l0rnn.tracing.rules.run import Call, Shadow, tensors_in

KEEPS_STATES = {"stack", "cat", "unsqueeze", "squeeze", "contiguous", "clone", "detach", "to", "index_select"}


def rearranged(call: Call) -> None:
    """Permutations, copies and other orders of all elements of one tensor."""
    relabel(call, lambda labels: results(again(call, labels)))


def again(call: Call, labels: Tensor) -> Any:
    """The operation, done to labels."""
    if call.name in ATTRIBUTES:
        return getattr(labels, call.name)
    args = list(call.args)
    kwargs = {name: on_host(value) for name, value in call.kwargs.items() if name != "input"}
    args = [labels, *(on_host(argument) for argument in args[1:])]
    return call.function(*args, **kwargs)


def results(result: Any) -> list[Tensor]:
    """The tensors that an operation returns."""
    return list(tensors_in(result))


def relabel(call: Call, change: Any) -> None:
    """Label all results by the changed labels of the first tensor."""
    shadow = call.shadow(call.data)
    outs = list(tensors_in(call.out))
    changed = [change(side) for side in shadow.sides]
    places = None if shadow.places is None else change(shadow.places)
    is_state = shadow.is_state and call.name in KEEPS_STATES
    for number, out in enumerate(outs):
        sides = tuple(thin(side[number]) for side in changed)
        place = None if places is None else places[number]
        counted = shadow.counted if out.dim() and out.size(-1) == call.data.size(-1) else ()
        call.tracer.set_shadow(out, Shadow(sides, shadow.is_weight, is_state, place, shadow.source, (), counted))


def reshaped(call: Call) -> None:
    """``view``, ``reshape`` and their like: what units are laid out in must stay a grid."""
    if any(isinstance(argument, torch.dtype) for argument in (*call.args[1:], *call.kwargs.values())):
        call.fix_and_end(f"{call.why} takes its bytes for another type")
        return
    relabel(call, lambda labels: [_reshape(labels, call.out.shape)])
    flexible = _flexible(call)
    for side in call.shadow(call.out).sides:
        fixed = [d for d in range(side.dim()) if d != flexible and differs(call.atoms.roots(side), d)]
        if fixed and flexible is not None and differs(call.atoms.roots(side), flexible):
            call.atoms.unite(side, line(side, *fixed), f"{call.why} lays it out in a grid")
        call.tracer.keep_grid(side, f"{call.why} lays it out in a grid")
        for dim in range(side.dim()):
            if differs(call.atoms.roots(side), dim):
                count_along(call, side, dim)


def _flexible(call: Call) -> int | None:
    """The dimension that is asked for as -1, and so is the one that a removal makes smaller; None if there is none."""
    if call.name in ("flatten", "ravel", "view_as", "reshape_as"):
        return None
    sizes = [argument for value in (*call.args[1:], *call.kwargs.values()) for argument in _flat(value)]
    if call.name == "unflatten":
        dim, *sizes = sizes
        return (dim % call.data.dim()) + sizes.index(-1) if -1 in sizes else None
    return sizes.index(-1) if -1 in sizes else None


def _flat(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


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
        relabel(call, lambda labels: [labels.expand(shape)])
    else:
        rearranged(call)
    lead = out.dim() - tensor.dim()
    spread = [d for d in range(out.dim()) if out.size(d) > 1 and (d < lead or tensor.size(d - lead) == 1)]
    found = call.shadow(out)
    call.tracer.set_shadow(out, Shadow(found.sides, found.is_weight, spread=tuple(spread), counted=found.counted))


def same(call: Call) -> None:
    """The same elements in the same order: copies, casts, devices."""
    tensor = call.data
    if not isinstance(call.out, Tensor):
        if call.name in ("float", "int", "bool", "complex"):
            leaves_torch(call)
    elif call.out.shape == tensor.shape:
        found = call.shadow(tensor)
        strides = zip(tensor.shape, tensor.stride(), strict=True) if tensor.layout == torch.strided else ()
        spread = {d for d, (size, stride) in enumerate(strides) if size > 1 and stride == 0} | set(found.spread)
        is_state = found.is_state and call.name in KEEPS_STATES
        new = Shadow(found.sides, found.is_weight, is_state, found.places, found.source, tuple(spread), found.counted)
        call.tracer.set_shadow(call.out, new)


def count_along(call: Call, labels: Tensor, dim: int) -> None:
    """Note the number of units along a dimension, where they differ along that one alone."""
    others = [d for d in range(labels.dim()) if d != dim % labels.dim()]
    if not any(differs(call.atoms.roots(labels), d) for d in others):
        keys = call.tracer.numbers(labels.size(dim))
        call.tracer.count(keys, line(labels, *others).reshape(-1), call.why)


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
        sides = [
            side for side in sides if side.dim() == call.out.dim()
        ]  # an empty tensor of any shape may be among them
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


def set_data(call: Call) -> None:
    """``tensor.data`` is taken, or set."""
    if getattr(call.function, "__name__", "") == "__set__":
        call.set(call.args[0], call.labels(call.args[1]))
    else:
        same(call)


def on_host(value: Any) -> Any:
    """Indices on the device of the labels, the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, (tuple, list)):
        return type(value)(on_host(part) for part in value)
    return value


ATTRIBUTES = {"T", "mT", "H", "mH"}
RULES = {
    "view reshape flatten unflatten ravel view_as reshape_as view_copy unsafe_view": reshaped,
    "permute transpose swapaxes swapdims movedim moveaxis t T mT H mH flip fliplr flipud adjoint": ordered,
    "squeeze unsqueeze atleast_1d atleast_2d atleast_3d": rearranged,
    "expand repeat tile expand_as broadcast_to": repeated,
    "real imag clone contiguous detach requires_grad to float double half bfloat16 int long short bool type "
    "type_as cpu cuda alias resolve_conj resolve_neg pin_memory lift_fresh to_copy set_grad_enabled retain_grad": same,
    "data": set_data,
    "cat concat concatenate stack hstack vstack dstack column_stack row_stack": joined,
    "pad constant_pad_nd": padded,
    "pack_padded_sequence": packed,
    "pad_packed_sequence": unpacked,
    "pad_sequence": padded_list,
}
