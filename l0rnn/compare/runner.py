"""Run all trainings of a comparison: each in a process of its own, several side by side, none of them twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from l0rnn.compare.one_run import CONFIG, PROGRESS, RESULT, build
from l0rnn.compare.plan import Plan, Run, folder_name

LOG = "log.txt"
POLL = 0.5  # seconds between two looks at the running processes
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
    plan: Plan, out: Path, *, jobs: int = 1, threads: int | None = None, only: list[str] | None = None
) -> dict[tuple[str, int], dict[str, Any]]:
    """Train what has no result yet; what was interrupted goes on from its last checkpoint.

    Args:
        plan: the comparison.
        out: folder; each run has its own in ``runs``, named after the run and a hash of its configuration.
        jobs: trainings side by side.
        threads: CPU threads of each; the cores divided by ``jobs`` if None.
        only: names of the runs to train; all if None. What they refer to is trained as well.

    Returns:
        (name, seed) → result of every finished run, ``{"error": …}`` for those that failed.

    Raises:
        ValueError: if an argument is out of range or a configuration cannot be built; nothing is trained then.
    """
    if jobs < 1:
        raise ValueError(f"`jobs` must be at least 1, got {jobs}")
    names = {run.name for run in plan.runs}
    unknown = set(only or ()) - names
    if unknown:
        raise ValueError(f"`only` must name runs of the comparison, got {', '.join(sorted(unknown))}")
    wanted = [run for run in plan.runs if only is None or run.name in _with_needed(plan, only)]
    threads = threads or max(1, (os.cpu_count() or 1) // jobs)
    _check(plan, wanted, out)
    return _Queue(plan, wanted, out, jobs, threads).work()


def results_so_far(plan: Plan, out: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """(name, seed) → result of the runs that are finished, in the order of the plan."""
    results: dict[tuple[str, int], dict[str, Any]] = {}
    for run in plan.runs:
        earlier = {name: result for (name, seed), result in results.items() if seed == run.seed}
        if run.needs() <= {name for name, result in earlier.items() if "error" not in result}:
            path = out / "runs" / folder_name(run, plan.config(run, earlier)) / RESULT
            if path.is_file():
                results[run.name, run.seed] = json.loads(path.read_text(encoding="utf-8"))
    return results


def _with_needed(plan: Plan, only: list[str]) -> set[str]:
    needs = {run.name: run.needs() for run in plan.runs}
    wanted, waiting = set(), list(only)
    while waiting:
        name = waiting.pop()
        wanted.add(name)
        waiting.extend(needs[name] - wanted)
    return wanted


def _check(plan: Plan, runs: list[Run], out: Path) -> None:
    """Build every run that refers to no other and has no result, so that a mistake shows before hours of training."""
    done = results_so_far(plan, out)
    for run in tqdm(runs, desc="checking the configurations", leave=False, disable=None):
        if run.needs() or (run.name, run.seed) in done:
            continue
        config = plan.config(run, {})
        with tempfile.TemporaryDirectory() as folder:
            try:
                build(config, Path(folder))
            except SystemExit as error:  # jsonargparse has said on stderr what is wrong, and leaves
                raise ValueError(f"the configuration of {run.name!r} cannot be read; see above") from error
            except (ValueError, TypeError, OSError) as error:
                raise ValueError(f"the run {run.name!r} cannot start: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What our own checks said, out of jsonargparse's list of all types that a value is not."""
    lines = [line.strip() for line in str(error).splitlines()]
    return "; ".join(line[2:] for line in lines if line.startswith("- `")) or str(error)


class _Queue:
    """The runs that wait, run and are done."""

    def __init__(self, plan: Plan, runs: list[Run], out: Path, jobs: int, threads: int) -> None:
        self.plan, self.out, self.jobs, self.threads = plan, out, jobs, threads
        self.results = {key: result for key, result in results_so_far(plan, out).items() if "error" not in result}
        self.waiting = [run for run in runs if (run.name, run.seed) not in self.results]
        self.running: list[_Process] = []

    def work(self) -> dict[tuple[str, int], dict[str, Any]]:
        """Start and wait, until nothing waits or runs."""
        with tqdm(total=len(self.waiting), desc="runs", unit="run", disable=None) as bar:
            try:
                while self.waiting or self.running:
                    self._start()
                    time.sleep(POLL)
                    for done in [process for process in self.running if process.process.poll() is not None]:
                        self._finish(done, bar.write)
                        bar.update()
                    bar.set_postfix_str(", ".join(_line(process) for process in self.running))
            finally:
                for process in self.running:
                    process.process.terminate()
        return self.results

    def _start(self) -> None:
        for run in list(self.waiting):
            if len(self.running) >= self.jobs:
                return
            earlier = {name: result for (name, seed), result in self.results.items() if seed == run.seed}
            failed = [name for name in run.needs() if "error" in earlier.get(name, {})]
            if failed:
                self.waiting.remove(run)
                self.results[run.name, run.seed] = {"error": f"it refers to {', '.join(failed)}, which failed"}
            elif run.needs() <= set(earlier):
                self.waiting.remove(run)
                self.running.append(self._started(run, self.plan.config(run, earlier)))

    def _started(self, run: Run, config: Mapping[str, Any]) -> _Process:
        folder = self.out / "runs" / folder_name(run, config)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PROGRESS).unlink(missing_ok=True)
        (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
        log = (folder / LOG).open("ab")
        command = [sys.executable, "-m", "l0rnn.compare", str(folder), self.plan.quality, self.plan.final]
        environment = {**os.environ, **KEEP_MEMORY, "OMP_NUM_THREADS": str(self.threads)}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        return _Process(run, folder, process, log)

    def _finish(self, done: _Process, say: Callable[[str], None]) -> None:
        self.running.remove(done)
        done.log.close()
        path = done.folder / RESULT
        if done.process.returncode == 0 and path.is_file():
            result = json.loads(path.read_text(encoding="utf-8"))
            figures = f"{self.plan.quality} {result['quality']:.4g}, density {result['density']:.3f}"
            say(f"{done.run.title}: {figures}, {result['training_seconds']['wall']:.0f} s")
        else:
            result = {"error": _last_words(done)}
            say(f"{done.run.title}: failed, {result['error']} (see {done.folder / LOG})")
        self.results[done.run.name, done.run.seed] = result


def _line(process: _Process) -> str:
    try:
        progress = json.loads((process.folder / PROGRESS).read_text())
        return f"{process.run.name} {progress['step']}/{progress['steps']}"
    except (OSError, ValueError):
        return f"{process.run.name} …"


def _last_words(process: _Process) -> str:
    lines = (process.folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    code = process.process.returncode
    return lines[-1][:300] if lines and code > 0 else f"ended with status {code}"
