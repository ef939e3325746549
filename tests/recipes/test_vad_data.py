"""Speech and noise that are made, recordings that are read, figures that are compared, and teaching that goes on."""

from __future__ import annotations

import importlib.util
import math
import shutil
import sys
import urllib.error
import wave

import numpy as np
import pytest
import torch

from recipes.vad import evaluate, speech, train
from recipes.vad.data import Amounts, Streams, main, prepare
from recipes.vad.evaluate import agreement, auc, find_recordings
from recipes.vad.mixing import stream
from recipes.vad.network import CHUNK, WINDOW, VoiceDetector, Widths, widths_of
from recipes.vad.noise import KINDS, noise
from recipes.vad.onnx_file import multiply_adds
from recipes.vad.pruning import METHODS, pruned
from recipes.vad.sound import doubled, read_wav, sha256_checked
from recipes.vad.speech import VOICES, program, resampled, speak, spoken
from recipes.vad.train import Course, divergence, teach
from recipes.vad.words import ONLY_IN_TEST, SPLITS, WORDS, languages, sentence, words

MISSING = [name for name in ("espeak-ng", "sox") if shutil.which(name) is None]
needs_programs = pytest.mark.skipif(bool(MISSING), reason=f"needs the programs {', '.join(MISSING)}")
needs_package = pytest.mark.skipif(
    importlib.util.find_spec("silero_vad") is None, reason="needs the package silero-vad: pip install '.[vad]'"
)


def draw(seed=0):
    return np.random.default_rng(seed)


def write_wav(path, values, *, rate=16_000, channels=1):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(values.dtype.itemsize)
        file.setframerate(rate)
        file.writeframes(values.tobytes())
    return path


# --- words and voices


def test_no_word_and_no_voice_is_in_two_splits():
    for language in WORDS:
        heard = [set(words(language, split)) for split in SPLITS]
        assert sum(map(len, heard)) == len(set.union(*heard)) == len(set(WORDS[language].split()))
    voices = [set(VOICES[split].split()) for split in SPLITS]
    assert sum(map(len, voices)) == len(set.union(*voices))


def test_some_languages_are_heard_in_the_test_alone():
    assert set(languages("test")) - set(languages("train")) == set(ONLY_IN_TEST)
    assert languages("train") == languages("validation")


def test_a_sentence_is_of_its_split():
    said = sentence("de", "test", draw())
    assert {word.strip(",.? ") for word in said.split()} <= set(words("de", "test"))
    assert said[-2] in ".?"


# --- speech, noise, streams


