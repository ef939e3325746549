"""Networks together predict the mean of their probabilities, with the state of each carried on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from l0rnn.export import save_dense
from l0rnn.language.language_model import LanguageModel
from recipes.penn_treebank import together
from recipes.penn_treebank.data import PennTreebank
from recipes.penn_treebank.together import MeanPrediction


def test_the_mean_is_of_probabilities_and_states_are_carried() -> None:
    torch.manual_seed(0)
    one, other = LanguageModel(30, 5, 7, init_range=1.0).eval(), LanguageModel(30, 4, 3, init_range=1.0).eval()
    tokens = torch.randint(30, (12, 2))
    both = MeanPrediction([one, other])
    first, states = both(tokens[:5])
    second, _ = both(tokens[5:], states)
    expected = (one(tokens)[0].softmax(-1) + other(tokens)[0].softmax(-1)) / 2
    torch.testing.assert_close(torch.cat([first, second]).exp(), expected)
    with pytest.raises(ValueError, match="`networks` must be one or several"):
        MeanPrediction([])


def test_the_command_writes_each_and_both(
    tmp_path: Path, small_treebank: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = PennTreebank(evaluation_batch_size=1, data_dir=small_treebank)
    data.prepare_data()
    data.setup()
    words = len(data.vocabulary)
    torch.manual_seed(0)
    for name, width in {"one": 5, "other": 8}.items():
        save_dense(LanguageModel(words, 4, width, init_range=1.0).eval(), tmp_path / name)
    folders = [str(tmp_path / name) for name in ("one", "other")]
    out = tmp_path / "together.json"
    options = ["--data-dir", str(small_treebank), "--batch-size", "1", "--steps", "5", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["together", *folders, *options])
    together.main()
    result = json.loads(out.read_text())
    assert list(result) == [*folders, "together"]
    one, other, both = result.values()
    for figure in (f"{split}/perplexity" for split in ("train", "valid", "test")):
        assert both[figure] < (one[figure] * other[figure]) ** 0.5  # as the mean is never below the geometric one
    assert both["parameters"] == one["parameters"] + other["parameters"]
    assert "together: " in capsys.readouterr().out
