"""Build the network of the kept units: a copy around the cut weights, with the gates folded in."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from l0rnn.gates.network import ungate_network_
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.surgery.sizes import raw_tensor, set_sizes_, stack_widths
from l0rnn.tracing.rules.run import tensors_in
from l0rnn.tracing.units import Units, cut, scales


def build(network: nn.Module, units: Units, gates: Tensor, keep: Tensor) -> nn.Module:
    """A copy of a network without gates, cut to the kept units, gates folded in. Nothing is run.

    Args:
        network: plain or gated; it is not changed.
        units: its units.
        gates: the gate of each, `(unit,)`.
        keep: which are kept, bool `(unit,)`.
    """
    memo: dict[int, Any] = {
        id(tensor): tensor.detach().clone()  # such as a state from the last step, which has a graph and no copy
        for module in network.modules()
        for tensor in tensors_in(_copied(module))
        if not tensor.is_leaf
    }
    for weight in units.weights.values():
        source = raw_tensor(network, weight.name)
        value = source.detach()
        for dimension, factors in scales(weight, gates):
            if bool((factors != 1).any()):
                shape = [-1 if d == dimension else 1 for d in range(value.dim())]
                value = value * factors.to(value).reshape(shape)
        value = cut(value, weight, keep)
        is_parameter = isinstance(source, nn.Parameter)
        memo[id(source)] = nn.Parameter(value, requires_grad=source.requires_grad) if is_parameter else value
    small = ungate_network_(copy.deepcopy(network, memo))
    set_sizes_(small, units, keep)
    _replace_uneven_stacks_(small)
    return small


def _copied(module: nn.Module) -> list[Any]:
    """What a copy of a module takes along: not what a reader had folded before the last step."""
    return [value for name, value in vars(module).items() if name != "_folded"]


def _replace_uneven_stacks_(network: nn.Module) -> None:
    """A stack of torch has one width; where its weights have several, a `RaggedRNN` takes its place."""
    uneven = {
        id(module): module
        for module in network.modules()
        if isinstance(module, nn.RNNBase) and len(set(stack_widths(module))) > 1
    }
    for key, module in uneven.items():
        ragged = _ragged(module)
        for name in [name for name, other in network.named_modules(remove_duplicate=False) if id(other) == key]:
            if not name:
                raise ValueError("`network` must hold its recurrent layer as a submodule; wrap it in a module")
            network.set_submodule(name, ragged)


def _ragged(module: Any) -> RaggedRNN:
    """A `RaggedRNN` on the weights of a stack, whose layers and directions have become unequal."""
    directions = 2 if module.bidirectional else 1
    widths = stack_widths(module)
    rows = [widths[start : start + directions] for start in range(0, len(widths), directions)]
    ragged = RaggedRNN(
        module.mode,
        module._parameters["weight_ih_l0"].size(1),
        [[hidden for hidden, _ in row] for row in rows],
        proj_sizes=[[projected for _, projected in row] for row in rows] if any(p for _, p in widths) else None,
        bias=module.bias,
        batch_first=module.batch_first,
        dropout=module.dropout,
        device="meta",
    )
    for depth, row in enumerate(ragged.layers):
        for direction, layer in enumerate(row):  # type: ignore[arg-type]
            for own in list(layer._parameters):
                value = module._parameters[f"{own.removesuffix('_l0')}_l{depth}{'_reverse' if direction else ''}"]
                # oneDNN's LSTM reads past the buffer of a wrong shape instead of failing: checked here or never
                if value.shape != layer._parameters[own].shape:
                    needed = tuple(layer._parameters[own].shape)
                    raise ValueError(f"{own!r} was cut to {tuple(value.shape)}, but its layer needs {needed}")
                layer._parameters[own] = value
            layer._init_flat_weights()
    for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        setattr(ragged, name, getattr(module, name))
    return ragged.train(module.training)
