"""What the gradients of a step say of each unit, against gates through which the loss is differentiated."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l0rnn import Pruner
from l0rnn.gates.network import gate_network_
from l0rnn.language.language_model import LanguageModel
from l0rnn.methods import StructuredMagnitude
from l0rnn.methods.gate_gradients import GateGradients
from tests.methods.loops import KINDS, output, traced
from tests.networks import TiedLanguageModel, WordTagger

NETWORKS: dict[str, tuple[Callable[[], Any], Callable[[], Tensor]]] = {
    **{name: (kind.make, kind.inputs) for name, kind in KINDS.items()},
    "tied": (TiedLanguageModel, lambda: torch.randint(11, (5, 2))),
    "tied language model": (lambda: LanguageModel(11, 8, 8, tied=True), lambda: torch.randint(11, (5, 2))),
    "two directions": (
        lambda: WordTagger("GRU", num_layers=2, bidirectional=True),
        lambda: torch.randint(11, (5, 2)),
    ),
    "projected": (lambda: WordTagger("LSTM_projected", num_layers=2), lambda: torch.randint(11, (5, 2))),
}


def backward(network: nn.Module, inputs: Tensor) -> None:
    output(network, inputs).square().mean().backward()


@pytest.mark.parametrize("name", NETWORKS)
def test_they_are_the_gate_times_the_gradient_through_it(name: str) -> None:
    torch.manual_seed(0)
    make, inputs = NETWORKS[name]
    network, data = make().double().eval(), inputs()
    data = data.double() if data.is_floating_point() else data
    units = traced(network, data)
    gates = gate_network_(network, units)
    values = (0.2 + 0.7 * torch.rand(units.count, dtype=torch.float64)).requires_grad_()
    gates.hold_(values)
    gradients = GateGradients(network, units)
    gradients.remember()
    backward(network, data)
    found, is_known = gradients.of_step()
    assert bool(is_known.all())
    assert values.grad is not None
    assert values.grad.abs().min() > 0
    torch.testing.assert_close(found, (values * values.grad).detach(), atol=1e-12, rtol=1e-9)


def test_they_are_of_the_weights_from_before_the_step() -> None:
    torch.manual_seed(0)
    network, inputs = WordTagger("LSTM"), torch.randint(11, (5, 2))
    gradients = GateGradients(network, traced(network, inputs))
    for _ in range(2):
        network.zero_grad()
        gradients.remember()
        backward(network, inputs)
        right = gradients.of_step()[0].clone()
        torch.optim.Adam(network.parameters(), lr=0.1).step()
        assert torch.equal(gradients.of_step()[0], right)
        gradients.remember()
        assert not torch.allclose(gradients.of_step()[0], right, rtol=0.1)


def test_several_batches_of_one_step_add_up() -> None:
    network, batches = WordTagger("LSTM").double(), [torch.randint(11, (5, 2)) for _ in range(3)]
    gradients = GateGradients(network, traced(network, batches[0]))
    each = []
    for batch in batches:
        network.zero_grad()
        gradients.remember()
        backward(network, batch)
        each.append(gradients.of_step()[0].clone())
    network.zero_grad()
    for batch in batches:
        gradients.remember()
        backward(network, batch)
    torch.testing.assert_close(gradients.of_step()[0], torch.stack(each).sum(0))


def test_what_has_no_gradient_is_not_known() -> None:
    network, inputs = WordTagger("LSTM"), torch.randint(11, (5, 2))
    units = traced(network, inputs)
    gradients = GateGradients(network, units)
    gradients.remember()
    values, is_known = gradients.of_step()
    assert not bool(is_known.any())
    assert not bool(values.any())
    for name, parameter in network.encoder.named_parameters():
        parameter.requires_grad_(name != "weight_ih_l0")  # the only weight that reads the embedding
    backward(network, inputs)
    _, is_known = gradients.of_step()
    assert not bool(is_known[units.axes["embedding"].units].any())
    assert bool(is_known[units.axes["encoder.l0"].units].all())


def test_they_cost_little_beside_a_step() -> None:
    """A step of 20 × 35 words at 2 × 400, one thread; the figures are in the class, this holds their order."""
    torch.manual_seed(0)
    network, words = LanguageModel(2000, 400, 400), torch.randint(2000, (35, 20))
    pruner = Pruner(network, StructuredMagnitude(0.5), words, steps=10)
    gradients = GateGradients(network, pruner.units)

    def seconds(run: Callable[[], object]) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return min(times)

    def step() -> None:
        network.zero_grad()
        logits = output(network, words)
        nn.functional.cross_entropy(logits.flatten(0, -2), words.flatten()).backward()

    whole = seconds(step)
    own = seconds(gradients.remember) + seconds(gradients.of_step)
    print(f"a step without its optimiser {1e3 * whole:.0f} ms, gate gradients {1e3 * own:.1f} ms")
    assert own < 0.1 * whole
