"""How well a network stands in for the original: by its word on real recordings, by the truth on made streams.

python -m recipes.vad.evaluate --model FILE.onnx recording.wav ...
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.download import fetch
from recipes.vad.data import Streams
from recipes.vad.network import RATE, VoiceDetector, probabilities
from recipes.vad.onnx_file import run_wrapped
from recipes.vad.original import load_original, package
from recipes.vad.sound import read_wav, sha256_checked

THRESHOLD = 0.5  # from where on the package says speech
TOLERANCE = 0.05  # seconds
_SOURCE = "https://github.com/snakers4/silero-vad/raw/master/"
RECORDINGS = {
    "silero_test_16k.wav": ("tests/data/test.wav", "89f17d9c94c4b31eb320f424628bcbc920abaddbee6e2760fd868bfb1d9a2e47"),
    "aepyx_8k.wav": ("examples/c++/aepyx_8k.wav", "3b36a5347bdad20ff72fb9e2613e4214d25f981c56b51ca17704f087b84fddc6"),
}


def find_recordings(folder: Path | None = None) -> list[Path]:
    """Real recordings: the WAV files of a folder, or without one the two of the repository of silero-vad, downloaded.

    Raises:
        ValueError: if the folder has none, or a download is another file.
    """
    if folder is not None:
        paths = sorted(folder.glob("*.wav"))
        if not paths:
            raise ValueError(f"`--recordings` must be a folder with WAV files, got {str(folder)!r} without any")
        return paths
    home = Path.home() / ".cache" / "l0rnn" / "vad"
    for name, (source, checksum) in RECORDINGS.items():
        if not (home / name).is_file():
            fetch(
                _SOURCE + source,
                home / name,
                check=lambda content, wanted=checksum: sha256_checked(content, wanted),
                other_ways="Name a folder of WAV files with --recordings",
            )
    return [home / name for name in RECORDINGS]


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: how often a chunk of speech has the higher score than one of none; ties count half."""
    labels = labels.astype(bool)
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        return float("nan")
    _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[group]
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def agreement(scores: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> dict[str, float]:
    """How a network's probabilities agree with the original's, over all chunks of some recordings.

    Returns:
        `auc` of the original's decision, `mean_difference` of the probabilities, share of the `same` decisions, and of
        the starts and ends of speech how many have one of the other within `TOLERANCE`: `boundaries`.
    """
    one, other = np.concatenate(scores), np.concatenate(wanted)
    matched = total = 0
    for mine, theirs in zip(scores, wanted, strict=True):
        found, given = timestamps(mine), timestamps(theirs)
        for side in ("start", "end"):
            pair = ([part[side] for part in found], [part[side] for part in given])
            matched += 2 * _matched(*pair)
            total += len(pair[0]) + len(pair[1])
    return {
        "auc": auc(one, other >= THRESHOLD),
        "mean_difference": float(np.abs(one - other).mean()),
        "same": float(((one >= THRESHOLD) == (other >= THRESHOLD)).mean()),
        "boundaries": matched / total if total else 1.0,
    }


def timestamps(scores: np.ndarray) -> list[dict[str, float]]:
    """Starts and ends of speech in seconds, as the package finds them."""
    found = package().get_speech_timestamps_from_probs(scores.tolist(), sampling_rate=RATE)
    return [{side: part[side] / RATE for side in ("start", "end")} for part in found]


def _matched(found: list[float], given: list[float]) -> int:
    """How many moments of two sorted lists go together within `TOLERANCE`, each once."""
    count = one = other = 0
    while one < len(found) and other < len(given):
        if abs(found[one] - given[other]) <= TOLERANCE:
            count, one, other = count + 1, one + 1, other + 1
        elif found[one] < given[other]:
            one += 1
        else:
            other += 1
    return count


def on_recordings(network: VoiceDetector, recordings: Mapping[str, Tensor]) -> dict[str, Any]:
    """`agreement` over all recordings, and of each."""
    original = load_original()
    wanted = {name: probabilities(original, sound[None])[0].numpy() for name, sound in recordings.items()}
    scores = {name: probabilities(network, sound[None])[0].numpy() for name, sound in recordings.items()}
    return {
        **agreement(list(scores.values()), list(wanted.values())),
        "recordings": {name: agreement([scores[name]], [wanted[name]]) for name in recordings},
    }


def on_streams(network: VoiceDetector, streams: Streams) -> dict[str, float]:
    """`agreement` on made streams, and the `true_auc` of the network and of the original by the truth."""
    scores = scored(network, streams)
    return {
        **agreement(list(scores), list(streams.taught)),
        "true_auc": auc(scores.ravel(), streams.truth.ravel()),
        "original_true_auc": auc(streams.taught.ravel(), streams.truth.ravel()),
    }


def scored(network: VoiceDetector, streams: Streams, *, batch: int = 8) -> np.ndarray:
    """Probabilities of all chunks of some streams, `(stream, chunk)`."""
    parts = [slice(first, first + batch) for first in range(0, len(streams), batch)]
    return np.concatenate([probabilities(network, streams.sound(part)).numpy() for part in parts])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run an ONNX file on recordings with the package's own wrapper, and hold it against the package's own network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="ONNX file with the package's inputs and outputs")
    parser.add_argument("recordings", type=Path, nargs="+", help="WAV files at 8 or 16 kHz")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    original = load_original()
    sounds = [read_wav(path) for path in options.recordings]
    wanted = [probabilities(original, sound[None])[0].numpy() for sound in sounds]
    scores = [run_wrapped(options.model, sound) for sound in sounds]
    print(json.dumps(agreement(scores, wanted), indent=2))


if __name__ == "__main__":
    main()
