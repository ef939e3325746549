"""The command ``l0rnn compare``: read the plan, train, and write table and picture."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from l0rnn.compare.engines import Engine, LocalEngine
from l0rnn.compare.plan import CONFIGURED, TASK, Plan, read_plan, task_plan
from l0rnn.compare.plot import plot_comparison
from l0rnn.compare.report import compare, write_comparison
from l0rnn.compare.runner import run_all
from l0rnn.report import write_page

OF_TASKS = ("methods", "densities", "seeds", "epochs")
OF_ENGINES = {  # option → engines that have it
    "address": ("ray",),
    "retries": ("ray",),
    "gpus": ("slurm", "ray"),
    "partition": ("slurm",),
    "time_limit": ("slurm",),
    "requeues": ("slurm",),
    "sbatch": ("slurm",),
}


def run(options: argparse.Namespace) -> None:
    """Train what has no result yet and print the table.

    Raises:
        ValueError: if something in the plan or an option is not as it has to be.
    """
    plan = plan_of(options)
    engine = engine_of(options)
    told: dict[str, Any] = {
        "engine": engine,
        "threads": options.threads or (None if options.engine == "local" else 1),
        "seconds": None if options.minutes is None else 60 * options.minutes,
        "extra": [] if options.device is None else [f"--device={options.device}"],
    }
    try:
        if options.search is not None:
            _search(plan, options, told)
            return
        results = run_all(plan, options.out, only=options.only, **told)
    finally:
        engine.close()
    if not any("error" not in result for result in results.values()):
        raise ValueError(f"no run has a result yet; look at {options.out / 'runs'}/*/log.txt")
    if plan.trainer != CONFIGURED:
        comparison = compare(plan, results)
    else:
        from l0rnn.compare.latency import measure  # with Lightning, which a task does not need

        print("measuring latency", file=sys.stderr)
        comparison = compare(plan, results, *measure(plan, results, seconds=options.seconds))
    write_comparison(comparison, options.out)
    plot_comparison(comparison, options.out / "compare.png")
    conditions = "\n\n".join(f"{name}: {value}" for name, value in comparison.conditions.items())
    sections = {
        "Quality against cost": options.out / "compare.png",
        "All runs": comparison.table(),
        "Under which conditions": conditions or "None are known.",
    }
    write_page(options.out / "compare.html", f"Comparison {plan.name}", sections)
    if options.json:
        print(comparison.to_json())
        return
    print(f"{comparison.table()}\n\nwritten to {options.out}: compare.html, .md, .json, .csv and .png")


def _search(plan: Plan, options: argparse.Namespace, told: dict[str, Any]) -> None:
    from l0rnn.compare.search import read_setting, search

    if options.only is None or len(options.only) != 1:
        names = ", ".join(map(repr, dict.fromkeys(run.name for run in plan.runs)))
        raise ValueError(f"--search is of one run: name it by --only; there are {names}")
    settings = [read_setting(text) for text in options.search]
    table = search(plan, options.only[0], settings, options.out, trials=options.trials, storage=options.storage, **told)
    print(f"{table}\n\nwritten to {options.out / 'search.md'}")


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan of a YAML, or of a task file with the settings of the command line.

    Raises:
        ValueError: if settings are given for a YAML, which has them itself.
    """
    told = {name: getattr(options, name) for name in OF_TASKS if getattr(options, name) is not None}
    if options.plan.suffix == ".py":
        return task_plan(options.plan, **told)
    if told:
        names = ", ".join(f"--{name}" for name in told)
        raise ValueError(f"{names} is for a Python file; {options.plan} says it itself")
    plan = read_plan(options.plan)
    if options.device is not None and plan.trainer != TASK:
        raise ValueError(f"--device is for a task; {options.plan} has a configuration, set `trainer.accelerator` there")
    return plan


def engine_of(options: argparse.Namespace) -> Engine:
    """The engine that the options ask for.

    Raises:
        ValueError: if an option belongs to another one.
        RuntimeError: if the cluster is not there.
    """
    told = {name: getattr(options, name) for name in OF_ENGINES if getattr(options, name) is not None}
    for name in told:
        if options.engine not in OF_ENGINES[name]:
            engines = " or ".join(OF_ENGINES[name])
            raise ValueError(f"--{name.replace('_', '-')} is for --engine {engines}, got {options.engine}")
    if options.jobs is not None:
        told["jobs"] = options.jobs
    if options.engine == "slurm":
        from l0rnn.compare.engines.slurm import SlurmEngine

        if "sbatch" in told:
            told["options"] = dict(_pair(text) for text in told.pop("sbatch"))
        return SlurmEngine(options.out, **told)
    if options.engine == "ray":
        from l0rnn.compare.engines.ray import RayEngine

        return RayEngine(threads=options.threads or 1, **told)
    return LocalEngine(**told)


def _pair(text: str) -> tuple[str, Any]:
    key, found, value = text.partition("=")
    if not found:
        raise ValueError(f"--sbatch takes KEY=VALUE, such as account=mine, got {text!r}")
    return key, value
