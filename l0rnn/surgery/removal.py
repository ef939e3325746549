"""Remove closed units from a gated network in place, so that a training can go on with what is left.

Every parameter stays the same object and gets a smaller tensor, so optimisers, tied weights and torch's lists of
recurrent weights stay valid; what an optimiser remembers of a parameter is cut along with it. Nothing is folded: the
gates of the units that are left go on as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from l0rnn.axes import Blueprint, Weight, cut
from l0rnn.gates.network import network_gates
from l0rnn.surgery.states import check_optimizer_state, cut_optimizer_state_, cut_state, recurrent_states


def remove_units_(
    network: nn.Module,
    blueprint: Blueprint,
    keep: Mapping[str, Tensor],
    *,
    optimizers: Iterable[Optimizer] = (),
    state: Any = None,
) -> Any:
    """Cut closed units out of a gated network that is being trained, in place.

    In evaluation the network gives the same outputs afterwards. Gradients are dropped: the next step makes new ones.

    Args:
        network: a network that `gate_network_` has gated.
        blueprint: its blueprint as it is now.
        keep: axis → units to keep, bool `(unit,)`; an absent axis stays whole. `buildable` may keep more.
        optimizers: the optimisers of its parameters, without any that only wraps others.
        state: recurrent state that is carried on, in torch's form, in any nesting; in a dict under the names of the
            layers where several of them have states of one shape.

    Returns:
        The state without the removed units.

    Raises:
        ValueError: if a unit to remove is open or an axis has no gates, the state of an optimiser cannot be cut, or it
            cannot be told whose state a tensor in ``state`` is. Nothing has been changed then.

    Example:
        >>> from l0rnn.blueprint import draw_blueprint
        >>> from l0rnn.gates.network import gate_network_
        >>> from l0rnn.wiring import Wiring
        >>> network = nn.Sequential()
        >>> network.encoder, network.decoder = nn.LSTM(4, 8), nn.Linear(8, 2)
        >>> wiring = Wiring({"encoder": ["outside"], "decoder": ["encoder"]})
        >>> gates = gate_network_(network, draw_blueprint(network, wiring))
        >>> keep = torch.tensor([True, False, True, True, False, False, False, True])
        >>> gates["encoder.l0"].freeze_(keep)
        >>> remove_units_(network, draw_blueprint(network, wiring), {"encoder.l0": keep})
        >>> network.encoder.hidden_size, network.decoder.weight.shape
        (4, torch.Size([2, 4]))
    """
    optimizers = list(optimizers)
    keep = buildable(network, blueprint, keep)
    chosen = {axis: units.nonzero().squeeze(1) for axis, units in keep.items() if not bool(units.all())}
    parts = _parts(network, blueprint, chosen)
    for optimizer in optimizers:
        check_optimizer_state(optimizer)
    state = cut_state(state, recurrent_states(network, blueprint), chosen)
    for part in parts:
        for optimizer in optimizers:
            cut_optimizer_state_(optimizer, part.tensor, part.cut)
        _set_(part.tensor, part.cut(part.tensor.detach()))
    _set_sizes_(network, blueprint, chosen)
    return state


def buildable(network: nn.Module, blueprint: Blueprint, keep: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Which units to keep so that torch's layers can hold them: those asked for, and closed ones that fill up.

    A torch stack has one ``hidden_size`` for all its layers and directions, so each keeps as many units as the one with
    most; with a projection it keeps more cell units than projected ones. The closed units that fill up are the first.

    Args:
        network: the gated network.
        blueprint: its blueprint.
        keep: axis → units to keep, bool `(unit,)`; an absent axis stays whole.

    Returns:
        The same for every axis of the blueprint, on the CPU.

    Raises:
        ValueError: if an axis has no gates, its vector is wrong or keeps nothing, or an open unit is not kept.

    Example:
        >>> from l0rnn.blueprint import draw_blueprint
        >>> from l0rnn.gates.network import gate_network_
        >>> from l0rnn.wiring import Wiring
        >>> network = nn.Sequential()
        >>> network.encoder, network.decoder = nn.LSTM(4, 3, num_layers=2), nn.Linear(3, 2)
        >>> blueprint = draw_blueprint(network, Wiring({"encoder": ["outside"], "decoder": ["encoder"]}))
        >>> gates = gate_network_(network, blueprint)
        >>> keep = {"encoder.l0": torch.tensor([False, True, True]), "encoder.l1": torch.tensor([False, False, True])}
        >>> for axis, units in keep.items():
        ...     gates[axis].freeze_(units)
        >>> buildable(network, blueprint, keep)["encoder.l1"]
        tensor([ True, False,  True])
    """
    gates = network_gates(network, blueprint)
    whole = {name: torch.ones(axis.size, dtype=torch.bool) for name, axis in blueprint.axes.items()}
    for axis, units in keep.items():
        if axis not in gates and axis in whole and bool(units.all()):
            continue
        if axis not in gates:
            raise ValueError(f"`keep` names {axis!r}, which has no gates; there are gates on {', '.join(gates)}")
        size = gates[axis].units
        if units.dtype != torch.bool or units.shape != (size,):
            raise ValueError(f"`keep` must be bool ({size},) for {axis!r}, got {units.dtype} {tuple(units.shape)}")
        whole[axis] = units.cpu()
        if not bool(whole[axis].any()):
            raise ValueError(f"`keep` must keep at least one unit of {axis!r}, got none")
        open_units = int((gates[axis].keep().cpu() & ~whole[axis]).sum())
        if open_units:
            raise ValueError(
                f"`keep` leaves out {open_units} units of {axis!r} whose gate is open; only closed units can be removed"
            )
    for state in recurrent_states(network, blueprint):
        most = max(int(whole[axis].sum()) for axis in state.axes)
        if state.inner_of:  # torch's rule: proj_size < hidden_size
            most = max(most, 1 + max(int(whole[axis].sum()) for axis in state.inner_of))
        whole |= {axis: _filled(whole[axis], most) for axis in state.axes}
    return whole


