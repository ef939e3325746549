"""Lightning checkpoints of a shrunken model reload at its own widths."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from l0rnn import Budget, L0GatedLSTM
from l0rnn.training.shrunken import ShrunkenLanguageModel, load_shrunken
from tests.export.models import language_model


def trainer() -> Trainer:
    return Trainer(
        max_steps=3, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
    )


def segments() -> DataLoader:
    tokens = torch.randint(11, (4, 6, 2))
    return DataLoader([(tokens[index, :-1], tokens[index, 1:]) for index in range(4)], batch_size=None)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_shrunken_module_goes_on_training_and_reloads(tmp_path: Path) -> None:
    network = language_model("LSTM", [5, 3])
    before = network.decoder.weight.clone()
    module = ShrunkenLanguageModel(network, learning_rate=0.5)
    training = trainer()
    training.fit(module, segments(), segments())
    training.save_checkpoint(tmp_path / "last.ckpt")
    again = ShrunkenLanguageModel.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert not torch.equal(before, network.decoder.weight)
    tokens = torch.randint(11, (5, 2))
    assert torch.equal(again.network.eval()(tokens)[0], network.eval()(tokens)[0])
    assert again.hparams["learning_rate"] == 0.5
    loaded = load_shrunken(tmp_path / "last.ckpt")
    assert loaded is not None
    assert torch.equal(loaded(tokens)[0], network(tokens)[0])


def test_other_files_are_not_of_a_shrunken_module(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    torch.save({"state_dict": {}}, tmp_path / "b")
    assert load_shrunken(tmp_path / "a") is None
    assert load_shrunken(tmp_path / "b") is None
    assert load_shrunken(tmp_path / "c") is None


def test_only_language_models_without_gates() -> None:
    with pytest.raises(ValueError, match="still has gates"):
        ShrunkenLanguageModel(L0GatedLSTM(11, 6, objective=Budget(density=0.5)).network)
    with pytest.raises(ValueError, match="must be a LanguageModel, got a Sequential"):
        ShrunkenLanguageModel(torch.nn.Sequential(torch.nn.Linear(2, 2)))
