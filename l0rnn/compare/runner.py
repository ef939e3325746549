"""Run all trainings of a comparison: each in a process of its own, several side by side, none of them twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from l0rnn.compare.one_run import CONFIG, PROGRESS, RESULT, build
from l0rnn.compare.plan import Plan, Run
from l0rnn.compare.progress import Board, progress_line
from l0rnn.compare.results import keep_result, missing_models, results_so_far, run_folder

LOG = "log.txt"
POLL = 0.5  # seconds between two looks at the running processes
GRACE = 60.0  # seconds that a run has for its current step and its checkpoint when it is asked to stop
# A training step frees and asks for the same few large tensors each time; glibc would give them back to the system and
# have every page cleared again, which is a tenth to a fifth of the step of a language model. 32 MiB is its largest.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "4294967296"}


@dataclass
class _Process:
    run: Run
    folder: Path
    process: subprocess.Popen[bytes]
    log: Any


def run_all(
    plan: Plan,
    out: Path,
    *,
    jobs: int = 1,
    threads: int | None = None,
    only: list[str] | None = None,
    seconds: float | None = None,
    kept: Path | None = None,
    extra: Sequence[str] = (),
    module: str = "l0rnn.compare",
    board: Board | None = None,
) -> dict[tuple[str, int], dict[str, Any]]:
    """Train what has no result yet; what was interrupted goes on from its last checkpoint.

    At the time limit, at SIGTERM and at Ctrl-C every run writes a checkpoint after its current step and stops; the next
    call goes on from exactly there.

    Args:
        plan: the comparison.
        out: folder; each run has its own in ``runs``, named after the run and a hash of its configuration.
        jobs: trainings side by side.
        threads: CPU threads of each; the cores divided by ``jobs`` if None.
        only: names of the runs to train; all if None. What they refer to is trained as well.
        seconds: time limit of this call; none if None.
        kept: folder to which each result is copied, and whose results of the same configuration count as done.
        extra: arguments of Lightning's command line that belong to the machine, not to the experiment: they are no part
            of a configuration's hash.
        module: what ``python -m`` runs for each training, with the arguments and the result of ``l0rnn.compare``.
        board: shows the progress.

    Returns:
        (name, seed) → result of every finished run, ``{"error": …}`` for those that failed.

    Raises:
        ValueError: if an argument is out of range or a configuration cannot be built; nothing is trained then.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when all runs have stopped.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    if jobs < 1:
        raise ValueError(f"`jobs` must be at least 1, got {jobs}")
    if seconds is not None and not seconds > 0:
        raise ValueError(f"`seconds` must be > 0, got {seconds}")
    names = {run.name for run in plan.runs}
    unknown = set(only or ()) - names
    if unknown:
        raise ValueError(f"`only` must name runs of the comparison, got {', '.join(sorted(unknown))}")
    wanted = [run for run in plan.runs if only is None or run.name in _with_needed(plan, only)]
    threads = threads or max(1, (os.cpu_count() or 1) // jobs)
    done = results_so_far(plan, out, kept)
    _check(plan, wanted, done, extra)
    place = _Place(out, jobs, threads, kept, tuple(extra), module)
    return _Queue(plan, wanted, done, place, board or Board()).work(deadline)


def _with_needed(plan: Plan, only: list[str]) -> set[str]:
    needs = {run.name: run.needs() for run in plan.runs}
    wanted, waiting = set(), list(only)
    while waiting:
        name = waiting.pop()
        wanted.add(name)
        waiting.extend(needs[name] - wanted)
    return wanted


def _check(plan: Plan, runs: list[Run], done: Mapping[tuple[str, int], Any], extra: Sequence[str]) -> None:
    """Build every run that refers to no other and has no result, so that a mistake shows before hours of training."""
    for run in tqdm(runs, desc="checking the configurations", leave=False, disable=None):
        if run.needs() or (run.name, run.seed) in done:
            continue
        config = plan.config(run, {})
        with tempfile.TemporaryDirectory() as folder:
            try:
                build(config, Path(folder), extra=extra)
            except SystemExit as error:  # jsonargparse has said on stderr what is wrong, and leaves
                raise ValueError(f"the configuration of {run.name!r} cannot be read; see above") from error
            except (ValueError, TypeError, OSError) as error:
                raise ValueError(f"the run {run.name!r} cannot start: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What our own checks said, out of jsonargparse's list of all types that a value is not."""
    lines = [line.strip() for line in str(error).splitlines()]
    return "; ".join(line[2:] for line in lines if line.startswith("- `")) or str(error)


@dataclass(frozen=True)
class _Place:
    """Where and how runs are trained."""

    out: Path
    jobs: int
    threads: int
    kept: Path | None
    extra: tuple[str, ...]
    module: str


class _Queue:
    """The runs that wait, run and are done."""

    def __init__(
        self, plan: Plan, runs: list[Run], done: Mapping[tuple[str, int], dict[str, Any]], place: _Place, board: Board
    ) -> None:
        self.plan, self.place, self.board = plan, place, board
        self.results = {key: result for key, result in done.items() if "error" not in result}
        self.waiting = [run for run in runs if (run.name, run.seed) not in self.results]
        self.running: list[_Process] = []

    def work(self, deadline: float | None) -> dict[tuple[str, int], dict[str, Any]]:
        """Start and wait, until nothing waits or runs, or time is up."""
        with _terminated_like_interrupted():
            try:
                while self.waiting or self.running:
                    if deadline is not None and time.monotonic() >= deadline:
                        self.board.say("the time is up")
                        break
                    self._start()
                    time.sleep(POLL if deadline is None else max(0.0, min(POLL, deadline - time.monotonic())))
                    self._collect()
                    self.board.show([_line(process, self.plan.quality) for process in self.running])
            finally:
                self._stop()
                self.board.show([])
        return self.results

    def _collect(self) -> None:
        for done in [process for process in self.running if process.process.poll() is not None]:
            self._finish(done)

    def _stop(self) -> None:
        """Ask all runs to write a checkpoint and stop, and wait for them; one that has just ended counts."""
        started = time.monotonic()
        self._collect()
        for process in self.running:
            process.process.terminate()
        for process in self.running:
            try:
                process.process.wait(max(0.0, started + GRACE - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.process.kill()
                process.process.wait()
        for process in [process for process in self.running if process.process.returncode == 0]:
            self._finish(process)
        for process in self.running:
            process.log.close()
        if self.running:
            seconds = time.monotonic() - started
            self.board.say(f"{len(self.running)} runs stopped in {seconds:.1f} s; the next call goes on from there")
        self.running = []

    def _start(self) -> None:
        for run in list(self.waiting):
            if len(self.running) >= self.place.jobs:
                return
            earlier = {name: result for (name, seed), result in self.results.items() if seed == run.seed}
            failed = [name for name in run.needs() if "error" in earlier.get(name, {})]
            if failed:
                self.waiting.remove(run)
                self.results[run.name, run.seed] = {"error": f"it refers to {', '.join(failed)}, which failed"}
            elif run.needs() <= set(earlier):
                self.waiting.remove(run)
                gone = missing_models(run, earlier)
                if gone:
                    reason = f"it refers to the model of {', '.join(gone)}, of which only the result is here"
                    self.results[run.name, run.seed] = {"error": f"{reason}; bring its folder, or remove the result"}
                else:
                    self.running.append(self._started(run, earlier))

    def _started(self, run: Run, earlier: Mapping[str, Mapping[str, Any]]) -> _Process:
        plan, place = self.plan, self.place
        folder = run_folder(plan, run, earlier, place.out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PROGRESS).unlink(missing_ok=True)
        (folder / CONFIG).write_text(json.dumps(plan.config(run, earlier)), encoding="utf-8")  # JSON is YAML
        log = (folder / LOG).open("ab")
        arguments = [str(folder), plan.quality, plan.final, plan.key(run, earlier), *place.extra]
        environment = {**os.environ, **KEEP_MEMORY, "OMP_NUM_THREADS": str(place.threads)}
        command = [sys.executable, "-m", place.module, *arguments]
        # in a session of its own: Ctrl-C in the terminal is for the queue, which asks each run once
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        return _Process(run, folder, process, log)

    def _finish(self, done: _Process) -> None:
        self.running.remove(done)
        done.log.close()
        path = done.folder / RESULT
        if done.process.returncode == 0 and path.is_file():
            result = json.loads(path.read_text(encoding="utf-8"))
            if self.place.kept is not None:
                keep_result(self.plan, done.run, result, self.place.kept)
            figures = f"{self.plan.quality} {result['quality']:.4g}, density {result['density']:.3f}"
            self.board.say(f"{done.run.title}: {figures}, {result['training_seconds']['wall']:.0f} s")
        else:
            result = {"error": _last_words(done)}
            self.board.say(f"{done.run.title}: failed, {result['error']} (see {done.folder / LOG})")
        self.results[done.run.name, done.run.seed] = result


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _line(process: _Process, quality: str) -> str:
    try:
        progress = json.loads((process.folder / PROGRESS).read_text())
    except (OSError, ValueError):
        progress = None
    return progress_line(process.run.title, progress, quality)


def _last_words(process: _Process) -> str:
    lines = (process.folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    code = process.process.returncode
    return lines[-1][:300] if lines and code > 0 else f"ended with status {code}"
