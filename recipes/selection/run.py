"""Train every way of getting a smaller network on every task, or go on where an earlier call was stopped.

    python -m recipes.selection.run [--out out/selection] [--tasks words letters …] [--jobs 2]

Settings of the comparison are in plan.yaml. The results are kept in results/; `report` makes the table and the picture.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import yaml

from l0rnn.compare import run_all, task_plan
from l0rnn.compare.engines.local import LocalEngine
from l0rnn.compare.plan import Plan

HERE = Path(os.path.relpath(Path(__file__).parent))  # no folder of this machine in the results
TASKS = ("words", "letters", "weather", "speakers", "spelling", "languages", "exercises", "digits")
UNTUNED = ("spelling", "languages", "exercises", "digits")  # no setting was chosen on these


def plan_of(task: str) -> Plan:
    """The comparison on a task: that of plan.yaml."""
    settings = yaml.safe_load((HERE / "plan.yaml").read_text(encoding="utf-8"))
    return task_plan(HERE / "tasks" / f"{task}.py", **settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/selection"), help="folder of the runs")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, each with one thread")
    options = parser.parse_args()
    for task in options.tasks:
        run_all(plan_of(task), options.out, engine=LocalEngine(options.jobs), threads=1, kept=HERE / "results")


if __name__ == "__main__":
    main()
