"""Constants made on the spot, and tensors that are written into."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l0rnn.tracing.rules.atoms import FREE, OUTSIDE, differs, line
from l0rnn.tracing.rules.pieces import index_items
from l0rnn.tracing.rules.run import Call, Shadow, tensors_in
from l0rnn.tracing.rules.shapes import on_host


def fresh(call: Call) -> None:
    """Constants made on the spot, such as a first state: they match anything.

    The width of some is a number of the user's, such as ``self.hidden_size``, which has to follow the units they meet.
    """
    is_by_number = not call.name.endswith("like") and call.name not in ("zero", "fill", "scalar_tensor")
    for out in tensors_in(call.out):
        keys = call.tracer.numbers(out.size(-1)) if out.dim() > 1 and is_by_number else ()
        call.set(out, torch.full((), FREE), counted=keys)


def written(call: Call) -> None:
    """``tensor[index] = value``."""
    tensor, index, value = call.args
    _write(call, tensor, index, call.labels(value) if isinstance(value, Tensor) else torch.tensor(FREE), value)


def _write(call: Call, tensor: Tensor, index: Any, new: Tensor, value: Any) -> None:
    shadow = call.shadow(tensor)
    labels = call.labels(tensor)
    if not call.tracer.is_written_into(tensor, labels):
        labels = labels.clone(memory_format=torch.contiguous_format)
    host = on_host(index)
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
    if (
        isinstance(value, Tensor)
        and value.dim()
        and shape
        and not differs(roots, -1)
        and value.size(-1) == 1 < shape[-1]
    ):
        call.atoms.fix(new, f"{call.why} spreads it over other units")
        new = torch.tensor(FREE)
    call.atoms.unite(labels[host], new, f"{call.why} writes it beside what has to stay")
    call.meet(tensor, new.expand(shape))
    labels[host] = new.to(labels)
    call.tracer.set_shadow(tensor, Shadow((labels,), counted=shadow.counted), is_writer=True)


def copied(call: Call) -> None:
    """``tensor.copy_(value)``."""
    target, value = call.args[0], call.argument(1, "src")
    call.set(target, call.labels(value) if isinstance(value, Tensor) else torch.tensor(FREE))


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


RULES = {
    "zeros ones full empty zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty "
    "scalar_tensor zero fill": fresh,
    "setitem": written,
    "copy": copied,
    "index_add index_copy scatter scatter_add scatter_reduce index_fill index_reduce": indexed_write,
}
