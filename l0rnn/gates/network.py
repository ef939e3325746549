"""Put hard-concrete gates on a whole network, and find them again.

A network gets one `Gates`, with a gate for every unit that can be removed. Whatever reads units multiplies what it
reads by their gates: recurrent layers fold them into their own columns, Linear and the norms become gated ones, and
every other weight is read with the gates multiplied in. All gates are drawn once, at the start of the network's forward
pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.gates.gates import Gates, GatesApart, GateView, KeptView
from l0rnn.gates.hard_concrete import HardConcrete
from l0rnn.gates.readers import GATED, Folded, Reader, fold_parameter_, forget_gates_, plain_class
from l0rnn.gates.recurrence import GatedRecurrence, gate_in_network_, ungate_
from l0rnn.gates.transforms import needs_plain_operations
from l0rnn.recurrent.nested import map_tensors
from l0rnn.tracing.trace import is_without_gates
from l0rnn.tracing.units import STAYS, Units

NAME = "unit_gates"  # under which a network holds its gates
MOST_CALLS = 8  # of one step with accumulated gradients that are remembered


class DrawGates:
    """Forward pre-hook of a network: draws all its gates, once per pass.

    Attributes:
        keeps_calls: whether to remember in `calls`, for a repair, the arguments of the last training passes of a step.
        is_step_over: whether the next of them is of another step than those in `calls`.
    """

    def __init__(self, gates: Gates) -> None:
        self.gates = gates
        self.views: list[GateView] = []
        self.readers: list[Reader] = []
        self.keeps_calls, self.is_step_over = False, False
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Draw all gates, and let readers compute what depends on them."""
        if is_without_gates():
            return
        is_kept = self.keeps_calls and module.training and torch.is_grad_enabled() and not needs_plain_operations()
        # Lightning puts its training step in the place of `forward` while DDP calls a module
        if is_kept and "ForwardRedirection" not in getattr(module.forward, "__qualname__", ""):
            self._remember(args, kwargs)
        self.gates.draw()
        if torch.is_grad_enabled():
            for view in self.views:
                _ = view.value
            for reader in self.readers:
                reader.prepare()

    def _remember(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.is_step_over:
            self.calls, self.is_step_over = [], False
        # a state that is carried over from the step before may hang on its graph
        own = map_tensors(lambda part: part.detach() if isinstance(part, torch.Tensor) else part, (args, kwargs))
        self.calls = [*self.calls, own][-MOST_CALLS:]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "calls": []}  # a copy or a file of the network needs no data


def gate_network_(
    network: nn.Module,
    units: Units,
    *,
    open_probability: float = 0.93,
    distribution: HardConcrete | None = None,
    noise: bool = True,
) -> Gates:
    """Put a gate on every unit of a network, in place.

    Modules and parameters stay the same objects under the same names; readers change their class.

    Args:
        network: modules of plain torch.
        units: its units, as `l0rnn.tracing.trace` finds them; all of them get a gate.
        open_probability: initial P(gate ≠ 0).
        distribution: the hard concrete distribution.
        noise: whether gates are random in training.

    Returns:
        The gates of all units, in the order of their numbers.

    Raises:
        ValueError: if the network has gates already.
    """
    if network_gates(network) is not None:
        raise ValueError("`network` must not have gates yet; build it anew, or prune the shrunken one")
    built = [name for name, module in network.named_modules() if isinstance(module, GatedRecurrence)]
    if built:
        raise ValueError(
            f"`network` must not have gates yet, but {built[0]!r} was built with gates; build it of torch's layers"
        )
    like = next(network.parameters())
    gates = GatesApart(
        units.count,
        open_probability=open_probability,
        distribution=distribution,
        noise=noise,
        device=like.device,
        dtype=like.dtype if like.dtype in (torch.float32, torch.float64) else torch.float32,
    )
    network.add_module(NAME, gates.train(network.training))
    network.register_forward_pre_hook(DrawGates(gates), with_kwargs=True)
    attach_readers_(network, units, gates)
    return gates


def attach_readers_(network: nn.Module, units: Units, gates: Gates) -> None:
    """Let everything that reads units look at their gates; again after units were removed."""
    draws = draws_of(network)
    draws.views, draws.readers = [], []
    used_elsewhere = _used_elsewhere(units)
    for weight in units.weights.values():
        for dimension, (numbers, is_read) in enumerate(zip(weight.units, weight.is_read, strict=True)):
            if not bool((is_read & (numbers != STAYS)).any()):
                continue
            numbers = torch.where(is_read, numbers, STAYS)
            view = GateView(gates, numbers, weight.is_prescaled[dimension])
            draws.views.append(view)
            for alias in weight.aliases:
                _gate_reader_(network, alias, dimension, view, weight.name in used_elsewhere)
    for name, numbers in units.normalised.items():
        module = network.get_submodule(name)
        if bool((numbers != STAYS).any()):
            kept = KeptView(gates, numbers, [units.axes[axis].units for axis in units.axes_of(numbers)])
            draws.views.append(kept)
            _change_class_(module, kept)
    for module in network.modules():
        if "_views" in module.__dict__:
            _gate_recurrent_(module)
        elif isinstance(module, Reader):
            draws.readers.append(module)


