"""Weights loaded with assign=True take the place of parameters: what a method does goes by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from l0rnn import Budget, L0Gates
from l0rnn.gates.network import network_gates
from l0rnn.methods import BlockGroupLasso, GradualMagnitude, GroupLasso, RandomStructure
from l0rnn.methods.block import BlockPruning
from l0rnn.tracing import trace

INPUTS = torch.randn(5, 3, 4)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(4, 16), nn.Linear(16, 2)

    def forward(self, x: Any) -> Any:
        return self.head(self.rnn(x)[0])


def trained(network: nn.Module, method: Any) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    method.begin(20)
    for step in range(1, 21):
        optimizer.zero_grad()
        (network(torch.randn(5, 3, 4)).square().mean() + method.penalty()).backward()
        optimizer.step()
        method.after_step(step)


@pytest.mark.parametrize(
    "make",
    [
        lambda: GradualMagnitude(density=0.25, start=0.0, end=0.5),
        lambda: BlockPruning(density=0.25, block=2, start=0.0, end=0.5),
        lambda: BlockGroupLasso(1e-3, block=2, density=0.25, end=0.5),
        lambda: RandomStructure(density=0.25),
    ],
)
@pytest.mark.parametrize("replace", ["assign", "parameter"])
def test_masks_act_on_the_parameters_that_the_network_has(make: Any, replace: str) -> None:
    network, method = Net(), make()
    fixed = ["head"] if isinstance(method, RandomStructure) else []
    if isinstance(method, RandomStructure):
        pytest.importorskip("networkx")
    method.attach(network, trace(network, INPUTS, fixed=fixed))
    if replace == "assign":
        network.load_state_dict(Net().state_dict(), assign=True)
    else:
        network.rnn.weight_hh_l0 = nn.Parameter(torch.randn(64, 16))
    trained(network, method)
    kept = float((network.rnn.weight_hh_l0 != 0).float().mean())
    assert kept <= 0.26, "masks go to the parameters that the network has, found by name"
    assert all(method.targets()[name] is network.get_parameter(name) for name in method.targets())


@pytest.mark.parametrize("make", [lambda: L0Gates(Budget(density=0.5)), lambda: GroupLasso(0.1, density=0.5)])
def test_gates_too(make: Any) -> None:
    network, method = Net(), make()
    method.attach(network, trace(network, INPUTS))
    state = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(state, assign=True)
    assert all(parameter is network.get_parameter(name) for name, parameter in network.named_parameters())
    gates: Any = network_gates(network)
    assert all(parameter is gates.log_alpha for parameter in method.gate_parameters())
    trained(network, method)
    assert method.figures()["density"] <= 0.5
