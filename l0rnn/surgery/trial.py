"""A trial cut before the training: what would fail at the end fails in the first seconds, or is kept whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from l0rnn.surgery.kept import units_to_keep
from l0rnn.surgery.shrink import NotEqualError, build_and_prove
from l0rnn.tracing.trace import trace
from l0rnn.tracing.units import Units


def tried_units(
    network: nn.Module, example_inputs: Any, *, fixed: Sequence[str] = (), tied: Sequence[Sequence[str]] = ()
) -> Units:
    """The units of a network that a cut with random gates has shown to be removable.

    The trace follows tensors. A width that the forward pass uses as a number, such as ``view(batch, heads, 64)``, it
    does not see; the trial does. The axis at fault is then kept whole, with what happened as its reason.

    Args:
        network: any network in torch, without gates; left as it was.
        example_inputs: arguments of its forward.
        fixed: see `l0rnn.tracing.trace`.
        tied: see `l0rnn.tracing.trace`.

    Returns:
        As `trace`.

    Raises:
        ValueError: as `trace`, or if the network differs from itself.

    Example:
        >>> class Heads(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.encoder, self.decoder = nn.GRU(3, 8), nn.Linear(8, 2)
        ...
        ...     def forward(self, x):
        ...         return self.decoder(self.encoder(x)[0].view(-1, 2, 4).flatten(1))
        >>> tried_units(Heads(), torch.randn(5, 1, 3)).whole["encoder.l0"].partition(":")[0]
        'a trial cut of it failed'
    """
    if any(parameter.is_meta for parameter in network.parameters()):
        raise ValueError(
            "`network` must have its weights, which are on the meta device, got a network that cannot be run to find "
            "its units: make it on the CPU, or load its weights first"
        )
    reasons: dict[str, str] = {}
    generator = torch.Generator().manual_seed(0)
    while True:  # each failure keeps one more axis whole
        units = trace(network, example_inputs, fixed=fixed, tied=tied, whole=reasons)
        if not units.axes:
            return units
        gates = torch.rand(units.count, generator=generator)
        gates = gates.masked_fill(torch.rand(units.count, generator=generator) < 0.4, 0.0)
        keep = units_to_keep(units, gates)
        try:
            with torch.random.fork_rng():
                build_and_prove(network, units, gates, keep, example_inputs)
        except NotEqualError as error:
            if not error.axes:
                raise
            reasons |= dict.fromkeys(error.axes, f"a trial cut of it failed: {error.why}")
            continue
        return units
