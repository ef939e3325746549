"""Embeddings and attention."""

from __future__ import annotations

import torch
from torch import Tensor

from l0rnn.tracing.atoms import OUTSIDE, varies
from l0rnn.tracing.run import Call, Shadow


def embedding(call: Call) -> None:
    """``embedding(input, weight)`` and ``embedding_bag``: rows are words, columns the units of the result."""
    arguments = [call.argument(0, "input"), call.argument(1, "weight")]
    weight = next(argument for argument in arguments if isinstance(argument, Tensor) and argument.is_floating_point())
    result = call.out[0] if isinstance(call.out, tuple) else call.out
    shadow = call.shadow(weight)
    if len(shadow.sides) != 2 or not shadow.is_weight:
        call.fix(weight, f"{call.why} looks up what is not a parameter")
        call.set(result, torch.full((), OUTSIDE))
        return
    words, units = shadow.sides
    call.atoms.fix(words, "its rows are looked up by number")
    units = units[0]
    call.atoms.write(units)
    call.tracer.run.lookups.append(units)
    call.set(result, units)


def attention(call: Call) -> None:
    """``scaled_dot_product_attention(query, key, value)``: queries and keys are summed over, values pass."""
    query, key, value = call.args[:3]
    for tensor in (query, key):
        call.fix(tensor, f"{call.why} sums products of two activations over it")
    labels = call.labels(value)
    if varies(call.atoms.roots(labels), -2):
        call.fix(value, f"{call.why} sums over it")
        labels = torch.full(value.shape, OUTSIDE)
    call.set(call.out, labels.narrow(-2, 0, 1))


def multi_head(call: Call) -> None:
    """Torch's multi-head attention, whose one width is that of its heads, its inputs and its output."""
    call.fix_and_end(f"{call.why} splits one width into heads")


def constants(call: Call) -> None:
    """Numbers that depend on nothing, such as positions; their size stays."""
    if isinstance(call.out, Tensor):
        call.tracer.set_shadow(call.out, Shadow((torch.full((), OUTSIDE).expand(call.out.shape),)))


RULES = {
    "embedding embedding_bag": embedding,
    "scaled_dot_product_attention": attention,
    "multi_head_attention_forward native_multi_head_attention": multi_head,
    "arange linspace logspace eye tensor as_tensor rand randn randint randperm from_numpy": constants,
}
