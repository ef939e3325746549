"""Shrink a network: cut the closed units out of every weight and prove that the outputs stay the same."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor, nn

from l0rnn.arguments import checked
from l0rnn.gates.network import deterministic_gates, gate_network_, network_gates, ungate_network_
from l0rnn.recurrent.nested import moved_to
from l0rnn.surgery.build import build
from l0rnn.surgery.kept import uniform, units_to_keep
from l0rnn.surgery.loss import Loss, compare_losses
from l0rnn.surgery.proof import NotComparableError, Widths, check_finite, compare, self_difference
from l0rnn.surgery.sizes import follow_, guesses, numbers_to_follow
from l0rnn.tracing.trace import trace
from l0rnn.tracing.units import Units

log = logging.getLogger(__name__)


class Prunable(Protocol):
    """What `shrink` asks of a trained model, so that it need not know Lightning: `PrunableModule` has it."""

    network: nn.Module
    units: Units
    example_input_array: Any

    def trained_gates(self) -> dict[str, Tensor]:
        """Axis → deterministic gate of each unit; raises RuntimeError before training."""
        ...


def is_prunable(model: Any) -> TypeGuard[Prunable]:
    """Whether a model is a `Prunable`.

    Not by isinstance: from Python 3.12 on, that does not see what a module finds by ``__getattr__``, its submodules.
    """
    return all(hasattr(model, name) for name in ("network", "units", "example_input_array", "trained_gates"))


class NotEqualError(ValueError):
    """The network of the kept units does not give the outputs of the original.

    Attributes:
        axes: those that break the equality when they alone are cut.
        why: what was seen.
    """

    def __init__(self, why: str, axes: list[str]) -> None:
        super().__init__(
            f"{why}; at fault: {', '.join(axes) or 'several axes together'}. The forward pass uses their width in a "
            "way that the trace did not see: name them in `fixed`"
        )
        self.why, self.axes = why, axes


@dataclass(frozen=True)
class Surgery:
    """What `operate` did.

    Attributes:
        network: the shrunken network, plain torch modules.
        widths: axis → units kept and units there were.
        untouched: what was not pruned → why.
        max_abs_difference: largest absolute difference between the outputs of the two networks, over all runs.
        followed: numbers of the user's modules that followed the widths.
    """

    network: nn.Module
    widths: dict[str, tuple[int, int]]
    untouched: dict[str, str]
    max_abs_difference: float
    followed: tuple[str, ...] = ()

    def __str__(self) -> str:
        kept = [f"  {axis}: {width} of {full} units" for axis, (width, full) in self.widths.items()]
        left = [f"  {name}: {why}" for name, why in self.untouched.items()]
        equal = f"outputs differ by at most {self.max_abs_difference:.1e}"
        return "\n".join([f"shrunk, {equal}", *kept, *(["not pruned:", *left] if left else [])])


@checked
def shrink(
    model: nn.Module | Prunable,
    gates: Mapping[str, Tensor] | None = None,
    *,
    example_inputs: Any = None,
    units: Units | None = None,
    multiple_of: int = 1,
    uniform_stacks: bool = False,
    tolerance: float | None = None,
    loss: Loss | bool = True,
) -> nn.Module:
    """Build the smaller dense network that gives the same outputs.

    Closed units are cut out of every weight that writes or reads them, gates between 0 and 1 are multiplied into the
    weights that read the unit, and the result is run against the original before it is returned. The original is not
    changed. A stack of torch whose widths differ becomes a `RaggedRNN`.

    Args:
        model: a trained `PrunableModule`, or a network.
        gates: axis → gate of each unit in [0, 1], `(unit,)`; 0 means closed, an absent axis is whole. The network's own
            gates if None. `l0rnn.explain` prints the axes.
        example_inputs: arguments of the network's forward, as `l0rnn.explain` takes them.
        units: what `l0rnn.tracing.trace` has found, if it need not be found again.
        multiple_of: round the widths up to a multiple, as far as there are units; some kernels like multiples of 8.
        uniform_stacks: whether each stack of torch keeps one width and stays an nn.LSTM, nn.GRU or nn.RNN, filled up
            with closed units.
        tolerance: largest accepted difference, relative to the largest output if that is above 1. Default: 1e-5 in
            float32, 1e-10 in float64, 3e-2 in half precision.
        loss: network → training loss of a batch, to be compared as well, see `compare_losses`; True for that of a
            `PrunableModule` on the first batch it was trained on; False for none.

    Returns:
        The shrunken network, in the mode (training or evaluation) of the original. Its attribute ``surgery_report`` is
        what was kept, what was not pruned and why, as text.

    Raises:
        ValueError: if an argument is missing or out of range, or the outputs differ; the error names the axes at fault.
        RuntimeError: if a `PrunableModule` has not been trained.

    Example:
        >>> class Tagger(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.encoder, self.decoder = nn.GRU(3, 6), nn.Linear(6, 2)
        ...
        ...     def forward(self, x):
        ...         return self.decoder(self.encoder(x)[0])
        >>> gates = {"encoder.l0": torch.tensor([1.0, 0.0, 0.5, 0.0, 0.0, 1.0])}
        >>> small = shrink(Tagger(), gates, example_inputs=torch.randn(4, 1, 3))
        >>> small.encoder, small.decoder
        (GRU(3, 3), Linear(in_features=3, out_features=2, bias=True))

    Reference:
        Wen et al. 2019 (arXiv 1906.06847), where closed neurons are removed from the weight matrices.
    """
    surgery = operate(
        model,
        gates,
        example_inputs=example_inputs,
        units=units,
        multiple_of=multiple_of,
        uniform_stacks=uniform_stacks,
        tolerance=tolerance,
        loss=loss,
    )
    log.info("%s", surgery)
    surgery.network.__dict__["surgery_report"] = str(surgery)
    return surgery.network


@checked
def operate(
    model: nn.Module | Prunable,
    gates: Mapping[str, Tensor] | None = None,
    *,
    example_inputs: Any = None,
    units: Units | None = None,
    multiple_of: int = 1,
    uniform_stacks: bool = False,
    tolerance: float | None = None,
    loss: Loss | bool = True,
) -> Surgery:
    """As `shrink`, with the report of what was kept, what was not pruned and why, and the measured difference."""
    if multiple_of < 1:
        raise ValueError(f"`multiple_of` must be at least 1, got {multiple_of}")
    network: Any = model
    if is_prunable(model):
        network, units = model.network, model.units
        gates = model.trained_gates() if gates is None else gates
        loss = getattr(model, "example_loss", None) or False if loss is True else loss
        example_inputs = model.example_input_array if example_inputs is None else example_inputs
        # of a batch on a GPU, while a Trainer leaves the module on the CPU when it is done, or the other way round
        device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
        example_inputs = moved_to(example_inputs, device)
    if example_inputs is None:
        raise ValueError("`example_inputs` must be given: the shrunken network is run against the original on them")
    units = trace(network, example_inputs) if units is None else units
    cut = {name for weight in units.weights.values() if weight.is_matrix or weight.has_units for name in weight.aliases}
    check_finite(network, cut)
    values = _gate_values(network, units, gates)
    keep = units_to_keep(units, values, multiple_of=multiple_of)
    if uniform_stacks:
        exact, keep = keep, uniform(network, units, keep)
        _check_normalised(units, keep & ~exact)
    small, difference, followed = build_and_prove(network, units, values, keep, example_inputs, tolerance)
    if callable(loss):
        with gated_by(network, units, values) as reference:
            compare_losses(reference, small, loss, tolerance)
    widths = {name: (int(keep[axis.units].sum()), axis.size) for name, axis in units.axes.items()}
    return Surgery(small, widths, dict(units.whole), difference, followed)


def build_and_prove(
    network: nn.Module, units: Units, gates: Tensor, keep: Tensor, example_inputs: Any, tolerance: float | None = None
) -> tuple[nn.Module, float, tuple[str, ...]]:
    """The network of the kept units, how far it is from the original, and which numbers of the user's followed.

    The original computes with the gates where units are read; the small one has them folded in and nothing of the
    rest. So neither takes over a mistake of the other.

    Raises:
        NotEqualError: if they differ by more than the tolerance, with the axes at fault.
    """
    with gated_by(network, units, gates) as reference:
        why = ""
        numbers = numbers_to_follow(network, units, keep)
        for guess in guesses(numbers):
            small = build(network, units, gates, keep)
            followed = follow_(small, guess)
            try:
                difference, allowed = compare(reference, small, example_inputs, tolerance, Widths(units, keep))
            except NotComparableError as error:
                why = why or str(error)
                continue
            if difference <= allowed:
                return small, difference, tuple(followed)
            found = f"the shrunken network differs from the original by {difference:.3g}, more than {allowed:.3g}"
            if not why and not self_difference(reference, example_inputs, other_numbers=True) <= allowed:
                found += (
                    "; it draws random numbers in evaluation mode, and though both networks start from the same ones, "
                    "where their number follows the widths they are others"
                )
            why = why or found
        faults = axes_at_fault(network, units, gates, keep, example_inputs, tolerance)
    raise NotEqualError(why, faults)


def axes_at_fault(
    network: nn.Module, units: Units, gates: Tensor, keep: Tensor, example_inputs: Any, tolerance: float | None
) -> list[str]:
    """Axes that break the equality when they alone are cut, or else together with those before; inside `gated_by`."""

    def breaks(names: list[str]) -> bool:
        alone = torch.ones_like(keep)
        values = torch.ones_like(gates) if network_gates(network) is not None else gates.clone()
        for name in names:
            alone[units.axes[name].units] = keep[units.axes[name].units]
            values[units.axes[name].units] = gates[units.axes[name].units]
        if bool(alone.all()):
            return False
        with gated_by(network, units, values) as reference:
            for guess in guesses(numbers_to_follow(network, units, alone)):
                small = build(reference, units, values, alone)
                follow_(small, guess)
                try:
                    difference, allowed = compare(reference, small, example_inputs, tolerance, Widths(units, alone))
                except ValueError:
                    continue
                if difference <= allowed:
                    return False
        return True

    faults = [name for name in units.axes if breaks([name])]
    if not faults:
        fine: list[str] = []
        for name in units.axes:
            (faults if breaks([*fine, name]) else fine).append(name)
    return faults


@contextmanager
def gated_by(network: nn.Module, units: Units, values: Tensor) -> Iterator[nn.Module]:
    """Inside the block the network computes with these gates; afterwards it is what it was."""
    own = network_gates(network)
    if own is None and not units.axes:
        yield network
        return
    if own is None:
        built = deterministic_gates(network, units)
        if built is not None and torch.equal(built, values):
            yield network
            return
        if built is not None:
            raise ValueError("`gates` must be left out for a network whose layers were built with gates of their own")
        own = gate_network_(network, units, open_probability=1.0)
        try:
            own.hold_(values)
            yield network
        finally:
            ungate_network_(network)
        return
    before = own.held()
    try:
        own.hold_(values)
        yield network
    finally:
        own.release_(before)


def _gate_values(network: nn.Module, units: Units, gates: Mapping[str, Tensor] | None) -> Tensor:
    """The gates of all units, checked, `(unit,)`."""
    if gates is None:
        values = deterministic_gates(network, units)
        if values is None:
            raise ValueError("`gates` must be given for a network without gates: axis → gate of each unit")
        return values
    checked = {}
    for name, given in gates.items():
        axis = units.axes.get(name)
        if axis is None:
            why = units.whole.get(name)
            known = f"which cannot be pruned: {why}" if why else f"which is none of the axes {', '.join(units.axes)}"
            if why and isinstance(given, Tensor) and bool((given == 1).all()):
                continue
            raise ValueError(f"`gates` names {name!r}, {known}")
        values = given.detach().float().cpu() if given.dtype == torch.bool else given.detach().cpu()
        if values.shape != (axis.size,):
            raise ValueError(f"`gates` must have shape ({axis.size},) for {name!r}, got {tuple(values.shape)}")
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise ValueError(f"`gates` must be in [0, 1] for {name!r}, got {values.min():.3g} to {values.max():.3g}")
        checked[name] = values
    return units.vector(checked, 1.0)


def _check_normalised(units: Units, filled_up: Tensor) -> None:
    """Refuse closed units that were kept to fill up a stack where they would count in a mean."""
    for name, numbers in units.normalised.items():
        if bool(filled_up[numbers[numbers >= 0]].any()):
            axes = ", ".join(units.axes_of(numbers))
            raise ValueError(
                f"`uniform_stacks` would fill up {axes} with closed units, which {name!r} would count in its mean; "
                "leave it out"
            )
