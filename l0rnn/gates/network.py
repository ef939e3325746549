"""Put hard-concrete gates on a whole network in plain torch, and find them again.

Each prunable axis gets one `Gates`, owned by the layer that produces the units. Whatever reads the axis multiplies what
it reads by the gates: recurrent layers fold them into their own columns, Linear and LayerNorm become gated ones. All
gates are drawn once, at the start of the network's forward pass.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from l0rnn.axes import Blueprint
from l0rnn.blueprint import RECURRENT
from l0rnn.gates.gates import Gates, draw_together
from l0rnn.gates.hard_concrete import HardConcrete
from l0rnn.gates.readers import Blocks, GatedLayerNorm, GatedLinear
from l0rnn.gates.recurrence import GatedRecurrence, GatedUnits, gate_layer

# layers that gated ones, or surgery's fresh ones, take the place of
REPLACED = (nn.LSTM, nn.GRU, nn.RNN, nn.Linear, nn.LayerNorm, nn.Embedding)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class DrawGates:
    """Forward pre-hook of a network: draws all its gates, once per pass."""

    def __init__(self, gates: list[Gates]) -> None:
        self.gates = gates

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        """Draw all gates."""
        draw_together(self.gates)


def gate_network_(
    network: nn.Module,
    blueprint: Blueprint,
    *,
    units: GatedUnits = "both",
    open_probability: float = 0.93,
    distribution: HardConcrete | None = None,
) -> dict[str, Gates]:
    """Replace the recurrent layers of a network by gated ones, in place, and gate every reader of their units.

    Args:
        network: modules of plain torch; their parameters are kept, under their names.
        blueprint: the network's blueprint.
        units: ``"hidden"`` for the units inside recurrent layers, ``"input"`` for those that recurrent layers read
            from other layers, ``"both"`` for both.
        open_probability: initial P(gate ≠ 0).
        distribution: the hard concrete distribution.

    Returns:
        The gates of each axis.

    Raises:
        ValueError: if ``units`` is unknown, there is nothing to gate, the network has gates already, or a layer is not
            one of torch's own or has hooks. Nothing has been changed then.
    """
    if any(isinstance(module, Gates) for module in network.modules()):
        raise ValueError("`network` must not have gates yet; build it from plain torch layers")
    if isinstance(network, RECURRENT):
        raise ValueError("`network` must hold its layers as submodules; wrap the single layer in a module")
    axes = axes_to_gate(network, blueprint, units)
    _refuse_code_of_others(network, blueprint)
    options: dict[str, Any] = {"open_probability": open_probability, "distribution": distribution}
    modules = dict(network.named_modules())
    gates: dict[str, Gates] = {}
    for layer in dict.fromkeys(axis.layer for axis in blueprint.axes.values()):
        module = modules.get(layer)
        if isinstance(module, nn.RNNBase):
            gates.update(_gate_recurrent_layer_(network, layer, module, axes, options))
        elif layer in axes:
            weight: Any = module.weight  # type: ignore[union-attr]
            gates[layer] = Gates(axes[layer], device=weight.device, dtype=weight.dtype, **options)
            module.add_module("gates", gates[layer].train(module.training))  # type: ignore[union-attr]
    _gate_readers_(network, blueprint, gates)
    network.register_forward_pre_hook(DrawGates(list(gates.values())))
    return gates


def axes_to_gate(network: nn.Module, blueprint: Blueprint, units: GatedUnits) -> dict[str, int]:
    """Axes that `gate_network_` gates, with their sizes; raises ValueError if there are none."""
    if units not in ("input", "hidden", "both"):
        raise ValueError(f"`units` must be 'input', 'hidden' or 'both', got {units!r}")
    modules = dict(network.named_modules())
    read_by_recurrent = {
        axis for layer, inputs in blueprint.inputs.items() if isinstance(modules[layer], RECURRENT) for axis in inputs
    }
    chosen = {}
    for axis in blueprint.prunable():
        is_hidden = isinstance(modules[axis.layer], RECURRENT)
        if (is_hidden and units != "input") or (not is_hidden and units != "hidden" and axis.name in read_by_recurrent):
            chosen[axis.name] = axis.size
    if not chosen:
        raise ValueError(
            f"`units={units!r}` leaves nothing to gate: no recurrent layer has prunable units of that kind"
        )
    return chosen


def network_gates(network: nn.Module, blueprint: Blueprint) -> dict[str, Gates]:
    """The gates of a gated network by axis, whether `gate_network_` put them there or its layers were built gated.

    Raises:
        ValueError: if a layer has gates on its input while other layers read the same units ungated.
    """
    modules = dict(network.named_modules())
    found: dict[str, Gates] = {}
    for layer, module in modules.items():
        if isinstance(module, GatedRecurrence):
            for key, gates in module.gates.items():
                if key != "input":
                    found[f"{layer}.{key}"] = gates  # type: ignore[assignment]
                elif layer in blueprint.inputs:
                    found[_axis_of_input_gates(layer, blueprint)] = gates  # type: ignore[assignment]
        elif isinstance(getattr(module, "gates", None), Gates):
            found[layer] = module.gates  # type: ignore[assignment]
    return {axis: gates for axis, gates in found.items() if axis in blueprint.axes}


def _axis_of_input_gates(layer: str, blueprint: Blueprint) -> str:
    axes = blueprint.inputs[layer]
    others = [other for other, inputs in blueprint.inputs.items() if other != layer and set(inputs) & set(axes)]
    if len(axes) != 1 or others:
        raise ValueError(
            f"{layer!r} has gates on its input, which joins several layers or is read by others too ({others}); "
            "build it with gates='hidden' and let `gate_network_` gate the units where they are produced"
        )
    return axes[0]


def _refuse_code_of_others(network: nn.Module, blueprint: Blueprint) -> None:
    """Gated layers stand in for torch's own, and surgery makes torch's own of them: all else would be lost."""
    modules = dict(network.named_modules())
    known = ", ".join(kind.__name__ for kind in REPLACED)
    for layer in blueprint.outputs:
        module = modules[layer]
        if isinstance(module, (*REPLACED, *RECURRENT)) and type(module) not in REPLACED:
            raise ValueError(
                f"{layer!r} is a {type(module).__name__}, but only torch's own {known} can be gated: gated layers run "
                "without the code of a subclass. Put it in `fixed`"
            )
        hooks = [name for name in HOOKS if getattr(module, name)]
        if isinstance(module, RECURRENT) and hooks:
            raise ValueError(
                f"{layer!r} has hooks, which the gated layer in its place would not have: register them on the gated "
                "layer afterwards if they only watch, or put it in `fixed`"
            )


def _gate_recurrent_layer_(
    network: nn.Module, layer: str, module: nn.RNNBase, axes: dict[str, int], options: dict[str, Any]
) -> dict[str, Gates]:
    gated = gate_layer(module, gates="hidden", **options)
    gated.is_wired = True
    for key in list(gated.gates):
        if f"{layer}.{key}" not in axes:
            del gated.gates[key]
    for name in [name for name, other in network.named_modules(remove_duplicate=False) if other is module]:
        network.set_submodule(name, gated)
    return {f"{layer}.{key}": gates for key, gates in gated.gates.items()}  # type: ignore[misc]


def _gate_readers_(network: nn.Module, blueprint: Blueprint, gates: dict[str, Gates]) -> None:
    for layer, inputs in blueprint.inputs.items():
        if not any(axis in gates for axis in inputs):
            continue
        blocks: Blocks = [gates.get(axis, blueprint.axes[axis].size) for axis in inputs]
        module = network.get_submodule(layer)
        if isinstance(module, nn.LayerNorm):
            module.__class__ = GatedLayerNorm
        elif isinstance(module, nn.Linear):
            module.__class__ = GatedLinear
        elif isinstance(module, GatedRecurrence):
            module.input_blocks = blocks
        if isinstance(module, (GatedLayerNorm, GatedLinear)):
            module.blocks = blocks