@needs_programs
def test_espeak_speaks_the_same_twice_and_something_else_by_another_seed():
    one, again, other = (speak("test", draw(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert len(one) != len(other)
    assert len(one) > 8_000
    assert 0.01 < np.abs(one).max() <= 1.3
    assert spoken(one).mean() > 0.7


@needs_programs
@pytest.mark.parametrize("kind", KINDS)
def test_every_noise_has_its_length_and_loudness(kind):
    one, again, other = (noise(kind, draw(seed), 2.0) for seed in (1, 1, 2))
    assert one.shape == (32_000,)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert math.sqrt(np.square(one, dtype=np.float64).mean()) == pytest.approx(0.1, rel=1e-3)


@needs_programs
def test_a_stream_is_louder_where_it_is_said_to_be_speech():
    loudness = {True: [], False: []}
    for seed in range(12):
        samples, truth = stream("train", draw(seed), 4.0)
        assert (samples.shape, truth.shape) == ((125 * CHUNK,), (125,))
        assert np.abs(samples).max() <= 1
        for chunk, is_speech in zip(samples.reshape(-1, CHUNK), truth, strict=True):
            loudness[bool(is_speech)].append(np.square(chunk).mean())
    assert np.mean(loudness[True]) > 1.5 * np.mean(loudness[False])


def test_a_pause_is_silence_if_it_is_long():
    tone = np.sin(np.arange(8_000) / 5).astype(np.float32)
    clip = np.concatenate([tone, np.zeros(2_000), tone, np.zeros(8_000), tone])
    truth = spoken(clip.astype(np.float32))
    assert truth[:18_000].all()
    assert not truth[19_000:25_000].any()
    assert truth[27_000:].all()


def test_resampling_keeps_a_tone():
    time = np.arange(16_000) / 16_000
    tone = np.sin(2 * np.pi * 440 * time).astype(np.float32)
    slower = resampled(tone, 1.25)
    wanted = np.sin(2 * np.pi * 440 * np.arange(len(slower)) / 20_000)
    assert abs(len(slower) - 20_000) < 3
    assert np.abs(slower - wanted)[500:-500].max() < 0.01


@needs_programs
@needs_package
def test_data_is_made_once(tmp_path, monkeypatch, capsys):
    amounts = Amounts(seconds=2.0, train=2, validation=1, test=1)
    first = prepare(tmp_path, amounts)
    monkeypatch.setattr("recipes.vad.data.stream", lambda *_: pytest.fail("made again"))
    again = prepare(tmp_path, amounts)
    for split in SPLITS:
        for name in ("audio", "truth", "taught"):
            assert np.array_equal(getattr(first[split], name), getattr(again[split], name))
    assert first["train"].taught.shape == (2, 62)
    assert not list(tmp_path.rglob("*partial*"))
    monkeypatch.undo()
    monkeypatch.setattr("recipes.vad.data.QUICK", amounts)
    monkeypatch.setattr(sys, "argv", ["data", "--quick", "--cache", str(tmp_path)])
    main()
    assert "test: 0.00 hours" in capsys.readouterr().out


def test_a_missing_program_is_named(monkeypatch):
    monkeypatch.setattr(speech.shutil, "which", lambda name: None)
    with pytest.raises(FileNotFoundError, match="the program 'sox' is not installed; on Debian: apt-get install sox"):
        program("sox", "sox")


# --- recordings


def test_wav_files_of_several_kinds(tmp_path):
    values = np.array([0, 16_384, -32_768, 8_192], np.int16)
    assert read_wav(write_wav(tmp_path / "a.wav", values)).tolist() == [0, 0.5, -1, 0.25]
    assert read_wav(write_wav(tmp_path / "b.wav", values, channels=2)).tolist() == [0.25, -0.375]
    assert read_wav(write_wav(tmp_path / "c.wav", np.array([128, 192], np.uint8))).tolist() == [0, 0.5]
    assert read_wav(write_wav(tmp_path / "d.wav", values, rate=8_000)).shape == (8,)


def test_doubling_keeps_a_tone():
    time = torch.arange(4_000) / 8_000
    found = doubled(torch.sin(2 * torch.pi * 1_000 * time))
    wanted = torch.sin(2 * torch.pi * 1_000 * torch.arange(8_000) / 16_000)
    assert (found - wanted)[100:-100].abs().max() < 1e-3


def test_what_is_no_recording_is_refused(tmp_path):
    text = tmp_path / "text.wav"
    text.write_text("no sound")
    with pytest.raises(ValueError, match="`path` must be a WAV file of whole numbers, got .*text.wav.* sox text.wav"):
        read_wav(text)
    with pytest.raises(ValueError, match="`path` must be a WAV file"):
        read_wav(tmp_path / "nothing.wav")
    values = np.zeros(10, np.int16)
    with pytest.raises(ValueError, match="must have 8000 or 16000 samples per second .* got 44100 of 16 in"):
        read_wav(write_wav(tmp_path / "a.wav", values, rate=44_100))
    with pytest.raises(ValueError, match="`path` must have samples, got none"):
        read_wav(write_wav(tmp_path / "b.wav", values[:0]))


def test_recordings_of_a_folder(tmp_path):
    with pytest.raises(ValueError, match="`--recordings` must be a folder with WAV files, got .* without any"):
        find_recordings(tmp_path)
    path = write_wav(tmp_path / "a.wav", np.zeros(10, np.int16))
    assert find_recordings(tmp_path) == [path]


def test_recordings_are_downloaded_with_a_checksum(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.Path, "home", lambda: tmp_path)

    def urlopen(url, timeout):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    with pytest.raises(ConnectionError, match="could not download .*no route.* Name a folder of WAV files"):
        find_recordings()
    with pytest.raises(ValueError, match="the downloaded recording must have the sha256 0, got "):
        sha256_checked(b"other", "0")


# --- figures


def test_auc_counts_pairs():
    scores, labels = draw().integers(0, 5, 60) / 4, draw(1).random(60) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels] for b in scores[~labels]]
    assert auc(scores, labels) == pytest.approx(np.mean(pairs))
    assert math.isnan(auc(scores, np.ones(60)))


@needs_package
def test_agreement_by_hand():
    wanted = np.zeros(100)
    wanted[20:60] = 0.9
    late = np.roll(wanted, 1)  # 32 ms, within 50 ms
    later = np.roll(wanted, 3)
    assert agreement([wanted], [wanted]) == {"auc": 1, "mean_difference": 0, "same": 1, "boundaries": 1}
    found = agreement([late], [wanted])
    assert (found["same"], found["boundaries"]) == (0.98, 1)
    assert found["mean_difference"] == pytest.approx(0.018)
    assert agreement([later], [wanted])["boundaries"] == 0
    assert agreement([wanted * 0], [wanted])["boundaries"] == 0


# --- teaching


def lesson(seed=0):
    """Streams in which loud chunks are taught to be speech."""
    random = draw(seed)
    loud = random.random((6, 20)) < 0.5
    audio = random.standard_normal((6, 20, CHUNK)) * np.where(loud, 6_000, 60)[..., None]
    return Streams(audio.reshape(6, -1).astype(np.int16), loud, np.where(loud, 0.95, 0.05).astype(np.float32))


def pupil():
    torch.manual_seed(0)
    return VoiceDetector(Widths(16, (6, 5, 4, 6), 8))


COURSE = Course(epochs=4, learning_rate=0.02, batch=2)


def test_a_network_learns_what_it_is_taught(tmp_path):
    history = teach(pupil(), lesson(), lesson(1), Course(epochs=25, learning_rate=0.02, batch=2), out=tmp_path / "a.pt")
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]
    assert history[-1]["mean_difference"] < 0.25


