"""Models that come along: all of them are whole, described and licensed, and a damaged one is told."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import l0rnn
from l0rnn.models import generate, shipped
from l0rnn.models.vad import CHUNK, RATE, VoiceActivity

ROOT = Path(__file__).parents[2]
NAMES = list(l0rnn.models())


@pytest.mark.parametrize("name", NAMES)
def test_each_is_whole_described_and_licensed(name: str) -> None:
    model = l0rnn.models()[name]
    model.check()
    assert 0 < model.bytes < 8_000_000
    for heading in ("Made by", "Good for", "Not good for", "Licence"):
        assert f"**{heading}" in model.card
    assert model.made_by in model.card
    script = re.search(r"-m ([\w.]+)", model.made_by)
    assert script is not None
    assert (ROOT / script[1].replace(".", "/")).with_suffix(".py").is_file()
    assert any(path.name.startswith("LICENSE") for path in model.folder.iterdir()) or model.licence == "Apache-2.0"


def test_the_list_has_a_line_for_each() -> None:
    lines = repr(l0rnn.models()).splitlines()
    assert [line.split()[0] for line in lines] == NAMES


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(ValueError, match=f"`name` must be one of {', '.join(NAMES)}, got 'g2q'"):
        l0rnn.load("g2q")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of g2p as a copy that a test may damage."""
    model = l0rnn.models()["g2p"]
    folder = shutil.copytree(model.folder, tmp_path / "g2p")
    monkeypatch.setattr(shipped, "_SHIPPED", (dataclasses.replace(model, folder=folder),))
    return folder


def test_one_bit_of_damage_is_found_before_anything_is_read(elsewhere: Path) -> None:
    file = elsewhere / "checkpoint20.npz"
    content = bytearray(file.read_bytes())
    content[200_000] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint20.npz of the model 'g2p' is damaged: its SHA-256 must be 2d17"):
        l0rnn.load("g2p")


def test_a_missing_file_says_where_to_get_it(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "checkpoint20.npz").unlink()
    with pytest.raises(FileNotFoundError, match="is missing; install l0rnn anew"):
        l0rnn.load("g2p")
    outside = dataclasses.replace(l0rnn.models()["g2p"], folder=elsewhere / "no", in_package=False)
    monkeypatch.setattr(shipped, "_SHIPPED", (outside,))
    with pytest.raises(FileNotFoundError, match=r"comes with the repository .*; or make it there with: python -m rec"):
        l0rnn.load("g2p")
    with pytest.raises(FileNotFoundError, match="comes with the repository"):
        _ = outside.card


def test_the_language_model_writes() -> None:
    pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")
    model = l0rnn.load("ptb")
    words = [model.vocabulary[word] for word in generate(model, 200, generator=torch.Generator().manual_seed(0))]
    assert words.count("the") > 3  # of 10,000 words, one that had learned nothing would hardly draw it
    assert words.count("<eos>") > 3


def test_what_stays_out_of_the_package_is_marked() -> None:
    """The build leaves out just those that `load` says are in the repository alone."""
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    outside = {f"/{m.folder.relative_to(ROOT).as_posix()}" for m in l0rnn.models().values() if not m.in_package}
    assert set(build["exclude"]) == outside


class TestVoiceActivity:
    @pytest.fixture
    def detector(self) -> VoiceActivity:
        pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")
        return l0rnn.load("vad")

    @staticmethod
    def sound(seconds: float = 1.0) -> np.ndarray:
        """A voice of 140 Hz with a formant, four syllables in a second, in the hiss of a quiet room."""
        time = np.arange(int(RATE * seconds)) / RATE
        voice = sum(np.sin(2 * np.pi * 140 * n * time) / (1 + abs(140 * n - 700) / 200) for n in range(1, 20))
        hiss = 1e-3 * np.random.default_rng(0).standard_normal(len(time))
        return (0.1 * voice * np.sin(np.pi * 4 * time) ** 2 + hiss).astype(np.float32)

    def test_pieces_of_any_length_give_what_the_whole_gives(self, detector: VoiceActivity) -> None:
        sound = self.sound()
        whole = detector(sound)
        assert whole.shape == (len(sound) // CHUNK,)
        detector.reset()
        pieces = [detector(piece) for piece in np.array_split(sound, [3, 700, 701, 5_000, 5_512])]
        np.testing.assert_array_equal(np.concatenate(pieces), whole)

    def test_the_package_says_the_same(self, detector: VoiceActivity) -> None:
        pytest.importorskip("silero_vad", reason="the package silero-vad is not installed")
        import torch

        from recipes.vad.small import load_small

        sound = self.sound()[: 31 * CHUNK]
        theirs = load_small().audio_forward(torch.from_numpy(sound)[None], RATE)[0]
        np.testing.assert_allclose(detector(sound), theirs.numpy(), atol=1e-6)

    def test_a_voice_is_likelier_than_silence(self, detector: VoiceActivity) -> None:
        voice = detector(self.sound()).mean()
        detector.reset()
        assert detector(np.zeros(RATE)).max() < 0.5
        assert voice > detector(np.zeros(RATE)).mean()

    @pytest.mark.parametrize("sound", [np.zeros((2, 600)), np.array([np.nan] * 600)])
    def test_what_is_no_sound_is_refused(self, detector: VoiceActivity, sound: np.ndarray) -> None:
        with pytest.raises(ValueError, match="`sound` must be samples"):
            detector(sound)
