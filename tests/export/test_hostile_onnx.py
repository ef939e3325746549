"""ONNX directories of a wrong or hostile kind are refused with one clear error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from l0rnn.export import export_onnx, open_streamer
from tests.export.models import WORDS, language_model

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(language_model("LSTM", [5, 3]), tmp_path_factory.mktemp("onnx") / "model", vocabulary=WORDS)


class TestHostileFiles:
    @pytest.fixture
    def model(self, exported: Path, tmp_path: Path) -> Path:
        (tmp_path / "model").mkdir()
        for path in exported.iterdir():
            (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
        return tmp_path / "model"

    @pytest.mark.parametrize("content", [b"", b"not ONNX at all", b"\x80\x04cos\nsystem\n."])
    def test_a_file_that_is_not_onnx(self, content: bytes, model: Path) -> None:
        (model / "model.onnx").write_bytes(content)
        with pytest.raises(ValueError, match=r"model.onnx is not an ONNX file|cannot load model.onnx"):
            open_streamer(model)

    def test_a_truncated_file(self, model: Path) -> None:
        content = (model / "model.onnx").read_bytes()
        (model / "model.onnx").write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=r"model.onnx is not an ONNX file|cannot load model.onnx"):
            open_streamer(model)

    def test_weights_in_another_file(self, model: Path) -> None:
        import onnx

        graph = onnx.load(str(model / "model.onnx"))
        onnx.save(graph, str(model / "model.onnx"), save_as_external_data=True, location="weights", size_threshold=0)
        with pytest.raises(ValueError, match="must hold its own weights, but .* is in another file"):
            open_streamer(model)

    def test_an_operator_from_elsewhere(self, model: Path) -> None:
        import onnx

        graph = onnx.load(str(model / "model.onnx"))
        graph.graph.node[0].domain = "evil"
        onnx.save(graph, str(model / "model.onnx"))
        with pytest.raises(ValueError, match="ONNX's own operators, but has one of 'evil'"):
            open_streamer(model)

    def test_an_operator_that_the_runtime_does_not_know(self, model: Path) -> None:
        import onnx

        graph = onnx.load(str(model / "model.onnx"))
        graph.opset_import[0].version = 999
        onnx.save(graph, str(model / "model.onnx"))
        with pytest.raises(ValueError, match="cannot load model.onnx: .* needs a newer ONNX Runtime"):
            open_streamer(model)

    @pytest.mark.parametrize(
        ("keys", "value", "message"),
        [
            (("interface",), None, "does not describe input, output and states"),
            (("interface", "states"), 5, "does not describe input, output and states"),
            (("interface", "states", 0, "shape"), ["batch", 10**12], "does not describe input, output and states"),
            (("interface", "states", 0, "shape"), ["batch", True], "does not describe input, output and states"),
            (
                ("interface", "states", 0, "shape"),
                ["batch", 10**9, 10**9],
                "does not describe input, output and states",
            ),
            (
                ("interface", "states", 0, "shape"),
                ["batch", 6],
                "states of the shapes in config.json, but not so 'h_l0'",
            ),
            (("interface", "states", 0, "shape"), [5], "states of the shapes in config.json, but not so 'h_l0'"),
            (("interface", "states", 0, "input"), "x", "must have the inputs tokens, x, h_l1"),
            (("interface", "output", "name"), "x", "must have the outputs that config.json names, got logits"),
            (("interface", "input", "dtype"), "float32", "must have the inputs"),
            (("interface", "input", "dtype"), "object", "a dtype out of int64"),
            (("interface", "words"), 12, "the 12 words that the model knows, got 11"),
            (("export",), "native", "must have 'network' as a str"),
            (("export",), "other", "unknown kind 'other'"),
        ],
    )
    def test_a_config_that_does_not_fit(self, keys: tuple[Any, ...], value: Any, message: str, model: Path) -> None:
        content = json.loads((model / "config.json").read_text())
        place = content
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        (model / "config.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            open_streamer(model)

    def test_a_missing_file(self, model: Path) -> None:
        (model / "model.onnx").unlink()
        with pytest.raises(FileNotFoundError, match="name a directory that export_onnx wrote"):
            open_streamer(model)
