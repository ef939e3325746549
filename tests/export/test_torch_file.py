"""The stand-alone Python file: what it says, and that it gives what the network gives."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from l0rnn.export import export_torch, open_streamer
from l0rnn.export.interface import flat
from l0rnn.gates import GatedLSTM
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from tests.export.models import WORDS, language_model
from tests.networks import TwoReaders

LAYERS = [
    RaggedRNN("LSTM", 4, [[5, 3], [2, 6]], batch_first=True),
    RaggedRNN("LSTM", 4, [[5], [7]], proj_sizes=[[3], [4]]).double(),
    RaggedRNN("GRU", 4, [[3], [5]], bias=False),
    RaggedRNN("RNN_RELU", 4, [[3, 5]]),
    nn.LSTM(4, 5, 2, bidirectional=True),
    nn.GRU(4, 5, 2, batch_first=True, bias=False),
    nn.RNN(4, 3, nonlinearity="relu").double(),
]


def loaded(directory: Path) -> Any:
    module: dict[str, Any] = {"__name__": "model", "__file__": str(directory / "model.py")}
    exec((directory / "model.py").read_text(), module)
    return module["load"]()


@pytest.mark.parametrize("layer", LAYERS, ids=[f"{index}" for index in range(len(LAYERS))])
def test_layers(layer: nn.Module, tmp_path: Path) -> None:
    network = loaded(export_torch(layer, tmp_path / "model"))
    dtype = next(layer.parameters()).dtype
    inputs = torch.randn((2, 6, 4) if layer.batch_first else (6, 2, 4)).to(dtype)
    with torch.no_grad():
        output, state = layer(inputs)
        again, _ = layer(inputs, state)
        own_output, own_state = network(inputs)
        own_again, _ = network(inputs, own_state)
    torch.testing.assert_close(own_output, output)
    torch.testing.assert_close(own_again, again)
    torch.testing.assert_close(list(own_state), flat(state))


@pytest.mark.parametrize(("mode", "sizes", "tied"), [("LSTM", [5, 3], False), ("GRU", [6, 6], True)])
def test_language_models_step_by_step(mode: str, sizes: list[int], *, tied: bool, tmp_path: Path) -> None:
    network = language_model(mode, sizes, tied=tied)
    directory = export_torch(network, tmp_path / "model", vocabulary=WORDS)
    own = loaded(directory)
    assert (own.decoder.weight is own.embedding.weight) == tied
    tokens = torch.randint(11, (7, 2))
    state = own.initial_state(2)
    with torch.no_grad():
        whole, _ = network(tokens)
        for time, token in enumerate(tokens):
            logits, state = own.step(token, state)
            torch.testing.assert_close(logits, whole[time], atol=1e-5, rtol=0)
    assert (directory / "vocabulary.json").is_file()


def test_the_file_is_readable_and_imports_torch_alone(tmp_path: Path) -> None:
    directory = export_torch(language_model("LSTM", [5, 3]), tmp_path / "model")
    source = (directory / "model.py").read_text()
    tree = ast.parse(source)
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - set(sys.stdlib_module_names) == {"torch"}
    assert "                [nn.LSTM(3, 5)],\n                [nn.LSTM(5, 3)],\n" in source
    assert max(map(len, source.splitlines())) <= 120
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E,F,W,I", "--line-length", "120"]
    assert subprocess.run([*command, str(directory / "model.py")], check=False).returncode == 0


def test_the_weights_are_no_more_than_tensors(tmp_path: Path) -> None:
    directory = export_torch(language_model(tied=True), tmp_path / "model")
    state = torch.load(directory / "weights.pt", weights_only=True)
    assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())


def test_l0rnn_itself_does_not_run_the_file(tmp_path: Path) -> None:
    directory = export_torch(language_model(), tmp_path / "model")
    (directory / "model.py").write_text("raise SystemExit('it was run')")
    with pytest.raises(ValueError, match="its model.py is Python that l0rnn does not run"):
        open_streamer(directory)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (TwoReaders(), "must be a LanguageModel or a recurrent layer to be written as a torch file, got a TwoReaders"),
        (GatedLSTM(3, 4), "still has gates"),
    ],
)
def test_what_cannot_be_written(network: nn.Module, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export_torch(network, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
