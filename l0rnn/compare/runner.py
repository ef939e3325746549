"""Run all trainings of a comparison: each in a process of its own, several side by side, none of them twice."""

from __future__ import annotations

import json
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from l0rnn.arguments import check_threads, checked
from l0rnn.compare.engines import Engine, Job, LocalEngine
from l0rnn.compare.engines.engine import PAUSED, POLL, RESULT, default_threads
from l0rnn.compare.instances import instance
from l0rnn.compare.outcome import PROGRESS
from l0rnn.compare.plan import CONFIGURED, MODULE, TASK, Plan, Run
from l0rnn.compare.process import locked, write_order
from l0rnn.compare.progress import Board, progress_line
from l0rnn.compare.results import keep_result, missing_models, results_so_far, run_folder
from l0rnn.compare.task import first_batch, load_task
from l0rnn.compare.task_run import check_start, start
from l0rnn.training.pruner import Pruner


@dataclass(frozen=True)
class _Started:
    run: Run
    job: Job
    handle: Any


@checked
def run_all(
    plan: Plan,
    out: Path,
    *,
    engine: Engine | None = None,
    threads: int | None = None,
    only: list[str] | None = None,
    seconds: float | None = None,
    kept: Path | None = None,
    extra: Sequence[str] = (),
    trainer: str | None = None,
    board: Board | None = None,
    is_checked: bool = False,
) -> dict[tuple[str, int], dict[str, Any]]:
    """Train what has no result yet; what was interrupted goes on from its last checkpoint.

    At the time limit, at SIGTERM and at Ctrl-C every run writes a checkpoint after its current step and stops; the next
    call goes on from exactly there.

    Args:
        plan: the comparison.
        out: folder; each run has its own in ``runs``, named after the run and a hash of its configuration.
        engine: where runs are trained; on this machine, one after the other, if None. Its owner closes it.
        threads: CPU threads of each run; the cores divided by the runs side by side if None.
        only: names of the runs to train; all if None. What they refer to is trained as well.
        seconds: time limit of this call; none if None.
        kept: folder to which each result is copied, and whose results of the same configuration count as done.
        extra: arguments that belong to the machine, not to the experiment, such as ``--device=cuda``, or for a
            configuration those of Lightning's command line: they are no part of a configuration's hash.
        trainer: ``module:function`` that trains each run; the plan's if None.
        board: shows the progress.
        is_checked: whether `check_runs` need not be called any more.

    Returns:
        (name, seed) → result of every finished run, ``{"error": …}`` for those that failed.

    Raises:
        ValueError: if an argument is out of range or a configuration cannot be built; nothing is trained then.
        FolderInUseError: if another process trains one of them in this folder.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when all runs have stopped.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    engine = engine or LocalEngine()
    if seconds is not None and not seconds > 0:
        raise ValueError(f"`seconds` must be > 0, got {seconds}")
    names = {run.name for run in plan.runs}
    unknown = set(only or ()) - names
    if unknown:
        raise ValueError(f"`only` must name runs of the comparison, got {', '.join(sorted(unknown))}")
    wanted = [run for run in plan.runs if only is None or run.name in _with_needed(plan, only)]
    done = results_so_far(plan, out, kept)
    _refuse_used_folders(plan, wanted, done, out)
    if not is_checked:
        check_runs(replace(plan, runs=[run for run in wanted if (run.name, run.seed) not in done]), extra)
    if threads is not None:
        check_threads(threads)
    place = _Place(out, engine, threads or default_threads(engine.jobs), kept, tuple(extra), trainer or plan.trainer)
    return _Queue(plan, wanted, done, place, board or Board()).work(deadline)


def _with_needed(plan: Plan, only: list[str]) -> set[str]:
    needs = {run.name: run.needs() for run in plan.runs}
    wanted, waiting = set(), list(only)
    while waiting:
        name = waiting.pop()
        wanted.add(name)
        waiting.extend(needs[name] - wanted)
    return wanted


def _refuse_used_folders(plan: Plan, runs: list[Run], done: Mapping[tuple[str, int], Any], out: Path) -> None:
    for run in runs:
        if not run.needs() and (run.name, run.seed) not in done:
            folder = run_folder(plan, run, {}, out)
            if folder.is_dir():
                with locked(folder):
                    pass


def check_runs(plan: Plan, extra: Sequence[str] = ()) -> None:
    """Build the runs of a plan that refer to no other, so that a mistake shows before hours of training.

    Args:
        plan: the comparison.
        extra: as in `run_all`.

    Raises:
        ValueError: if one cannot start; it says which and why.
    """
    check = {CONFIGURED: _check_configurations, TASK: _check_task, MODULE: _check_module}.get(plan.trainer)
    if check is not None and plan.runs:
        check(plan, plan.runs, extra)


def _check_configurations(plan: Plan, runs: list[Run], extra: Sequence[str]) -> None:
    from l0rnn.compare.configured_run import build  # with Lightning, which a task does not need

    for run in tqdm(runs, desc="checking the configurations", leave=False, disable=None):
        if run.needs():
            continue
        config = plan.config(run, {})
        with tempfile.TemporaryDirectory() as folder:
            try:
                build(config, Path(folder), extra=extra)
            except SystemExit as error:  # jsonargparse has said on stderr what is wrong, and leaves
                raise ValueError(f"the configuration of {run.name!r} cannot be read; see above") from error
            except (ValueError, TypeError, OSError) as error:
                raise ValueError(f"the run {run.name!r} cannot start: {_reason(error)}") from error


def _check_task(plan: Plan, runs: list[Run], extra: Sequence[str]) -> None:
    """Build the task once, and attach every method."""
    task = load_task(Path(plan.base["task"]))
    task.first_figure()
    batch = first_batch(task.loaders()["train"], "train")
    if any("widths" in run.changes for run in runs):
        check_start(task.network(), task.initialise)
    first = runs[0].seed
    for run in tqdm([run for run in runs if run.seed == first], desc="checking the runs", leave=False, disable=None):
        if run.needs():
            continue
        network, method = start(plan.config(run, {}), task, batch)
        try:
            Pruner(network, method, task.inputs(batch), fixed=task.fixed, tied=task.tied)
        except ValueError as error:
            raise ValueError(f"the run {run.name!r} cannot start: {error}") from error


def _check_module(plan: Plan, runs: list[Run], extra: Sequence[str]) -> None:
    """Build module, data and methods once."""
    from l0rnn.compare.module_run import built  # with Lightning, which a task does not need

    if extra:
        raise ValueError(f"{', '.join(extra)} is for a task file; set `accelerator` in `trainer` of the plan")
    module, _ = built(plan.base)
    if any("widths" in run.changes for run in runs):
        check_start(module, getattr(module, "initialise", None), place="the LightningModule")
    for run in runs:
        if run.seed == runs[0].seed and run.changes.get("method") is not None:
            try:
                instance(run.changes["method"])
            except ValueError as error:
                raise ValueError(f"the run {run.name!r} cannot start: {error}") from error


def _reason(error: Exception) -> str:
    """What our own checks said, out of jsonargparse's list of all types that a value is not."""
    lines = [line.strip() for line in str(error).splitlines()]
    return "; ".join(line[2:] for line in lines if line.startswith("- `")) or str(error)


