"""`l0rnn export` and `l0rnn generate`: what they write, what they print, and how they fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from l0rnn.cli import main
from l0rnn.export import load_dense, read_config, save_dense
from l0rnn.training.shrunken import ShrunkenLanguageModel
from tests.export.models import WORDS, half_closed, language_model, write_checkpoint


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_dense(language_model("LSTM", [5, 3]), tmp_path / "model", vocabulary=WORDS, figures={"epochs": 2})


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a command prints when it fails, with status 2."""
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        ("native", {"config.json", "model.safetensors", "README.md", "vocabulary.json"}),
        ("torch", {"config.json", "model.py", "weights.pt", "README.md", "vocabulary.json"}),
        ("onnx", {"config.json", "model.onnx", "README.md", "vocabulary.json"}),
        ("int8", {"config.json", "model.onnx", "README.md", "vocabulary.json"}),
        ("program", {"config.json", "program.pt2", "README.md", "vocabulary.json"}),
    ],
)
def test_every_format(
    kind: str, files: set[str], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")
    out = tmp_path / kind
    assert run("export", model, "--format", kind, "--out", out) == 0
    assert {path.name for path in out.iterdir()} == files
    assert f"{kind} export checked and written to {out}" in capsys.readouterr().out
    assert json.loads((out / "config.json").read_text())["figures"]["epochs"] == 2
    assert "not empty" in error_of(capsys, "export", model, "--format", kind, "--out", out)


def test_text_is_generated_in_every_format(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript")
    run("export", model, "--format", "onnx", "--out", tmp_path / "onnx")
    capsys.readouterr()
    texts = []
    for place in (model, tmp_path / "onnx", model):
        assert run("generate", place, "--words", 30, "--prompt", "the cat", "--temperature", 0.8, "--seed", 5) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] == texts[2]
    assert texts[0].startswith("the cat")
    assert set(texts[0].split()) <= set(WORDS)
    assert run("generate", model, "--words", 30, "--prompt", "the cat", "--seed", 6) == 0
    assert capsys.readouterr().out != texts[0]


def test_int8_on_a_text(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript")
    (tmp_path / "text.txt").write_text("the cat sat on the mat\n" * 20)
    options = ["--format", "int8", "--out", tmp_path / "int8", "--text", tmp_path / "text.txt"]
    assert run("export", model, *options, "--tolerance", 0.5) == 0
    assert "on the text given" in capsys.readouterr().out


def test_a_checkpoint_is_shrunk_on_the_way(tmp_path: Path) -> None:
    write_checkpoint(half_closed(11), tmp_path / "last.ckpt")
    (tmp_path / "words.json").write_text(json.dumps(WORDS))
    out = tmp_path / "model"
    options = ["--format", "native", "--out", out, "--vocabulary", tmp_path / "words.json"]
    assert run("export", tmp_path / "last.ckpt", *options) == 0
    assert read_config(out).widths["encoder.l0"] == 3
    assert run("generate", out, "--words", 3) == 0


def test_a_checkpoint_of_a_shrunken_model(tmp_path: Path) -> None:
    network = language_model("LSTM", [5, 3])
    write_checkpoint(ShrunkenLanguageModel(network), tmp_path / "last.ckpt")
    assert run("export", tmp_path / "last.ckpt", "--format", "native", "--out", tmp_path / "model") == 0
    tokens = torch.randint(11, (4, 2))
    assert torch.equal(load_dense(tmp_path / "model")(tokens)[0], network.eval()(tokens)[0])


def test_errors_are_one_line(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert "does not exist" in error_of(capsys, "export", tmp_path / "no", "--format", "onnx", "--out", out)
    assert "`opset` must be" in error_of(capsys, "export", model, "--format", "onnx", "--out", out, "--opset", 9)
    assert "`length` must" in error_of(capsys, "export", model, "--format", "program", "--out", out, "--length", 0)
    assert "'zebra', which is none of" in error_of(capsys, "generate", model, "--prompt", "zebra")
    assert "`words` must be > 0" in error_of(capsys, "generate", model, "--words", 0)
    (model / "model.safetensors").write_bytes(b"")
    assert "not a whole safetensors file" in error_of(capsys, "generate", model)
    assert not out.exists()


def test_a_model_without_words_does_not_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_dense(language_model(), tmp_path / "model")
    assert "has no vocabulary; export it again with --vocabulary" in error_of(capsys, "generate", tmp_path / "model")


def test_the_help_names_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["export", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for kind in ("native", "torch", "onnx", "int8", "program", "executorch"):
        assert f"\n  {kind} " in text


@pytest.mark.parametrize(
    ("kind", "option", "formats"),
    [
        ("torch", ["--compile"], "program"),
        ("onnx", ["--length", 35], "program"),
        ("native", ["--opset", 20], "onnx or int8"),
        ("onnx", ["--tolerance", 0.01], "int8"),
        ("program", ["--text", "/no/such/file"], "int8"),
    ],
)
def test_an_option_of_another_format_is_refused(
    kind: str, option: list[object], formats: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = error_of(capsys, "export", model, "--format", kind, "--out", tmp_path / "out", *option)
    assert f"{option[0]} is for --format {formats}, got {kind}" in error
    assert not (tmp_path / "out").exists()


def test_files_that_a_command_cannot_use_get_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(ShrunkenLanguageModel(language_model("LSTM", [5, 3])), tmp_path / "small.ckpt")
    torch.save(torch.ones(3), tmp_path / "tensor.pt")
    assert "got one of ShrunkenLanguageModel" in error_of(capsys, "shrink", tmp_path / "small.ckpt", "--out", tmp_path)
    error = error_of(capsys, "export", tmp_path / "tensor.pt", "--format", "native", "--out", tmp_path / "out")
    assert "is not a checkpoint of L0GatedLSTM or L0GatedGRU" in error
