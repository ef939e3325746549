"""Operations that put elements elsewhere without computing with them: the same is done to the labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l0rnn.tracing.atoms import FREE, OUTSIDE, thin
from l0rnn.tracing.run import Call, Shadow, tensors_in

KEEPS_STATES = {"stack", "cat", "unsqueeze", "squeeze", "contiguous", "clone", "detach", "to"}


def rearranged(call: Call) -> None:
    """Views, permutations, pieces and copies of one tensor."""
    tensor = call.args[0] if call.args else next(iter(call.kwargs.values()))
    shadow = call.shadow(tensor)
    outs = list(tensors_in(call.out))

    def change(labels: Tensor) -> list[Tensor]:
        if call.name in ("expand_as", "view_as", "reshape_as"):
            method = getattr(labels, call.name.removesuffix("_as"))
            return [method(call.args[1].shape)]
        args = [labels, *(_on_host(argument) for argument in call.args[1:])]
        if call.name in ATTRIBUTES:
            return [getattr(labels, call.name)]
        result = call.function(*args, **{name: _on_host(value) for name, value in call.kwargs.items()})
        return list(tensors_in(result))

    changed = [change(side) for side in shadow.sides]
    places = None if shadow.places is None else change(shadow.places)
    is_state = shadow.is_state and call.name in KEEPS_STATES
    for number, out in enumerate(outs):
        sides = tuple(thin(side[number]) for side in changed)
        place = None if places is None else places[number]
        call.tracer.set_shadow(out, Shadow(sides, shadow.is_weight, is_state, place, shadow.source))


def same(call: Call) -> None:
    """The same elements in the same order: copies, casts, devices."""
    tensor = call.args[0]
    if isinstance(call.out, Tensor) and call.out.shape == tensor.shape:
        call.tracer.set_shadow(call.out, call.shadow(tensor))


def joined(call: Call) -> None:
    """``cat`` and ``stack``."""
    tensors = list(call.argument(0, "tensors"))
    shadows = [call.shadow(tensor) for tensor in tensors]
    options: dict[str, Any] = {"dim": call.argument(1, "dim", 0)} if call.name in ("cat", "stack", "concat") else {}
    name = "cat" if call.name in ("concat", "concatenate") else call.name

    def change(sides: list[Tensor]) -> Tensor:
        sides = [side for side, tensor in zip(sides, tensors, strict=True) if tensor.numel() or tensor.dim() > 1]
        return getattr(torch, name)(sides, **options)  # type: ignore[no-any-return]

    is_weight = all(shadow.is_weight for shadow in shadows) and len({len(s.sides) for s in shadows}) == 1
    if is_weight:
        sides = [change([shadow.sides[k] for shadow in shadows]) for k in range(len(shadows[0].sides))]
    else:
        sides = [change([call.labels(tensor) for tensor in tensors])]
    states = all(shadow.is_state for shadow in shadows)
    sources = {shadow.source for shadow in shadows}
    places = None
    if len(sources) == 1 and -1 not in sources:
        places = change([shadow.places for shadow in shadows])  # type: ignore[misc]
    source = sources.pop() if len(sources) == 1 else -1
    call.tracer.set_shadow(call.out, Shadow(tuple(map(thin, sides)), is_weight, states, places, source))


def padded(call: Call) -> None:
    """Padding by a constant: what is added matches anything."""
    tensor, pad = call.args[0], call.argument(1, "pad")
    if call.argument(2, "mode", "constant") == "constant":
        labels = torch.nn.functional.pad(call.labels(tensor).double(), pad, value=FREE).long()
    else:
        labels = torch.nn.functional.pad(call.labels(tensor).double(), pad, mode=call.argument(2, "mode")).long()
    call.set(call.out, labels)


def fresh(call: Call) -> None:
    """Constants made on the spot, such as a first state: they match anything, and can be written into."""
    if isinstance(call.out, Tensor):
        dense = call.name != "scalar_tensor" and call.out.numel() < 2**26
        labels = torch.full(call.out.shape, FREE) if dense else torch.full((), FREE).expand(call.out.shape)
        call.tracer.set_shadow(call.out, Shadow((labels,)))


def written(call: Call) -> None:
    """``tensor[index] = value``."""
    tensor, index, value = call.args
    shadow = call.shadow(tensor)
    labels = shadow.sides[-1]
    new = call.labels(value) if isinstance(value, Tensor) else torch.tensor(FREE)
    if any(stride == 0 and size > 1 for size, stride in zip(labels.shape, labels.stride(), strict=True)):
        labels = labels.clone()
    labels[_on_host(index)] = new.to(labels)
    call.tracer.set_shadow(tensor, Shadow((labels,), places=shadow.places, source=shadow.source))


def copied(call: Call) -> None:
    """``tensor.copy_(value)``: into a view the labels go by the same view."""
    target, value = call.args[0], call.args[1]
    labels = call.shadow(target).sides[-1]
    new = call.labels(value).expand(target.shape)
    if all(stride != 0 or size <= 1 for size, stride in zip(labels.shape, labels.stride(), strict=True)):
        labels.copy_(new)
    else:
        call.set(target, new)


def packed(call: Call) -> None:
    """``pack_padded_sequence``: labels must be the same at all steps and sequences."""
    labels = call.labels(call.args[0])
    row = _one_row(call, labels)
    if row is not None:
        call.set(call.out[0], row)


def unpacked(call: Call) -> None:
    """``pad_packed_sequence``: the padding matches anything, and so counts as what it pads."""
    labels = call.labels(call.args[0])
    call.set(call.out[0], labels[:1] if labels.numel() else labels)


def _one_row(call: Call, labels: Tensor) -> Tensor | None:
    row = labels[:1, :1]
    call.atoms.unite(labels, row.expand(labels.shape), call.why)
    return row.reshape(1, *labels.shape[2:])


def indexed_write(call: Call) -> None:
    """``index_add``, ``scatter`` and their like, with the arguments (tensor, dim, index, source)."""
    tensor, source = call.args[0], call.args[3] if len(call.args) > 3 else call.kwargs.get("source")
    labels = call.labels(tensor)
    if isinstance(source, Tensor):
        dim, index = int(call.args[1]), call.args[2].cpu()
        moved = call.labels(source)
        base = labels.gather(dim, index) if call.name.startswith("scatter") else labels.index_select(dim, index)
        united = call.join(base, moved, call.why).expand(base.shape)
        new = labels.clone()
        new = new.scatter(dim, index, united) if call.name.startswith("scatter") else new.index_copy(dim, index, united)
        labels = new
    call.set(call.out, labels)


def _on_host(value: Any) -> Any:
    """Indices on the device of the labels, the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, (tuple, list)):
        return type(value)(_on_host(part) for part in value)
    return value


