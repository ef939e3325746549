"""Multiply gates into the columns of weight matrices, or into the units of what a layer reads.

A gate that a draw has cut off at 0 or at 1 has no gradient: its derivative after the cut is 0. So where few gates are
in between, as on a trained network, only their columns are summed up for the gradient of the gates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from l0rnn.gates.transforms import needs_plain_operations

FEW = 1 / 16  # share of the columns up to which picking them out is faster than summing up all


def fold(weight: Tensor, gates: Tensor) -> Tensor:
    """``weight * gates`` with the gradient of both; that of a gate at 0 or 1 may be left out, as a cut follows.

    Args:
        weight: `(row, column)`, or activations `(…, unit)`.
        gates: `(column,)`, in [0, 1], of the dtype of ``weight``.

    Example:
        >>> weight, gates = torch.ones(2, 2, requires_grad=True), torch.tensor([0.25, 0.5], requires_grad=True)
        >>> fold(weight, gates).sum().backward()
        >>> weight.grad[0], gates.grad
        (tensor([0.2500, 0.5000]), tensor([2., 2.]))
    """
    if needs_plain_operations():
        return weight * gates
    return _Fold.apply(weight, gates)  # type: ignore[no-any-return]


def fold_into_one_block(weights: Sequence[Tensor], gates: Sequence[Tensor | None]) -> list[Tensor]:
    """Fold several parameters into one block of memory, as cuDNN wants those of a recurrent stack; see `as_one_block`.

    Matrices lie before biases.

    Args:
        weights: matrices and biases, in torch's order.
        gates: for each the gates of its columns, `(column,)`, or None.

    Returns:
        The folded weights, in the same order.
    """
    if needs_plain_operations():
        pairs = zip(weights, gates, strict=True)
        return [weight if values is None else weight * values for weight, values in pairs]
    return list(_FoldIntoOneBlock.apply(len(weights), *weights, *gates))


def as_one_block(weights: list[Tensor]) -> list[Tensor]:
    """The weights of a recurrent stack as cuDNN reads them: on a GPU in one block of memory, elsewhere as they are.

    Given separate tensors, cuDNN's caller copies them into such a block at every call too, but it warns.
    """
    if not weights[0].is_cuda or torch.is_autocast_enabled("cuda"):  # autocast makes a block of its own
        return weights
    if len({weight.untyped_storage().data_ptr() for weight in weights}) == 1:
        return weights
    return fold_into_one_block(weights, [None] * len(weights))


class _Fold(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, gates: Tensor) -> Tensor:
        ctx.save_for_backward(weight, gates)
        # looking at the values would make the host wait for any other device
        ctx.are_open = gates.device.type == "cpu" and bool((gates == 1).all())
        return weight.view_as(weight) if ctx.are_open else weight * gates

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None]:
        (grad,) = grads
        weight, gates = ctx.saved_tensors
        of_weight, of_gates = ctx.needs_input_grad
        d_weight = (grad if ctx.are_open else grad * gates) if of_weight else None
        return d_weight, _gradient_of_gates(grad, weight, gates) if of_gates else None


class _FoldIntoOneBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        weights: Any = tensors[:count]
        gates = tensors[count:]
        ctx.count = count
        ctx.save_for_backward(*tensors)
        block = weights[0].new_empty(sum(weight.numel() for weight in weights))
        order = sorted(range(count), key=lambda place: weights[place].dim() == 1)  # stable
        pieces = block.split([weights[place].numel() for place in order])
        folded = [pieces[order.index(place)].view(weight.shape) for place, weight in enumerate(weights)]
        for weight, values, target in zip(weights, gates, folded, strict=True):
            if values is None:
                target.copy_(weight)
            else:
                torch.mul(weight, values, out=target)
        return tuple(folded)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        weights, gates = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        needs = ctx.needs_input_grad[1:]
        d_weights = [
            (grad if values is None else grad * values) if need else None
            for grad, values, need in zip(grads, gates, needs, strict=False)
        ]
        d_gates = [
            _gradient_of_gates(grad, weight, values) if need else None
            for grad, weight, values, need in zip(grads, weights, gates, needs[ctx.count :], strict=True)
        ]
        return None, *d_weights, *d_gates


def _gradient_of_gates(grad: Tensor, weight: Tensor, gates: Tensor) -> Tensor:
    """Gradient of the gates of the columns, `(column,)`, given that of the product."""
    grad, weight = (part.reshape(-1, part.size(-1)) for part in (grad, weight))
    if grad.device.type != "cpu":
        return torch.linalg.vecdot(grad, weight, dim=0)
    between = ((gates > 0) & (gates < 1)).nonzero().squeeze(1)
    if len(between) > FEW * len(gates):
        return torch.linalg.vecdot(grad, weight, dim=0)
    sums = torch.linalg.vecdot(grad.index_select(1, between), weight.index_select(1, between), dim=0)
    return torch.zeros_like(gates).index_copy(0, between, sums)
