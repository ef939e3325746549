"""The command from end to end on a small dictionary and small weights, and what it writes."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path

import numpy as np
import pytest

from l0rnn.models import g2p
from recipes.g2p import study
from recipes.g2p.files import save_arrays
from recipes.g2p.network import G2P
from recipes.g2p.package import read_arrays
from recipes.g2p.report import table
from recipes.g2p.shrink import QUICK, main
from recipes.g2p.symbols import PHONEMES
from recipes.g2p.words import letter_numbers, read_dictionary

SOUNDS = {"a": "AE1", "b": "B", "d": "D", "i": "IH1", "n": "N", "o": "OW0", "t": "T"}

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("g2p_en") is None,
    reason="the package g2p_en is not installed: pip install 'l0rnn[g2p]'",
)


@pytest.fixture
def dictionary(tmp_path: Path) -> Path:
    """Words that are spoken as they are spelt."""
    draw = random.Random(1)
    words = {"".join(draw.choices("abdinot", k=draw.randint(2, 9))) for _ in range(400)}
    path = tmp_path / "small.dict"
    path.write_text("\n".join(f"{word} {' '.join(SOUNDS[letter] for letter in word)}" for word in sorted(words)))
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "large.npz"
    save_arrays(path, G2P(6, 7, 16).arrays())
    return path


def test_the_density_must_be_one() -> None:
    with pytest.raises(SystemExit, match=r"`--density` must be in \(0, 1\], got 1.5"):
        main(["--density=1.5"])


def test_a_table_of_networks() -> None:
    rows = table({"small": {"word_error": 31.254, "density": 0.125, "bytes": 400_000, "milliseconds": 0.2}})
    assert rows.splitlines()[-1] == "| small | 31.25 % |  |  |  |  | 12.5% | 400,000 |  | 0.200 |  |  |"


@needs_package
def test_from_the_command_to_the_files(
    dictionary: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="the package matplotlib is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")
    pytest.importorskip("onnx", reason="the package onnx is not installed")
    out = tmp_path / "out"
    options = [
        "--quick",
        f"--dictionary={dictionary}",
        f"--weights={weights}",
        f"--out={out}",
        "--threads=1",
        "--density=0.5",
    ]
    main(options)
    result = json.loads((out / "result.json").read_text())
    assert {"word_error", "phoneme_error", "density", "bytes", "milliseconds"} <= set(result)
    assert "later_word_error" not in result
    assert result["density"] < 0.6
    assert result["units"] < 16
    assert result["bytes"] == (out / "small" / "checkpoint20.npz").stat().st_size
    assert "| published |" in capsys.readouterr().out
    assert (out / "report.png").is_file()

    said = g2p.G2P(str(out / "small" / "checkpoint20.npz"))("bado")
    session = runtime.InferenceSession(out / "small.onnx", providers=["CPUExecutionProvider"])
    (numbers,) = session.run(None, {"letters": np.array(letter_numbers("bado"))})
    assert [PHONEMES[number] for number in numbers] == said

    main(options)  # all is there already
    again = json.loads((out / "result.json").read_text())
    assert again["word_error"] == result["word_error"]


@needs_package
def test_the_controls(dictionary: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "Plan", lambda: QUICK)
    monkeypatch.setattr(study, "read_dictionary", lambda: read_dictionary(dictionary))
    monkeypatch.setattr(study, "published_arrays", lambda: read_arrays(weights))
    same = [f"--out={tmp_path}", "--threads=1"]
    study.main(["dense", "--epochs=2", "--invented=0", *same])
    study.main(["scratch", "--widths", "3", "4", "5", "--seed=1", *same])
    dense, scratch = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("dense_0", "scratch_5_1"))
    assert (dense["epochs"], dense["invented"], dense["units"]) == (2, 0, 16)
    assert (scratch["letter_features"], scratch["phoneme_features"], scratch["units"]) == (3, 4, 5)
    assert (scratch["name"], scratch["epochs"]) == ("the same widths from scratch, seed 1", 1)