ATTRIBUTES = {"T", "mT", "H", "mH", "data", "real"}
RULES = {
    "view reshape flatten unflatten permute transpose swapaxes swapdims movedim moveaxis squeeze unsqueeze expand repeat "
    "tile chunk split split_with_sizes tensor_split unsafe_chunk unsafe_split narrow select getitem index_select gather "
    "take_along_dim flip fliplr flipud roll unbind t rot90 unfold diagonal repeat_interleave unflatten hsplit vsplit dsplit "
    "expand_as view_as reshape_as T mT H mH data real atleast_1d atleast_2d atleast_3d masked_select "
    "channel_shuffle": rearranged,
    "clone contiguous detach requires_grad to float double half bfloat16 type type_as cpu cuda alias "
    "resolve_conj resolve_neg pin_memory lift_fresh": same,
    "cat concat concatenate stack hstack vstack dstack column_stack row_stack": joined,
    "pad constant_pad_nd": padded,
    "zeros ones full empty zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty scalar_tensor "
    "zero fill": fresh,
    "setitem": written,
    "copy": copied,
    "pack_padded_sequence": packed,
    "pad_packed_sequence": unpacked,
    "index_add index_copy scatter scatter_add index_fill": indexed_write,
}
__all__ = ["OUTSIDE", "RULES"]
