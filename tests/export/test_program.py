"""Programs of torch.export: the batch is open, another length is refused, a stream of steps gives the sequence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from l0rnn.export import export_executorch, export_program, open_streamer
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from tests.export.models import WORDS, language_model
from tests.networks import StateClassifier


def loaded(directory: Path) -> nn.Module:
    return torch.export.load(directory / "program.pt2").module()


@pytest.mark.parametrize(("mode", "sizes"), [("LSTM", [5, 3]), ("GRU", [6, 6])])
def test_a_stream_of_single_steps(mode: str, sizes: list[int], tmp_path: Path) -> None:
    network = language_model(mode, sizes)
    directory = export_program(network, tmp_path / "model", vocabulary=WORDS, figures={"epochs": 2})
    program = loaded(directory)
    interface = json.loads((directory / "config.json").read_text())["interface"]
    assert interface["length"] == 1
    tokens = torch.randint(11, (7, 4))
    states = [torch.zeros([4 if size == "batch" else size for size in state["shape"]]) for state in interface["states"]]
    with torch.no_grad():
        whole, _ = network(tokens)
        for time, token in enumerate(tokens):
            logits, *states = program(token[None], *states)
            torch.testing.assert_close(logits[0], whole[time], atol=1e-5, rtol=0)
    assert "the length is fixed to 1**, for a stream" in (directory / "README.md").read_text()


def test_a_longer_program_refuses_other_lengths(tmp_path: Path) -> None:
    network = RaggedRNN("LSTM", 4, [[5, 3], [2, 6]], batch_first=True).eval()
    program = loaded(export_program(network, tmp_path / "model", length=6))
    states = [torch.zeros(2, size) for size in (5, 3, 2, 6, 5, 3, 2, 6)]
    inputs = torch.randn(2, 6, 4)
    torch.testing.assert_close(program(inputs, *states)[0], network(inputs)[0].detach())
    with pytest.raises(AssertionError, match="Guard failed"):
        program(torch.randn(2, 7, 4), *states)


def test_a_network_without_a_state(tmp_path: Path) -> None:
    network = StateClassifier("GRU", bidirectional=True).eval()
    program = loaded(export_program(network, tmp_path / "model", example_input=torch.randn(4, 2, 3), length=4))
    features = torch.randn(4, 5, 3)
    torch.testing.assert_close(program(features)[0], network(features).detach())


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler")
def test_a_compiled_program(tmp_path: Path) -> None:
    network = language_model("LSTM", [5, 3])
    directory = export_program(network, tmp_path / "model", compiled=True)
    program = torch._inductor.aoti_load_package(str(directory / "compiled.pt2"))
    states = [torch.zeros(4, size) for size in (5, 3, 5, 3)]
    token = torch.randint(11, (1, 4))
    torch.testing.assert_close(program(token, *states)[0], network(token)[0].detach(), atol=1e-5, rtol=0)


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=r"`compiled` needs a C\+\+ compiler"):
        export_program(language_model(), tmp_path / "model", compiled=True)


class DependsOnData(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs if inputs.sum() > 0 else -inputs


def test_what_cannot_be_traced(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="torch cannot export the network: "):
        export_program(DependsOnData(), tmp_path / "model", example_input=torch.randn(4, 2, 3))
    with pytest.raises(ValueError, match="`length` must be a number of time steps ≥ 1, got 0"):
        export_program(language_model(), tmp_path / "model", length=0)
    assert list(tmp_path.iterdir()) == []


def test_l0rnn_does_not_load_a_program_from_others(tmp_path: Path) -> None:
    directory = export_program(language_model(), tmp_path / "model")
    with pytest.raises(ValueError, match="is a program export: load it with torch.export.load, and only if you trust"):
        open_streamer(directory)


def test_executorch_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "executorch", None)
    monkeypatch.setitem(sys.modules, "executorch.exir", None)
    with pytest.raises(ModuleNotFoundError, match=r"not installed; install it with: pip install 'l0rnn\[executorch\]'"):
        export_executorch(language_model(), tmp_path / "model")
