"""Gates with their defaults: the same choice whatever the loss is counted in, at every length, with every optimiser."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l0rnn import Budget, L0Gates, Penalty, Pruner

DENSITY = 0.3


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 16, batch_first=True)
        self.out = nn.Linear(16, 2)

    def forward(self, signals: Tensor) -> Tensor:
        return self.out(self.gru(signals)[0])


def trained(
    *, unit: float = 1.0, steps: int = 200, sgd: bool = False, scaler: float = 1.0, objective: Any = None
) -> L0Gates:
    """Sums and products of signals, learnt with a loss counted in ``unit`` and, if asked for, scaled as for float16."""
    torch.manual_seed(3)
    network, method = Reader(), L0Gates(objective or Budget(DENSITY))
    pruner = Pruner(network, method, torch.randn(2, 6, 6), steps=steps)
    rate = 0.1 / unit if sgd else 0.01
    optimizer = (torch.optim.SGD if sgd else torch.optim.Adam)(pruner.weights(), lr=rate)
    for _ in range(steps):
        signals = torch.randn(16, 6, 6)
        wanted = torch.stack((signals[..., 0].cumsum(1), signals[..., 1] * signals[..., 2]), -1)
        loss = unit * (network(signals) - wanted).square().mean()
        optimizer.zero_grad()
        (scaler * (loss + pruner.penalty())).backward()
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter.grad /= scaler
        optimizer.step()
        pruner.step()
    return method


@pytest.mark.parametrize("sgd", [False, True], ids=["adam", "sgd"])
def test_the_choice_is_the_same_whatever_the_loss_is_counted_in(sgd: bool) -> None:
    kept = trained(sgd=sgd).own_gates.keep()
    assert 3 < kept.sum() < 13
    for unit in (0.01, 100.0):
        other = trained(unit=unit, sgd=sgd).own_gates.keep()
        assert (
            int((kept != other).sum()) <= 2
        )  # a pair that are worth the same: Adam's epsilon is no multiple of a loss


def test_a_loss_that_is_scaled_for_half_precision_pulls_no_harder() -> None:
    methods = [trained(scaler=scaler, steps=60) for scaler in (1.0, 1024.0)]
    assert float(methods[0].pull) > 0
    torch.testing.assert_close(methods[0].pull, methods[1].pull, rtol=1e-3, atol=0)


@pytest.mark.parametrize("steps", [1500])  # in shorter ones much is left to be settled at once
def test_gates_have_come_down_to_the_density_by_the_time_they_are_settled(steps: int) -> None:
    torch.manual_seed(0)
    seen: list[float] = []

    class Watched(L0Gates):
        def settle_(self) -> None:
            seen.append(
                self.kept_cost().multiply_adds / self.dense.multiply_adds
            )  # with the gates it is evaluated with
            super().settle_()

    network, method = Reader(), Watched(Budget(DENSITY))
    pruner = Pruner(network, method, torch.randn(2, 6, 6), steps=steps)
    optimizer = torch.optim.Adam(pruner.weights(), lr=0.01)
    for _ in range(steps):
        signals = torch.randn(8, 6, 6)
        loss = (network(signals)[..., 0] - signals[..., 0].cumsum(1)).square().mean()
        optimizer.zero_grad()
        (loss + pruner.penalty()).backward()
        optimizer.step()
        pruner.step()
    assert seen[0] < 1.6 * DENSITY, seen
    assert DENSITY * 0.75 < method.figures()["density"] <= DENSITY


def test_a_training_too_short_for_gates_is_told_of_before_its_first_step(caplog: pytest.LogCaptureFixture) -> None:
    Pruner(Reader(), L0Gates(Budget(DENSITY)), torch.randn(2, 6, 6), steps=159)
    assert "a training of 159 steps leaves 40" in caplog.text
    assert "train for 160 steps or longer" in caplog.text
    caplog.clear()
    Pruner(Reader(), L0Gates(Budget(DENSITY)), torch.randn(2, 6, 6), steps=160)
    assert not caplog.text


def test_gates_are_as_fast_as_a_training_is_short() -> None:
    method = L0Gates(Budget(DENSITY))
    rates = [method.gate_learning_rate(steps) for steps in (50, 200, 400, 50_000)]
    assert rates == pytest.approx([0.4, 0.16, 0.08, 0.03])
    assert L0Gates(Penalty(0.1), freeze=0.5).gate_learning_rate(100) == pytest.approx(0.16)
