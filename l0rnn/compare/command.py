"""The command ``l0rnn compare``: read the plan, train, and write table and picture."""

from __future__ import annotations

import argparse

from l0rnn.compare.engines import LocalEngine
from l0rnn.compare.plan import TASK, Plan, read_plan, task_plan
from l0rnn.compare.plot import plot_comparison
from l0rnn.compare.report import compare, write_comparison
from l0rnn.compare.runner import run_all

OF_TASKS = ("methods", "densities", "seeds", "epochs")


def run(options: argparse.Namespace) -> None:
    """Train what has no result yet and print the table.

    Raises:
        ValueError: if something in the plan or an option is not as it has to be.
    """
    plan = plan_of(options)
    extra = [] if options.device is None else [f"--device={options.device}"]
    engine = LocalEngine(options.jobs)
    print(f"{len(plan.runs)} runs, {len({run.name for run in plan.runs})} for each seed")
    results = run_all(plan, options.out, engine=engine, threads=options.threads, only=options.only, extra=extra)
    measured = ()
    if plan.trainer != TASK:
        from l0rnn.compare.latency import measure  # with Lightning, which a task does not need

        print("measuring latency")
        measured = measure(plan, results, seconds=options.seconds)
    comparison = compare(plan, results, *measured)
    write_comparison(comparison, options.out)
    plot_comparison(comparison, options.out / "compare.png")
    print(f"{comparison.table()}\n\nwritten to {options.out}: compare.md, compare.json, compare.csv, compare.png")


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
