"""Random units: what every method that selects units has to beat."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from l0rnn.arguments import checked
from l0rnn.cost.cost import Cost
from l0rnn.methods.units import PrunedUnits, UnitMethod, check_density
from l0rnn.tracing.units import Units


@checked
class RandomUnits(UnitMethod):
    """Closes units at random before the training, the same fraction of every axis.

    Removes: whole units. Rule: none; the units of each axis are put in a random order, and the last of all axes in
    proportion are closed until the multiply-adds are within the density. It trains the small network from scratch, so
    it also answers what pruning is worth beyond a smaller network. Cost at run time: that of a smaller dense network.

    Args:
        density: multiply-adds to keep, as a fraction of the dense network's, in (0, 1].
        seed: of the random order; the global random state is left alone.
        units: which units can be removed, see `UnitMethod`.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> from l0rnn.language.language_model import LanguageModel
        >>> from l0rnn.tracing import trace
        >>> network = LanguageModel(10, 4, 8, num_layers=1)
        >>> method = RandomUnits(density=0.5)
        >>> method.attach(network, trace(network, torch.zeros(5, 2, dtype=torch.int64)))
        >>> int(method.gates()["encoder.l0"].sum())
        5

    Reference:
        Liu et al., Rethinking the Value of Network Pruning (2019), arXiv 1810.05270: small networks from scratch as
        the baseline of structured pruning.
    """

    def __init__(self, density: float, *, seed: int = 0, units: PrunedUnits = "all") -> None:
        super().__init__(units, repair=False)  # nothing has been learnt yet
        check_density(density)
        if seed < 0:
            raise ValueError(f"`seed` must be ≥ 0, got {seed}")
        self.density = density
        self.seed = seed

    def check(self, minimum: Cost, dense: Cost) -> None:
        """Refuse a density below one unit per axis."""
        check_density(self.density, minimum, dense)

    def attach(self, network: nn.Module, units: Units) -> None:
        """Gate the network and close what is too much."""
        self.gate_(network, units)
        self.close_within_(random_ranks(self.traced, self.seed), self.density)
        self.choose_()


def random_ranks(units: Units, seed: int) -> Tensor:
    """For each axis a random order of its units, as ranks that fall evenly from 1 to 0, `(unit,)`.

    So one threshold keeps one fraction of every axis.

    Example:
        >>> from l0rnn.tracing import trace
        >>> random_ranks(trace(nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1)), torch.ones(1, 2)), seed=0).sort().values
        tensor([0.2500, 0.5000, 0.7500, 1.0000])
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = [axis.size for axis in units.axes.values()]
    return torch.cat([(1 + torch.randperm(size, generator=generator)) / size for size in sizes])
