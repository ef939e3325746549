"""The seam between the queue and whatever trains runs: start, poll, stop; starting a run again lets it go on."""

from __future__ import annotations

import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

RESULT, LOG = "result.json", "log.txt"  # in the folder of a run
PAUSED = 75  # exit status of a run that was asked to stop; EX_TEMPFAIL of sysexits.h
STOP = "stop"  # a file in the folder of a run: its process is to write a checkpoint and end; for engines far away
POLL = 0.5  # seconds between two looks at what runs
GRACE = 60.0  # seconds that a run has for its current step and its checkpoint when it is asked to stop
# A training step frees and asks for the same few large tensors each time; glibc would give them back to the system and
# have every page cleared again, which is a tenth to a fifth of the step of a language model. 32 MiB is its largest.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "4294967296"}


@dataclass(frozen=True)
class Job:
    """One run to be trained by ``python -m l0rnn.compare FOLDER``.

    Attributes:
        title: name and seed of the run.
        folder: of the run, which holds its order, and its checkpoint if it has one.
        threads: CPU threads.
    """

    title: str
    folder: Path
    threads: int

    def command(self) -> list[str]:
        """What the process of the run is started with."""
        return [sys.executable, "-m", "l0rnn.compare", str(self.folder)]

    def environment(self) -> dict[str, str]:
        """Variables of that process, beside those there are."""
        return {**KEEP_MEMORY, "OMP_NUM_THREADS": str(self.threads)}

    def resolved(self) -> Job:
        """The same by its whole path, for other machines."""
        return replace(self, folder=self.folder.resolve())

    @property
    def log(self) -> Path:
        """Where what the process says is appended."""
        return self.folder / LOG


class Engine(ABC):
    """Trains runs.

    Attributes:
        jobs: how many may be started side by side.
    """

    jobs: int = 1

    @abstractmethod
    def start(self, job: Job) -> Any:
        """Start a run, or let it go on from its checkpoint; returns what `poll` and `stop` know it by."""

    @abstractmethod
    def poll(self, handle: Any) -> int | None:
        """The exit status of its process; None while it waits for its turn or runs."""

    @abstractmethod
    def stop(self, handles: Sequence[Any]) -> None:
        """Ask all to write a checkpoint and end, and wait for that; afterwards `poll` gives the status of each."""

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Give back what the engine holds."""


def all_ended(engine: Engine, jobs: Iterable[Job]) -> Iterator[tuple[Job, int]]:
    """Start all jobs, as many side by side as the engine allows, and give each with its exit status when it has ended.

    Whoever stops asking, or is interrupted, stops those that run.

    Args:
        engine: where they are trained.
        jobs: in the order in which they are started.
    """
    waiting, running = list(jobs), list[tuple[Job, Any]]()
    try:
        while waiting or running:
            while waiting and len(running) < engine.jobs:
                running.append((waiting[0], engine.start(waiting.pop(0))))
            for job, handle in list(running):
                status = engine.poll(handle)
                if status is not None:
                    running.remove((job, handle))
                    yield job, status
            if running:
                time.sleep(POLL)
    finally:
        if running:
            engine.stop([handle for _, handle in running])


def default_threads(jobs: int) -> int:
    """CPU threads of each run if nobody says: the cores divided by the runs side by side.

    Example:
        >>> default_threads(10**6)
        1
    """
    return max(1, (os.cpu_count() or 1) // jobs)