def draws_of(network: nn.Module) -> DrawGates:
    """The hook that draws the gates of a gated network."""
    return next(hook for hook in network._forward_pre_hooks.values() if isinstance(hook, DrawGates))


def _used_elsewhere(units: Units) -> set[str]:
    """Names of weights that are multiplied by in code outside of the modules that hold them."""
    return {
        product.weight
        for product in units.products
        if product.weight
        and product.module not in {alias.rpartition(".")[0] for alias in units.weights[product.weight].aliases}
    }


def _gate_reader_(network: nn.Module, name: str, dimension: int, view: GateView, is_used_elsewhere: bool) -> None:
    """Let what holds a parameter read its units through a view.

    A Linear and an embedding multiply what they read and make, which is little; but not if other code takes their
    weight and multiplies by it.
    """
    layer, _, parameter = name.rpartition(".")
    module = network.get_submodule(layer)
    if isinstance(module, nn.RNNBase):
        module.__dict__.setdefault("_views", {})[parameter] = view
    elif (
        plain_class(module) in (nn.Linear, nn.Embedding)
        and (parameter, dimension) == ("weight", 1)
        and not is_used_elsewhere
    ):
        _change_class_(module, view)
    else:
        folds = dict(module._folds.get(parameter, [])) if isinstance(module, Folded) else {}
        fold_parameter_(module, parameter, list((folds | {dimension: view}).items()))


def _change_class_(module: nn.Module, view: GateView) -> None:
    module.__class__ = GATED[plain_class(module)]  # type: ignore[assignment]
    module.__dict__["input_gates"] = view


def _gate_recurrent_(module: Any) -> None:
    """Sort the views of a recurrent layer's weights by the units they are of."""
    views: dict[str, GateView] = module.__dict__.pop("_views")
    gates: dict[str, GateView] = {}
    for parameter, view in views.items():
        kind, _, key = parameter.rpartition("_l")
        key = f"l{key}"
        if kind == "weight_hh":
            gates[key] = view
        elif kind == "weight_hr":
            gates[f"{key}_cell"] = view
    if isinstance(module, GatedRecurrence):
        module.gates, module.input_gates = gates, views.get("weight_ih_l0")
    else:
        gate_in_network_(module, gates, views.get("weight_ih_l0"))


def ungate_network_(network: nn.Module) -> nn.Module:
    """Take all gates out of a network, in place; what they multiplied is read as it is."""
    network._modules.pop(NAME, None)
    for handle, hook in list(network._forward_pre_hooks.items()):
        if isinstance(hook, DrawGates):
            del network._forward_pre_hooks[handle]
            network._forward_pre_hooks_with_kwargs.pop(handle, None)
    for module in network.modules():
        if isinstance(module, GatedRecurrence):
            ungate_(module)
        elif isinstance(module, Reader):
            forget_gates_(module)
    return network


def network_gates(network: nn.Module) -> Gates | None:
    """The gates that `gate_network_` put on a network, or None."""
    found = network._modules.get(NAME)
    return found if isinstance(found, Gates) else None


def deterministic_gates(network: nn.Module, units: Units) -> Tensor | None:
    """The gates of evaluation of all units, `(unit,)`, or None for a network without gates.

    Layers that were built gated, each on its own, are asked for theirs: those of their input, where nobody else reads
    the same units, and those of their hidden units.
    """
    gates = network_gates(network)
    if gates is not None:
        return gates.deterministic().detach().cpu()
    values = torch.ones(units.count)
    found = False
    for name, module in network.named_modules():
        if not isinstance(module, GatedRecurrence):
            continue
        for key, own in module.gates.items():
            found = True
            numbers = _units_of_gates(units, name, key)
            own_values = own.deterministic().detach().cpu()
            if bool(((numbers == STAYS) & (own_values != 1)).any()):
                raise ValueError(
                    f"{name!r} has gates {key!r} on units that stay ({units.whole}); build it without them, or let a "
                    "method put gates where they can act"
                )
            values[numbers[numbers != STAYS]] = own_values[numbers != STAYS]
    return values if found else None


def _units_of_gates(units: Units, layer: str, key: str) -> Tensor:
    prefix = f"{layer}." if layer else ""
    if key == "input":
        return units.weights[f"{prefix}weight_ih_l0"].units[1]
    if key.endswith("_cell"):
        return units.weights[f"{prefix}weight_hr_{key.removesuffix('_cell')}"].units[1]
    return units.weights[f"{prefix}weight_hh_{key}"].units[1]
