"""Operations over a whole dimension: harmless over time or sequences, and the end of units that they add up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l0rnn.tracing.atoms import OUTSIDE, thin, varies
from l0rnn.tracing.run import Call, Shadow, tensors_in


def _dimensions(call: Call, tensor: Tensor, position: int = 1) -> list[int]:
    dim: Any = call.argument(position, "dim")
    if dim is None or isinstance(dim, (torch.dtype, bool)) or (isinstance(dim, (tuple, list)) and not dim):
        return list(range(tensor.dim()))
    return [d % max(1, tensor.dim()) for d in (dim if isinstance(dim, (tuple, list)) else [dim])]


def reduced(call: Call) -> None:
    """Sums, means, extrema, norms: ``f(tensor, dim, keepdim)``; norms have ``dim`` third."""
    tensor = call.args[0] if call.args else call.kwargs["input"]
    if call.name in ("max", "min") and isinstance(call.argument(1, "other"), Tensor):  # of two tensors
        from l0rnn.tracing.rules.elementwise import elementwise

        elementwise(call)
        return
    dims = _dimensions(call, tensor, 2 if call.name in ("norm", "vector_norm", "logcumsumexp") else 1)
    shadow = call.shadow(tensor)
    over, rest = [], []
    for side in shadow.sides:
        (over if any(varies(call.atoms.roots(side), d) for d in dims) else rest).append(side)
    for side in over:
        call.atoms.fix(side, f"{call.why} runs over it")
    for out in tensors_in(call.out):
        keeps = out.dim() == tensor.dim() and tensor.dim() > 0
        sides = []
        for side in rest:
            for d in sorted(dims, reverse=True):
                side = side.narrow(d, 0, 1) if keeps else side.select(d, 0)
            sides.append(thin(side.expand(out.shape)))
        labels = tuple(sides) or (torch.full((), OUTSIDE).expand(out.shape),)
        call.tracer.set_shadow(out, Shadow(labels, shadow.is_weight and bool(rest)))


def along(call: Call) -> None:
    """Operations that mix elements along a dimension and keep the shape: softmax, cumulative sums, sorting."""
    tensor = call.args[0] if call.args else call.kwargs["input"]
    dim = call.argument(1, "dim", -1)
    if call.name in ("sort", "argsort", "topk", "kthvalue"):
        dim = call.argument(2 if call.name in ("topk", "kthvalue") else 1, "dim", -1)
    dim = -1 if dim is None or isinstance(dim, bool) else dim
    labels = call.labels(tensor)
    if tensor.dim() and varies(call.atoms.roots(labels), dim):
        call.fix(tensor, f"{call.why} runs over it")
        labels = torch.full(tensor.shape, OUTSIDE)
    for out in tensors_in(call.out):
        one = labels.narrow(dim, 0, 1) if tensor.dim() and out.shape != tensor.shape else labels
        call.set(out, one)


def unit_norm(call: Call) -> None:
    """``normalize(input, p, dim)``: divides by a norm over a dimension, 1 by default."""
    tensor = call.args[0]
    dim = call.argument(2, "dim", 1)
    if varies(call.atoms.roots(call.labels(tensor)), dim):
        call.fix(tensor, f"{call.why} takes a norm over it")
    call.set(call.out, call.labels(tensor))


RULES = {
    "sum mean prod amax amin max min any all norm vector_norm matrix_norm std var logsumexp median nanmean nansum argmax "
    "argmin count_nonzero aminmax std_mean var_mean": reduced,
    "softmax log_softmax softmin gumbel_softmax cumsum cumprod cummax cummin sort argsort topk kthvalue "
    "logcumsumexp": along,
    "normalize": unit_norm,
}
