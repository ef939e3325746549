"""The trainings of a study, each with a name and a result file, and processes that work through them."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from l0rnn.methods.random_graphs import GraphKind
from recipes.reber import pruning, selection, structures
from recipes.reber.config import StudyConfig
from recipes.reber.data import read_examples, split

TRAININGS = {
    "base": pruning.train_base,
    "pruned": pruning.prune_and_retrain,  # these two train several networks side by side
    "structure": structures.train_structures,
    "gated": selection.train_gated,
    "control": selection.train_from_scratch,
}


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        name: of its result file.
        training: a name in ``TRAININGS``.
        data: the kind of wrong strings.
        test_share: fraction of the strings that is the test part.
        arguments: of the training, besides the strings; plain data.
        weights: file of a base network, relative to the folder of the study, for trainings that have one.
        stack: jobs with the same stack, whose other arguments agree, train side by side; None trains alone.
        member: arguments of this job alone in its stack.
    """

    name: str
    training: str
    data: str
    test_share: float
    arguments: dict[str, Any]
    weights: str | None = None
    stack: str | None = None
    member: dict[str, Any] | None = None


def first_jobs(config: StudyConfig) -> list[Job]:
    """The trainings that need no other, the long ones first."""
    plain, share, seed = config.plain(), config.data.test_share, config.seed
    part = plain["selection"]
    gated = [
        Job(
            f"gated-{cell}-{layers}-{density}-{seed + number}",
            "gated",
            part["data"],
            share,
            {"cell": cell, "layers": layers, "density": density, "seed": seed + number, "config": part},
        )
        for cell in part["cells"]
        for layers in part["layers"]
        for density in part["densities"]
        for number in range(part["gated_seeds"])
    ]
    drawn: list[tuple[GraphKind, int]] = [
        (kind, seed + number) for number in range(config.structures.graphs) for kind in structures.KINDS
    ]
    graphs = structures.by_size(drawn, config.structures.nodes) if config.cells else []
    structure = [
        Job(
            f"structure-{cell}-{kind}-{number - seed}",
            "structure",
            plain["structures"]["data"],
            share,
            {"cell": cell, "seed": seed, "config": plain["structures"]},
            stack=f"structures {place // structures.SIDE_BY_SIDE}, {cell}",
            member={"kind": kind, "seed": number},
        )
        for place, (kind, number) in reversed(list(enumerate(graphs)))
        for cell in config.cells
    ]
    bases = [
        Job(
            f"base-{data}-{cell}",
            "base",
            data,
            share,
            {"cell": cell, "seed": seed, "config": plain["pruning"]},
            weights=_base_weights(data, cell),
        )
        for data in config.pruning.data
        for cell in config.cells
    ]
    return [*bases, *gated, *structure]


def second_jobs(config: StudyConfig, results: Mapping[str, Mapping[str, Any]]) -> list[Job]:
    """The trainings that start from results of the first ones; no prunings of a base that failed or is missing.

    Prunings on the first set of strings, which the thesis has, come before the controls, those on others after them.
    """
    part = config.plain()["pruning"]
    parts: list[list[Job]] = [[] for _ in config.pruning.data]
    for jobs, data in zip(parts, config.pruning.data, strict=True):
        for kind, cell in itertools.product(config.pruning.kinds, config.cells):
            base = results.get(f"base-{data}-{cell}")
            if base is None or "failed" in base:
                continue
            common = {"cell": cell, "base_accuracy": base["accuracy"], "seed": config.seed, "config": part}
            for place, percentage in enumerate(config.pruning.percentages):
                jobs.append(
                    Job(
                        f"pruned-{data}-{cell}-{kind}-{percentage}",
                        "pruned",
                        data,
                        config.data.test_share,
                        common,
                        weights=_base_weights(data, cell),
                        stack=f"prunings {place // pruning.SIDE_BY_SIDE}, {cell}, {data}, {kind}",
                        member={"kind": kind, "percentage": percentage},
                    )
                )
    first, *others = parts
    return list(itertools.chain(first, _controls(config, results), *others))