@dataclass(frozen=True)
class _Place:
    """Where and how runs are trained."""

    out: Path
    engine: Engine
    threads: int
    kept: Path | None
    extra: tuple[str, ...]
    trainer: str


class _Queue:
    """The runs that wait, run and are done."""

    def __init__(
        self, plan: Plan, runs: list[Run], done: Mapping[tuple[str, int], dict[str, Any]], place: _Place, board: Board
    ) -> None:
        self.plan, self.place, self.board = plan, place, board
        self.results = {key: result for key, result in done.items() if "error" not in result}
        self.waiting = [run for run in runs if (run.name, run.seed) not in self.results]
        self.running: list[_Started] = []
        self.wanted, self.to_train = len(runs), len(self.waiting)

    def work(self, deadline: float | None) -> dict[tuple[str, int], dict[str, Any]]:
        """Start and wait, until nothing waits or runs, or time is up."""
        begun = time.monotonic()
        with _terminated_like_interrupted():
            try:
                while self.waiting or self.running:
                    if deadline is not None and time.monotonic() >= deadline:
                        self.board.say("the time is up")
                        break
                    self._start()
                    time.sleep(POLL if deadline is None else max(0.0, min(POLL, deadline - time.monotonic())))
                    self._collect()
                    lines = [_line(started, self.plan.quality) for started in self.running]
                    self.board.show([self._total(begun), *lines] if lines else [])
            finally:
                self._stop()
                self.board.show([])
        return self.results

    def _total(self, begun: float) -> str:
        """How many runs are done, and when all will be, if the others take as long as those of this call."""
        left = len(self.waiting) + len(self.running)
        line = f"{self.wanted - left} of {self.wanted} runs done"
        ended = self.to_train - left
        if ended < 1:
            return line
        return f"{line}, about {(time.monotonic() - begun) / ended * left / 60:.0f} min left"

    def _collect(self) -> None:
        for started in list(self.running):
            status = self.place.engine.poll(started.handle)
            if status is not None:
                self._finish(started, status)

    def _stop(self) -> None:
        """Ask all runs to write a checkpoint and stop, and wait for them; one that has just ended counts."""
        self._collect()
        if not self.running:
            return
        begun, engine = time.monotonic(), self.place.engine
        engine.stop([started.handle for started in self.running])
        for started in [started for started in self.running if engine.poll(started.handle) == 0]:
            self._finish(started, 0)
        for started in self.running:
            if not (started.job.folder / PROGRESS).exists():
                self.board.say(
                    f"{started.run.title}: stopped before its first step; this call had too little time for it"
                )
        if self.running:
            seconds = time.monotonic() - begun
            self.board.say(f"{len(self.running)} runs stopped in {seconds:.1f} s; the next call goes on from there")
        self.running = []

    def _start(self) -> None:
        for run in list(self.waiting):
            if len(self.running) >= self.place.engine.jobs:
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

    def _started(self, run: Run, earlier: Mapping[str, Mapping[str, Any]]) -> _Started:
        plan, place = self.plan, self.place
        job = Job(run.title, run_folder(plan, run, earlier, place.out), place.threads)
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / PROGRESS).unlink(missing_ok=True)
        told = {"quality": plan.quality, "final": plan.final, "key": plan.key(run, earlier), "extra": place.extra}
        write_order(job.folder, place.trainer, plan.config(run, earlier), **told)
        return _Started(run, job, place.engine.start(job))

    def _finish(self, done: _Started, status: int) -> None:
        self.running.remove(done)
        if status == PAUSED:  # somebody else asked it to stop, such as a machine that goes down
            self.board.say(f"{done.run.title}: stopped from outside, and goes on from its checkpoint")
            self.waiting.insert(0, done.run)
            return
        path = done.job.folder / RESULT
        if status == 0 and path.is_file():
            result = json.loads(path.read_text(encoding="utf-8"))
            if self.place.kept is not None:
                keep_result(self.plan, done.run, result, self.place.kept)
            figures = f"{self.plan.quality} {result['quality']:.4g}, density {result['density']:.3f}"
            self.board.say(f"{done.run.title}: {figures}, {result['training_seconds']['wall']:.0f} s")
        else:
            result = {"error": _last_words(done.job, status)}
            self.board.say(f"{done.run.title}: failed, {result['error']} (see {done.job.log})")
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


def _line(started: _Started, quality: str) -> str:
    try:
        progress = json.loads((started.job.folder / PROGRESS).read_text())
    except (OSError, ValueError):
        progress = None
    return progress_line(started.run.title, progress, quality)


def _last_words(job: Job, status: int) -> str:
    text = job.log.read_text(encoding="utf-8", errors="replace") if job.log.is_file() else ""
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines and status > 0 else f"ended with status {status}"