def interrupt(monkeypatch, step):
    """Stop the teaching at a step."""
    calls = []

    def stop(logits, taught):
        calls.append(1)
        if len(calls) == step:
            raise KeyboardInterrupt
        return divergence(logits, taught)

    monkeypatch.setattr(train, "divergence", stop)


def test_a_stopped_course_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    whole, parts = pupil(), pupil()
    teach(whole, lesson(), lesson(1), COURSE, out=tmp_path / "whole.pt")
    interrupt(monkeypatch, 8)  # in the third epoch
    with pytest.raises(KeyboardInterrupt):
        teach(parts, lesson(), lesson(1), COURSE, out=tmp_path / "parts.pt")
    again = pupil()
    history = teach(again, lesson(), lesson(1), COURSE, out=tmp_path / "parts.pt")
    assert len(history) == 4
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    with pytest.raises(ValueError, match="`out` must hold no other course than .* name another folder"):
        teach(pupil(), lesson(), lesson(1), Course(epochs=5), out=tmp_path / "parts.pt")


@pytest.mark.parametrize("method", METHODS)
def test_frequencies_channels_and_units_leave_together(method, tmp_path):
    data = {"train": lesson(), "validation": lesson(1)}
    network, history = pruned(pupil(), 0.5, data, COURSE, out=tmp_path, method=method)
    before, after = Widths(16, (6, 5, 4, 6), 8), widths_of(network)
    assert multiply_adds(after) <= 0.5 * multiply_adds(before)
    assert after.bins < 16
    assert network.spectrum.basis.shape == (2 * after.bins, 1, WINDOW)
    assert history[-1]["density"] == pytest.approx(multiply_adds(after) / multiply_adds(before))
    kept = [any(torch.equal(row, whole) for whole in VoiceDetector().spectrum.basis) for row in network.spectrum.basis]
    assert all(kept)


@pytest.mark.parametrize("method", METHODS)
def test_the_frequencies_that_were_asked_for_stay(method, tmp_path):
    data = {"train": lesson(), "validation": lesson(1)}
    network, history = pruned(pupil(), 0.43, data, COURSE, out=tmp_path, method=method, bins=7)
    before, after = Widths(16, (6, 5, 4, 6), 8), widths_of(network)
    assert after.bins == 7
    assert multiply_adds(after) <= 0.43 * multiply_adds(before)
    assert len(history) == 1 + COURSE.epochs
    assert history[-1]["density"] == pytest.approx(multiply_adds(after) / multiply_adds(before))


@pytest.mark.parametrize(
    ("bins", "says"), [(0, "at least 1"), (16, "fewer than the 16"), (12, "12 frequencies alone are .* higher density")]
)
def test_impossible_numbers_of_frequencies(bins, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        pruned(pupil(), 0.5, {}, COURSE, out=tmp_path, bins=bins)


def test_a_stopped_pruning_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    data = {"train": lesson(), "validation": lesson(1)}
    whole, history = pruned(pupil(), 0.5, data, COURSE, out=tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt(patch, 8)
        with pytest.raises(KeyboardInterrupt):
            pruned(pupil(), 0.5, data, COURSE, out=tmp_path / "parts")
    for _ in range(2):  # the second time there is nothing left to learn
        again, repeated = pruned(pupil(), 0.5, data, COURSE, out=tmp_path / "parts")
        assert [row["loss"] for row in repeated] == [row["loss"] for row in history]
        for name, tensor in whole.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[name])


def test_silence_has_a_gradient(tmp_path):
    quiet = lesson()
    quiet = Streams(quiet.audio * 0, quiet.truth, quiet.taught)
    network, _ = pruned(pupil(), 0.5, {"train": quiet, "validation": quiet}, COURSE, out=tmp_path)
    assert all(weight.isfinite().all() for weight in network.parameters())


def test_divergence_is_zero_where_nothing_is_left_to_learn():
    taught = torch.tensor([0.0, 0.2, 0.9, 1.0])
    assert divergence(torch.logit(taught.clamp(1e-6, 1 - 1e-6)), taught).item() == pytest.approx(0, abs=1e-5)
    assert divergence(torch.zeros(4), taught) > 0.1
