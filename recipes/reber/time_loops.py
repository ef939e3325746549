"""Recurrences of tanh, relu and GRU layers of a few units, faster on a CPU than torch's kernels at that size.

With ten units in a layer, torch's kernels of these three cells spend their time on starting small operations, and on
a gradient of the recurrent weight for each time step. Here units come before strings, so that each gate is one piece of
memory; operations write into memory that is there already; and the gradient of the weight is one product over all
steps. Torch's LSTM kernel needs no such help.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class SimpleLoop(torch.autograd.Function):
    """h(t) = f(x(t) + W h(t-1)) from a zero state, where f is tanh or relu.

    ``apply(projected, weight, nonlinearity)``: projected input with both biases `(time, unit, batch)`, recurrent weight
    `(unit, previous)`, and ``"tanh"`` or ``"relu"``; returns all h, `(time, unit, batch)`.
    """

    @staticmethod
    def forward(ctx: Any, projected: Tensor, weight: Tensor, nonlinearity: str) -> Tensor:
        """All states."""
        activate_ = torch.tanh_ if nonlinearity == "tanh" else torch.relu_
        states = torch.empty_like(projected, memory_format=torch.contiguous_format)
        previous = None
        for inputs, state in _steps(projected, states):
            if previous is None:
                state.copy_(inputs)
            else:
                torch.addmm(inputs, weight, previous, out=state)
            activate_(state)
            previous = state
        ctx.save_for_backward(states, weight)
        ctx.nonlinearity = nonlinearity
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """Gradients of the projected input and of the recurrent weight."""
        states, weight = ctx.saved_tensors
        slopes = 1 - states.square() if ctx.nonlinearity == "tanh" else (states > 0).to(states.dtype)
        inner = gradients[0].clone(memory_format=torch.contiguous_format)  # becomes that of what f is taken of
        transposed = weight.t().contiguous()
        after = None
        for current, slope in _steps(inner, slopes, backwards=True):
            if after is not None:
                current.addmm_(transposed, after)
            current.mul_(slope)
            after = current
        return inner, _of_weight(inner, states), None


class GruLoop(torch.autograd.Function):
    """A GRU layer from a zero state, with torch's equations and order of gates: reset, update, new.

    ``apply(projected, weight, bias)``: projected input with its bias `(time, 3 unit, batch)`, recurrent weight
    `(3 unit, previous)` and bias `(3 unit,)`; returns all h, `(time, unit, batch)`.
    """

    @staticmethod
    def forward(ctx: Any, projected: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """All states."""
        steps, width, batch = projected.shape
        units = width // 3
        states, fresh = projected.new_empty(2, steps, units, batch)
        opened = projected.new_empty(steps, 2 * units, batch)  # reset and update gates
        products = projected.new_empty(steps, width, batch)
        shift = bias.unsqueeze(1).expand(width, batch)
        previous = projected.new_zeros(units, batch)
        parts = (
            *(projected[:, : 2 * units], projected[:, 2 * units :]),
            *(products, products[:, : 2 * units], products[:, 2 * units :]),
            *(opened, opened[:, :units], opened[:, units:]),
            *(fresh, states),
        )
        for in_gates, in_new, product, of_gates, of_new, gates, reset, update, new, state in _steps(*parts):
            torch.addmm(shift, weight, previous, out=product)
            torch.add(in_gates, of_gates, out=gates)
            gates.sigmoid_()
            torch.addcmul(in_new, reset, of_new, out=new)
            new.tanh_()
            torch.lerp(new, previous, update, out=state)
            previous = state
        ctx.save_for_backward(states, opened, fresh, products[:, 2 * units :], weight)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the projected input, of the recurrent weight and of its bias."""
        states, opened, fresh, read, weight = ctx.saved_tensors
        steps, units, batch = states.shape
        reset, update = opened[:, :units], opened[:, units:]
        before = torch.cat((states.new_zeros(1, units, batch), states[:-1]))
        by_new = (1 - update) * (1 - fresh.square())
        # slopes of h by the three products with the recurrent weight, at the h before held fixed
        by_products = (by_new * read * reset * (1 - reset), (before - fresh) * update * (1 - update), by_new * reset)
        slopes = torch.cat(by_products, 1)
        outer = torch.empty_like(slopes)  # gradient of the products
        total = gradients[0].clone(memory_format=torch.contiguous_format)  # becomes that of each h
        transposed = weight.t().contiguous()
        after = None
        blocks = (steps, 3, units, batch)
        for now, block, product, slope, gate in _steps(
            total, outer.view(blocks), outer, slopes.view(blocks), update, backwards=True
        ):
            if after is not None:
                now.addcmul_(*after[:2]).addmm_(transposed, after[2])
            torch.mul(now, slope, out=block)
            after = now, gate, product
        of_inputs = torch.cat((outer[:, : 2 * units], total * by_new), 1)
        return of_inputs, _of_weight(outer, states), outer.sum((0, 2))


def _steps(*parts: Tensor, backwards: bool = False) -> Iterator[tuple[Tensor, ...]]:
    """The parts of each time step."""
    return zip(*(part.unbind(0)[:: -1 if backwards else 1] for part in parts), strict=True)


def _of_weight(gradients: Tensor, states: Tensor) -> Tensor:
    """Gradient of the recurrent weight from those of its products; the first product has a zero state."""
    return torch.bmm(gradients[1:], states[:-1].transpose(1, 2)).sum(0)
