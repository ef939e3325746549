"""The trainings of a study, each with a name and a result file, and how an engine works through them."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from l0rnn.compare import engines
from l0rnn.compare.engines import Engine, all_ended
from l0rnn.compare.outcome import write_json
from l0rnn.compare.plan import slug
from l0rnn.compare.process import write_order
from l0rnn.methods.random_graphs import GraphKind
from recipes.reber import pruning, selection, structures
from recipes.reber.config import StudyConfig
from recipes.reber.data import read_examples, split

TRAINER = "recipes.reber.jobs:train_stack"
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


def work(jobs: Sequence[Job], out: Path, *, engine: Engine, title: str) -> dict[str, dict[str, Any]]:
    """Do all jobs that have no result yet, each stack in a process of its own, and return the results of all.

    Raises:
        RuntimeError: if a process fails; it says what it said last.
    """
    waiting = [job for job in jobs if not _result(job, out).is_file()]
    stacks = {slug(_title(stack)): stack for stack in stacked(waiting)}
    for name, stack in stacks.items():
        told = {"out": str(out.resolve()), "jobs": [asdict(job) for job in stack]}
        write_order(out / "runs" / name, TRAINER, told)
    processes = [engines.Job(_title(stack), out / "runs" / name, threads=1) for name, stack in stacks.items()]
    with tqdm(total=len(jobs), initial=len(jobs) - len(waiting), desc=title, unit="run", disable=None) as bar:
        for process, status in all_ended(engine, processes):
            if status != 0:
                said = process.log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["nothing"]
                raise RuntimeError(f"{process.title} ended with status {status}: {said[-1][:300]}; see {process.log}")
            bar.set_postfix_str(process.title)
            bar.update(len(stacks[process.folder.name]))
    return {job.name: read_result(job, out) for job in jobs}


def train_stack(config: Mapping[str, Any], folder: Path, **_: Any) -> None:
    """What the process of a stack does, see `l0rnn.compare.process`."""
    run_jobs([Job(**job) for job in config["jobs"]], Path(config["out"]))


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


def _title(stack: Sequence[Job]) -> str:
    return stack[0].stack or stack[0].name


def _result(job: Job, out: Path) -> Path:
    return out / "jobs" / f"{job.name}.json"
