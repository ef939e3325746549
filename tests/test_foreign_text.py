"""Text out of files reaches a terminal without anything that it obeys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from l0rnn.cli import main
from l0rnn.export import save_dense
from l0rnn.export.streaming import TorchStreamer
from l0rnn.export.vocabulary import checked_vocabulary
from l0rnn.foreign_text import printable, shown
from l0rnn.language.language_model import LanguageModel
from l0rnn.training.resuming import check_same_network

CLEARS = "\x1b[2J\x1b]0;title\x07"


@pytest.mark.parametrize("text", [CLEARS, "a\rb", "a\x9bb", "a\u202eb", "a\x00b", "a\x08b", "\udcff"])
def test_nothing_that_a_terminal_obeys(text: str) -> None:
    for made in (printable(text), shown(text), printable(ValueError(text))):
        assert made.isprintable()


def test_what_is_long_is_cut_and_what_is_plain_stays() -> None:
    assert printable("naïve 猫 words") == "naïve 猫 words"
    assert printable("a\n  b") == "a b"
    assert len(printable("x" * 10**6)) == 200
    assert len(printable("\x1b" * 300)) == 200


@pytest.mark.parametrize("command", ["export {model} --format native --out {out}", "bench {model}"])
def test_the_commands(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_dense(LanguageModel(5, 3, 3), tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["layers"]["decoder"]["type"] = CLEARS
    (model / "config.json").write_text(json.dumps(config))
    assert main(command.format(model=model, out=tmp_path / "out").split()) == 2
    said = capsys.readouterr().err
    assert said.strip().isprintable()
    assert r"\x1b[2J" in said


def test_names_in_a_checkpoint() -> None:
    with pytest.raises(ValueError, match=r"\\x1b\[2J.* is unknown") as caught:
        check_same_network({"a": torch.Size([1])}, {"a": torch.zeros(1), CLEARS: torch.zeros(1)})
    assert str(caught.value).isprintable()


def test_words() -> None:
    for word in ("a\u202eb", "a\x1bb", "a\u2066b"):
        with pytest.raises(ValueError, match="without spaces or control characters"):
            checked_vocabulary(["the", word])
    assert checked_vocabulary(["می\u200cخواهم", "naïve"])  # what hides nothing is a part of words


@pytest.mark.parametrize("example", [(torch.zeros(1, 1),), [1], "text"])
def test_an_export_has_one_input(example: Any) -> None:
    with pytest.raises(TypeError, match="`example_input` must be Tensor or None"):
        TorchStreamer(torch.nn.LSTM(1, 1), example)
