"""The network of silero-vad in plain torch, and as an ONNX file that the package's own wrapper runs."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from recipes.vad import latency as timing
from recipes.vad import onnx_file, original
from recipes.vad.evaluate import agreement
from recipes.vad.network import CHUNK, VoiceDetector, Widths, cut, probabilities, widths_of
from recipes.vad.onnx_file import (
    file_multiply_adds,
    multiply_adds,
    open_session,
    original_onnx,
    run_wrapped,
    write_onnx,
)
from recipes.vad.original import load_jit, load_original, package_file

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("silero_vad") is None, reason="needs the package silero-vad: pip install '.[vad]'"
)
SMALL = Widths(20, (6, 5, 4, 7), 9)


def sound(chunks, *, seed=0):
    """Noise of changing loudness and colour, with tones: it takes the original from sure of silence to unsure."""
    draw = torch.Generator().manual_seed(seed)
    loudness = torch.rand(chunks, 1, generator=draw).pow(3)
    noise = torch.randn(chunks, CHUNK, generator=draw) * loudness
    time = torch.arange(chunks * CHUNK) / 16_000
    voice = sum(torch.sin(2 * torch.pi * tone * time) / tone for tone in (120, 240, 480, 720)) * 20
    return 0.2 * noise.flatten() + voice * (torch.sin(2 * torch.pi * 3 * time) > 0)


def small(seed=0):
    torch.manual_seed(seed)
    return VoiceDetector(SMALL, torch.arange(2, 42, 2)).eval()


@needs_package
def test_equal_to_the_package_on_streams():
    network, jit = load_original(), load_jit()
    streams = torch.stack([sound(150), sound(150, seed=1)])
    with torch.no_grad():
        wanted = torch.cat([jit(chunk, 16_000) for chunk in streams.split(CHUNK, dim=1)], dim=1)
    found = probabilities(network, streams)
    assert wanted.max() - wanted.min() > 0.1
    assert (found - wanted).abs().max() < 1e-5


@needs_package
def test_the_basis_is_a_fourier_transform_under_a_hann_window():
    assert (VoiceDetector().spectrum.basis - load_original().spectrum.basis).abs().max() < 2e-7  # type: ignore[operator]


def test_step_by_step_as_at_once():
    network = small()
    audio = sound(12).view(2, -1)
    state, steps = torch.zeros(2, 2, SMALL.units), []
    with torch.no_grad():
        for chunk in cut(audio).transpose(0, 1):
            probability, state = network.step(chunk, state)
            steps.append(probability)
    assert torch.allclose(torch.cat(steps, dim=1), probabilities(network, audio), atol=1e-6)


def test_a_stream_is_filled_up_to_whole_chunks():
    audio = torch.ones(1, CHUNK + 1)
    chunks = cut(audio)
    assert chunks.shape == (1, 2, CHUNK + 64)
    assert chunks[0, :, :64].sum(1).tolist() == [0, 64]
    assert chunks[0, 1].sum() == 65


def test_widths_are_found_again():
    assert widths_of(small()) == SMALL
    assert widths_of(VoiceDetector()) == Widths()


def test_multiply_adds_are_those_of_the_layers():
    # spectrum, four convolutions at 4, 2, 1 and 1 places, LSTM, output
    published = 258 * 256 * 4 + 3 * (129 * 128 * 4 + 128 * 64 * 2 + 64 * 64 + 64 * 128) + 4 * 128 * 256 + 128
    assert multiply_adds(Widths()) == published
    ours = 258 * 128 * 4 + 3 * (129 * 128 * 4 + 128 * 64 * 2) + 2 * 64 * 64 + 64 * 128 + 4 * 128 * 256 + 128
    assert file_multiply_adds(Widths()) == ours


@pytest.mark.parametrize("widths", [SMALL, Widths(129, (4, 4, 4, 4), 128)])
def test_an_onnx_file_has_the_outputs_and_the_interface_of_the_package(widths, tmp_path):
    pytest.importorskip("onnxruntime")
    network = VoiceDetector(widths).eval()
    write_onnx(network, tmp_path / "small_16k.onnx")
    session = open_session(tmp_path / "small_16k.onnx")
    assert [(entry.name, entry.type) for entry in session.get_inputs()] == [
        ("input", "tensor(float)"),
        ("state", "tensor(float)"),
        ("sr", "tensor(int64)"),
    ]
    assert [entry.name for entry in session.get_outputs()] == ["output", "stateN"]
    given = {
        "input": np.zeros((3, 576), np.float32),
        "state": np.zeros((2, 3, 128), np.float32),
        "sr": np.array(16_000),
    }
    output, state = session.run(None, given)
    assert (output.shape, state.shape) == ((3, 1), (2, 3, 128))
    assert not state[..., widths.units :].any()
    assert list(tmp_path.iterdir()) == [tmp_path / "small_16k.onnx"]


@needs_package
def test_the_wrapper_of_the_package_runs_a_file(tmp_path):
    pytest.importorskip("onnxruntime")
    audio = sound(40)[:-100]
    for name, network in (("dense_16k.onnx", load_original()), ("small_16k.onnx", small())):
        write_onnx(network, tmp_path / name)
        wanted = probabilities(network, audio[None])[0].numpy()
        assert np.abs(run_wrapped(tmp_path / name, audio) - wanted).max() < 1e-5
    theirs, ours = (run_wrapped(path, audio) for path in (original_onnx(), tmp_path / "dense_16k.onnx"))
    assert np.abs(theirs - ours).max() < 1e-5
    assert agreement([ours], [theirs])["same"] == 1
    with pytest.warns(UserWarning, match="only 16000"):
        wrapper = original.package().OnnxWrapper(str(tmp_path / "small_16k.onnx"))
    with pytest.raises(ValueError, match="Supported sampling rates"):
        wrapper(torch.zeros(256), 8_000)


def test_a_file_that_differs_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    write_onnx(small(), tmp_path / "small_16k.onnx")
    with pytest.raises(RuntimeError, match="the file must have the network's outputs to 1e-05, but they differ by"):
        onnx_file.check_onnx(small(1), tmp_path / "small_16k.onnx")


def test_write_refuses(tmp_path):
    with pytest.raises(
        ValueError, match="`path` must have 16k in its name for the package's wrapper, got 'small.onnx'"
    ):
        write_onnx(small(), tmp_path / "small.onnx")
    with pytest.raises(ValueError, match="`network` must have at most 128 units, got 130"):
        write_onnx(VoiceDetector(Widths(units=130)), tmp_path / "wide_16k.onnx")


@needs_package
def test_latency_is_paired_with_the_package(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    write_onnx(small(), tmp_path / "small_16k.onnx")
    report = timing.latency({"small": tmp_path / "small_16k.onnx"}, rounds=3)
    assert report["package"]["speedup"] == 1
    assert report["small"]["milliseconds"] > 0
    low, high = report["small"]["speedup_range"]
    assert low <= report["small"]["speedup"] <= high


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"the package 'silero-vad' is not installed; .*'\.\[vad\]'"):
        package_file("silero_vad.jit")


@needs_package
def test_another_version_is_refused(monkeypatch):
    monkeypatch.setitem(original.SHA256, "silero_vad.jit", "0")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "5.1.2")
    with pytest.raises(ValueError, match=r"must have the files of version 6\.2\.3, got version 5\.1\.2; install"):
        load_original()
