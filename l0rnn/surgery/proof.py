"""Run two networks on the same inputs and say how far apart their outputs are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from l0rnn.recurrent.single_steps import onednn

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

    Outputs may be nested; states, whose shape follows the width, are compared where shapes agree.

    Args:
        reference: the network that is right.
        small: the network to check.
        inputs: positional arguments of both.
        tolerance: relative to the largest output if that is above 1; None for the default of the dtype.

    Returns:
        The largest absolute difference, and the largest one accepted.

    Raises:
        ValueError: if the small network fails to run, or its first output has another shape.
    """
    worst, scale = 0.0, 1.0
    dtypes = {parameter.dtype for parameter in reference.parameters()}
    for use_onednn in (True, False):
        with torch.no_grad(), evaluating(reference, small), onednn(use_onednn):
            try:
                expected = reference(*inputs)
            except TypeError as error:
                raise ValueError(
                    f"`example_inputs` do not fit the network's forward: {error}; give its arguments as a tuple"
                ) from error
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
        dtypes |= {a.dtype for a, _ in numbers}
        for a, b in numbers or pairs:  # whole numbers follow from others, and count only where they are all there is
            worst = max(worst, _difference(a, b))
            finite = a[a.isfinite()]
            scale = max(scale, finite.abs().max().item()) if len(finite) and numbers else scale
    loosest = max(TOLERANCES.get(dtype, HALF_PRECISION_TOLERANCE) for dtype in dtypes if dtype.is_floating_point)
    return worst, (loosest if tolerance is None else tolerance) * scale


def _difference(a: Tensor, b: Tensor) -> float:
    """Largest difference of two tensors; infinite where one is infinite or NaN and the other is not the same."""
    is_special = ~(a.isfinite() & b.isfinite())
    if not bool(((a == b) | (a.isnan() & b.isnan()))[is_special].all()):
        return float("inf")
    ordinary = (a.double() - b.double())[~is_special]
    return ordinary.abs().max().item() if ordinary.numel() else 0.0


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
