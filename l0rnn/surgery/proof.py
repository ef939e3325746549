"""Run two networks on the same inputs, from the same random numbers, and say how far apart their outputs are."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from l0rnn.recurrent.nested import map_tensors
from l0rnn.recurrent.single_steps import onednn
from l0rnn.tracing.rules.run import tensors_in
from l0rnn.tracing.trace import as_call
from l0rnn.tracing.units import Units, cut_elements

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
HALF_PRECISION_TOLERANCE = 3e-2


class NotComparableError(ValueError):
    """The smaller network fails, or gives outputs of another form or that are no numbers."""


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
        return output if units is None else cut_elements(output, units, self.keep)


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
        tolerance: relative to the largest number of an output tensor if that is above 1; None for the default of the
            dtype.
        widths: what of inputs and outputs follows the widths; None if nothing does.

    Returns:
        The absolute difference of the output tensor that differs most for its size, and the largest one accepted.

    Raises:
        NotComparableError: if the small network fails to run, or its outputs have another form or are no numbers.
        ValueError: if the reference fails, gives no numbers or none that is finite, or differs from itself; or the
            tolerance is no number ≥ 0.
    """
    check_tolerance(tolerance)
    worst, scale = 0.0, 1.0  # of the tensor that differs most for its size
    dtypes = {parameter.dtype for parameter in reference.parameters()}
    smaller = example_inputs if widths is None else widths.smaller_inputs(example_inputs)
    for use_onednn in (True, False):
        with torch.no_grad(), evaluating(reference, small), onednn(use_onednn), torch.random.fork_rng():
            state = _random_state()
            expected = _run(reference, example_inputs, "network")
            _set_random_state(state)
            got = _run(small, smaller, "shrunken network")
            pairs = list(_pairs(expected, got, widths))
        if not pairs:
            raise ValueError("the networks have no output tensors to compare; return some from the forward pass")
        numbers = [(a, b) for a, b in pairs if a.is_floating_point() or a.is_complex()]
        _check_comparable([a for a, _ in numbers])
        dtypes |= {a.dtype for a, _ in numbers}
        for a, b in numbers or pairs:  # whole numbers follow from others, and count only where they are all there is
            if bool(torch.isnan(b).any()):
                raise NotComparableError("an output of the shrunken network is NaN where the original's is none")
            finite = a[a.isfinite()]
            difference = _difference(a, b)
            largest = max(1.0, finite.abs().max().item()) if len(finite) and numbers else 1.0
            if difference / largest >= worst / scale:
                worst, scale = difference, largest
    floating = [dtype for dtype in dtypes if dtype.is_floating_point] or [torch.float32]
    loosest = max(TOLERANCES.get(dtype, HALF_PRECISION_TOLERANCE) for dtype in floating)
    allowed = (loosest if tolerance is None else tolerance) * scale
    if not worst <= allowed:
        varies = self_difference(reference, example_inputs)
        if not varies <= allowed:
            raise ValueError(
                f"`network` differs from itself by {varies:.3g} when it is run twice from the same random numbers of "
                "torch, so nothing can be proved equal to it; look for what it remembers from one call to the next, or "
                "draws from a generator of its own, and switch that off in evaluation mode"
            )
    return worst, allowed


def check_tolerance(tolerance: float | None) -> None:
    """Raise ValueError unless a tolerance is a finite number ≥ 0, or None."""
    if tolerance is not None and not 0 <= tolerance < float("inf"):
        raise ValueError(f"`tolerance` must be a finite number >= 0, or None for that of the dtype, got {tolerance}")


def self_difference(network: nn.Module, example_inputs: Any, *, other_numbers: bool = False) -> float:
    """How far two runs of one network in evaluation mode are apart, from the same random numbers or from other ones.

    Example:
        >>> self_difference(nn.Linear(2, 2), torch.zeros(3, 2))
        0.0
    """
    with torch.no_grad(), evaluating(network), torch.random.fork_rng():
        state = _random_state()
        first = _run(network, example_inputs, "network")
        if not other_numbers:
            _set_random_state(state)
        second = _run(network, example_inputs, "network")
        try:
            return max((_difference(a, b) for a, b in _pairs(first, second, None)), default=0.0)
        except NotComparableError:  # of another form
            return float("inf")


