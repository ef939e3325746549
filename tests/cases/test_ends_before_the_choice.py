"""Trainings that end before units are chosen: it is said, and one that only counts its steps otherwise ends chosen."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler

from l0rnn import Budget, L0Gates, shrink
from l0rnn.methods import GradualMagnitude, StructuredMagnitude
from tests.cases.situations import make, segments, trainer

STOPS: dict[str, Any] = {
    "EarlyStopping": lambda: {"max_epochs": 20, "callbacks": [EarlyStopping("valid/loss", patience=1, mode="max")]},
    "max_time": lambda: {"max_time": "00:00:00:01", "max_epochs": 10**5},
}


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize(
    "method",
    [
        lambda: L0Gates(Budget(density=0.2)),
        lambda: GradualMagnitude(density=0.2),
        lambda: StructuredMagnitude(density=0.2),
    ],
)
def test_it_is_said(stop: str, method: Any, caplog: pytest.LogCaptureFixture) -> None:
    module, data = make(method()), segments()
    with caplog.at_level(logging.WARNING):
        trainer(**STOPS[stop]()).fit(module, data, data)
    assert not module.method.has_chosen
    assert "budget" in caplog.text, "that the gates were not fixed and the budget is not met"
    assert "before" in caplog.text
    assert "had chosen what to keep" in caplog.text
    if isinstance(module.method, L0Gates):
        shrink(module)


@pytest.mark.filterwarnings("ignore:When using `Trainer.accumulate_grad_batches")
@pytest.mark.parametrize("schedule", [{0: 1, 2: 4}, {0: 3}, {0: 8, 5: 1}])
@pytest.mark.parametrize("limits", [{}, {"max_steps": 15}])
def test_accumulation_that_changes(schedule: Any, limits: Any, caplog: pytest.LogCaptureFixture) -> None:
    module, data = make(L0Gates(Budget(density=0.2))), segments()
    training = trainer(max_epochs=10, callbacks=[GradientAccumulationScheduler(schedule)], **limits)
    training.fit(module, data)
    assert int(module.method.total_steps) == training.global_step
    assert module.method.is_frozen
    assert module.method.figures()["density"] <= 0.2
    assert "had chosen" not in caplog.text


def test_one_that_ends_chosen_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    trainer(max_epochs=2).fit(make(L0Gates(Budget(density=0.2))), segments())
    trainer(max_epochs=2).fit(make(None), segments())
    assert "had chosen" not in caplog.text
