"""Run two networks on the same inputs, from the same random numbers, and say how far apart their outputs are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from l0rnn.recurrent.nested import map_tensors
from l0rnn.recurrent.single_steps import onednn
from l0rnn.tracing.run import tensors_in
from l0rnn.tracing.trace import as_call
from l0rnn.tracing.units import Units, cut_elements

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
HALF_PRECISION_TOLERANCE = 3e-2


@dataclass(frozen=True)
class Widths:
    """What follows the widths of a network beside its weights: states among its inputs and its outputs.

    Attributes:
        units: the units of the larger network.
        keep: which of them the smaller one has, bool `(unit,)`.
    """

    units: Units
    keep: Tensor

    def smaller_inputs(self, example_inputs: Any) -> Any:
        """The same inputs for the smaller network: states without the units that are gone."""
        number = -1

        def change(part: Any) -> Any:
            nonlocal number
            if isinstance(part, PackedSequence):
                number += sum(1 for _ in tensors_in(part))
                return part
            number += 1
            units = self.units.input_states.get(number)
            return part if units is None else cut_elements(part, units, self.keep)

        return map_tensors(change, example_inputs)

    def smaller_output(self, number: int, output: Tensor) -> Any:
        """An output of the larger network as the smaller one should give it."""
        units = self.units.outputs[number] if number < len(self.units.outputs) else None
        return output if units is None else cut_elements(output, units.expand(output.shape), self.keep)


def compare(
    reference: nn.Module,
    small: nn.Module,
    example_inputs: Any,
    tolerance: float | None = None,
    widths: Widths | None = None,
) -> tuple[float, float]:
    """Largest difference between the outputs of two networks in evaluation mode, with oneDNN on and off.

    All outputs are compared, in shape and in value, in any nesting of tuples, lists, dicts and dataclasses.

    Args:
        reference: the network that is right.
        small: the network to check.
        example_inputs: arguments of both, as `l0rnn.tracing.trace` takes them.
        tolerance: relative to the largest output if that is above 1; None for the default of the dtype.
        widths: what of inputs and outputs follows the widths; None if nothing does.

    Returns:
        The largest absolute difference, and the largest one accepted.

    Raises:
        ValueError: if the small network fails to run, an output is not a number, has another shape, or the reference
            differs from itself.
    """
    worst, scale = 0.0, 1.0
    dtypes = {parameter.dtype for parameter in reference.parameters()}
    smaller = example_inputs if widths is None else widths.smaller_inputs(example_inputs)
    for use_onednn in (True, False):
        with torch.no_grad(), evaluating(reference, small), onednn(use_onednn), torch.random.fork_rng():
            state = torch.get_rng_state()
            expected = _run(reference, example_inputs, "network")
            torch.set_rng_state(state)
            got = _run(small, smaller, "shrunken network")
            pairs = list(_pairs(expected, got, widths))
            if use_onednn and any(a.is_floating_point() and not _same(a, b) for a, b in pairs):
                torch.set_rng_state(state)
                again = list(_pairs(expected, _run(reference, example_inputs, "network"), None))
                if not all(_same(a, b) for a, b in again if a.is_floating_point()):
                    raise ValueError(
                        "`network` differs from itself when it is run twice from the same random numbers of torch, so "
                        "nothing can be proved; make its forward take its random numbers from torch alone"
                    )
        if not pairs:
            raise ValueError("the networks have no output tensors to compare; return some from the forward pass")
        numbers = [(a, b) for a, b in pairs if a.is_floating_point() or a.is_complex()]
        dtypes |= {a.dtype for a, _ in numbers}
        for a, b in numbers or pairs:  # whole numbers follow from others, and count only where they are all there is
            if bool(torch.isnan(a).any()) or bool(torch.isnan(b).any()):
                which = "network" if bool(torch.isnan(a).any()) else "shrunken network"
                raise ValueError(f"an output of the {which} is NaN on `example_inputs`, so nothing can be proved")
            worst = max(worst, _difference(a, b))
            finite = a[a.isfinite()]
            scale = max(scale, finite.abs().max().item()) if len(finite) and numbers else scale
    loosest = max(TOLERANCES.get(dtype, HALF_PRECISION_TOLERANCE) for dtype in dtypes if dtype.is_floating_point)
    return worst, (loosest if tolerance is None else tolerance) * scale


def _run(network: nn.Module, example_inputs: Any, what: str) -> Any:
    args, kwargs = as_call(network, example_inputs)
    try:
        return network(*args, **kwargs)
    except Exception as error:
        if what == "network":
            raise ValueError(f"`network` fails on the `example_inputs`: {type(error).__name__}: {error}") from error
        raise ValueError(f"the {what} does not run: {type(error).__name__}: {error}") from error


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.isclose(a, b, rtol=1e-3, atol=1e-3, equal_nan=True).all())


def _difference(a: Tensor, b: Tensor) -> float:
    """Largest difference of two tensors; infinite where one is infinite and the other is not the same."""
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    is_special = ~(a.isfinite() & b.isfinite())
    if not bool((a == b)[is_special].all()):
        return float("inf")
    ordinary = (a.double() - b.double())[~is_special]
    return ordinary.abs().max().item() if ordinary.numel() else 0.0


def _pairs(a: Any, b: Any, widths: Widths | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Tensors in the same places of two outputs, the first cut to the widths of the second where it follows them."""
    number = -1

    def walk(one: Any, other: Any) -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal number
        if isinstance(one, Tensor):
            number += 1
            expected = one if widths is None else widths.smaller_output(number, one)
            is_uneven = isinstance(other, (tuple, list)) or isinstance(expected, tuple)
            rows = zip(expected, other, strict=True) if is_uneven else ((expected, other),)
            for left, right in rows:
                if not isinstance(right, Tensor) or left.shape != right.shape:
                    got = tuple(right.shape) if isinstance(right, Tensor) else type(right).__name__
                    raise ValueError(
                        f"an output of the shrunken network has shape {got}, the original's {tuple(left.shape)}"
                    )
                yield left, right
            return
        parts = [_parts(value) for value in (one, other)]
        if type(one) is not type(other) or len(parts[0]) != len(parts[1]):
            raise ValueError(
                f"the shrunken network returns a {type(other).__name__} of {len(parts[1])} where the original returns a "
                f"{type(one).__name__} of {len(parts[0])}"
            )
        for left, right in zip(*parts, strict=True):
            yield from walk(left, right)

    return walk(a, b)


def _parts(value: Any) -> list[Any]:
    """What a container holds, in the order of `tensors_in`."""
    if isinstance(value, (tuple, list)):
        return list(value)
    if isinstance(value, dict):
        return list(value.values())
    if hasattr(value, "__dataclass_fields__"):
        return [getattr(value, name) for name in value.__dataclass_fields__]
    return []


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """All modules in evaluation mode and computing all their units, each put back as it was.

    A gated layer that leaves out its closed units does not know their state, so states could not be compared.
    """
    modules = [module for network in networks for module in network.modules()]
    before = [(module, {name: vars(module)[name] for name in _SWITCHES if name in vars(module)}) for module in modules]
    try:
        for module in modules:
            for name in _SWITCHES:
                if hasattr(module, name):
                    setattr(module, name, False)
        yield
    finally:
        for module, switches in before:
            for name in _SWITCHES:
                vars(module).pop(name, None)
            vars(module).update(switches)


_SWITCHES = ("training", "skips_closed_units")

