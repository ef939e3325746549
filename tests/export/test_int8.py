"""int8: smaller, about as good, and honest about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l0rnn.export import export_int8, open_streamer, perplexity
from tests.export.models import WORDS, language_model, run_onnx
from tests.networks import StateClassifier

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def test_an_lstm_with_tied_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = language_model("LSTM", [48, 48], tied=True)
    text = torch.randint(11, (50, 4))
    report = export_int8(network, tmp_path / "model", vocabulary=WORDS, text=text, figures={"epochs": 2})
    assert report.bytes_int8 == (tmp_path / "model" / "model.onnx").stat().st_size
    assert report.bytes_int8 < 0.5 * report.bytes_float
    assert report.left_in_float == ()
    assert 0 < report.relative_error < 0.1
    assert report.milliseconds_int8 > 0
    # quantised as they come, parts of a batch on several threads would have scales of their own
    streamer = open_streamer(tmp_path / "model", threads=1)
    assert perplexity(streamer, text) == pytest.approx(report.perplexity_int8)
    assert report.perplexity_int8 == pytest.approx(report.perplexity_float, rel=0.02)
    tokens = torch.randint(11, (7, 3))
    with torch.no_grad():
        expected = network(tokens)[0]
    assert (run_onnx(tmp_path / "model", tokens)[0] - expected).abs().max() < 0.1 * expected.abs().max()
    figures = json.loads((tmp_path / "model" / "config.json").read_text())["figures"]
    assert figures["epochs"] == 2
    assert figures["bytes int8"] == report.bytes_int8
    assert "perplexity" in str(report)


def test_what_stays_in_float_is_said(tmp_path: Path) -> None:
    report = export_int8(language_model("GRU", [8, 5]), tmp_path / "model")
    assert report.left_in_float == ("GRU",)
    assert report.text == "text that the model made up"
    assert "left in float by ONNX Runtime: the matrices of GRU" in str(report)


def test_a_network_without_words_has_no_perplexity(tmp_path: Path) -> None:
    network = StateClassifier("RNN_TANH").eval()
    report = export_int8(network, tmp_path / "model", example_input=torch.randn(5, 4, 3))
    assert report.perplexity_int8 is None
    assert "perplexity" not in str(report)


def test_too_great_a_loss_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"int8 causes an error of the outputs of .*; nothing was written; raise"):
        export_int8(language_model(), tmp_path / "model", tolerance=1e-6)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="`tolerance` must be > 0, got 0"):
        export_int8(language_model(), tmp_path / "model", tolerance=0)


class Tagger(nn.Module):
    """Words to tags, with a state: no language model, however many tags there are."""

    def __init__(self, tags: int, *, batch_first: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 16)
        self.encoder, self.decoder = nn.LSTM(16, 16, batch_first=batch_first), nn.Linear(16, tags)

    def forward(self, words: Tensor, state: Any = None) -> Any:
        output, state = self.encoder(self.embedding(words), state)
        return self.decoder(output), state


@pytest.mark.parametrize("network", [Tagger(5), Tagger(30), Tagger(11, batch_first=True)], ids=["few", "many", "batch"])
def test_only_language_models_have_a_perplexity(network: Tagger, tmp_path: Path) -> None:
    words = torch.arange(22).remainder(11).reshape(11, 2)
    report = export_int8(network.eval(), tmp_path / "model", example_input=words, tolerance=0.5)
    assert report.perplexity_float is None
    assert "perplexity" not in str(report)
    with pytest.raises(ValueError, match="`text` is to measure the perplexity of a language model on"):
        export_int8(network, tmp_path / "other", example_input=words, text=words)
    assert not (tmp_path / "other").exists()
