"""Shrink a network: cut the closed units out of every weight and prove that the outputs stay the same."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor, nn

from l0rnn.axes import Blueprint
from l0rnn.blueprint import draw_blueprint
from l0rnn.construction import build
from l0rnn.equality import as_arguments, check_finite, compare, why_it_varies
from l0rnn.layers import Gates
from l0rnn.layers.gating import network_gates
from l0rnn.nesting import moved_to
from l0rnn.wiring import Wiring

log = logging.getLogger(__name__)


class Prunable(Protocol):
    """What `shrink` asks of a trained model, so that it need not know Lightning: `PrunableModule` has it."""

    network: nn.Module
    wiring: Wiring
    example_input_array: Any

    def trained_gates(self) -> dict[str, Tensor]:
        """Axis → deterministic gate of each unit; raises RuntimeError before training."""
        ...


def is_prunable(model: Any) -> TypeGuard[Prunable]:
    """Whether a model is a `Prunable`.

    Not by isinstance: from Python 3.12 on, that does not see what a module finds by ``__getattr__``, its submodules.
    """
    return all(hasattr(model, name) for name in ("network", "wiring", "example_input_array", "trained_gates"))


@dataclass(frozen=True)
class Surgery:
    """What `operate` did.

    Attributes:
        network: the shrunken network, plain torch modules.
        widths: axis → units kept and units there were.
        untouched: what was not pruned → why: axes, and layers that the wiring does not describe.
        max_abs_difference: largest absolute difference between the outputs of the two networks, over all runs.
    """

    network: nn.Module
    widths: dict[str, tuple[int, int]]
    untouched: dict[str, str]
    max_abs_difference: float

    def __str__(self) -> str:
        kept = [f"  {axis}: {width} of {full} units" for axis, (width, full) in self.widths.items()]
        left = [f"  {name}: {why}" for name, why in self.untouched.items()]
        equal = f"outputs differ by at most {self.max_abs_difference:.1e}"
        return "\n".join([f"shrunk, {equal}", *kept, *(["not pruned:", *left] if left else [])])


def shrink(
    model: nn.Module | Prunable,
    wiring: Wiring | None = None,
    gates: Mapping[str, Tensor] | None = None,
    *,
    example_inputs: Any = None,
    multiple_of: int = 1,
    tolerance: float | None = None,
) -> nn.Module:
    """Build the smaller dense network that gives the same outputs.

    Closed units are cut out of every weight that writes or reads them, gates between 0 and 1 are multiplied into the
    weights that read the unit, and the result is run against the original before it is returned. The original is not
    changed. Layers are fresh torch modules: an nn.LSTM, nn.GRU or nn.RNN where widths agree, else a `RaggedRNN`.

    Args:
        model: a trained `PrunableModule`, or a network together with its ``wiring``.
        wiring: what each layer of the network reads; only without a `PrunableModule`.
        gates: axis → gate of each unit in [0, 1], `(unit,)`; 0 means closed. The network's own gates if None.
        example_inputs: arguments of the network's forward, for the proof; a tuple, or the only argument.
        multiple_of: round the widths up to a multiple, as far as there are units; some kernels like multiples of 8.
        tolerance: largest accepted difference, relative to the largest output if that is above 1. Default: 1e-5 in
            float32, 1e-10 in float64, 3e-2 in half precision.

    Returns:
        The shrunken network, in the mode (training or evaluation) of the original.

    Raises:
        ValueError: if an argument is missing or out of range, the wiring does not fit, or the outputs differ; the last
            names the axes at fault.
        RuntimeError: if a `PrunableModule` has not been trained.

    Example:
        >>> class Tagger(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.encoder, self.decoder = nn.GRU(3, 6), nn.Linear(6, 2)
        ...
        ...     def forward(self, x):
        ...         return self.decoder(self.encoder(x)[0])
        >>> wiring = Wiring({"encoder": ["outside"], "decoder": ["encoder"]})
        >>> gates = {"encoder.l0": torch.tensor([1.0, 0.0, 0.5, 0.0, 0.0, 1.0])}
        >>> small = shrink(Tagger(), wiring, gates, example_inputs=torch.randn(4, 1, 3))
        >>> small.encoder, small.decoder
        (GRU(3, 3), Linear(in_features=3, out_features=2, bias=True))

    Reference:
        Wen et al. 2019 (arXiv 1906.06847), where closed neurons are removed from the weight matrices.
    """
    surgery = operate(model, wiring, gates, example_inputs=example_inputs, multiple_of=multiple_of, tolerance=tolerance)
    log.info("%s", surgery)
    return surgery.network


def operate(
    model: nn.Module | Prunable,
    wiring: Wiring | None = None,
    gates: Mapping[str, Tensor] | None = None,
    *,
    example_inputs: Any = None,
    multiple_of: int = 1,
    tolerance: float | None = None,
) -> Surgery:
    """As `shrink`, with the report of what was kept, what was not pruned and why, and the measured difference."""
    if multiple_of < 1:
        raise ValueError(f"`multiple_of` must be at least 1, got {multiple_of}")
    network: Any = model
    reference: nn.Module | None
    if wiring is None:
        if not is_prunable(model):
            raise ValueError(
                f"`wiring` must be given with a {type(model).__name__}; only a PrunableModule carries its own"
            )
        network, wiring, reference = model.network, model.wiring, model.network
        gates = model.trained_gates() if gates is None else gates
        if example_inputs is None:
            # of a batch on a GPU, while a Trainer leaves the module on the CPU when it is done, or the other way round
            device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
            example_inputs = moved_to(model.example_input_array, device)
    else:
        has_gates = any(isinstance(module, Gates) for module in network.modules())
        reference = network if has_gates else None
    if example_inputs is None:
        raise ValueError("`example_inputs` must be given: the shrunken network is run against the original on them")
    inputs = as_arguments(example_inputs)
    blueprint = draw_blueprint(network, wiring)
    check_finite(network, {weight.name for weight in blueprint.weights})
    gates = _deterministic_gates(network, blueprint) if gates is None else _checked_gates(gates, blueprint)
    keep = units_to_keep(blueprint, gates, multiple_of=multiple_of)
    if reference is None:  # a plain network has no gates of its own: compare with the gates folded in, at full width
        _check_rebuilding(network, blueprint, inputs, tolerance)
        reference = build(network, blueprint, gates, everything(blueprint))
    small = build(network, blueprint, gates, keep)
    draw_blueprint(small, wiring)
    difference, allowed = compare(reference, small, inputs, tolerance)
    if not difference <= allowed:
        if varies := why_it_varies(reference, inputs, allowed):
            raise ValueError(varies)
        faults = _axes_at_fault(network, reference, blueprint, gates, keep, inputs, tolerance)
        raise ValueError(
            f"the shrunken network differs from the original by {difference:.3g}, more than {allowed:.3g}; "
            f"the wiring of {', '.join(faults) or 'several axes together'} does not match the forward pass: "
            "check order and completeness of who reads it, or put its layer in `fixed`"
        )
    return _report(small, blueprint, gates, keep, difference)


def units_to_keep(blueprint: Blueprint, gates: Mapping[str, Tensor], *, multiple_of: int = 1) -> dict[str, Tensor]:
    """Which units of each axis stay: bool `(unit,)`.

    Those with an open gate, at least one, and more where ``multiple_of`` or torch's rule ``proj_size < hidden_size``
    asks for it; a closed unit that stays has weight 0 where it is read.
    """
    keep = everything(blueprint)
    for name, values in gates.items():
        axis = blueprint.axes[name]
        if axis.fixed is not None:
            continue
        wanted = max(1, int((values > 0).sum()))
        if name not in blueprint.normalised:  # a closed unit would count in the LayerNorm's mean
            wanted = -(-wanted // multiple_of) * multiple_of
        keep[name] = _widened(values.cpu() > 0, min(wanted, axis.size))
    for weight in blueprint.weights:
        if weight.kind == "weight_hr":
            (cells,), (units,) = weight.axes["cell"], weight.axes["unit"]
            keep[cells] = _widened(keep[cells], int(keep[units].sum()) + 1)
    return keep


def everything(blueprint: Blueprint) -> dict[str, Tensor]:
    """Every unit of every axis, bool `(unit,)`."""
    return {name: torch.ones(axis.size, dtype=torch.bool, device="cpu") for name, axis in blueprint.axes.items()}


def _widened(keep: Tensor, wanted: int) -> Tensor:
    """Keep the first closed units too, until there are as many as wanted."""
    missing = wanted - int(keep.sum())
    if missing <= 0:
        return keep
    wider = keep.clone()
    wider[(~keep).nonzero().squeeze(1)[:missing]] = True
    return wider


def _deterministic_gates(network: nn.Module, blueprint: Blueprint) -> dict[str, Tensor]:
    found = network_gates(network, blueprint)
    if not found:
        raise ValueError("`gates` must be given: the network has none of its own")
    return {axis: gates.deterministic().detach().cpu() for axis, gates in found.items()}


def _checked_gates(gates: Mapping[str, Tensor], blueprint: Blueprint) -> dict[str, Tensor]:
    checked = {}
    for name, values in gates.items():
        if name not in blueprint.axes:
            known = ", ".join(axis.name for axis in blueprint.prunable())
            raise ValueError(f"`gates` names {name!r}, which is none of the prunable axes {known}")
        axis = blueprint.axes[name]
        values = values.detach().cpu().float() if values.dtype == torch.bool else values.detach().cpu()
        if values.shape != (axis.size,):
            raise ValueError(f"`gates` must have shape ({axis.size},) for {name!r}, got {tuple(values.shape)}")
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise ValueError(f"`gates` must be in [0, 1] for {name!r}, got {values.min():.3g} to {values.max():.3g}")
        if axis.fixed is not None and bool((values != 1).any()):
            raise ValueError(f"`gates` must be 1 for {name!r}, which cannot be pruned: {axis.fixed}")
        checked[name] = values
    return checked


def _axes_at_fault(
    network: nn.Module,
    reference: nn.Module,
    blueprint: Blueprint,
    gates: Mapping[str, Tensor],
    keep: Mapping[str, Tensor],
    inputs: tuple[Any, ...],
    tolerance: float | None,
) -> list[str]:
    """Axes that break the equality when they alone are cut."""
    faults = []
    for name, units in keep.items():
        if bool(units.all()):
            continue
        alone = {**everything(blueprint), name: units}
        try:
            small = build(network, blueprint, gates, alone)
        except ValueError:
            continue  # torch does not allow this axis to be cut by itself
        try:
            difference, allowed = compare(reference, small, inputs, tolerance)
            is_fault = not difference <= allowed
        except ValueError:
            is_fault = True
        if is_fault:
            faults.append(name)
    return faults


def _check_rebuilding(
    network: nn.Module, blueprint: Blueprint, inputs: tuple[Any, ...], tolerance: float | None
) -> None:
    """Fresh layers at full width must give what the network's own give: without hooks and the user's own code."""
    difference, allowed = compare(network, build(network, blueprint, {}, everything(blueprint)), inputs, tolerance)
    if not difference <= allowed:
        if varies := why_it_varies(network, inputs, allowed):
            raise ValueError(varies)
        raise ValueError(
            f"`network` differs by {difference:.3g} from itself rebuilt of plain torch layers; a hook, a subclass of a "
            "torch layer, or an option such as `max_norm` is the usual cause: put the layer in `fixed`"
        )


def _report(
    small: nn.Module,
    blueprint: Blueprint,
    gates: Mapping[str, Tensor],
    keep: Mapping[str, Tensor],
    difference: float,
) -> Surgery:
    widths = {axis.name: (int(keep[axis.name].sum()), axis.size) for axis in blueprint.prunable()}
    untouched = {axis.name: axis.fixed for axis in blueprint.axes.values() if axis.fixed is not None}
    untouched |= {axis.name: "it has no gates" for axis in blueprint.prunable() if axis.name not in gates}
    return Surgery(small, widths, {**untouched, **blueprint.undescribed}, difference)
