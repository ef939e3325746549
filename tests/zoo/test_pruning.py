"""Each network of the zoo, pruned in a short training by two methods to two densities, and proved."""

import pytest
import torch

from l0rnn import Budget, L0Gates, Pruner
from l0rnn.cost.cost import cost
from l0rnn.methods import StructuredMagnitude
from l0rnn.surgery.trial import tried_units
from l0rnn.tracing.rules.run import tensors_in
from l0rnn.tracing.trace import as_call
from tests.zoo.registry import ZOO

STEPS = 6
# network → why torch itself cannot differentiate it as it is written
NOT_TRAINED = {
    "streaming GRU": "it writes into a buffer in place",
    "QRNN": "it uses `out=`",
}


def least_density(name):
    """The smallest density that a network can be asked for: one unit of each axis, and what stays."""
    units = tried_units(ZOO[name].network(), ZOO[name].example_inputs())
    one = {axis: torch.arange(found.size) == 0 for axis, found in units.axes.items()}
    return cost(units, one).multiply_adds / cost(units).multiply_adds


METHODS = {"gates": lambda d: L0Gates(Budget(d)), "magnitude": lambda d: StructuredMagnitude(d, frequency=1)}


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("name", [name for name in ZOO if name not in NOT_TRAINED])
def test_pruned_in_a_training_of_any_loop(name, make):
    least = least_density(name)
    for share in (0.6, 0.3):
        density = least + share * (1 - least)
        network, inputs = ZOO[name].network().train(), ZOO[name].example_inputs()
        pruner = Pruner(network, make(density), inputs, steps=STEPS)
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
        args, kwargs = as_call(network, inputs)
        for _ in range(STEPS):
            outputs = [one for one in tensors_in(network(*args, **kwargs)) if one.requires_grad]
            loss = sum(one.square().mean() for one in outputs) + pruner.penalty()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            pruner.step()
        assert pruner.figures()["density"] <= density + 1e-9
        small = pruner.shrink()  # which compares the outputs of both

        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in ZOO[name].network().parameters())
