"""Remove closed units from a gated network in place, so that a training can go on with what is left.

Every parameter stays the same object and gets a smaller tensor, so optimisers, tied weights and torch's lists of
recurrent weights stay valid; what an optimiser remembers of a parameter is cut along with it. Nothing is folded: the
gates of the units that are left go on as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from l0rnn.gates.gates import Gates
from l0rnn.gates.network import NAME, attach_readers_, network_gates
from l0rnn.surgery.kept import uniform
from l0rnn.surgery.sizes import raw_tensor, set_sizes_
from l0rnn.surgery.states import check_optimizer_state, cut_optimizer_state_, cut_state, recurrent_states
from l0rnn.tracing.units import Units, cut


def remove_units_(
    network: nn.Module,
    units: Units,
    keep: Tensor,
    *,
    optimizers: Iterable[Optimizer] = (),
    state: Any = None,
) -> tuple[Units, Any]:
    """Cut closed units out of a gated network that is being trained, in place.

    In evaluation the network gives the same outputs afterwards. Gradients are dropped: the next step makes new ones.

    Args:
        network: a network that `gate_network_` has gated.
        units: its units as they are now.
        keep: which to keep, bool `(unit,)`. `buildable` may keep more.
        optimizers: the optimisers of its parameters, without any that only wraps others.
        state: recurrent state that is carried on, in torch's form, in any nesting; in a dict under the names of the
            layers where several of them have states of one shape.

    Returns:
        The units that are left, and the state without those that are gone.

    Raises:
        ValueError: if a unit to remove is open, the state of an optimiser cannot be cut, or it cannot be told whose
            state a tensor in ``state`` is. Nothing has been changed then.

    Example:
        >>> from l0rnn.gates.network import gate_network_
        >>> from l0rnn.tracing import trace
        >>> network = nn.Sequential()
        >>> network.encoder, network.decoder = nn.Linear(4, 8), nn.Linear(8, 2)
        >>> units = trace(network, torch.randn(3, 4))
        >>> keep = torch.tensor([True, False, True, True, False, False, False, True])
        >>> gate_network_(network, units).freeze_(keep)
        >>> left, _ = remove_units_(network, units, keep)
        >>> network.encoder.out_features, network.decoder.weight.shape, left.count
        (4, torch.Size([2, 4]), 4)
    """
    optimizers = list(optimizers)
    keep = buildable(network, units, keep)
    if bool(keep.all()):
        return units, state
    for optimizer in optimizers:
        check_optimizer_state(optimizer)
    state = cut_state(state, recurrent_states(network, units), keep)
    for tensor, cut_it in _tensors(network, units, keep):
        for optimizer in optimizers:
            cut_optimizer_state_(optimizer, tensor, cut_it)
        _set_(tensor, cut_it(tensor.detach()))
    return _settle_(network, units, keep), state


def buildable(network: nn.Module, units: Units, keep: Tensor) -> Tensor:
    """Which units to keep so that torch's layers can hold them: those asked for, and closed ones that fill up.

    A torch stack has one ``hidden_size`` for all its layers and directions, so each keeps as many units as the one with
    most; with a projection it keeps more cell units than projected ones. The closed units that fill up are the first.

    Args:
        network: the gated network.
        units: its units.
        keep: which to keep, bool `(unit,)`.

    Raises:
        ValueError: if the vector is wrong or keeps nothing of an axis, or an open unit is not kept.
    """
    gates = _gates_of(network)
    if keep.dtype != torch.bool or keep.shape != (units.count,):
        raise ValueError(f"`keep` must be bool ({units.count},), got {keep.dtype} {tuple(keep.shape)}")
    keep = keep.cpu()
    is_open = gates.keep().cpu()
    for name, axis in units.axes.items():
        if not bool(keep[axis.units].any()):
            raise ValueError(f"`keep` must keep at least one unit of {name!r}, got none")
        left_out = int((is_open & ~keep)[axis.units].sum())
        if left_out:
            raise ValueError(
                f"`keep` leaves out {left_out} units of {name!r} whose gate is open; only closed units can be removed"
            )
    return uniform(network, units, keep)


def resized_shapes(network: nn.Module, units: Units, widths: Mapping[str, int]) -> dict[str, torch.Size]:
    """Shapes that the network's parameters and buffers would have after `resize_`, by name.

    Args:
        network: the gated network.
        units: its units, as they are now or were before some were removed.
        widths: axis → units it shall have, at most as many as those.

    Raises:
        ValueError: if an axis is unknown, or a recurrent stack would get layers of unequal width.
    """
    left = units.kept(_first_units(network, units, widths))
    shapes = {alias: torch.Size(weight.shape) for weight in left.weights.values() for alias in weight.aliases}
    shapes |= {f"{NAME}.{part}": torch.Size([left.count]) for part in ("log_alpha", "fixed")}
    state: dict[str, Tensor] = network.state_dict()
    return {name: shapes.get(name, tensor.shape) for name, tensor in state.items()}


def widen_(network: nn.Module, units: Units) -> None:
    """Take back all removals, before weights from before them are loaded.

    Args:
        network: the gated network; its weights hold no sensible values afterwards.
        units: its units before any was removed.
    """
    gates = _gates_of(network)
    for weight in units.weights.values():
        tensor = raw_tensor(network, weight.name)
        if weight.has_units:
            _set_(tensor, tensor.detach().new_zeros(weight.shape))
    for tensor in (gates.log_alpha, gates.fixed):
        _set_(tensor, tensor.detach().new_zeros(units.count))
    _settle_(network, units, torch.ones(units.count, dtype=torch.bool))


def resize_(network: nn.Module, units: Units, widths: Mapping[str, int]) -> Units:
    """Give the axes of a gated network fewer units, before all its weights are loaded; the units that are left.

    Args:
        network: the gated network.
        units: its units as they are now.
        widths: axis → units. The weights hold no sensible values afterwards.

    Raises:
        ValueError: if an axis is unknown, or a recurrent stack would get layers of unequal width.
    """
    keep = _first_units(network, units, widths)
    for tensor, cut_it in _tensors(network, units, keep):
        _set_(tensor, cut_it(tensor.detach()))
    return _settle_(network, units, keep)


def _first_units(network: nn.Module, units: Units, widths: Mapping[str, int]) -> Tensor:
    keep = torch.zeros(units.count, dtype=torch.bool)
    for name in widths:
        if name not in units.axes:
            raise ValueError(f"`widths` names {name!r}, which is none of the axes {', '.join(units.axes)}")
    for name, axis in units.axes.items():
        wanted = widths.get(name, axis.size)
        if not 0 < wanted <= axis.size:
            raise ValueError(f"`widths` must be from 1 to {axis.size} for {name!r}, got {wanted}")
        keep[axis.start : axis.start + wanted] = True
    if not torch.equal(uniform(network, units, keep), keep):
        raise ValueError(f"`widths` must be the same in all layers of a stack of torch, got {dict(widths)}")
    return keep


def _tensors(network: nn.Module, units: Units, keep: Tensor) -> list[tuple[Tensor, Callable[[Tensor], Tensor]]]:
    """What has to be cut, each tensor once, with how a tensor of its shape is cut."""
    parts: list[tuple[Tensor, Callable[[Tensor], Tensor]]] = [
        (raw_tensor(network, weight.name), partial(cut, weight=weight, keep=keep))
        for weight in units.weights.values()
        if weight.has_units
    ]
    gates = _gates_of(network)

    def cut_gates(tensor: Tensor) -> Tensor:
        return tensor.index_select(0, keep.nonzero().squeeze(1).to(tensor.device))

    return [*parts, (gates.log_alpha, cut_gates), (gates.fixed, cut_gates)]


def _settle_(network: nn.Module, units: Units, keep: Tensor) -> Units:
    """Let modules, gates and readers know their new widths."""
    gates = _gates_of(network)
    left = units.kept(keep)
    gates.units = left.count
    gates.forget()
    set_sizes_(network, units, keep)
    attach_readers_(network, left, gates)
    return left


def _gates_of(network: nn.Module) -> Gates:
    gates = network_gates(network)
    if gates is None:
        raise ValueError("`network` must have gates; a method that closes units puts them there")
    return gates


def _set_(tensor: Tensor, value: Tensor) -> None:
    # by way of another dtype: a graph that is still alive would hold the next gradient to the old shape
    tensor.data = tensor.data.new_empty(0, dtype=torch.float64 if tensor.dtype == torch.float32 else torch.float32)
    tensor.data = value
    tensor.grad = None
