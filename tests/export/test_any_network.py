"""Networks of any form, shrunken: saved and loaded, and as ONNX with several inputs, open axes and states."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l0rnn import shrink
from l0rnn.export import OnnxNetwork, export_onnx, load_dense, open_streamer, read_config, save_dense
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.tracing import trace
from l0rnn.tracing.trace import as_call


class Crnn(nn.Module):
    """Convolution → batch norm → bidirectional GRU along the width of an image → Linear."""

    def __init__(self, channels: int = 8, hidden: int = 6) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.encoder = nn.GRU(channels * 4, hidden, batch_first=True, bidirectional=True)
        self.decoder = nn.Linear(2 * hidden, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.convolution(image))).permute(0, 3, 1, 2).flatten(2)
        return self.decoder(self.encoder(x)[0])


class CellStep(nn.Module):
    """One step of an LSTMCell behind a LayerNorm, with its state in a dict; it remembers its width."""

    def __init__(self, hidden: int = 7) -> None:
        super().__init__()
        self.hidden = hidden
        self.cell, self.norm, self.decoder = nn.LSTMCell(3, hidden), nn.LayerNorm(hidden), nn.Linear(hidden, 2)

    def forward(self, x: Tensor, state: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        if state is None:
            zeros = x.new_zeros(len(x), self.hidden)
            state = {"h": zeros, "c": zeros}
        h, c = self.cell(x, (state["h"], state["c"]))
        return self.decoder(self.norm(h)), {"h": h, "c": c}


@dataclass
class Found:
    score: Tensor
    parts: list[Tensor] = field(default_factory=list)


class TwoInTwoOut(nn.Module):
    """Words and numbers in, a dataclass out; a weight of its own."""

    def __init__(self, units: int = 6) -> None:
        super().__init__()
        self.embedding, self.numbers = nn.Embedding(11, units), nn.Linear(3, units)
        self.scale = nn.Parameter(torch.rand(units) + 0.5)
        self.encoder, self.decoder = nn.LSTM(units, units, batch_first=True), nn.Linear(units, 4)

    def forward(self, words: Tensor, numbers: Tensor) -> Found:
        joined = self.embedding(words) * self.scale + self.numbers(numbers)[:, None]
        output, _ = self.encoder(joined)
        return Found(self.decoder(output[:, -1]), [output.mean(-1), self.decoder(output)])


class Tagger(nn.Module):
    """A bidirectional LSTM of two layers, that surgery leaves with four widths."""

    def __init__(self, hidden: int = 6) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.LSTM(4, hidden, 2, bidirectional=True), nn.Linear(2 * hidden, 3)

    def forward(self, features: Tensor) -> Tensor:
        return self.decoder(self.encoder(features)[0])


@dataclass
class Case:
    make: Callable[..., nn.Module]
    sizes: tuple[int, ...]  # of another instance of the class
    inputs: Any
    axes: dict[str, dict[int, str]]
    outputs: list[str]
    states: dict[str, str] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()


CASES = {
    "CRNN": Case(Crnn, (3, 4), torch.randn(2, 1, 4, 9), {"image": {0: "batch", 3: "width"}}, ["output"]),
    "cell with its state": Case(
        CellStep,
        (4,),
        (torch.randn(2, 3), {"h": torch.rand(2, 7), "c": torch.rand(2, 7)}),
        {"x": {0: "batch"}, "state": {0: "batch"}},
        ["output_0", "next_state_h", "next_state_c"],
        {"state": "output_1"},
    ),
    "two in, two out": Case(
        TwoInTwoOut,
        (3,),
        {"words": torch.randint(11, (2, 5)), "numbers": torch.randn(2, 3)},
        {"words": {0: "batch", 1: "time"}, "numbers": {0: "batch"}},
        ["output_score", "output_parts_0", "output_parts_1"],
    ),
    "ragged": Case(Tagger, (2,), torch.randn(4, 2, 4), {"features": {0: "time", 1: "batch"}}, ["output"]),
}


def shrunken(case: Case) -> nn.Module:
    """A network of a case with about a third of every axis cut, no two axes alike."""
    torch.manual_seed(3)
    network = case.make().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2.0)
    inputs = stateless(case)
    units = trace(network, inputs)
    gates = {}
    for number, axis in enumerate(units.axes.values()):
        gates[axis.name] = torch.ones(axis.size)
        gates[axis.name][: 2 + number % 3] = 0.0
    return shrink(network, gates, example_inputs=inputs)


def stateless(case: Case) -> Any:
    return case.inputs[:1] if case.states else case.inputs


def run(network: nn.Module, inputs: Any) -> list[Tensor]:
    from l0rnn.export.onnx_any import named_leaves

    args, kwargs = as_call(network, inputs)
    with torch.no_grad():
        return [tensor for _, tensor in named_leaves(network(*args, **kwargs), "")]


@pytest.mark.parametrize("name", CASES)
def test_it_comes_back_into_an_instance_of_another_size(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    small = shrunken(case)
    save_dense(small, tmp_path / "model")
    loaded = load_dense(tmp_path / "model", case.make(*case.sizes))
    expected, got = run(small, stateless(case)), run(loaded, stateless(case))
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
    assert {n: tuple(t.shape) for n, t in loaded.state_dict().items()} == {
        n: tuple(t.shape) for n, t in small.state_dict().items()
    }
    assert not any(parameter.is_meta for parameter in loaded.parameters())


@pytest.mark.parametrize("name", CASES)
def test_as_onnx_it_runs_at_other_sizes(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    case = CASES[name]
    small, inputs = shrunken(case), case.inputs
    if case.states:
        width = small.cell.hidden_size
        assert width < 7
        inputs = (inputs[0], {key: part[:, :width] for key, part in inputs[1].items()})
    export_onnx(small, tmp_path / "m", example_inputs=inputs, dynamic_axes=case.axes, states=case.states or None)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert (config["exporter"], config["outputs"]) == ("torch.export", case.outputs)
    open_axes = {axis for port in config["inputs"] for axis in port["shape"] if isinstance(axis, str)}
    assert open_axes == {axis for axes in case.axes.values() for axis in axes.values()}
    session = OnnxNetwork(tmp_path / "m")
    args, kwargs = as_call(small, inputs)
    args = tuple({k: v.repeat(3, 1) for k, v in a.items()} if isinstance(a, dict) else repeated(a, case) for a in args)
    kwargs = {key: repeated(part, case) for key, part in kwargs.items()}
    named = dict(zip((port["name"] for port in config["inputs"]), _flat((args, kwargs)), strict=True))
    expected = run(small, args or kwargs)
    for wanted, got in zip(expected, session(**named).values(), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="takes inputs of its own"):
        open_streamer(tmp_path / "m")


def repeated(tensor: Tensor, case: Case) -> Tensor:
    return (
        tensor.repeat(1, 3, *[1] * (tensor.dim() - 2))
        if case.make is Tagger
        else tensor.repeat(3, *[1] * (tensor.dim() - 1))
    )


def _flat(value: Any) -> list[Tensor]:
    from l0rnn.export.onnx_any import named_leaves

    return [tensor for _, tensor in named_leaves(value, "")]


def test_the_ragged_case_is_ragged_and_numbers_follow(tmp_path: Path) -> None:
    assert isinstance(shrunken(CASES["ragged"]).encoder, RaggedRNN)
    small = shrunken(CASES["cell with its state"])
    save_dense(small, tmp_path / "model")
    assert read_config(tmp_path / "model").numbers == {"hidden": small.hidden}
    assert load_dense(tmp_path / "model", CellStep(4)).hidden == small.hidden == small.cell.hidden_size
    other = CellStep(4)
    other.hidden = 9
    with pytest.raises(ValueError, match="has 5 for 'hidden', which in `network` is 9 and no width of its weights"):
        load_dense(tmp_path / "model", other)


def test_what_an_instance_does_not_take(tmp_path: Path) -> None:
    save_dense(Crnn(), tmp_path / "model")
    wider = Crnn(3, 4)
    wider.convolution = nn.Conv2d(1, 3, 5, padding=2)
    with pytest.raises(
        ValueError, match=r"must have filters of \(5, 5\) for 'convolution', as the network has, got \(3, 3\)"
    ):
        load_dense(tmp_path / "model", wider)
    without = Crnn()
    without.norm = nn.Identity()
    with pytest.raises(ValueError, match="'norm.bias' is not asked for"):
        load_dense(tmp_path / "model", without)
    flat = Crnn()
    flat.convolution = nn.Conv1d(1, 3, 3)
    with pytest.raises(ValueError, match="'convolution.weight' has shape .*, the network's has 3 dimensions"):
        load_dense(tmp_path / "model", flat)


# ---------------------------------------------------------------------------------------------------------------------
# the older exporter, and what is refused


class Packed(nn.Module):
    """Sequences of several lengths, packed, which the newer exporter does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.GRU(3, 4, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.encoder(packed)[0], batch_first=True, total_length=x.size(1))[0]


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def forward(self, xs: Tensor) -> Tensor:
        h = xs.new_zeros(xs.size(1), 4)
        for x in xs:
            h = self.cell(x, h)
        return h