def resized_shapes(network: nn.Module, blueprint: Blueprint, widths: Mapping[str, int]) -> dict[str, torch.Size]:
    """Shapes that the network's parameters and buffers would have after `resize_`, by name.

    Raises:
        ValueError: if an axis has no gates, or a recurrent stack would get layers of unequal width.
    """
    chosen = _placeholders(network, blueprint, widths)
    shapes = {
        id(part.tensor): part.cut(torch.empty_like(part.tensor, device="meta")).shape
        for part in _parts(network, blueprint, chosen)
    }
    named: list[tuple[str, Tensor]] = [
        *network.named_parameters(remove_duplicate=False),
        *network.named_buffers(remove_duplicate=False),
    ]
    return {name: shapes.get(id(tensor), tensor.shape) for name, tensor in named}


def resize_(network: nn.Module, blueprint: Blueprint, widths: Mapping[str, int]) -> None:
    """Give the axes of a gated network other widths, smaller or larger, before all its weights are loaded.

    Args:
        network: the gated network.
        blueprint: its blueprint as it is now.
        widths: axis → units. Weights on an axis whose width changes hold no sensible values afterwards.

    Raises:
        ValueError: if an axis has no gates, or a recurrent stack would get layers of unequal width.

    Example:
        >>> from l0rnn.blueprint import draw_blueprint
        >>> from l0rnn.gates.network import gate_network_
        >>> from l0rnn.wiring import Wiring
        >>> network = nn.Sequential()
        >>> network.encoder, network.decoder = nn.GRU(4, 8), nn.Linear(8, 2)
        >>> wiring = Wiring({"encoder": ["outside"], "decoder": ["encoder"]})
        >>> gates = gate_network_(network, draw_blueprint(network, wiring))
        >>> resize_(network, draw_blueprint(network, wiring), {"encoder.l0": 5})
        >>> network.encoder.weight_hh_l0.shape, gates["encoder.l0"].units
        (torch.Size([15, 5]), 5)
    """
    chosen = _placeholders(network, blueprint, widths)
    for part in _parts(network, blueprint, chosen):
        _set_(part.tensor, part.cut(part.tensor.detach()))
    _set_sizes_(network, blueprint, chosen)


@dataclass(frozen=True)
class _Part:
    """A parameter or buffer, and how to cut a tensor of its shape."""

    tensor: Tensor
    cut: Callable[[Tensor], Tensor]


