"""Runs as jobs of a Slurm cluster, by submitit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l0rnn.compare.engines.engine import GRACE, PAUSED, RESULT, STOP, Engine, Job
from l0rnn.extras import require

TOLD_BEFORE = 90  # seconds before the time limit at which Slurm tells a job, so that it writes a checkpoint
LOOK = 5.0  # seconds between two questions to the controller
ANSWER = 30.0  # seconds that it has for its answer


class SlurmEngine(Engine):
    """Each run is a job of a Slurm cluster, whose nodes see the same folders as this machine.

    At the time limit, and when a job has to make room for others, Slurm tells it 90 seconds before: the run writes a
    checkpoint, and the job is put back into the queue. A job whose node dies is put back by Slurm itself. Either goes
    on from its last checkpoint.

    Args:
        out: folder of the comparison, for submitit's files.
        jobs: how many are submitted at a time; the cluster decides how many of them run.
        partition: where; the cluster's default if None.
        time_limit: minutes of one job, > 0; a run may take several.
        requeues: how often a job may meet its time limit.
        gpus: of each job.
        options: further ones of ``sbatch``, such as ``{"account": "mine", "mem": "8G"}``.

    Raises:
        ModuleNotFoundError: if submitit is not installed; it says which extra brings it.
        RuntimeError: if there is no cluster here, it does not answer, or it has no such partition.
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        out: Path,
        *,
        jobs: int = 100,
        partition: str | None = None,
        time_limit: int = 240,
        requeues: int = 20,
        gpus: int = 0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.submitit: Any = require("submitit", "slurm")
        if jobs < 1:
            raise ValueError(f"`jobs` must be at least 1, got {jobs}")
        if not time_limit * 60 > TOLD_BEFORE + GRACE / 2:
            raise ValueError(
                f"`time_limit` must leave time to train: a job is told {TOLD_BEFORE} s before its end, to write a "
                f"checkpoint; give at least {-(-(TOLD_BEFORE + 30) // 60) + 1} minutes, got {time_limit}"
            )
        _check_cluster(partition)
        self.jobs, self.time_limit = jobs, time_limit
        self.executor = self.submitit.SlurmExecutor(folder=out / "slurm", max_num_timeout=requeues)
        more = {"partition": partition, "gpus_per_node": gpus or None}
        self.parameters = {
            "time": time_limit,
            "signal_delay_s": TOLD_BEFORE,
            "additional_parameters": {"requeue": True, **(options or {})},
            **{name: value for name, value in more.items() if value is not None},
        }

    def start(self, job: Job) -> SlurmHandle:
        """Submit the job."""
        job = job.resolved()
        (job.folder / STOP).unlink(missing_ok=True)
        self.executor.update_parameters(
            **self.parameters, cpus_per_task=job.threads, job_name=f"l0rnn {job.title}"[:60]
        )
        return SlurmHandle(job, self.executor.submit(SlurmRun(job, self.time_limit)))

    def poll(self, handle: SlurmHandle) -> int | None:
        """Exit status of the run's process, which may have been in several jobs' time."""
        if handle.status is not None:
            return handle.status
        paths = handle.submitted.paths
        if not paths.result_pickle.exists():
            if time.monotonic() - handle.looked < LOOK:
                return None
            handle.looked = time.monotonic()
            if _state(handle.submitted.job_id) is not None or paths.result_pickle.exists():
                return None
        handle.status = self._status(handle)
        return handle.status

    def _status(self, handle: SlurmHandle) -> int:
        job, path = handle.job, handle.submitted.paths.result_pickle
        if (job.folder / RESULT).is_file():
            return 0
        if (job.folder / STOP).exists():
            return PAUSED
        if not path.exists():
            return _failed(job, f"the Slurm job {handle.submitted.job_id} left the queue without a result; see sacct")
        outcome, told = self.submitit.core.utils.pickle_load(path)
        return int(told) if outcome == "success" else _failed(job, str(told).strip().splitlines()[-1])

    def stop(self, handles: Sequence[SlurmHandle]) -> None:
        """Cancel what waits, tell what runs to write a checkpoint, and wait for that."""
        for handle in handles:
            (handle.job.folder / STOP).touch()
            is_running = _state(handle.submitted.job_id) == "RUNNING"
            _call(["scancel", *(["--signal=USR2"] if is_running else []), handle.submitted.job_id])
        deadline = time.monotonic() + GRACE + TOLD_BEFORE
        while time.monotonic() < deadline and any(self.poll(handle) is None for handle in handles):
            time.sleep(1.0)
        for handle in handles:
            if handle.status is None:
                _call(["scancel", handle.submitted.job_id])
                handle.status = PAUSED


