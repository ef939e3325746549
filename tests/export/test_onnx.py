"""ONNX exports give what the network gives: at unseen sizes, from any state, step by step; and nothing is frozen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l0rnn.export import TorchStreamer, export_onnx, open_streamer
from l0rnn.export.interface import flat
from l0rnn.export.onnx_file import check_versions
from l0rnn.export.onnx_twin import onnx_twin
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from tests.export.models import WORDS, language_model, run_onnx
from tests.networks import StateClassifier, TwoReaders, WordTagger

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

UNSEEN = [(1, 1), (3, 9), (6, 2)]  # (batch, time)
LAYERS: list[nn.Module] = [
    RaggedRNN("LSTM", 4, [[5, 3], [2, 6]]),
    RaggedRNN("LSTM", 4, [[5], [3], [7]], batch_first=True),
    RaggedRNN("GRU", 4, [[3], [5]], bias=False),
    RaggedRNN("GRU", 4, [[3, 2], [5, 4]], batch_first=True),
    RaggedRNN("RNN_RELU", 4, [[3], [5]]),
    nn.LSTM(4, 5, 2, bidirectional=True),
    nn.GRU(4, 5, 2, bidirectional=True, batch_first=True),
    nn.RNN(4, 5, 2, bidirectional=True),
]


@pytest.mark.parametrize("layer", LAYERS, ids=[f"{index}" for index in range(len(LAYERS))])
def test_layers_at_unseen_sizes_with_states_in_and_out(layer: nn.Module, tmp_path: Path) -> None:
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -0.8, 0.8)
    export_onnx(layer, tmp_path / "model")
    interface = json.loads((tmp_path / "model" / "config.json").read_text())["interface"]
    assert interface["input"]["axes"] == (["batch", "time"] if layer.batch_first else ["time", "batch"])
    for batch, time in UNSEEN:
        inputs = torch.randn((batch, time, 4) if layer.batch_first else (time, batch, 4))
        with torch.no_grad():
            output, state = layer(inputs)
            for part, got in zip((output, *flat(state)), run_onnx(tmp_path / "model", inputs), strict=True):
                torch.testing.assert_close(got, part, atol=1e-4, rtol=0)
            again, final = layer(inputs, state)
            got_again = run_onnx(tmp_path / "model", inputs, flat(state))
            for part, got in zip((again, *flat(final)), got_again, strict=True):
                torch.testing.assert_close(got, part, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("mode", "sizes"), [("LSTM", [5, 3]), ("LSTM", [6, 6]), ("GRU", [4, 7, 2])])
def test_language_models_as_a_stream(mode: str, sizes: list[int], tmp_path: Path) -> None:
    network = language_model(mode, sizes, tied=sizes == [6, 6])
    export_onnx(network, tmp_path / "model", vocabulary=WORDS)
    tokens = torch.randint(11, (13, 3))
    with torch.no_grad():
        whole, _ = network(tokens)
    streamer = open_streamer(tmp_path / "model")
    assert streamer.vocabulary == WORDS
    state = streamer.initial_state(3)
    for time, token in enumerate(tokens):
        logits, state = streamer.step(token, state)
        torch.testing.assert_close(logits, whole[time], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("network", "example"),
    [
        (TwoReaders(), torch.randint(11, (6, 5))),
        (StateClassifier("LSTM", num_layers=2, bidirectional=True), torch.randn(5, 4, 3)),
        (WordTagger("GRU", normalise=True, num_layers=2, batch_first=True), torch.randint(11, (6, 5))),
    ],
)
def test_networks_of_ones_own(network: nn.Module, example: Tensor, tmp_path: Path) -> None:
    network.eval()
    export_onnx(network, tmp_path / "model", example_input=example)
    for batch, time in UNSEEN:
        inputs = torch.randint(11, (time, batch)) if not example.is_floating_point() else torch.randn(time, batch, 3)
        inputs = inputs.transpose(0, 1).contiguous() if isinstance(network, WordTagger) else inputs
        with torch.no_grad():
            found = network(inputs)
        output = found[0] if isinstance(found, tuple) else found
        torch.testing.assert_close(run_onnx(tmp_path / "model", inputs)[0], output, atol=1e-4, rtol=0)


def test_the_file_says_that_batch_and_length_are_open(tmp_path: Path) -> None:
    import onnx

    export_onnx(language_model("LSTM", [5, 3]), tmp_path / "model", opset=18)
    model = onnx.load(str(tmp_path / "model" / "model.onnx"))
    shapes = {
        part.name: [axis.dim_param or axis.dim_value for axis in part.type.tensor_type.shape.dim]
        for part in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "tokens": ["time", "batch"],
        "h_l0": ["batch", 5],
        "h_l1": ["batch", 3],
        "c_l0": ["batch", 5],
        "c_l1": ["batch", 3],
        "logits": ["time", "batch", 11],
        "next_h_l0": ["batch", 5],
        "next_h_l1": ["batch", 3],
        "next_c_l0": ["batch", 5],
        "next_c_l1": ["batch", 3],
    }
    assert [imported.version for imported in model.opset_import if not imported.domain] == [18]
    assert [node.op_type for node in model.graph.node].count("LSTM") == 2


def test_the_newest_opset_that_is_documented(tmp_path: Path) -> None:
    network = language_model("GRU")
    export_onnx(network, tmp_path / "model", opset=22)
    tokens = torch.randint(11, (5, 2))
    torch.testing.assert_close(run_onnx(tmp_path / "model", tokens)[0], network(tokens)[0].detach(), atol=1e-4, rtol=0)


class LoopsOverTime(nn.Module):
    """Its length freezes when it is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.GRU(3, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        output, _ = self.encoder(inputs)
        return torch.stack([output[time] * time for time in range(inputs.shape[0])])


class TakesTwo(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left + right


class Talks(nn.Module):
    def forward(self, inputs: Tensor) -> str:
        return "hello"


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.GRU(3, 3), nn.GRU(3, 3, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.two(self.one(inputs)[0])[0]


def test_a_length_that_freezes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"with batch and length open: its forward pass freezes time to 4"):
        export_onnx(LoopsOverTime(), tmp_path / "model", example_input=torch.randn(5, 4, 3))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("network", "example", "message"),
    [
        (
            WordTagger("LSTM_projected", hidden=7),
            torch.randint(11, (6, 5)),
            r"ONNX cannot hold: encoder \(LSTM with proj_size",
        ),
        (language_model().double(), None, "must be in float32 for ONNX, got torch.float64"),
        (TwoReaders(), None, "`example_input` must be given for a TwoReaders"),
        (TwoReaders(), torch.randn(5, 4, 3), r"does not run on an input of shape \(3, 2, 3\)"),
        (TakesTwo(), torch.randn(5, 4, 3), "does not run on an input"),
        (TwoReaders(), torch.randint(11, (5,)), r"must have axes of time and batch, got shape \(5,\)"),
        (Talks(), torch.randn(5, 4, 3), r"must return a tensor, or \(tensor, state\), got str"),
        (Mixed(), torch.randn(5, 4, 3), "all its recurrent layers batch_first, or none"),
    ],
)
def test_networks_that_onnx_cannot_hold(network: nn.Module, example: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export_onnx(network, tmp_path / "model", example_input=example)
    assert list(tmp_path.iterdir()) == []


def test_a_network_too_large_for_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l0rnn.export.onnx_file.MOST_BYTES", 100)
    with pytest.raises(ValueError, match="must have at most 100 bytes to fit into one ONNX file, got"):
        export_onnx(language_model(), tmp_path / "model")


@pytest.mark.parametrize("opset", [9, 17, 99])
def test_an_opset_that_is_too_old_or_not_there_yet(opset: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`opset` must be from 18 to \d+, got"):
        export_onnx(language_model(), tmp_path / "model", opset=opset)


def test_a_runtime_or_a_torch_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    with monkeypatch.context() as patch:
        patch.setattr(onnxruntime, "__version__", "1.17.3")
        with pytest.raises(
            ValueError, match=r"onnxruntime 1.17.3 is too old, 1.18 or newer is needed; update it with: pip"
        ):
            check_versions(20)
    monkeypatch.setattr(torch, "__version__", "2.7.1+cpu")
    with pytest.raises(ValueError, match="torch 2.7.1.* is too old to export RNNs to ONNX"):
        check_versions(20)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_its_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"the package '{package}' is not installed; .* 'l0rnn\[onnx\]'"):
        check_versions(20)


def test_an_export_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from l0rnn.export import onnx_twin as module

    monkeypatch.setitem(module.GATE_ORDERS, "LSTM", (0, 1, 2, 3))
    with pytest.raises(
        RuntimeError, match=r"the ONNX file, at batch 1, length 1, differs from the network by .* in logits"
    ):
        export_onnx(language_model(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_twin_is_a_copy() -> None:
    network = language_model()
    onnx_twin(network)
    assert type(network.encoder) is nn.LSTM


def test_a_bidirectional_network_is_not_for_streams() -> None:
    streamer = TorchStreamer(nn.LSTM(3, 4, bidirectional=True))
    with pytest.raises(ValueError, match="cannot be run step by step"):
        streamer.step(torch.randn(1, 3))
