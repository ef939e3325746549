"""Nothing in an ONNX file may point to another file, at whatever depth it stands, and a loop without end is left."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from l0rnn.export import export_onnx, open_streamer
from l0rnn.export.interface import Interface
from l0rnn.export.onnx_run import OnnxStreamer
from tests.export.models import WORDS, language_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(language_model("LSTM", [5, 3]), tmp_path_factory.mktemp("onnx") / "model", vocabulary=WORDS)


@pytest.fixture
def model(exported: Path, tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    for path in exported.iterdir():
        (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "model"


def edit(directory: Path, change: Callable[[Any], object]) -> None:
    path = directory / "model.onnx"
    content = onnx.ModelProto()
    content.ParseFromString(path.read_bytes())
    change(content)
    path.write_bytes(content.SerializeToString())


def elsewhere(name: str = "secret") -> Any:
    tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.UINT8, dims=[16])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": "secret.txt", "offset": "0", "length": "16"}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def branch(node: Any) -> Any:
    """A graph in an attribute of a node."""
    return onnx.helper.make_graph([node], "inner", [], [onnx.helper.make_tensor_value_info("x", 2, [16])])


def constant(**attributes: Any) -> Any:
    return onnx.helper.make_node("Constant", [], ["x"], **attributes)


def in_constant(content: Any) -> None:
    content.graph.node.append(constant(value=elsewhere()))


def in_branch(content: Any) -> None:
    inner = branch(constant(value=elsewhere()))
    content.graph.node.append(onnx.helper.make_node("If", ["c"], ["x"], then_branch=inner, else_branch=inner))


def in_branch_of_branch(content: Any) -> None:
    inner = branch(onnx.helper.make_node("Identity", ["secret"], ["x"]))
    inner.initializer.append(elsewhere())
    outer = branch(onnx.helper.make_node("If", ["c"], ["x"], then_branch=inner, else_branch=inner))
    content.graph.node.append(onnx.helper.make_node("If", ["c"], ["x"], then_branch=outer, else_branch=outer))


def in_list_of_tensors(content: Any) -> None:
    attribute = onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSORS)
    attribute.tensors.append(elsewhere())
    node = constant()
    node.attribute.append(attribute)
    content.graph.node.append(node)


def in_sparse_initialiser(content: Any) -> None:
    sparse = onnx.SparseTensorProto(dims=[16])
    sparse.values.CopyFrom(elsewhere())
    content.graph.sparse_initializer.append(sparse)


def in_sparse_indices(content: Any) -> None:
    sparse = onnx.SparseTensorProto(dims=[16])
    sparse.indices.CopyFrom(elsewhere())
    node = constant()
    node.attribute.append(
        onnx.AttributeProto(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse)
    )
    content.graph.node.append(node)


def in_training(content: Any) -> None:
    content.training_info.add().algorithm.initializer.append(elsewhere())


def without_the_flag(content: Any) -> None:
    tensor = elsewhere()
    tensor.data_location = onnx.TensorProto.DEFAULT
    content.graph.node.append(constant(value=tensor))


def in_memory(content: Any) -> None:
    tensor = elsewhere()
    tensor.external_data[0].value = "*/_ORT_MEM_ADDR_/*"
    content.graph.initializer.append(tensor)


class TestOtherFiles:
    @pytest.mark.parametrize(
        "place",
        [
            in_constant,
            in_branch,
            in_branch_of_branch,
            in_list_of_tensors,
            in_sparse_initialiser,
            in_sparse_indices,
            in_training,
            without_the_flag,
            in_memory,
        ],
    )
    def test_a_tensor_in_another_file(self, place: Callable[[Any], object], model: Path) -> None:
        (model / "secret.txt").write_bytes(b"0123456789abcdef")
        edit(model, place)
        with pytest.raises(ValueError, match="must hold its own weights, but 'secret' is in another file"):
            open_streamer(model)

    def test_functions(self, model: Path) -> None:
        def add(content: Any) -> None:
            content.functions.add(name="f\x1b[2J", domain="").node.append(constant(value=elsewhere()))

        edit(model, add)
        with pytest.raises(ValueError, match=r"operators alone, but has the function 'f\\x1b\[2J'"):
            open_streamer(model)

    def test_an_operator_that_reads_a_file(self, model: Path) -> None:
        node = onnx.helper.make_node("EPContext", [], ["x"], domain="com.microsoft", ep_cache_context="/secret")
        edit(model, lambda content: content.graph.node.append(node))
        with pytest.raises(ValueError, match="must need no other file, but has the operator 'EPContext'"):
            open_streamer(model)

    def test_a_foreign_operator_in_a_branch(self, model: Path) -> None:
        inner = branch(onnx.helper.make_node("Evil", [], ["x"], domain="evil"))
        node = onnx.helper.make_node("If", ["c"], ["x"], then_branch=inner, else_branch=inner)
        edit(model, lambda content: content.graph.node.append(node))
        with pytest.raises(ValueError, match="ONNX's own operators, but has one of 'evil'"):
            open_streamer(model)

    def test_what_is_run_is_what_was_looked_at(self, model: Path) -> None:
        streamer = open_streamer(model)
        (model / "model.onnx").unlink()
        assert streamer.step(torch.tensor([1]))[0].shape == (1, 11)

    def test_a_pipe(self, model: Path) -> None:
        (model / "model.onnx").unlink()
        os.mkfifo(model / "model.onnx")
        with pytest.raises(FileNotFoundError, match="name a directory"):
            open_streamer(model)


def loop_for(rounds: int) -> Callable[[Any], None]:
    """A change that leads the logits through a loop of so many rounds."""

    def change(content: Any) -> None:
        make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
        body = onnx.helper.make_graph(
            [make("Identity", ["keep"], ["go_on"]), make("Identity", ["before"], ["after"])],
            "body",
            [info("round", 7, []), info("keep", 9, []), info("before", 1, None)],
            [info("go_on", 9, []), info("after", 1, None)],
        )
        output = content.graph.output[0].name
        last = next(node for node in content.graph.node if output in node.output)
        last.output[list(last.output).index(output)] = "logits before"
        limit = onnx.helper.make_tensor("rounds", 7, [], [rounds])
        content.graph.initializer.extend([limit, onnx.helper.make_tensor("yes", 9, [], [True])])
        content.graph.node.append(make("Loop", ["rounds", "yes", "logits before"], [output], body=body))

    return change


class TestLoops:
    def test_one_without_end(self, model: Path) -> None:
        edit(model, loop_for(2**62))
        streamer = OnnxStreamer(model, seconds=0.5)
        started = time.monotonic()
        with pytest.raises(RuntimeError, match="its loops had not ended after 0.5 seconds"):
            streamer.step(torch.tensor([1]))
        assert time.monotonic() - started < 10

    def test_one_that_ends(self, model: Path) -> None:
        expected = open_streamer(model).step(torch.tensor([1]))[0]
        edit(model, loop_for(3))
        assert torch.equal(OnnxStreamer(model, seconds=30).step(torch.tensor([1]))[0], expected)

    def test_no_clock_for_a_file_without_loops(self, model: Path) -> None:
        assert not OnnxStreamer(model)._has_loops

    @pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
    def test_a_time_that_is_none(self, seconds: float, model: Path) -> None:
        with pytest.raises(ValueError, match="`seconds` must be > 0"):
            OnnxStreamer(model, seconds=seconds)


def test_many_states_that_are_too_large_together(model: Path) -> None:
    content = json.loads((model / "config.json").read_text())["interface"]
    content["states"] = [{"input": f"h{index}", "shape": ["batch", 10**6]} for index in range(101)]
    with pytest.raises(ValueError, match="at most 100,000,000 units in all"):
        Interface.from_json(content)


def test_names_that_a_terminal_would_obey(model: Path) -> None:
    def rename(content: Any) -> None:
        old = content.graph.input[0].name
        content.graph.input[0].name = "\x1b[2J"
        for node in content.graph.node:
            node.input[:] = ["\x1b[2J" if name == old else name for name in node.input]

    edit(model, rename)
    with pytest.raises(ValueError, match=r"must have the inputs tokens, .* got \\x1b\[2J") as caught:
        open_streamer(model)
    assert "\x1b" not in str(caught.value)
