"""Run two networks on the same inputs and say how far apart their outputs are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from l0rnn.onednn import onednn

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
HALF_PRECISION_TOLERANCE = 3e-2


def as_arguments(example_inputs: Any) -> tuple[Any, ...]:
    """Positional arguments: a tuple as it is, all else as the only one, also a PackedSequence or other named tuple.

    Example:
        >>> packed = nn.utils.rnn.pack_sequence([torch.zeros(2, 3)])
        >>> len(as_arguments((packed, None))), len(as_arguments(packed))
        (2, 1)
    """
    is_plain = isinstance(example_inputs, tuple) and not hasattr(example_inputs, "_fields")
    return example_inputs if is_plain else (example_inputs,)


def compare(
    reference: nn.Module, small: nn.Module, inputs: tuple[Any, ...], tolerance: float | None = None
) -> tuple[float, float]:
    """Largest difference between the outputs of two networks in evaluation mode, with oneDNN on and off.

    Outputs may be nested; states, whose shape follows the width, are compared where shapes agree. Both networks start
    from the same random numbers, so that one that draws some gives the same twice.

    Args:
        reference: the network that is right.
        small: the network to check.
        inputs: positional arguments of both.
        tolerance: relative to the largest output if that is above 1; None for the default of the dtype.

    Returns:
        The largest absolute difference, and the largest one accepted.

    Raises:
        ValueError: if a network fails to run, the first output has another shape, or there is nothing to compare,
            since the reference gives NaN or no finite number; or the tolerance is no number ≥ 0.
    """
    if tolerance is not None and not 0 <= tolerance < float("inf"):
        raise ValueError(f"`tolerance` must be a finite number >= 0, or None for that of the dtype, got {tolerance}")
    worst, scale = 0.0, 1.0
    dtypes = {parameter.dtype for parameter in reference.parameters()}
    for use_onednn in (True, False):
        with torch.no_grad(), evaluating(reference, small), onednn(use_onednn), random_numbers_again() as again:
            expected = _run_reference(reference, inputs)
            again()
            try:
                got = small(*inputs)
            except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"the shrunken network does not run: {error}; a size written out in the forward pass, or a reader "
                    "that the wiring does not declare, is the usual cause"
                ) from error
        pairs = list(_pairs(expected, got))
        if pairs and pairs[0][0].shape != pairs[0][1].shape:
            raise ValueError(
                f"the shrunken network's output has shape {tuple(pairs[0][1].shape)}, the original's "
                f"{tuple(pairs[0][0].shape)}: put the layer that produces it in `fixed`"
            )
        pairs = [(a, b) for a, b in pairs if a.shape == b.shape and a.numel()]
        numbers = [(a, b) for a, b in pairs if a.is_floating_point()]
        if not pairs:
            raise ValueError("the networks have no output tensors to compare; return some from the forward pass")
        _check_comparable([a for a, _ in numbers])
        dtypes |= {a.dtype for a, _ in numbers}
        for a, b in numbers or pairs:  # whole numbers follow from others, and count only where they are all there is
            worst = max(worst, _difference(a, b))
            finite = a[a.isfinite()]
            scale = max(scale, finite.abs().max().item()) if len(finite) and numbers else scale
    floating = [dtype for dtype in dtypes if dtype.is_floating_point] or [torch.float32]
    loosest = max(TOLERANCES.get(dtype, HALF_PRECISION_TOLERANCE) for dtype in floating)
    return worst, (loosest if tolerance is None else tolerance) * scale


def check_finite(network: nn.Module, cut: Collection[str] = ()) -> None:
    """Refuse weights that are NaN, of which no comparison says anything, and infinite ones among those to be cut.

    Args:
        network: the network that is right.
        cut: names of parameters that take part in a product; others may be infinite, such as a mask.

    Raises:
        ValueError: if there are such; it names the parameter.

    Example:
        >>> check_finite(nn.Linear(2, 2))
    """
    for name, parameter in network.named_parameters():
        is_right = parameter.isfinite().all() if name in cut else ~parameter.isnan().any()
        if not bool(is_right):
            raise ValueError(
                f"the weights {name!r} are NaN or infinite in places, so the training has diverged; go back to an "
                "earlier checkpoint, and train with a lower learning rate or gradient_clip_val of the Trainer"
            )


def why_it_varies(network: nn.Module, inputs: tuple[Any, ...], allowed: float) -> str | None:
    """Why two runs of one network differ by more than is allowed, or None where they do not.

    To be asked when a comparison has failed: if the network is not even equal to itself, nothing else is to blame.

    Example:
        >>> why_it_varies(nn.Linear(2, 2), (torch.zeros(3, 2),), 1e-5) is None
        True
    """
    with torch.no_grad(), evaluating(network), random_numbers_again() as again:
        first = _run_reference(network, inputs)
        again()
        second = _run_reference(network, inputs)
        torch.rand(1)
        other = _run_reference(network, inputs)
    same, drawn = (
        max((_difference(a, b) for a, b in _pairs(first, run) if a.shape == b.shape), default=0.0)
        for run in (second, other)
    )
    if not same <= allowed:
        return (
            f"the network differs from itself by {same:.3g} when it is run twice from the same random numbers, so "
            "nothing can be proved equal to it; look for what it remembers from one call to the next, or draws from a "
            "generator of its own, and switch that off in evaluation mode"
        )
    if not drawn <= allowed:
        return (
            f"the network draws random numbers in evaluation mode, by which it differs from itself by {drawn:.3g}; "
            "both networks start from the same ones, but where their number follows the widths they are others: switch "
            "that off in evaluation mode, or put the layer that it follows in `fixed`"
        )
    return None


@contextmanager
def random_numbers_again() -> Iterator[Callable[[], None]]:
    """Gives a function that starts torch's random numbers again from where they were; afterwards they go on from there.

    Example:
        >>> with random_numbers_again() as again:
        ...     first = torch.rand(1)
        ...     again()
        ...     is_same = torch.equal(first, torch.rand(1))
        >>> is_same
        True
    """
    here = torch.get_rng_state()
    # a machine's other devices are left alone unless they are in use already
    elsewhere = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []

    def again() -> None:
        torch.set_rng_state(here)
        if elsewhere:
            torch.cuda.set_rng_state_all(elsewhere)

    try:
        yield again
    finally:
        again()


def _run_reference(reference: nn.Module, inputs: tuple[Any, ...]) -> Any:
    try:
        return reference(*inputs)
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(
            f"`example_inputs` do not fit the network's forward: {error}; give its arguments as a tuple"
        ) from error


def _check_comparable(outputs: Sequence[Tensor]) -> None:
    """Refuse outputs that any other would be equal to: where NaN is taken for NaN, a wrong network passes."""
    if any(bool(output.isnan().any()) for output in outputs):
        raise ValueError(
            "the original network gives NaN on `example_inputs`, so nothing can be proved equal to it; give inputs of "
            "the range it was trained on, and look whether it was trained to the end"
        )
    if outputs and not any(bool(output.isfinite().any()) for output in outputs):
        raise ValueError(
            "the original network gives infinite outputs alone on `example_inputs`, so nothing can be proved equal to "
            "it; give inputs of the range it was trained on"
        )


def _difference(a: Tensor, b: Tensor) -> float:
    """Largest difference of two tensors; infinite where one is infinite or NaN and the other is not the same."""
    is_special = ~(a.isfinite() & b.isfinite())
    if not bool((a == b)[is_special].all()):
        return float("inf")
    if not a.is_floating_point() and not a.is_complex():
        a, b = a.long(), b.long()
    elif a.dtype.itemsize < 4:  # half precision; not wider than the network is, since not every device has float64
        a, b = a.float(), b.float()
    ordinary = a[~is_special] - b[~is_special]
    return float(ordinary.abs().max().item()) if ordinary.numel() else 0.0


def _pairs(a: Any, b: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Tensors in the same places of two outputs; parts of different form, such as states, are left out."""
    if isinstance(a, PackedSequence) and isinstance(b, PackedSequence):
        yield a.data, b.data
    elif isinstance(a, Tensor) and isinstance(b, Tensor):
        yield a, b
    elif isinstance(a, dict) and isinstance(b, dict):
        yield from (pair for key in a if key in b for pair in _pairs(a[key], b[key]))
    elif isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)) and len(a) == len(b):
        yield from (pair for parts in zip(a, b, strict=True) for pair in _pairs(*parts))


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
