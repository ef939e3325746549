"""One line of progress per run: refreshed in place on a terminal, printed now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO


class Board:
    """Shows lines that change, below lines that stay.

    Args:
        stream: where to; standard error if None.
        every: seconds between two prints where nothing can be refreshed in place.

    Example:
        >>> board = Board(sys.stdout, every=60.0)
        >>> board.show(["dense  epoch 1"])
        dense  epoch 1
        >>> board.show(["dense  epoch 2"])  # within the minute
        >>> board.say("dense is done")
        dense is done
    """

    def __init__(self, stream: TextIO | None = None, every: float = 60.0) -> None:
        self.stream = stream or sys.stderr
        self.every = every
        self._lines: list[str] = []
        self._shown = float("-inf")

    def show(self, lines: Sequence[str]) -> None:
        """Replace the changing lines, or print them, if it is time."""
        if self.stream.isatty():
            self._clear()
            self._lines = list(lines)
            self._write(lines)
        elif lines and time.monotonic() - self._shown >= self.every:
            self._shown = time.monotonic()
            self._write(lines)

    def say(self, line: str) -> None:
        """Add a line that stays."""
        self._clear()
        self._write([line, *self._lines])

    def _clear(self) -> None:
        if self._lines:
            self.stream.write(f"\x1b[{len(self._lines)}A\x1b[J")  # up, and clear to the end of the screen

    def _write(self, lines: Sequence[str]) -> None:
        self.stream.writelines(f"{line}\n" for line in lines)
        self.stream.flush()


def progress_line(name: str, progress: Mapping[str, Any] | None, quality: str) -> str:
    """How far a run is, in one line.

    Args:
        name: of the run.
        progress: what `WriteProgress` wrote; None before it has.
        quality: name of the figure of validation.

    Example:
        >>> place = {"step": 300, "steps": 900, "epoch": 1, "steps_per_second": 5.0}
        >>> progress_line("dense", {**place, "loss": 5.125, "quality": 140.25}, "valid/perplexity")
        'dense  epoch 2  step 300/900  5.00 steps/s  loss 5.125  valid/perplexity 140.25  2 min left'
        >>> progress_line("dense", None, "valid/perplexity")
        'dense  starting'
    """
    if progress is None:
        return f"{name}  starting"
    parts = [name, f"epoch {progress['epoch'] + 1}", f"step {progress['step']}/{progress['steps']}"]
    rate = progress.get("steps_per_second", 0.0)
    parts += [f"{rate:.3g} steps/s" if rate < 1 else f"{rate:.2f} steps/s"] if rate > 0 else []
    shown = {"loss": ("loss", ".3f"), "quality": (quality, ".2f"), "density": ("density", ".3f")}
    parts += [f"{title} {progress[key]:{form}}" for key, (title, form) in shown.items() if key in progress]
    parts += [f"{(progress['steps'] - progress['step']) / rate / 60:.0f} min left"] if rate > 0 else []
    return "  ".join(parts)
