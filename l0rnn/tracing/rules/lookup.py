"""Embeddings and attention."""

from __future__ import annotations

import torch
from torch import Tensor

from l0rnn.tracing.rules.atoms import OUTSIDE, line
from l0rnn.tracing.rules.products import FROM_OUTSIDE
from l0rnn.tracing.rules.run import Call, Reading


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
    words, columns = shadow.sides
    units = line(columns, 0)[0]
    call.atoms.unite(columns, units, call.why)
    call.atoms.fix(words, "its rows are looked up by number")
    if call.argument(3, "max_norm") is not None:
        call.atoms.fix(units, f"{call.why} takes a norm over it")
    call.atoms.write(units)
    call.atoms.make_by_lookup(units)
    call.tracer.run.lookups.append(units)
    call.set(result, units)


def attention(call: Call) -> None:
    """``scaled_dot_product_attention(query, key, value)``: queries and keys are summed over, values pass."""
    query, key, value = (call.argument(place, name) for place, name in enumerate(("query", "key", "value")))
    for tensor in (query, key, call.argument(3, "attn_mask")):
        if isinstance(tensor, Tensor):
            call.fix(tensor, f"{call.why} sums products of two activations over it")
    labels = call.labels(value)
    call.set(call.out, call.tie_or_fix(labels, [labels.dim() - 2], f"{call.why} sums over it"))
    steps = query.numel() // query.size(-1) * key.size(-2)  # pairs of a query and a key
    _count(call, steps * (query.size(-1) + value.size(-1)))


def _count(call: Call, multiply_adds: int) -> None:
    """Note multiply-adds of which no unit can be removed."""
    stays = torch.full((1,), OUTSIDE)
    call.tracer.run.readings.append(Reading(call.tracer.module, call.name, stays, stays, multiply_adds))


def multi_head(call: Call) -> None:
    """Torch's multi-head attention, whose one width is that of its heads, its queries and its output.

    Keys and values of widths of their own (``kdim``, ``vdim``) are read by weights of their own.
    """
    data = [call.argument(place, name) for place, name in enumerate(("query", "key", "value"))]
    own = [call.argument(20, "k_proj_weight"), call.argument(21, "v_proj_weight")]
    is_separate = bool(call.kwargs.get("use_separate_proj_weight")) and all(isinstance(one, Tensor) for one in own)
    if is_separate:
        for tensor, weight in zip(data[1:], own, strict=True):
            shadow = call.shadow(weight)
            if len(shadow.sides) == 2 and shadow.is_weight:
                columns = line(shadow.sides[1], 0)[0]
                call.atoms.unite(columns, call.labels(tensor), FROM_OUTSIDE)
                call.atoms.read(columns)
                rows = torch.full((weight.size(0),), OUTSIDE)
                positions = tensor.numel() // tensor.size(-1)
                call.tracer.run.readings.append(Reading(call.tracer.module, call.name, rows, columns, positions))
    for tensor in [value for name, value in call.kwargs.items() if isinstance(value, Tensor)] + list(call.args):
        if not (is_separate and any(tensor is one for one in (*data[1:], *own))) and isinstance(tensor, Tensor):
            call.fix(tensor, f"{call.why} splits one width into heads")
    if is_separate:
        for weight in own:
            call.atoms.fix(call.shadow(weight).sides[0], f"{call.why} splits one width into heads")
        if data[0] is data[1] or data[0] is data[2]:
            call.fix(data[0], f"{call.why} splits one width into heads")
    for out in (out for out in call.out if isinstance(out, Tensor)):
        call.set(out, torch.full((), OUTSIDE))
    query, key, value = data  # (time, batch, unit) or (time, unit)
    width = query.size(-1)
    projected = [query, query] if is_separate else [query, query, key, value]  # the query's, and that of the output
    pairs = query.numel() // width * key.size(0)
    _count(call, sum(one.numel() for one in projected) * width + 2 * pairs * width)


def constants(call: Call) -> None:
    """Numbers that depend on nothing, such as positions; their size stays."""
    if isinstance(call.out, Tensor):
        call.set(call.out, torch.full((), OUTSIDE))


RULES = {
    "embedding embedding_bag": embedding,
    "scaled_dot_product_attention": attention,
    "multi_head_attention_forward native_multi_head_attention": multi_head,
    "arange linspace logspace eye tensor as_tensor rand randn randint randperm from_numpy hann_window hamming_window "
    "blackman_window bartlett_window kaiser_window fft_fftfreq fft_rfftfreq tril_indices triu_indices meshgrid "
    "cartesian_prod": constants,
}