def test_where_the_newer_exporter_cannot_the_older_one_is_used_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    inputs = torch.randn(3, 5, 3), torch.tensor([5, 2, 4])
    axes = {"x": {0: "batch"}, "lengths": {0: "batch"}}
    with caplog.at_level(logging.WARNING, logger="l0rnn"):
        export_onnx(Packed(), tmp_path / "m", example_inputs=inputs, dynamic_axes=axes)
    assert "written by torch's older exporter" in caplog.text
    assert json.loads((tmp_path / "m" / "config.json").read_text())["exporter"] == "torchscript"
    assert "older exporter" in (tmp_path / "m" / "README.md").read_text()


def test_a_loop_over_an_open_axis_is_an_error_and_over_a_fixed_one_is_not(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    xs = torch.randn(4, 2, 3)
    with pytest.raises(RuntimeError, match="leave out those that the forward pass freezes"):
        export_onnx(Loop(), tmp_path / "m", example_inputs=xs, dynamic_axes={"xs": {0: "time", 1: "batch"}})
    assert not (tmp_path / "m").exists()
    export_onnx(Loop(), tmp_path / "m", example_inputs=xs, dynamic_axes={"xs": {1: "batch"}})
    assert OnnxNetwork(tmp_path / "m")(xs=torch.randn(4, 9, 3))["output"].shape == (9, 4)
    with pytest.raises(ValueError, match="the inputs xs must be given, got no xs"):
        OnnxNetwork(tmp_path / "m")(x=xs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dynamic_axes": None}, "`dynamic_axes` must be given with `example_inputs`"),
        (
            {"dynamic_axes": {"y": {0: "batch"}}},
            "`dynamic_axes` names 'y', which is none of the inputs x, state_h, state_c",
        ),
        ({"dynamic_axes": {"x": {5: "batch"}}}, "`dynamic_axes` must give axes of 'x', which has 2, got 5"),
        ({"dynamic_axes": {"x": {0: "a b"}}}, "`dynamic_axes` must name each axis by letters"),
        ({"dynamic_axes": {"x": {0: "a", 1: "a"}}}, "gives one name, 'a', to axes of 2 and 3"),
        ({"states": {"z": "output_1"}}, "`states` names 'z', which is none of x, state_h, state_c"),
        ({"states": {"state": "output_0"}}, "`states` must pair inputs with outputs of their shapes"),
        ({"example_input": torch.randn(2, 3)}, "`example_input` must be left out with `example_inputs`"),
        ({"vocabulary": ["a"]}, "`vocabulary` must be left out with `example_inputs`"),
        ({"example_inputs": None}, "`dynamic_axes` needs `example_inputs`"),
        ({"example_inputs": torch.randn(2, 9)}, "`network` does not run on the `example_inputs`"),
        (
            {"other_inputs": [torch.randn(2, 3)]},
            "`other_inputs` must have the inputs of the example, x, state_h, state_c",
        ),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    case = CASES["cell with its state"]
    given = {"example_inputs": case.inputs, "dynamic_axes": case.axes, **options}
    with pytest.raises(ValueError, match=message):
        export_onnx(CellStep(), tmp_path / "m", **given)
    assert list(tmp_path.iterdir()) == []