def chosen(config: StudyConfig, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Cell → the smallest network of the gated trainings that is good enough, or the best if none is."""
    found = {}
    for cell in config.selection.cells:
        rows = [
            row
            for name, row in results.items()
            if name.startswith("gated-") and row["cell"] == cell and "failed" not in row
        ]
        if rows:
            found[cell] = selection.smallest_enough(rows, config.selection.enough)
    return found


def _controls(config: StudyConfig, results: Mapping[str, Mapping[str, Any]]) -> list[Job]:
    part = config.plain()["selection"]
    return [
        Job(
            f"control-{cell}-{scale}-{config.seed + number}",
            "control",
            part["data"],
            config.data.test_share,
            {
                "cell": cell,
                "embedding": selection.scaled([best["embedding"]], scale)[0],
                "hidden": selection.scaled(best["hidden"], scale),
                "seed": config.seed + number,
                "config": part,
            },
        )
        for cell, best in chosen(config, results).items()
        for scale in config.selection.scales
        for number in range(config.selection.control_seeds)
    ]


def _base_weights(data: str, cell: str) -> str:
    return f"bases/{data}-{cell}.pt"


def work(jobs: Sequence[Job], out: Path, *, processes: int, title: str) -> dict[str, dict[str, Any]]:
    """Do all jobs that have no result yet, and return the results of all.

    Raises:
        ValueError: if ``processes`` is less than 1.
    """
    if processes < 1:
        raise ValueError(f"`processes` must be at least 1, got {processes}")
    waiting = [job for job in jobs if not _result(job, out).is_file()]
    stacks = stacked(waiting)
    with tqdm(total=len(jobs), initial=len(jobs) - len(waiting), desc=title, unit="run", disable=None) as bar:
        if processes == 1:
            for stack in stacks:
                bar.set_postfix_str(_title(stack))
                run_jobs(stack, out)
                bar.update(len(stack))
        elif stacks:
            # a fresh interpreter for each process: a forked one would share the state of torch's threads
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(min(processes, len(stacks)), mp_context=spawn) as pool:
                _wait_for(pool, stacks, out, bar)
    return {job.name: read_result(job, out) for job in jobs}


def stacked(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs that train side by side, in order of the first of each stack."""
    found: dict[str, list[Job]] = {}
    for job in jobs:
        found.setdefault(f"alone: {job.name}" if job.stack is None else job.stack, []).append(job)
    return list(found.values())


def run_jobs(jobs: Sequence[Job], out: Path) -> None:
    """Train one job, or the jobs of a stack, and write their result files; time is shared equally.

    A training whose loss is no longer a number is a result, too.
    """
    torch.set_num_threads(1)
    first = jobs[0]
    train, test = split(read_examples(out / "data" / f"{first.data}.csv"), first.test_share)
    arguments: dict[str, Any] = dict(first.arguments)
    if first.weights is not None:
        arguments["weights"] = out / first.weights
    training: Any = TRAININGS[first.training]
    started, started_cpu = time.perf_counter(), time.process_time()
    try:
        if first.stack is None:
            results = [training(train, test, **arguments)]
        else:
            results = training(train, test, [job.member for job in jobs], **arguments)
    except FloatingPointError as error:
        results = [{"cell": job.arguments["cell"], "failed": str(error)} for job in jobs]
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    for job, result in zip(jobs, results, strict=True):
        result["data"] = job.data
        result["seconds"] = round(seconds / len(jobs), 2)
        result["cpu_seconds"] = round(cpu_seconds / len(jobs), 2)
        write_json(result, _result(job, out))


def read_results(jobs: Sequence[Job], out: Path) -> dict[str, dict[str, Any]]:
    """The results of those jobs that have one."""
    return {job.name: read_result(job, out) for job in jobs if _result(job, out).is_file()}


def read_result(job: Job, out: Path) -> dict[str, Any]:
    """What a job wrote."""
    return json.loads(_result(job, out).read_text(encoding="utf-8"))


def write_json(value: Any, path: Path) -> None:
    """Write a whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _wait_for(pool: Executor, stacks: Sequence[list[Job]], out: Path, bar: Any) -> None:
    futures = {pool.submit(run_jobs, stack, out): stack for stack in stacks}
    try:
        for future in as_completed(futures):
            future.result()
            bar.set_postfix_str(_title(futures[future]))
            bar.update(len(futures[future]))
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def _title(stack: Sequence[Job]) -> str:
    return stack[0].stack or stack[0].name


def _result(job: Job, out: Path) -> Path:
    return out / "jobs" / f"{job.name}.json"
