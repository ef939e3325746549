"""Recurrences of several layers of a few units side by side, faster on a CPU than torch's kernels at that size.

With fifty units in a layer and a few dozen strings, torch's kernels of tanh, relu and GRU cells spend much of their
time on starting small operations, and with ten units the LSTM's does so as well. Here the layers of several networks,
called members, are one batch of matrix products, so that each operation has more to do; operations write into memory
that is there already; and the gradient of the weights is one product over all steps. Columns are strings within steps:
column ``step * strings + string``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_of_tanh: Any = torch.ops.aten.tanh_backward.grad_input
_of_sigmoid: Any = torch.ops.aten.sigmoid_backward.grad_input
_of_relu: Any = torch.ops.aten.threshold_backward.grad_input


class SimpleLoop(torch.autograd.Function):
    """h(t) = f(x(t) + W h(t-1)) from a zero state, where f is tanh or relu.

    ``apply(projected, weight, steps, nonlinearity)``: projected input with both biases `(member, unit, column)`,
    recurrent weight `(member, unit, previous)`, the number of steps, and ``"tanh"`` or ``"relu"``; returns all h,
    `(member, unit, column)`.
    """

    @staticmethod
    def forward(ctx: Any, projected: Tensor, weight: Tensor, steps: int, nonlinearity: str) -> Tensor:
        """All states."""
        inputs = _by_step(projected, steps)
        states = projected.new_empty(steps, *inputs[0].shape)
        before = torch.zeros_like(states[0])
        for input, state in zip(inputs, states.unbind(0), strict=True):
            if nonlinearity == "tanh":
                torch.baddbmm(input, weight, before, out=state).tanh_()
            else:
                torch.baddbmm(input, weight, before, out=state).relu_()
            before = state
        output = _joined(states)
        ctx.save_for_backward(states, output, weight)
        ctx.nonlinearity = nonlinearity
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Gradients of the projected input and of the recurrent weight."""
        states, output, weight = ctx.saved_tensors
        transposed = weight.transpose(1, 2).contiguous()
        outer = torch.empty_like(output)
        outers, incoming = _by_step(outer, len(states)), _by_step(gradients[0], len(states))
        inner, total = torch.zeros_like(states[0]), torch.empty_like(states[0])
        for place in reversed(range(len(states))):
            torch.baddbmm(incoming[place], transposed, inner, out=total)
            if ctx.nonlinearity == "tanh":
                _of_tanh(total, states[place], grad_input=inner)
            else:
                _of_relu(total, states[place], 0, grad_input=inner)
            outers[place].copy_(inner)
        return outer, _of_weight(outer, output, len(states)), None, None


class LstmLoop(torch.autograd.Function):
    """An LSTM layer from a zero state, with torch's equations and order of gates: in, forget, new, out.

    ``apply(projected, weight, steps)``: projected input with both biases `(member, 4 unit, column)`, recurrent weight
    `(member, 4 unit, previous)`, and the number of steps; returns all h, `(member, unit, column)`.
    """

    @staticmethod
    def forward(ctx: Any, projected: Tensor, weight: Tensor, steps: int) -> Tensor:
        """All states."""
        inputs, units = _by_step(projected, steps), weight.size(2)
        gates = projected.new_empty(steps, *inputs[0].shape)
        cells, squashed, states = projected.new_empty(3, steps, weight.size(0), units, gates.size(3))
        before, cell_before = torch.zeros_like(states[0]), torch.zeros_like(states[0])
        enters, forgets, news, leaves = gates.split(units, 2)
        parts = zip(*(gates[:, :, : 2 * units], enters, forgets, news, leaves), strict=True)
        for input, gate, (opened, enter, forget, new, leave), cell, squash, state in zip(
            inputs, gates, parts, cells, squashed, states, strict=True
        ):
            torch.baddbmm(input, weight, before, out=gate)
            new.tanh_()
            opened.sigmoid_()
            leave.sigmoid_()
            torch.mul(forget, cell_before, out=cell).addcmul_(enter, new)
            torch.tanh(cell, out=squash)
            torch.mul(leave, squash, out=state)
            before, cell_before = state, cell
        output = _joined(states)
        ctx.save_for_backward(gates, cells, squashed, output, weight)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """Gradients of the projected input and of the recurrent weight."""
        gates, cells, squashed, output, weight = ctx.saved_tensors
        steps, units = len(gates), weight.size(2)
        transposed = weight.transpose(1, 2).contiguous()
        outer = output.new_empty(weight.size(0), weight.size(1), output.size(2))
        outers, incoming = _by_step(outer, steps), _by_step(gradients[0], steps)
        inner = torch.zeros_like(gates[0])
        of_enter, of_forget, of_new, of_leave = inner.split(units, 1)
        total, part = torch.empty_like(cells[0]), torch.empty_like(cells[0])
        of_cell, nothing = torch.zeros_like(total), torch.zeros_like(total)
        for place in reversed(range(steps)):
            gate, squash = gates[place], squashed[place]
            enter, forget, new, leave = gate.split(units, 1)
            torch.baddbmm(incoming[place], transposed, inner, out=total)
            torch.mul(total, leave, out=part)
            _of_tanh(part, squash, grad_input=part)
            of_cell.add_(part)
            torch.mul(of_cell, new, out=of_enter)
            torch.mul(of_cell, cells[place - 1] if place else nothing, out=of_forget)
            torch.mul(of_cell, enter, out=of_new)
            torch.mul(total, squash, out=of_leave)
            two = inner[:, : 2 * units]
            _of_sigmoid(two, gate[:, : 2 * units], grad_input=two)
            _of_tanh(of_new, new, grad_input=of_new)
            _of_sigmoid(of_leave, leave, grad_input=of_leave)
            of_cell.mul_(forget)
            outers[place].copy_(inner)
        return outer, _of_weight(outer, output, steps), None


