"""Runs as processes of this machine."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence

from l0rnn.compare.engines.engine import GRACE, Engine, Job


class LocalEngine(Engine):
    """Each run is a process of this machine.

    Args:
        jobs: how many run side by side.

    Raises:
        ValueError: if it is less than 1.
    """

    def __init__(self, jobs: int = 1) -> None:
        if jobs < 1:
            raise ValueError(f"`jobs` must be at least 1, got {jobs}")
        self.jobs = jobs

    def start(self, job: Job) -> subprocess.Popen[bytes]:
        """Start the process."""
        with job.log.open("ab") as log:
            # in a session of its own: Ctrl-C in the terminal is for the queue, which asks each run once
            return subprocess.Popen(
                job.command(), stdout=log, stderr=log, env={**os.environ, **job.environment()}, start_new_session=True
            )

    def poll(self, handle: subprocess.Popen[bytes]) -> int | None:
        """Its exit status, None while it runs."""
        return handle.poll()

    def stop(self, handles: Sequence[subprocess.Popen[bytes]]) -> None:
        """SIGTERM to all; who is not done within a minute is killed, and goes on from an earlier checkpoint."""
        deadline = time.monotonic() + GRACE
        for process in handles:
            process.terminate()
        for process in handles:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
