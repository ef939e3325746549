"""Runs as tasks of Ray: on this machine, or on a cluster at an address."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from l0rnn.compare.engines.engine import GRACE, PAUSED, STOP, Engine, Job
from l0rnn.extras import require

LOOK = 0.5  # seconds between two looks of a task at its process
REACHED = 5.0  # seconds that a cluster has to be reached
OBJECTS = 128 * 2**20  # bytes of Ray's store of objects where it is started here: tasks give back a number


class RayEngine(Engine):
    """Each run is a task of Ray, on nodes that see the same folders as this machine.

    A task whose node dies is started again on another one, and goes on from its last checkpoint.

    Args:
        address: of a cluster, as ``HOST:PORT``, or ``auto`` for one that this machine belongs to; None starts Ray here.
        jobs: how many are given to Ray at a time; as many as the CPUs of the cluster allow if None.
        threads: CPUs that each task reserves.
        gpus: that each task reserves.
        retries: how often a task is started again after a node or a worker has died.

    Raises:
        ModuleNotFoundError: if Ray is not installed; it says which extra brings it.
        RuntimeError: if there is no cluster at the address, or it has not what one task reserves.
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        jobs: int | None = None,
        threads: int = 1,
        gpus: int = 0,
        retries: int = 5,
    ) -> None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # tasks without GPUs leave the variable alone
        self.ray: Any = require("ray", "ray")
        if jobs is not None and jobs < 1:
            raise ValueError(f"`jobs` must be at least 1, got {jobs}")
        self._is_ours = not self.ray.is_initialized()
        if self._is_ours:
            _connect(self.ray, address, jobs=jobs, threads=threads)
        self.threads, self.gpus, self.retries = threads, gpus, retries
        there = self.ray.cluster_resources()
        if threads > there.get("CPU", 0) or gpus > there.get("GPU", 0):
            self.close()
            raise RuntimeError(
                f"each run reserves {threads} CPUs and {gpus} GPUs, the Ray cluster has {there.get('CPU', 0):.0f} and "
                f"{there.get('GPU', 0):.0f}; lower `--threads`, or add nodes by `ray start --address`"
            )
        self.jobs = jobs or max(1, int(there["CPU"] // threads))

    def start(self, job: Job) -> RayHandle:
        """Give the task to Ray."""
        job = job.resolved()
        (job.folder / STOP).unlink(missing_ok=True)
        train = self.ray.remote(num_cpus=job.threads, num_gpus=self.gpus, max_retries=self.retries)(train_in_process)
        path = os.pathsep.join(entry for entry in (os.getcwd(), *sys.path) if entry)
        return RayHandle(job, train.options(name=job.title).remote(job, os.getcwd(), path))

    def poll(self, handle: RayHandle) -> int | None:
        """Exit status of the run's process, wherever it ran last."""
        if handle.status is None and self.ray.wait([handle.task], timeout=0)[0]:
            try:
                handle.status = int(self.ray.get(handle.task))
            except self.ray.exceptions.RayError as error:
                why = str(error).strip().splitlines() or [type(error).__name__]
                with handle.job.log.open("a", encoding="utf-8") as log:
                    log.write(f"{type(error).__name__}, after {self.retries} more starts: {why[0]}\n")
                handle.status = 1
        return handle.status

    def stop(self, handles: Sequence[RayHandle]) -> None:
        """Tell all to write a checkpoint and end, and wait for that."""
        for handle in handles:
            (handle.job.folder / STOP).touch()
        deadline = time.monotonic() + GRACE + 10 * LOOK
        while time.monotonic() < deadline and any(self.poll(handle) is None for handle in handles):
            time.sleep(LOOK)
        for handle in handles:
            if handle.status is None:
                self.ray.cancel(handle.task, force=True)
                handle.status = PAUSED

    def close(self) -> None:
        """Leave the cluster, or end it if it was started here."""
        if self._is_ours:
            self.ray.shutdown()


@dataclass
class RayHandle:
    """A task that Ray has.

    Attributes:
        job: the run.
        task: Ray's reference.
        status: exit status, once it is known.
    """

    job: Job
    task: Any
    status: int | None = None


def train_in_process(job: Job, folder: str, path: str) -> int:
    """What a task does, on its node: it starts the process of a run, and asks it to stop when it is told so.

    Args:
        job: the run.
        folder: where the comparison was started.
        path: where modules are found there.

    Returns:
        The exit status.
    """
    environment = {**os.environ, **job.environment(), "PYTHONPATH": path}
    with job.log.open("ab") as log:
        command = [*job.command(), "--with-parent"]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
    asked = None
    while True:
        try:
            return process.wait(LOOK)
        except subprocess.TimeoutExpired:
            if asked is None and (job.folder / STOP).exists():
                process.terminate()
                asked = time.monotonic()
            elif asked is not None and time.monotonic() - asked > GRACE:
                process.kill()


def _connect(ray: Any, address: str | None, *, jobs: int | None, threads: int) -> None:
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "warning"}
    if address is None:
        cpus = max(os.cpu_count() or 1, (jobs or 1) * threads)
        ray.init(num_cpus=cpus, object_store_memory=OBJECTS, **quiet)
        return
    hint = (
        "start its head by `ray start --head --port=6379`, further nodes by `ray start --address=HOST:6379`, or leave "
        "`--address` out to run on this machine alone"
    )
    host, _, port = address.rpartition(":")
    if address != "auto":
        if not host or not port.isdigit():
            raise ValueError(f"`address` must be HOST:PORT or auto, got {address!r}")
        try:
            socket.create_connection((host, int(port)), timeout=REACHED).close()
        except OSError as error:
            raise RuntimeError(f"there is no Ray cluster at {address} ({error}); {hint}") from error
    try:
        ray.init(address=address, log_to_driver=False, logging_level="warning")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RuntimeError(f"there is no Ray cluster at {address} ({str(error)[:200]}); {hint}") from error
