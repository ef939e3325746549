"""How long a chunk of 32 ms takes in ONNX Runtime on one thread, against the package's own file.

python -m recipes.vad.latency FILE.onnx
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from recipes.vad.network import CHUNK, CONTEXT, RATE
from recipes.vad.onnx_file import STATE, open_session, original_onnx

CALLS, WARM_UP = 100, 20  # in a row of one file, before it is the next one's turn


def latency(files: dict[str, Path], *, rounds: int = 60) -> dict[str, Any]:
    """Milliseconds per chunk of some files and of the package's, in turns, so that all meet the same load.

    Args:
        files: by name.
        rounds: how many turns.

    Returns:
        For each file the median over rounds of a round's median, and how many times faster than the package's it is:
        the median over rounds of the ratio in one round, with the middle nine tenths of these.
    """
    sessions = {name: open_session(path) for name, path in {"package": original_onnx(), **files}.items()}
    draw = np.random.default_rng(0)
    chunk = 0.1 * draw.standard_normal((1, CONTEXT + CHUNK)).astype(np.float32)
    given = {"input": chunk, "state": np.zeros((2, 1, STATE), np.float32), "sr": np.array(RATE)}
    taken = {name: np.array([]) for name in sessions}
    for _ in range(rounds):
        for name, session in sessions.items():
            taken[name] = np.append(taken[name], np.median(_seconds(session, given)[WARM_UP:]))
    report = {}
    for name, seconds in taken.items():
        ratios = taken["package"] / seconds
        report[name] = {
            "milliseconds": round(float(np.median(seconds)) * 1e3, 4),
            "speedup": round(float(np.median(ratios)), 2),
            "speedup_range": [round(float(at), 2) for at in np.quantile(ratios, (0.05, 0.95))],
        }
    return report


def _seconds(session: Any, given: dict[str, np.ndarray]) -> list[float]:
    taken = []
    for _ in range(CALLS):
        started = time.perf_counter()
        session.run(None, given)
        taken.append(time.perf_counter() - started)
    return taken


def main() -> None:
    """Time some files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="ONNX files with the package's inputs and outputs")
    print(json.dumps(latency({path.stem: path for path in parser.parse_args().files}), indent=2))


if __name__ == "__main__":
    main()
