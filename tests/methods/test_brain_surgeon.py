"""The brain surgeon: its algebra against inverses made anew, what it does to a network, and with bad steps."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l0rnn import Pruner
from l0rnn.cost.cost import CostOf
from l0rnn.methods import BrainSurgeon
from l0rnn.methods.brain_surgeon import Surgery
from tests.methods.loops import KINDS, Run, traced
from tests.networks import WordTagger


def test_each_removal_is_that_of_an_inverse_made_anew() -> None:
    torch.manual_seed(0)
    c = torch.randn(40, 9, dtype=torch.float64)
    fisher, saved = c.T @ c / 40 + 0.1 * torch.eye(9, dtype=torch.float64), torch.rand(9) + 0.5
    surgery = Surgery(fisher, torch.ones(9, dtype=torch.bool))
    left, gone = list(range(9)), []
    for _ in range(7):
        worth = 1 / fisher[left][:, left].inverse().diagonal() / saved[left]
        place = surgery.remove(saved)
        assert place == left[int(worth.argmin())]
        left.remove(place)
        gone.append(place)
        # the lowest point of the quadratic form where these gates are 0
        right = torch.linalg.solve(fisher[left][:, left], fisher[left][:, gone].sum(1))
        torch.testing.assert_close(surgery.change[left], right)
        assert surgery.change[gone].tolist() == [-1] * len(gone)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_unit_saves_is_a_difference_of_costs(kind: str) -> None:
    units = traced(KINDS[kind].make(), KINDS[kind].inputs())
    cost, keep = CostOf(units), torch.rand(units.count) < 0.6
    for axis in units.axes.values():
        keep[axis.start] = True
    saved = cost.saved(torch.stack([keep[axis.units].sum() for axis in units.axes.values()]))
    for axis, own in zip(units.axes.values(), saved.tolist(), strict=True):
        less = keep.clone()
        less[axis.start] = False
        before, after = (cost.kept(units.by_axis(each)).multiply_adds for each in (keep, less))
        assert before - after == pytest.approx(own, abs=1.01)  # each rounded to whole ones


def twins() -> Any:
    """Eight hidden units, of which the last four are the first four again."""
    torch.manual_seed(3)
    network: Any = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        network[0].weight[4:], network[0].bias[4:] = network[0].weight[:4], network[0].bias[:4]
        network[2].weight[:, 4:] = network[2].weight[:, :4]
    return network


def test_a_unit_that_another_can_replace_goes_and_the_other_takes_its_place() -> None:
    network, x = twins(), torch.randn(256, 4)
    before = network(x).detach()
    pruner = Pruner(
        network, BrainSurgeon(0.5, start=0.99, end=1.0, damping=1e-4, frequency=1, decay=0.9, repair=False), x, steps=40
    )
    for _ in range(40):  # the weights stay as they are
        network.zero_grad()
        batch = torch.randint(256, (32,))
        ((network(x[batch]) - torch.randn(32, 3)).square().mean() + pruner.penalty()).backward()
        pruner.step()
    kept = pruner.method.gates()["0"]
    assert (kept[:4] + kept[4:]).tolist() == [1, 1, 1, 1], "one of each pair is left"
    torch.testing.assert_close(pruner.shrink()(x), before, atol=0.02, rtol=0)
    magnitude = twins()
    with torch.no_grad():
        magnitude[2].weight[:, 4:] = 0
    assert (magnitude(x) - before).abs().max() > 0.2, "without the others' change it is another network"


def trained(method: BrainSurgeon, change: Any, steps: int = 20) -> Pruner:
    """A training in which `change` may spoil the gradients of a step."""
    torch.manual_seed(0)
    network, words = WordTagger("LSTM", hidden=12, embedding=8), torch.randint(11, (5, 4))
    pruner = Pruner(network, method, words, steps=steps)
    optimizer = torch.optim.SGD(pruner.network.parameters(), lr=1e-4)
    for step in range(1, steps + 1):
        network.zero_grad()
        loss = nn.functional.cross_entropy(network(words)[0].flatten(0, 1), torch.randint(5, (20,)))
        (loss + pruner.penalty()).backward()
        optimizer.step()
        change(network, step)
        pruner.step()
    return pruner


def test_a_step_without_finite_gradients_is_left_out() -> None:
    def spoil(network: Any, step: int) -> None:
        if step == 3:
            network.decoder.weight.grad[0, 0] = torch.nan
        if step == 4:
            network.encoder.weight_hh_l0.grad.fill_(torch.inf)

    method = BrainSurgeon(0.5, frequency=5)
    before: list[Tensor] = []

    def watch(network: Any, step: int) -> None:
        before.append(method.fisher.clone())
        spoil(network, step)

    pruner = trained(method, watch)
    assert bool(method.fisher.isfinite().all())
    assert torch.equal(before[2], before[3])
    assert torch.equal(before[3], before[4])
    assert not torch.equal(before[4], before[5])
    assert 0.4 < pruner.figures()["density"] <= 0.5


def test_units_without_a_gradient_are_the_last_to_close_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    def spoil(network: Any, step: int) -> None:
        network.encoder.weight_ih_l0.grad = None  # alone reads the embedding

    with caplog.at_level(logging.WARNING):
        pruner = trained(BrainSurgeon(0.5, frequency=5), spoil)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("no step has had a gradient for 8 units of embedding, so they are the last to be closed")
    assert pruner.method.gates()["embedding"].sum() == 8
    least = trained(BrainSurgeon(0.035, frequency=5), spoil)
    assert least.figures()["density"] <= 0.035
    assert least.method.gates()["encoder.l0"].sum() == 1
    assert least.method.gates()["embedding"].sum() < 8


def test_gradients_of_0_leave_the_choice_to_the_cost(caplog: pytest.LogCaptureFixture) -> None:
    def spoil(network: Any, step: int) -> None:
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()

    with caplog.at_level(logging.WARNING):
        pruner = trained(BrainSurgeon(0.5, frequency=50), spoil)
    assert "all gradients of the units have been 0 so far" in caplog.text
    assert 0.4 < pruner.figures()["density"] <= 0.5


def test_a_loop_that_clears_gradients_before_the_step_is_told_in_the_third() -> None:
    def spoil(network: Any, step: int) -> None:
        network.zero_grad()
        assert step <= 3

    with pytest.raises(RuntimeError, match=r"no unit has had a gradient for 3 steps.*before gradients are cleared"):
        trained(BrainSurgeon(0.5), spoil)


def test_a_loop_that_does_not_ask_for_the_penalty_is_told() -> None:
    run = Run(BrainSurgeon(0.5))
    run.pruner.penalty = lambda: torch.zeros(())  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match=r"add\s+`pruner.penalty\(\)` to the loss"):
        run.train()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": 1.0}, r"`decay` must be in \[0, 1\), got 1.0"),
        ({"damping": 0.0}, "`damping` must be > 0, so that F can be inverted, got 0.0"),
        ({"damping": float("nan")}, "`damping` must be"),
        ({"frequency": 0}, "`frequency` must be a fraction of the training"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BrainSurgeon(0.5, **options)
