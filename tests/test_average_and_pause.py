"""Averaged weights late in a training, and training a shrunken network further from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer

from l0rnn import L0GatedLSTM
from l0rnn.export import save_dense
from l0rnn.language_model import LanguageModel
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
