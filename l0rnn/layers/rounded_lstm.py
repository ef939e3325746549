"""An LSTM layer for training on a CPU whose matrix products round their factors to bfloat16.

``torch.set_float32_matmul_precision("medium")`` lets a matrix product do that, and a CPU with AMX or AVX-512 BF16 is
then faster. Torch's recurrent kernel for the CPU does not follow it. This one does: the products over
all steps are torch's own, and each step has one more, with weights that are rounded once for all of them. A loop over
time is no loss here, for torch's kernel has one inside too, and a step of some hundred units takes far longer than
starting it.

Reference:
    Hochreiter, Schmidhuber, Long Short-Term Memory (1997), in the form and with the order of gates of torch.nn.LSTM.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from l0rnn.transforms import needs_plain_operations

WIDE = 300  # units below which rounding need not pay (recipes/penn_treebank/rounding_time.py)
GATES = 4  # input, forget, cell, output


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for it; without them it takes longer than float32.

    Example:
        >>> multiplies_bfloat16() in (True, False)
        True
    """
    found = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch does not tell, and is taken not to
    return bool(found.get("amx_bf16") or found.get("avx512_bf16"))


def may_round(data: Tensor) -> bool:
    """Whether the products of a layer that is trained on this may round their factors, and gain by it.

    Example:
        >>> may_round(torch.zeros(7, 2, 3))  # not unless asked for by torch.set_float32_matmul_precision("medium")
        False
    """
    return (
        torch.is_grad_enabled()
        and not needs_plain_operations()
        and data.device.type == "cpu"
        and data.dtype == torch.float32
        and torch.get_float32_matmul_precision() == "medium"
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and multiplies_bfloat16()
    )


def is_for_rounding(layer: Any, data: Tensor, weights: Sequence[Tensor], batch_sizes: Tensor | None) -> bool:
    """Whether `rounded_lstm` may stand for torch's kernel in this call, and is faster.

    Args:
        layer: the recurrent layer, with torch's options.
        data: what it reads, `(time, batch, feature)`.
        weights: those it computes with, in torch's order.
        batch_sizes: those of a PackedSequence, or None.
    """
    return (
        may_round(data)
        and layer.mode == "LSTM"
        and weights[1].dtype == torch.float32
        and weights[1].size(1) >= WIDE
        and batch_sizes is None
        and not (layer.batch_first or layer.bidirectional or layer.proj_size)
    )


def rounded_lstm(data: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """One layer in one direction, time first; sums within a product stay in float32.

    Args:
        data: `(time, batch, feature)`, float32.
        state: h and c, each `(1, batch, unit)`.
        weights: ``weight_ih``, ``weight_hh`` and, if there are any, ``bias_ih`` and ``bias_hh``, as torch has them.

    Returns:
        The output `(time, batch, unit)`, and h and c after the last step, each `(1, batch, unit)`. Gradients of
        gradients are not to be had.

    Example:
        >>> layer = torch.nn.LSTM(3, 5)
        >>> data, state = torch.randn(7, 2, 3), (torch.zeros(1, 2, 5), torch.zeros(1, 2, 5))
        >>> output, (h, c) = rounded_lstm(data, state, list(layer.parameters()))
        >>> torch.allclose(output, layer(data, state)[0], atol=0.02), torch.equal(output[-1:], h)
        (True, True)
    """
    h, c = state
    w_ih, w_hh, *biases = weights
    bias = biases[0] + biases[1] if biases else w_ih.new_zeros(len(w_ih))
    output, last_c = _RoundedLSTM.apply(data, h[0], c[0], w_ih, w_hh, bias)
    return output, [output[-1:], last_c[None]]


class _RoundedLSTM(torch.autograd.Function):
    """Inside, units come before sequences: the weights are then the left factor of a step, which needs no packing."""

    @staticmethod
    def forward(
        ctx: Any, data: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        steps, batch, _ = data.shape
        size = w_hh.size(1)
        rounded = w_hh.bfloat16()
        gates = torch.addmm(bias, data.flatten(0, 1), w_ih.t()).view(steps, batch, -1)
        gates = gates.transpose(1, 2).contiguous()  # (time, gate unit, batch)
        outputs = data.new_empty(steps, size, batch)
        cells = data.new_empty(steps + 1, size, batch)
        squashed = torch.empty_like(outputs)  # tanh of the cells
        cells[0] = c.t()
        read = h.t().bfloat16()
        for step in range(steps):
            gates[step] += rounded @ read
            i, f, g, o = gates[step].split(size)
            for sigmoid in (i, f, o):
                sigmoid.sigmoid_()
            g.tanh_()
            torch.mul(f, cells[step], out=cells[step + 1]).addcmul_(i, g)
            torch.tanh(cells[step + 1], out=squashed[step])
            torch.mul(o, squashed[step], out=outputs[step])
            read = outputs[step].bfloat16()
        output = outputs.transpose(1, 2).contiguous()
        ctx.save_for_backward(data, h, w_ih, rounded, gates, cells, squashed, output)
        return output, cells[-1].t().contiguous()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, d_output: Tensor, d_last_c: Tensor) -> tuple[Tensor | None, ...]:
        data, h, w_ih, rounded, gates, cells, squashed, output = ctx.saved_tensors
        steps, _, batch = gates.shape
        size = rounded.size(1)
        i, _, g, o = gates.split(size, 1)
        # for all steps at once: the derivative of each activation times what it is multiplied by
        d_gates = torch.addcmul(gates, gates, gates, value=-1)  # sigmoid: s - s², (time, gate unit, batch)
        d_i, d_f, d_g, d_o = d_gates.split(size, 1)
        d_i *= g
        d_f *= cells[:-1]
        torch.mul(1 - g * g, i, out=d_g)
        d_o *= squashed
        through_tanh = o * (1 - squashed * squashed)

        transposed = rounded.t().contiguous()  # (unit, gate unit)
        d_outputs = d_output.transpose(1, 2).contiguous()
        d_h = torch.zeros_like(d_outputs[0])
        d_c = d_last_c.t().clone()
        for step in reversed(range(steps)):
            d_h = d_outputs[step].add_(d_h)
            d_c.addcmul_(d_h, through_tanh[step])
            d_gates[step, : 3 * size].view(3, size, batch).mul_(d_c)
            d_o[step] *= d_h
            d_h = transposed @ d_gates[step].bfloat16()
            d_c *= gates[step, size : 2 * size]

        rows = d_gates.transpose(0, 1).reshape(GATES * size, -1)  # (gate unit, time batch)
        needs = ctx.needs_input_grad
        d_data = (rows.t() @ w_ih).view_as(data) if needs[0] else None
        d_w_ih = rows @ data.flatten(0, 1) if needs[3] else None
        d_w_hh = rows @ torch.cat((h[None], output[:-1])).flatten(0, 1) if needs[4] else None
        return d_data, d_h.t().float(), d_c.t(), d_w_ih, d_w_hh, rows.sum(1)
