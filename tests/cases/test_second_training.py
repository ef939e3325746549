"""A smoke test with fast_dev_run, then the real training on the same objects: each training starts afresh."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning import Callback

from l0rnn import Budget, L0Gates, Penalty
from l0rnn.methods import BlockGroupLasso, GradualMagnitude, GroupLasso, RandomUnits, StructuredMagnitude
from l0rnn.methods.block import BlockPruning
from l0rnn.training.averaging import AverageLate
from l0rnn.training.callbacks import PauseOnSignal, ScaleDropout, WriteProgress
from l0rnn.training.configuration import TrainingTime
from l0rnn.training.removal import RemoveClosedUnits
from tests.cases.situations import Net, make, segments, trainer


def test_a_smoke_test_does_not_choose_the_units(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    data = segments()
    module = make(L0Gates(Budget(density=0.3)))
    trainer(fast_dev_run=True).fit(module, data)
    after_one_step = {axis: gates.clone() for axis, gates in module.method.gates().items()}
    trainer(max_epochs=20).fit(module, data)
    same = all(torch.equal(gates, after_one_step[axis]) for axis, gates in module.method.gates().items())
    assert not same, "begin() starts a new selection, or refuses or warns that the units are chosen already"
    assert "the module was trained before, for 1 steps, and this training chooses anew" in caplog.text
    assert module.method.has_chosen
    assert module.method.figures()["density"] <= 0.3


METHODS: list[Any] = [
    lambda: GradualMagnitude(density=0.3, start=0.0),
    lambda: BlockPruning(density=0.3, block=2, start=0.0),
    lambda: BlockGroupLasso(1e-3, block=2, density=0.3),
    lambda: GroupLasso(0.1, density=0.3),
    lambda: StructuredMagnitude(density=0.3),
]


@pytest.mark.parametrize("method", METHODS)
def test_no_other_method_keeps_its_choice(method: Any) -> None:
    module, data = make(method()), segments()
    trainer(fast_dev_run=True).fit(module, data)
    assert module.method.has_chosen
    first = {name: mask.clone() for name, mask in {**module.method.masks(), **module.method.gates()}.items()}
    seen: list[bool] = []

    class Look(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            seen.append(pl_module.method.has_chosen)

    trainer(max_epochs=20, callbacks=[Look()]).fit(module, data)
    assert not seen[0]
    assert module.method.has_chosen
    second = {**module.method.masks(), **module.method.gates()}
    assert not all(torch.equal(second[name], mask) for name, mask in first.items())


def test_what_was_chosen_by_chance_stays() -> None:
    module, data = make(RandomUnits(density=0.5)), segments()
    before = {axis: gates.clone() for axis, gates in module.method.gates().items()}
    for _ in range(2):
        trainer(max_epochs=1).fit(module, data)
    assert all(torch.equal(gates, before[axis]) for axis, gates in module.method.gates().items())


def test_a_training_that_goes_on_keeps_its_choice(tmp_path: Any) -> None:
    module, data = make(L0Gates(Budget(density=0.3))), segments()
    first = trainer(max_epochs=4)
    first.fit(module, data)
    first.save_checkpoint(tmp_path / "last.ckpt")
    chosen = {axis: gates.clone() for axis, gates in module.method.gates().items()}
    again = make(L0Gates(Budget(density=0.3)))
    trainer(max_epochs=6).fit(again, data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert all(torch.equal(gates, chosen[axis]) for axis, gates in again.method.gates().items())


@pytest.mark.parametrize("objective", [Budget(density=0.3), Budget(density=0.3, parameters=900), Penalty(0.3)])
def test_an_objective_that_has_priced_another_network(objective: Any) -> None:
    data = segments()
    trainer(max_epochs=2).fit(make(L0Gates(objective)), data)
    objective.price.fill_(7.0)
    module = make(L0Gates(objective))
    assert not objective.price.any()
    objective.price.fill_(7.0)  # both were made, and then trained one after the other
    prices: list[float] = []

    class Look(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            prices.append(float(objective.price.max()))

    trainer(max_epochs=2, callbacks=[Look()]).fit(module, data)
    assert prices[0] == 0


class TestCallbacks:
    def test_rates_of_dropout_are_those_of_the_network_at_hand(self) -> None:
        class Dropped(Net):
            def __init__(self, rate: float) -> None:
                super().__init__()
                self.dropout = torch.nn.Dropout(rate)

        callback = ScaleDropout(0.0, every=1)
        module = make(L0Gates(Budget(density=0.3)), Dropped(0.5))
        trainer(max_epochs=2, callbacks=[callback]).fit(module, segments())
        assert module.network.dropout.p < 0.5
        trainer(max_epochs=1, callbacks=[callback]).fit(module, segments())
        assert callback._initial == {"network.dropout": 0.5}  # not what the first training came to
        other = make(L0Gates(Budget(density=0.9)), Dropped(0.2))
        trainer(fast_dev_run=True, callbacks=[callback]).fit(other, segments())
        assert callback._initial == {"network.dropout": 0.2}

    def test_an_average_starts_anew(self) -> None:
        callback, data = AverageLate(start=0.0, patience=None), segments()
        trainer(max_epochs=2, callbacks=[callback]).fit(make(), data, data)
        callback._figures, callback._steps = [1.0], 5
        callback.on_train_start(trainer(), make())
        assert (callback._figures, callback._steps, callback._mean) == ([], None, {})

    def test_a_pause_is_asked_for_once(self, tmp_path: Any) -> None:
        callback, data = PauseOnSignal(tmp_path / "last.ckpt"), segments()
        callback.ask()
        with pytest.raises(Exception, match="paused after step 1"):
            trainer(max_epochs=1, callbacks=[callback]).fit(make(), data)
        trainer(max_epochs=1, callbacks=[callback]).fit(make(), data)
        assert not callback.is_asked

    def test_progress_is_written_from_the_first_step(self, tmp_path: Any) -> None:
        callback, data = WriteProgress(tmp_path / "progress.json", every=1000.0), segments()
        trainer(max_epochs=1, callbacks=[callback]).fit(make(), data)
        callback.path.unlink()
        trainer(max_epochs=1, callbacks=[callback]).fit(make(), data)
        assert callback.path.exists()

    def test_seconds_are_those_of_this_training(self) -> None:
        callback, data = TrainingTime(), segments()
        trainer(max_epochs=1, callbacks=[callback]).fit(make(), data)
        callback._before = {"wall": 1000.0, "processor": 1000.0}
        trainer(max_epochs=1, callbacks=[callback]).fit(make(), data)
        assert callback.seconds()["wall"] < 1000

    def test_units_that_a_smoke_test_closed_are_not_cut_out(self) -> None:
        callback, data = RemoveClosedUnits(every=1, least=0.0), segments()
        module = make(L0Gates(Budget(density=0.3)))
        trainer(fast_dev_run=True).fit(module, data)
        widths: list[int] = []

        class Look(Callback):
            def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
                widths.append(pl_module.network.rnn.hidden_size)

        trainer(max_epochs=20, callbacks=[callback, Look()]).fit(module, data)
        assert widths[0] == 16
        assert widths[-1] < 16
