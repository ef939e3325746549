"""Run an export against the network that it was made from: at unseen sizes, and step by step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from l0rnn.export.interface import State, inputs_like
from l0rnn.export.streaming import Streamer, TorchStreamer

# what an export is traced with, and what it is checked with: (batch, time), all of them other sizes
TRACED = (2, 4)
UNSEEN = ((1, 1), (3, 11), (5, 2))
TOLERANCE = 1e-4


def check_export(
    reference: TorchStreamer, exported: Streamer, *, sizes: Sequence[tuple[int, int]] = UNSEEN, what: str = "the export"
) -> float:
    """Compare outputs and states of whole sequences, from zero and from random states.

    Args:
        reference: the network.
        exported: what was made from it.
        sizes: pairs (batch, time).
        what: how to name the export in an error.

    Returns:
        The largest absolute difference.

    Raises:
        RuntimeError: if it is above 1e-4, relative to the largest value if that is above 1.
    """
    worst = 0.0
    for batch, time in sizes:
        inputs = _inputs(reference, batch, time)
        for state in (None, _random_state(reference, batch)):
            expected, got = reference.run(inputs, state), exported.run(inputs, state)
            worst = max(
                worst, _largest_difference(reference, expected, got, f"{what}, at batch {batch}, length {time},")
            )
    return worst


def check_stream(
    reference: TorchStreamer, exported: Streamer, *, sizes: Sequence[tuple[int, int]] = UNSEEN, what: str = "the export"
) -> float:
    """Compare a stream of single steps with the whole sequence; arguments as `check_export`."""
    worst = 0.0
    for batch, time in sizes:
        inputs = _inputs(reference, batch, time)
        start = _random_state(reference, batch)
        steps, state = [], start
        for step in inputs.unbind(reference.interface.time_axis):
            output, state = exported.step(step, state)
            steps.append(output)
        got = torch.stack(steps, reference.interface.time_axis), state or ()
        expected = reference.run(inputs, start)
        worst = max(worst, _largest_difference(reference, expected, got, f"{what}, run step by step at batch {batch},"))
    return worst


def _largest_difference(
    reference: TorchStreamer, expected: tuple[Tensor, State], got: tuple[Tensor, State], what: str
) -> float:
    names = [reference.interface.output, *(state.name for state in reference.interface.states)]
    worst = 0.0
    for name, a, b in zip(names, (expected[0], *expected[1]), (got[0], *got[1]), strict=True):
        difference, allowed = compare_tensors(a, b)
        if not difference <= allowed:
            raise RuntimeError(f"{what} differs from the network by {difference:.3g} in {name}; nothing was written")
        worst = max(worst, difference)
    return worst


def _inputs(reference: TorchStreamer, batch: int, time: int) -> Tensor:
    return inputs_like(reference.example_input, (batch, time), is_batch_first=reference.interface.is_batch_first)


def _random_state(reference: TorchStreamer, batch: int) -> State | None:
    generator = torch.Generator().manual_seed(1)
    zeros = reference.initial_state(batch)
    return tuple(torch.rand(zero.shape, generator=generator).to(zero.dtype) - 0.5 for zero in zeros) or None


def compare_tensors(expected: Tensor, got: Tensor) -> tuple[float, float]:
    """The largest absolute difference, and the largest one accepted.

    The first is infinite for another shape, and where a value is not finite and the other not the same.
    """
    if expected.shape != got.shape:
        return float("inf"), 0.0
    if not expected.numel():
        return 0.0, 0.0
    if not expected.is_floating_point():
        return (expected.double() - got.double()).abs().max().item(), 0.0
    is_finite = expected.isfinite() & got.isfinite()
    if not bool((expected == got)[~is_finite].all()) or not bool(is_finite.any()):
        return float("inf"), 0.0
    largest = expected[is_finite].abs().max().double().item()
    return (expected - got)[is_finite].abs().max().double().item(), TOLERANCE * max(1.0, largest)
