"""The data that the recipe teaches with, made once and kept in a folder.

python -m recipes.vad.data --cache out/vad_cache
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recipes.vad.mixing import stream
from recipes.vad.network import CHUNK, RATE, VoiceDetector, probabilities
from recipes.vad.original import load_original
from recipes.vad.sound import to_int16
from recipes.vad.speech import program
from recipes.vad.words import SPLITS, Split

MADE = 1  # raised when streams come out different, so that older ones are not taken for them


@dataclass(frozen=True)
class Amounts:
    """How much data there is.

    Attributes:
        seconds: of a stream.
        train: streams to learn from.
        validation: streams to choose by.
        test: streams with known truth to report on.
        seed: of all chance.
    """

    seconds: float = 16.0
    train: int = 900
    validation: int = 60
    test: int = 150
    seed: int = 0


QUICK = Amounts(seconds=4.0, train=8, validation=4, test=4)


@dataclass(frozen=True)
class Streams:
    """Streams of a split.

    Attributes:
        audio: `(stream, samples)` int16.
        truth: `(stream, chunk)`, where there is speech.
        taught: `(stream, chunk)`, the original's probabilities.
    """

    audio: np.ndarray
    truth: np.ndarray
    taught: np.ndarray

    def __len__(self) -> int:
        return len(self.audio)

    def sound(self, places: np.ndarray | slice) -> Tensor:
        """Samples in [-1, 1] of some streams."""
        return torch.from_numpy(self.audio[places].astype(np.float32) / 32_768)


def prepare(cache: Path, amounts: Amounts = Amounts(), *, splits: tuple[Split, ...] = SPLITS) -> dict[Split, Streams]:
    """Streams of each split, made at the first call.

    The same amounts give the same streams wherever espeak-ng and sox are of the same versions; each set of versions has
    a folder of its own.

    Args:
        cache: folder of folders of streams.
        amounts: how much.
        splits: which.
    """
    made_by = {"made": MADE, **asdict(amounts), "programs": _versions()}
    folder = cache / hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "made_by.json").write_text(json.dumps(made_by, indent=2) + "\n")
    original = load_original()
    return {split: _read(folder, split) or _make(folder, split, amounts, original) for split in splits}


def _make(folder: Path, split: Split, amounts: Amounts, original: VoiceDetector) -> Streams:
    streams: int = getattr(amounts, split)
    chunks = round(amounts.seconds * RATE) // CHUNK
    audio = np.zeros((streams, chunks * CHUNK), np.int16)
    truth = np.zeros((streams, chunks), bool)
    taught = np.zeros((streams, chunks), np.float32)
    for number in tqdm(range(streams), desc=f"making {split}", unit="stream"):
        draw = np.random.default_rng([amounts.seed, SPLITS.index(split), number])
        samples, truth[number] = stream(split, draw, amounts.seconds)
        audio[number] = to_int16(samples)
        sound = torch.from_numpy(audio[number : number + 1].astype(np.float32) / 32_768)
        taught[number] = probabilities(original, sound)[0].numpy()
    for name, array in (("audio", audio), ("truth", truth), ("taught", taught)):
        aside = folder / f"{split}.{name}.partial.npy"
        np.save(aside, array)
        aside.replace(folder / f"{split}.{name}.npy")
    return Streams(audio, truth, taught)


def _read(folder: Path, split: Split) -> Streams | None:
    paths = [folder / f"{split}.{name}.npy" for name in ("audio", "truth", "taught")]
    if not all(path.is_file() for path in paths):
        return None
    return Streams(*(np.load(path, mmap_mode="r") for path in paths))


def _versions() -> list[str]:
    """Of the programs; what their folders of data are called is left out."""
    commands = ([program("espeak-ng", "espeak-ng"), "--version"], [program("sox", "sox"), "--version"])
    said = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in commands]
    return [line.split("Data at")[0].split("sox:")[-1].strip() for line in said]


def main() -> None:
    """Make the data and say what it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("out/vad_cache"), help="folder to keep it in")
    parser.add_argument("--quick", action="store_true", help="a few streams")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for split, streams in prepare(options.cache, QUICK if options.quick else Amounts()).items():
        hours = streams.audio.size / RATE / 3600
        heard, agreed = streams.truth.mean(), ((streams.taught >= 0.5) == streams.truth).mean()
        print(f"{split}: {hours:.2f} hours, {heard:.0%} speech, the original right in {agreed:.1%} of the chunks")


if __name__ == "__main__":
    main()
