"""Averaged weights late in a training, and training a shrunken network further from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from l0rnn import L0GatedLSTM
from l0rnn.export import save_dense
from l0rnn.language.language_model import LanguageModel
from l0rnn.training.averaging import AverageLate
from l0rnn.training.shrunken import ShrunkenLanguageModel
from tests.tiny_text import WORDS, TinyText

pytestmark = pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")


class Remembering(AverageLate):
    """Remembers the weights of each step since it started."""

    def is_time(self, figure: float) -> bool:
        self.seen: list[torch.Tensor] = []
        return super().is_time(figure)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *args)
        if hasattr(self, "seen"):
            self.seen.append(pl_module.network.get_parameter("decoder.bias").detach().clone())


def test_the_average_is_that_of_the_steps_since_it_started() -> None:
    average = Remembering(start=0.0, patience=None)
    model = L0GatedLSTM(WORDS, 6, num_layers=1, dropout=0.0, init_range=None)
    options: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    options |= {"enable_model_summary": False, "accelerator": "cpu"}
    Trainer(max_epochs=3, callbacks=[average], **options).fit(model, TinyText(200))
    kept = model.network.get_parameter("decoder.bias")
    assert len(average.seen) == 2 * 10
    torch.testing.assert_close(kept.detach(), torch.stack(average.seen).mean(0))


@pytest.mark.parametrize(("change", "message"), [({"start": 1.0}, "`start`"), ({"patience": 0}, "`patience`")])
def test_wrong_arguments_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AverageLate(**change)  # type: ignore[arg-type]


def test_a_shrunken_network_is_trained_further_from_its_folder(tmp_path: Path) -> None:
    network = LanguageModel(WORDS, 4, 6, dropout=0.5)
    save_dense(network, tmp_path / "model")
    model = ShrunkenLanguageModel(str(tmp_path / "model"), dropout=0.1, flat_epochs=2, decay=0.5)
    small: Any = model.network
    torch.testing.assert_close(small.decoder.weight, network.decoder.weight)
    assert small.dropout.p == 0.1
    assert small.encoder.dropout == 0.1
    scheduler = model.configure_optimizers()["lr_scheduler"]
    assert [scheduler.lr_lambdas[0](epoch) for epoch in range(4)] == [1, 1, 0.5, 0.25]
    with pytest.raises(ValueError, match="`dropout` must be in"):
        ShrunkenLanguageModel(network, dropout=1.0)
    with pytest.raises(ValueError, match="`decay` must be > 0"):
        ShrunkenLanguageModel(network, decay=0.0)


def averaging(path: Path, epochs: int, *more: Any) -> Trainer:
    options: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    saver = ModelCheckpoint(path, filename="{epoch}", save_top_k=-1)
    callbacks = [AverageLate(start=0.3, patience=None), saver, *more]
    return Trainer(max_epochs=epochs, callbacks=callbacks, accelerator="cpu", **options)


def noisy() -> L0GatedLSTM:
    torch.manual_seed(1)
    return L0GatedLSTM(WORDS, 6, num_layers=1, dropout=0.0, init_range=None, learning_rate=20.0)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`", "ignore:The dirpath has changed")
def test_a_checkpoint_holds_the_average_that_was_evaluated_and_goes_on_with_the_weights(tmp_path: Path) -> None:
    figures: dict[int, float] = {}

    class Watch(Callback):
        def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
            figures[trainer.current_epoch] = float(trainer.callback_metrics["valid/loss"])

    whole = noisy()
    averaging(tmp_path, 6, Watch()).fit(whole, TinyText(200))
    for epoch in (3, 4):
        evaluated = averaging(tmp_path / "again", 6)
        path = str(tmp_path / f"epoch={epoch}.ckpt")
        evaluated.validate(noisy(), TinyText(200), ckpt_path=path, weights_only=True)
        assert float(evaluated.callback_metrics["valid/loss"]) == pytest.approx(figures[epoch], rel=1e-6)
    resumed = noisy()
    averaging(tmp_path / "resumed", 6).fit(
        resumed, TinyText(200), ckpt_path=str(tmp_path / "epoch=3.ckpt"), weights_only=True
    )
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_failed_evaluation_leaves_the_weights(tmp_path: Path) -> None:
    class Failing(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
            self.trained = pl_module.network.decoder.weight.detach().clone()

        def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
            if trainer.current_epoch == 3:
                self.evaluated = pl_module.network.decoder.weight.detach().clone()
                raise ArithmeticError

    failing = Failing()
    model = noisy()
    with pytest.raises(ArithmeticError):
        averaging(tmp_path, 6, failing).fit(model, TinyText(200))
    assert not torch.equal(failing.evaluated, failing.trained)
    assert torch.equal(model.network.decoder.weight, failing.trained)


def test_an_unknown_figure_is_named(tmp_path: Path) -> None:
    options: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    with pytest.raises(ValueError, match=r"`monitor` must be a logged figure, .*valid/loss.*, got 'val_loss'"):
        Trainer(max_epochs=1, callbacks=[AverageLate(monitor="val_loss")], accelerator="cpu", **options).fit(
            noisy(), TinyText(200)
        )


def test_an_average_from_before_units_were_removed_is_not_put_in() -> None:
    model, average = noisy(), AverageLate(patience=None)
    average.look(1.0, is_late=True)
    average.take_(model)
    model.network.decoder = torch.nn.Linear(3, WORDS)  # narrower, as after a removal
    before = model.network.decoder.weight.detach().clone()
    average.put_in_(model)
    assert torch.equal(model.network.decoder.weight, before)
    average.take_(model)
    with torch.no_grad():
        model.network.decoder.weight.zero_()
    average.put_in_(model)
    assert torch.equal(model.network.decoder.weight, before)