@dataclass
class SlurmHandle:
    """A job that was submitted.

    Attributes:
        job: the run.
        submitted: submitit's job.
        status: exit status, once it is known.
        looked: when the controller was asked last.
    """

    job: Job
    submitted: Any
    status: int | None = None
    looked: float = field(default_factory=time.monotonic)


class SlurmRun:
    """What a job does, on its node: it starts the process of a run, and asks it to stop when Slurm says so."""

    def __init__(self, job: Job, time_limit: int) -> None:
        self.job, self.time_limit = job, time_limit
        self.process: subprocess.Popen[Any] | None = None
        self.status: int | None = None

    def __call__(self) -> int:
        """Train; the exit status of the process."""
        with self.job.log.open("ab") as log:
            options: dict[str, Any] = {"stdout": log, "stderr": log, "env": {**os.environ, **self.job.environment()}}
            self.watch(subprocess.Popen(self.job.command(), preexec_fn=_ignore_told, **options))
        return self._wait(float("inf")) or 0

    def watch(self, process: subprocess.Popen[Any]) -> None:
        """Note the exit status of the process when it has one."""
        # in a thread: `checkpoint` is called by a signal handler, in which a lock of Popen.wait would never become free
        self.process = process
        threading.Thread(target=lambda: setattr(self, "status", process.wait()), daemon=True).start()

    def _wait(self, seconds: float) -> int | None:
        deadline = time.monotonic() + seconds
        while self.status is None and time.monotonic() < deadline:
            time.sleep(0.1)
        return self.status

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue, or None: called when Slurm has said that the time is nearly up."""
        from submitit.helpers import DelayedSubmission

        again = DelayedSubmission(SlurmRun(self.job, self.time_limit))
        if self.process is None:  # it has not begun
            return again
        self.process.terminate()
        status = self._wait(GRACE)
        if status is None:
            self.process.kill()
            _failed(
                self.job,
                f"the time limit of {self.time_limit} min is too short: told {TOLD_BEFORE} s before, the run had not "
                f"written a checkpoint after {GRACE:.0f} s; raise it, or make a step shorter",
            )
        return again if status == PAUSED and not (self.job.folder / STOP).exists() else None


def _ignore_told() -> None:
    """Slurm tells all processes of a job; the one that trains is asked by the one that submitit runs."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def _failed(job: Job, why: str) -> int:
    """Say in the log, whose last line is what the table shows, why there is no result."""
    with job.log.open("a", encoding="utf-8") as log:
        log.write(f"{why}\n")
    return 1


def _check_cluster(partition: str | None) -> None:
    if shutil.which("sbatch") is None:
        raise RuntimeError(
            "there is no Slurm here: the command `sbatch` is not found. It is for a machine that jobs are "
            "submitted from, such as a login node; on this machine alone take `--engine local`"
        )
    answer = _call(["sinfo", "--noheader", "--format=%R"])
    if answer.returncode != 0:
        raise RuntimeError(f"the Slurm controller does not answer; `sinfo` says: {answer.stderr.strip()[:300]}")
    partitions = sorted(set(answer.stdout.split()))
    if partition is not None and partition not in partitions:
        raise RuntimeError(f"`partition` must be one of the cluster's, {', '.join(partitions)}, got {partition!r}")


def _state(job_id: str) -> str | None:
    """State of a job that waits or runs, None when it has left the queue; one that cannot be asked for is there."""
    answer = _call(["squeue", "--noheader", "--format=%T", f"--jobs={job_id}"])
    if answer.returncode != 0:
        return None if "Invalid job id" in answer.stderr else "UNKNOWN"
    state = answer.stdout.strip()
    return state if state and state not in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL") else None


def _call(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=ANSWER, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {ANSWER:.0f} s")