class GruLoop(torch.autograd.Function):
    """A GRU layer from a zero state, with torch's equations and order of gates: reset, update, new.

    ``apply(projected, weight, bias, steps)``: projected input with its bias `(member, 3 unit, column)`, recurrent
    weight `(member, 3 unit, previous)` and bias `(member, 3 unit, 1)`, and the number of steps; returns all h,
    `(member, unit, column)`.
    """

    @staticmethod
    def forward(ctx: Any, projected: Tensor, weight: Tensor, bias: Tensor, steps: int) -> Tensor:
        """All states."""
        inputs, units = _by_step(projected, steps), weight.size(2)
        opened = projected.new_empty(steps, weight.size(0), 2 * units, inputs[0].size(2))  # reset and update gates
        fresh, read, states = projected.new_empty(3, steps, weight.size(0), units, opened.size(3))
        product = torch.empty_like(inputs[0], memory_format=torch.contiguous_format)
        before = torch.zeros_like(states[0])
        for input, gates, new, from_past, state in zip(inputs, opened, fresh, read, states, strict=True):
            torch.baddbmm(bias, weight, before, out=product)
            torch.add(input[:, : 2 * units], product[:, : 2 * units], out=gates).sigmoid_()
            reset, update = gates.split(units, 1)
            from_past.copy_(product[:, 2 * units :])
            torch.addcmul(input[:, 2 * units :], reset, from_past, out=new)
            new.tanh_()
            torch.lerp(new, before, update, out=state)
            before = state
        output = _joined(states)
        ctx.save_for_backward(states, opened, fresh, read, output, weight)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of the projected input, of the recurrent weight and of its bias."""
        states, opened, fresh, read, output, weight = ctx.saved_tensors
        steps, units = len(states), weight.size(2)
        # rows of new, reset, update by the past, then new by the input: both gradients are slices
        transposed = weight.roll(units, 1).transpose(1, 2).contiguous()
        outer = output.new_empty(weight.size(0), 4 * units, output.size(2))
        outers, incoming = _by_step(outer, steps), _by_step(gradients[0], steps)
        inner = opened.new_zeros(weight.size(0), 4 * units, opened.size(3))
        of_product, of_reset, of_update, of_new = inner.split(units, 1)
        of_past, of_gates = inner[:, : 3 * units], inner[:, units : 3 * units]
        total, kept = torch.empty_like(states[0]), torch.zeros_like(states[0])
        nothing = torch.zeros_like(kept)
        for place in reversed(range(steps)):
            gates, new = opened[place], fresh[place]
            reset, update = gates.split(units, 1)
            torch.baddbmm(incoming[place], transposed, of_past, out=total).add_(kept)
            torch.mul(total, update, out=kept)
            torch.sub(total, kept, out=of_new)
            _of_tanh(of_new, new, grad_input=of_new)
            torch.mul(of_new, reset, out=of_product)
            torch.mul(of_new, read[place], out=of_reset)
            torch.sub(states[place - 1] if place else nothing, new, out=of_update).mul_(total)
            _of_sigmoid(of_gates, gates, grad_input=of_gates)
            outers[place].copy_(inner)
        by_past = outer[:, : 3 * units]
        of_weight, of_bias = _of_weight(by_past, output, steps), by_past.sum(2, keepdim=True)
        return outer[:, units:], of_weight.roll(-units, 1), of_bias.roll(-units, 1), None


def _by_step(columns: Tensor, steps: int) -> tuple[Tensor, ...]:
    """The columns `(member, row, string)` of each step; views where the memory allows."""
    return columns.reshape(*columns.shape[:2], steps, -1).unbind(2)


def _joined(states: Tensor) -> Tensor:
    """`(member, unit, column)` of states `(step, member, unit, string)`."""
    return states.permute(1, 2, 0, 3).flatten(2)


def _of_weight(gradients: Tensor, output: Tensor, steps: int) -> Tensor:
    """Gradient of the recurrent weight from those of its products; the first product has a zero state."""
    strings = output.size(2) // steps
    return torch.bmm(gradients[:, :, strings:], output[:, :, : output.size(2) - strings].transpose(1, 2))
