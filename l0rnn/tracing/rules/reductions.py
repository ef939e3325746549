"""Operations over a whole dimension: harmless over time or sequences, and the end of units that they add up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l0rnn.tracing.rules.atoms import FREE, OUTSIDE, differs, thin
from l0rnn.tracing.rules.elementwise import elementwise, repeated
from l0rnn.tracing.rules.run import Call, Shadow, tensors_in

# where `dim` stands among the positional arguments, if not second
SPECTRA = "fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft"
THIRD = f"norm vector_norm linalg_vector_norm matrix_norm topk kthvalue quantile diff {SPECTRA}"
PLACES = {**dict.fromkeys(THIRD.split(), 2), "gumbel_softmax": 4}


def dimension(call: Call, default: Any = None) -> Any:
    """The argument ``dim``, which numpy's users call ``axis``."""
    dim = call.argument(PLACES.get(call.name, 1), "dim", call.kwargs.get("axis"))
    return default if dim is None or isinstance(dim, (torch.dtype, bool)) else dim


def _dimensions(call: Call, tensor: Tensor) -> list[int]:
    dim = dimension(call)
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        return list(range(tensor.dim()))
    return [d % max(1, tensor.dim()) for d in (dim if isinstance(dim, (tuple, list)) else [dim])]


def reduced(call: Call) -> None:
    """Sums, means, extrema, norms."""
    tensor = call.data
    if call.name in ("max", "min") and isinstance(call.argument(1, "other"), Tensor):  # of two tensors
        elementwise(call)
        return
    dims = _dimensions(call, tensor)
    shadow = call.shadow(tensor)
    rest = []
    for side in shadow.sides:
        over = any(differs(call.atoms.roots(side), d) for d in dims)
        kept = call.tie_or_fix(side, dims, f"{call.why} runs over it")
        if not over or not shadow.is_weight:
            rest.append(kept)
    for out in tensors_in(call.out):
        keeps = out.dim() == tensor.dim() and tensor.dim() > 0
        sides = []
        for side in rest:
            for d in () if keeps else sorted(dims, reverse=True):
                side = side.squeeze(d)
            sides.append(thin(side.expand(out.shape)))
        labels = tuple(sides) or (torch.full((), OUTSIDE).expand(out.shape),)
        spread = sorted(d + tensor.dim() for d in repeated(call, tensor) if d + tensor.dim() not in dims)
        spread = spread if keeps else [d - sum(1 for other in dims if other < d) for d in spread]
        call.tracer.set_shadow(out, Shadow(labels, shadow.is_weight and bool(rest), spread=tuple(spread)))


def along(call: Call) -> None:
    """Operations that mix elements along a dimension and leave the others: softmax, sums, sorting, spectra."""
    tensor = call.data
    dim = dimension(call)
    if dim is None:
        is_softmax = call.name.endswith(("softmax", "softmin")) and call.name != "gumbel_softmax"
        dim = 0 if is_softmax and tensor.dim() in (0, 1, 3) else 1 if is_softmax else -1
    if not tensor.dim():
        for out in tensors_in(call.out):
            call.set(out, call.labels(tensor))
        return
    labels = call.labels(tensor)
    dims = [d % tensor.dim() for d in (dim if isinstance(dim, (tuple, list)) else [dim])]
    labels = call.tie_or_fix(labels, dims, f"{call.why} runs over it")
    for out in tensors_in(call.out):
        call.set(out, labels)


def unit_norm(call: Call) -> None:
    """``normalize(input, p, dim)``: divides by a norm over a dimension, 1 by default."""
    labels = call.labels(call.data)
    dim = call.argument(2, "dim", 1)
    dims = [d % labels.dim() for d in (dim if isinstance(dim, (tuple, list)) else [dim])]
    kept = call.tie_or_fix(labels, dims, f"{call.why} takes a norm over it")
    call.set(call.out, torch.where(labels == FREE, FREE, kept))


RULES = {
    "sum mean prod amax amin max min any all norm vector_norm linalg_vector_norm matrix_norm std var logsumexp median "
    "nanmean nansum nanmedian mode argmax argmin count_nonzero aminmax std_mean var_mean quantile": reduced,
    f"softmax log_softmax softmin gumbel_softmax cumsum cumprod cummax cummin sort argsort topk kthvalue diff "
    f"logcumsumexp {SPECTRA}": along,
    "normalize": unit_norm,
}
