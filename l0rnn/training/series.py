"""Networks of many sizes from one training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from l0rnn.arguments import checked
from l0rnn.cost.cost import Cost, CostOf
from l0rnn.gates.network import draws_of
from l0rnn.methods.structured_magnitude import StructuredMagnitude
from l0rnn.methods.units import check_density
from l0rnn.surgery.kept import units_to_keep
from l0rnn.surgery.trial import tried_units
from l0rnn.tracing.trace import as_call
from l0rnn.training.pruner import Pruner


@dataclass(frozen=True)
class Size:
    """One network of a series.

    Attributes:
        density: the density that was asked for.
        network: the network, tuned.
        cost: what it costs.
    """

    density: float
    network: nn.Module
    cost: Cost


@checked
def shrink_series(
    network: nn.Module,
    densities: Sequence[float],
    example_inputs: Any,
    *,
    tune: Callable[[nn.Module, float], object],
    batches: Sequence[Any] = (),
    fixed: Sequence[str] = (),
    tied: Sequence[Sequence[str]] = (),
) -> Iterator[Size]:
    """Make networks of several sizes of one trained network: quality over cost for little more than one training.

    From the largest density to the smallest, the units with the smallest weights are cut out of the network before
    (`StructuredMagnitude`), what reads them takes over from those that stay (`l0rnn.surgery.repair`), and the result is
    tuned. So the smaller a network is, the longer it has been trained.

    Args:
        network: trained, without gates; it is left as it is.
        densities: multiply-adds to keep, as fractions of this network's, in (0, 1], in any order.
        example_inputs: arguments of its forward, see `Pruner`.
        tune: is called with each network and its density, and trains it briefly in place.
        batches: arguments of its forward for the repair, such as a few batches of training data; the example inputs if
            there are none.
        fixed: layers or axes that have to stay whole.
        tied: groups of axes whose units have to be removed together.

    Returns:
        The networks, one after the other as they are ready, the largest first.

    Raises:
        ValueError: at once, if a density is out of range, or less than one unit per layer costs, or nothing can be
            pruned, or a state is among the example inputs.

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
        >>> x = torch.randn(64, 4)
        >>> for size in shrink_series(network, [0.5, 0.25], x, tune=lambda network, density: None):
        ...     print(size.density, size.network[0], size.cost.multiply_adds)
        0.5 Linear(in_features=4, out_features=8, bias=True) 48
        0.25 Linear(in_features=4, out_features=4, bias=True) 24
    """
    wanted = sorted(set(densities), reverse=True)
    if not wanted:
        raise ValueError("`densities` must name at least one density, got none")
    for density in wanted:
        check_density(density)
    units = tried_units(network, example_inputs, fixed=fixed, tied=tied)
    if not units.axes:
        raise ValueError(f"`network` has no units that can be removed: {units.whole}")
    if units.input_states:
        raise ValueError("`example_inputs` must not hold a state, whose width would change; leave it out")
    dense = CostOf(units).kept()
    check_density(wanted[-1], CostOf(units).kept(units.by_axis(units_to_keep(units, torch.zeros(units.count)))), dense)
    calls = [as_call(network, batch) for batch in batches] or [as_call(network, example_inputs)]

    def sizes() -> Iterator[Size]:
        current, cost = network, dense
        for density in wanted:
            share = min(1.0, density * dense.multiply_adds / cost.multiply_adds)
            method = StructuredMagnitude(share, start=0.0, end=0.0)
            copied = copy.deepcopy(current)
            pruner = Pruner(copied, method, example_inputs, steps=1, fixed=fixed, tied=tied)
            draws_of(copied).calls = calls
            pruner.step()
            current, cost = pruner.shrink(), method.kept_cost()
            tune(current, density)
            yield Size(density, current, cost)

    return sizes()
