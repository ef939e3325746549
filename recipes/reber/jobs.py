"""The trainings of a study, each with a name and a result file, and processes that work through them."""

from __future__ import annotations

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

from recipes.reber import pruning, selection, structures
from recipes.reber.config import StudyConfig
from recipes.reber.data import read_examples, split

TRAININGS = {
    "base": pruning.train_base,
    "pruned": pruning.prune_and_retrain,
    "structure": structures.train_structure,
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
    """

    name: str
    training: str
    data: str
    test_share: float
    arguments: dict[str, Any]
    weights: str | None = None


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
    structure = [
        Job(
            f"structure-{cell}-{kind}-{number}",
            "structure",
            plain["structures"]["data"],
            share,
            {"cell": cell, "kind": kind, "seed": seed + number, "config": plain["structures"]},
        )
        for number in range(config.structures.graphs)
        for kind in structures.KINDS
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
    """The trainings that start from results of the first ones; none where these failed."""
    part = config.plain()["pruning"]
    found = []
    for data in config.pruning.data:
        for cell in config.cells:
            base = results[f"base-{data}-{cell}"]
            if "failed" in base:
                continue
            common = {"cell": cell, "base_accuracy": base["accuracy"], "seed": config.seed, "config": part}
            for kind in config.pruning.kinds:
                for percentage in config.pruning.percentages:
                    found.append(
                        Job(
                            f"pruned-{data}-{cell}-{kind}-{percentage}",
                            "pruned",
                            data,
                            config.data.test_share,
                            {**common, "kind": kind, "percentage": percentage},
                            weights=_base_weights(data, cell),
                        )
                    )
    return [*found, *_controls(config, results)]


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
    with tqdm(total=len(jobs), initial=len(jobs) - len(waiting), desc=title, unit="run", disable=None) as bar:
        if processes == 1:
            for job in waiting:
                bar.set_postfix_str(job.name)
                run_job(job, out)
                bar.update()
        elif waiting:
            # a fresh interpreter for each process: a forked one would share the state of torch's threads
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(min(processes, len(waiting)), mp_context=spawn) as pool:
                _wait_for(pool, waiting, out, bar)
    return {job.name: read_result(job, out) for job in jobs}


def run_job(job: Job, out: Path) -> None:
    """Train, and write the result file; a training whose loss is no longer a number is a result, too."""
    torch.set_num_threads(1)
    train, test = split(read_examples(out / "data" / f"{job.data}.csv"), job.test_share)
    arguments = dict(job.arguments)
    if job.weights is not None:
        arguments["weights"] = out / job.weights
    started, started_cpu = time.perf_counter(), time.process_time()
    try:
        result = TRAININGS[job.training](train, test, **arguments)
    except FloatingPointError as error:
        result = {"cell": job.arguments["cell"], "failed": str(error)}
    result["data"] = job.data
    result["seconds"] = round(time.perf_counter() - started, 2)
    result["cpu_seconds"] = round(time.process_time() - started_cpu, 2)
    write_json(result, _result(job, out))


def read_result(job: Job, out: Path) -> dict[str, Any]:
    """What a job wrote."""
    return json.loads(_result(job, out).read_text(encoding="utf-8"))


def write_json(value: Any, path: Path) -> None:
    """Write a whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _wait_for(pool: Executor, jobs: Sequence[Job], out: Path, bar: Any) -> None:
    futures = {pool.submit(run_job, job, out): job for job in jobs}
    try:
        for future in as_completed(futures):
            future.result()
            bar.set_postfix_str(futures[future].name)
            bar.update()
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def _result(job: Job, out: Path) -> Path:
    return out / "jobs" / f"{job.name}.json"