def check_finite(network: nn.Module, cut: Collection[str]) -> None:
    """Refuse weights that are NaN or infinite, of which no comparison says anything.

    Args:
        network: the network that is right.
        cut: names of parameters that take part in products or have units. Others that nobody trains, such as a mask,
            may be infinite.

    Raises:
        ValueError: if there are such; it names the parameter.

    Example:
        >>> check_finite(nn.Linear(2, 2), ["weight"])
    """
    for name, parameter in network.named_parameters():
        may_be_infinite = name not in cut and not parameter.requires_grad
        is_right = ~parameter.isnan().any() if may_be_infinite else parameter.isfinite().all()
        if not bool(is_right):
            raise ValueError(
                f"`network` must have finite weights, but {name!r} holds NaN or infinity; go back to a checkpoint from "
                "before the training diverged, and train with a lower learning rate or gradient_clip_val of the Trainer"
            )


def _check_comparable(outputs: list[Tensor]) -> None:
    """Refuse outputs that any other would be equal to: where NaN is taken for NaN, a wrong network passes."""
    advice = "so nothing can be proved equal to it; give inputs of the range it was trained on"
    if any(bool(output.isnan().any()) for output in outputs):
        raise ValueError(
            f"`network` gives NaN on `example_inputs`, {advice}, and look whether it was trained to the end"
        )
    if outputs and not any(bool(output.isfinite().any()) for output in outputs):
        raise ValueError(f"`network` gives infinite outputs alone on `example_inputs`, {advice}")


def _random_state() -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])]


def _set_random_state(state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if state[1:]:
        torch.cuda.set_rng_state_all(state[1:])


def _run(network: nn.Module, example_inputs: Any, what: str) -> Any:
    args, kwargs = as_call(network, example_inputs)
    try:
        return network(*args, **kwargs)
    except Exception as error:
        if what == "network":
            raise ValueError(f"`network` fails on the `example_inputs`: {type(error).__name__}: {error}") from error
        raise NotComparableError(f"the {what} does not run: {type(error).__name__}: {error}") from error


def _difference(a: Tensor, b: Tensor) -> float:
    """Largest difference of two tensors; infinite where one is infinite or NaN and the other is not the same."""
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    is_special = ~(a.isfinite() & b.isfinite())
    if not bool((a == b)[is_special].all()):
        return float("inf")
    if not a.is_floating_point():
        a, b = a.long(), b.long()
    elif a.dtype.itemsize < 4:  # half precision; not wider than the network is, since not every device has float64
        a, b = a.float(), b.float()
    ordinary = a[~is_special] - b[~is_special]
    return float(ordinary.abs().max().item()) if ordinary.numel() else 0.0


def _pairs(a: Any, b: Any, widths: Widths | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Tensors in the same places of two outputs, the first cut to the widths of the second where it follows them."""
    number = -1

    def walk(one: Any, other: Any) -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal number
        if isinstance(one, Tensor):
            number += 1
            expected = one if widths is None else widths.smaller_output(number, one)
            is_uneven = isinstance(other, (tuple, list)) or isinstance(expected, tuple)
            rows: Any = zip(expected, other, strict=True) if is_uneven else ((expected, other),)
            for left, right in rows:
                if not isinstance(right, Tensor) or left.shape != right.shape:
                    got = tuple(right.shape) if isinstance(right, Tensor) else type(right).__name__
                    raise NotComparableError(
                        f"an output of the shrunken network has shape {got}, the original's {tuple(left.shape)}"
                    )
                yield left, right
            return
        parts = [_parts(value) for value in (one, other)]
        if type(one) is not type(other) or len(parts[0]) != len(parts[1]):
            raise NotComparableError(
                f"the shrunken network returns a {type(other).__name__} of {len(parts[1])} where the original returns "
                f"a {type(one).__name__} of {len(parts[0])}"
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