def _parts(network: nn.Module, blueprint: Blueprint, chosen: Mapping[str, Tensor]) -> list[_Part]:
    """What has to be cut, each tensor once; ``chosen`` has the positions kept of the axes that change."""
    owners: dict[int, Weight] = {}
    parts: list[_Part] = []
    for weight in blueprint.weights:
        indices = {
            name: _along(axes, blueprint, chosen) for name, axes in weight.axes.items() if chosen.keys() & set(axes)
        }
        parameter = network.get_parameter(weight.name)
        owner = owners.setdefault(id(parameter), weight)
        if owner.axes != weight.axes and (indices or chosen.keys() & {a for side in owner.axes.values() for a in side}):
            raise ValueError(
                f"{owner.name!r} and {weight.name!r} share a parameter but do not lie on the same axes, so no unit can "
                "be removed from it; put their layers in `fixed`"
            )
        if indices and owner is weight:
            parts.append(_Part(parameter, partial(cut, weight=weight, indices=indices)))
    for axis, gates in network_gates(network, blueprint).items():
        if axis in chosen:
            of_units = partial(_select, positions=chosen[axis])
            parts += [_Part(gates.log_alpha, of_units), _Part(gates.fixed, of_units)]
    return parts


def _along(axes: tuple[str, ...], blueprint: Blueprint, chosen: Mapping[str, Tensor]) -> Tensor:
    """Positions kept along a dimension that is made of several axes, int64 `(kept,)`."""
    start, found = 0, []
    for axis in axes:
        size = blueprint.axes[axis].size
        found.append(start + chosen.get(axis, torch.arange(size)))
        start += size
    return torch.cat(found)


def _select(tensor: Tensor, positions: Tensor) -> Tensor:
    return tensor.index_select(-1, positions.to(tensor.device))


def _set_(tensor: Tensor, value: Tensor) -> None:
    # by way of another dtype: a graph that is still alive would hold the next gradient to the old shape
    tensor.data = tensor.data.new_empty(0, dtype=torch.float64 if tensor.dtype == torch.float32 else torch.float32)
    tensor.data = value
    tensor.grad = None


def _set_sizes_(network: nn.Module, blueprint: Blueprint, chosen: Mapping[str, Tensor]) -> None:
    """Let the layers and gates know their new widths."""
    widths = {name: len(chosen[name]) if name in chosen else axis.size for name, axis in blueprint.axes.items()}
    for axis, gates in network_gates(network, blueprint).items():
        gates.units = widths[axis]
        gates.forget()
    for layer, outputs in blueprint.outputs.items():
        module = network.get_submodule(layer)
        reads, makes = (sum(widths[axis] for axis in axes) for axes in (blueprint.inputs.get(layer, ()), outputs))
        if isinstance(module, nn.RNNBase):
            units, cells = widths[f"{layer}.l0"], widths.get(f"{layer}.l0_cell")
            module.input_size, module.hidden_size = reads, units if cells is None else cells
            module.proj_size = 0 if cells is None else units
        elif isinstance(module, nn.Linear):
            module.in_features, module.out_features = reads, makes
        elif isinstance(module, nn.Embedding):
            module.embedding_dim = makes
        elif isinstance(module, nn.LayerNorm):
            module.normalized_shape = (makes,)


def _placeholders(network: nn.Module, blueprint: Blueprint, widths: Mapping[str, int]) -> dict[str, Tensor]:
    """For the axes whose width changes, as many positions as asked for, any there are."""
    gates = network_gates(network, blueprint)
    for axis in widths:
        if axis not in gates:
            raise ValueError(f"`widths` names {axis!r}, which has no gates; there are gates on {', '.join(gates)}")
    for state in recurrent_states(network, blueprint):
        wanted = {axis: widths.get(axis, blueprint.axes[axis].size) for axis in state.axes}
        if len(set(wanted.values())) > 1:
            raise ValueError(f"`widths` must be the same in all of {state.layer!r}, a torch stack, got {wanted}")
    sizes = {axis: width for axis, width in widths.items() if width != blueprint.axes[axis].size}
    return {axis: torch.zeros(width, dtype=torch.int64) for axis, width in sizes.items()}


def _filled(keep: Tensor, wanted: int) -> Tensor:
    """Keep the first of the other units too, until there are as many as wanted."""
    missing = max(0, wanted - int(keep.sum()))
    return keep | (~keep & ((~keep).cumsum(0) <= missing))
