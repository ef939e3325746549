"""How large networks are, and how long they take for a word in the package's own code."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l0rnn.models import g2p
from recipes.g2p.package import package_class
from recipes.g2p.words import Pronunciation

_WARM = 20  # words before the clock counts
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Times:
    """Milliseconds for a word, medians over words that dense and small network had in turn.

    Attributes:
        dense: of the dense network in the package's own code.
        small: of the small one, likewise.
        alone: of the small one in `l0rnn.models.g2p`.
        speedup: the median of how many times faster than the dense one a word is by the small one.
        alone_speedup: likewise by the small one in `l0rnn.models.g2p`.
    """

    dense: float
    small: float
    alone: float
    speedup: float
    alone_speedup: float


def multiply_adds(arrays: Mapping[str, np.ndarray], words: Mapping[str, Sequence[Pronunciation]]) -> float:
    """Multiply-adds for a word in the package's code, the mean of words and their first pronunciations.

    Args:
        arrays: weights with the package's names.
        words: what to read and to say; each with an end mark.
    """
    letters = sum(len(word) + 1 for word in words) / len(words)
    phonemes = sum(len(many[0]) + 1 for many in words.values()) / len(words)
    read = arrays["enc_w_ih"].size + arrays["enc_w_hh"].size
    said = arrays["dec_w_ih"].size + arrays["dec_w_hh"].size + arrays["fc_w"].size
    return letters * read + phonemes * said


def paired_times(dense: Path, small: Path, words: Sequence[str], *, threads: int = 1) -> Times:
    """Time two networks in the package's own code, each word by both in turn, in a process with so many threads.

    Args:
        dense: folder with a `checkpoint20.npz`.
        small: likewise.
        words: what to pronounce.
        threads: of NumPy's matrix products.
    """
    names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
    done = subprocess.run(
        [sys.executable, "-m", "recipes.g2p.sizes", str(dense.resolve()), str(small.resolve())],
        input=" ".join(words),
        capture_output=True,
        text=True,
        check=True,
        cwd=_ROOT,
        env={
            **os.environ,
            **dict.fromkeys(names, str(threads)),
            "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path]),
        },
    )
    return Times(**json.loads(done.stdout))


def _main() -> None:
    dense, small = (package_class(Path(folder))().predict for folder in sys.argv[1:])
    pronouncers: dict[str, Callable[[str], object]] = {
        "dense": dense,
        "small": small,
        "alone": g2p.G2P(str(Path(sys.argv[2]) / "checkpoint20.npz")),
    }
    times: dict[str, list[float]] = {name: [] for name in pronouncers}
    words = sys.stdin.read().split()
    for word in [*words[:_WARM], *words]:
        for name, pronounce in pronouncers.items():
            times[name].append(min(_milliseconds(pronounce, word) for _ in range(3)))
    kept = {name: row[min(_WARM, len(words)) :] for name, row in times.items()}
    faster = {
        key: statistics.median(one / other for one, other in zip(kept["dense"], kept[name], strict=True))
        for key, name in (("speedup", "small"), ("alone_speedup", "alone"))
    }
    print(json.dumps({name: statistics.median(row) for name, row in kept.items()} | faster))


def _milliseconds(pronounce: Callable[[str], object], word: str) -> float:
    start = time.perf_counter()
    pronounce(word)
    return 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    _main()
