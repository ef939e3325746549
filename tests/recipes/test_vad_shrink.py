"""The whole run, from the published weights to a table."""

from __future__ import annotations

import importlib.util
import json
import shutil
import wave

import numpy as np
import pytest
import torch

from recipes.vad import evaluate, results, shrink
from recipes.vad.data import Amounts
from recipes.vad.model import load_model, save_model
from recipes.vad.network import VoiceDetector, Widths, probabilities, widths_of
from recipes.vad.small import SMALL, load_small

MISSING = [name for name in ("espeak-ng", "sox") if shutil.which(name) is None]
needs_all = pytest.mark.skipif(
    bool(MISSING) or importlib.util.find_spec("silero_vad") is None,
    reason=f"needs the package silero-vad and the programs espeak-ng and sox; missing programs: {MISSING}",
)
WIDTHS = {"bins": 20, "channels": [6, 5, 4, 7], "units": 9}


@pytest.fixture
def recordings(tmp_path):
    """A second of sound that is no silence."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    values = (np.random.default_rng(0).standard_normal(16_000) * 3_000).astype("<i2")
    with wave.open(str(folder / "noise.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(values.tobytes())
    return folder


@pytest.fixture
def little(monkeypatch):
    monkeypatch.setattr(shrink, "QUICK", Amounts(seconds=2.0, train=3, validation=1, test=2))


@needs_all
def test_widths_of_a_result_taught_from_scratch(tmp_path, recordings, little):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("matplotlib")
    like = tmp_path / "other.json"
    like.write_text(json.dumps({"widths": WIDTHS}))
    out = tmp_path / "scratch"
    result = shrink.run(0.25, out, cache=tmp_path / "cache", recordings=recordings, like=like, quick=True)
    assert json.loads((out / "result.json").read_text())["widths"] == WIDTHS
    assert {"auc", "mean_difference", "density", "bytes", "milliseconds"} <= result.keys()
    assert result["bytes"] == (out / "silero_vad_small_16k.onnx").stat().st_size
    assert len(result["history"]) == 2
    assert (out / "recordings.png").stat().st_size > 10_000
    network = load_model(out / "model.pt")
    assert widths_of(network) == Widths(20, (6, 5, 4, 7), 9)
    evaluate.main(["--model", str(out / "silero_vad_small_16k.onnx"), str(recordings / "noise.wav")])


@needs_all
def test_published_weights_pruned(tmp_path, recordings, little):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("matplotlib")
    out = tmp_path / "pruned"
    result = shrink.run(0.25, out, cache=tmp_path / "cache", recordings=recordings, quick=True)
    assert 0.2 < result["density"] <= 0.25
    assert result["history"][-2]["density"] == pytest.approx(result["density"])
    assert result["widths"]["bins"] == result["bins"] == 40
    evaluate.main(["--model", str(out / "silero_vad_small_16k.onnx"), str(recordings / "noise.wav")])


needs_wrapper = pytest.mark.skipif(
    importlib.util.find_spec("silero_vad") is None or importlib.util.find_spec("onnxruntime") is None,
    reason="needs the packages silero-vad and ONNX Runtime: pip install '.[vad]'",
)


@needs_wrapper
def test_the_small_network_in_one_line():
    model = load_small()
    draw = np.random.default_rng(0)
    time = np.arange(16_000) / 16_000
    # a voice of 140 Hz with two formants, four syllables in a second; and the hiss of a quiet room
    voice = sum(np.sin(2 * np.pi * 140 * n * time) / (1 + abs(140 * n - 700) / 200) for n in range(1, 20))
    voice = voice * np.sin(np.pi * 4 * time) ** 2 * 0.1
    hiss = draw.standard_normal(16_000) * 1e-3
    said = {}
    for name, sound in (("voice", voice + hiss), ("hiss", hiss)):
        said[name] = model.audio_forward(torch.from_numpy(sound).float()[None], 16_000)
        assert said[name].shape == (1, 32)
        assert ((said[name] >= 0) & (said[name] <= 1)).all()
        assert torch.equal(said[name], model.audio_forward(torch.from_numpy(sound).float()[None], 16_000))
    assert said["hiss"].max() < 0.5
    assert said["voice"].mean() > said["hiss"].mean()


def test_the_small_weights_are_those_of_the_results():
    result = json.loads((results.FOLDER / "results" / "pruned.json").read_text())
    assert SMALL.stat().st_size == result["bytes"] < 1_000_000
    assert "Silero Team" in (SMALL.parent / "LICENSE").read_text()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    pytest.importorskip("onnxruntime")
    with pytest.raises(ModuleNotFoundError, match="the package 'silero-vad' is not installed"):
        load_small()


@pytest.mark.parametrize("density", [0.0, 1.0])
def test_a_density_out_of_range_is_refused(density, tmp_path):
    with pytest.raises(ValueError, match=r"`--density` must be in \(0, 1\), got"):
        shrink.run(density, tmp_path, cache=tmp_path)


def test_no_epochs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`--epochs` must be at least 1, got 0"):
        shrink.run(0.25, tmp_path, cache=tmp_path, epochs=0)


def test_a_model_is_saved_and_loaded(tmp_path):
    network = VoiceDetector(Widths(20, (6, 5, 4, 7), 9), torch.arange(3, 43, 2)).eval()
    save_model(network, tmp_path / "model.pt")
    again = load_model(tmp_path / "model.pt")
    audio = torch.randn(1, 2_000)
    assert torch.equal(probabilities(network, audio), probabilities(again, audio))
    for content in (b"no model", b""):
        (tmp_path / "model.pt").write_bytes(content)
        with pytest.raises(ValueError, match="`path` must be a network saved by recipes.vad.shrink, got"):
            load_model(tmp_path / "model.pt")


def test_the_table_has_a_row_for_each_result():
    times = {"small": {"speedup_range": [2.0, 2.4]}, "package": {"milliseconds": 0.07}}
    result = {
        "name": "a", "widths": WIDTHS, "multiply_adds": 100_000, "density": 0.25, "auc": 0.991, "mean_difference": 0.02,
        "real": {"same": 0.97, "boundaries": 0.9}, "made": {"true_auc": 0.98, "original_true_auc": 0.97},
        "bytes": 200_000, "package_bytes": 2_000_000, "milliseconds": 0.03, "speedup": 2.2, "latency": times,
        "versions": {"silero-vad": "6.2.3"},
    }  # fmt: skip
    lines = results.table([result, result]).splitlines()
    assert len(lines) == 5
    assert lines[2].startswith("| silero-vad 6.2.3 | 129 | 128, 64, 64, 128 | 128 | 679,552 | 100.0% |")
    assert lines[3].startswith("| a | 20 | 6, 5, 4, 7 | 9 | 100,000 | 25.0% | 0.9910 | 0.0200 | 97.0% | 90% |")
    assert {line.count("|") for line in lines} == {len(results.COLUMNS) + 1}
    assert results.table([]) == ""
