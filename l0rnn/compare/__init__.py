"""Train every method under the same conditions, and put what each buys into one table."""

from l0rnn.compare.differences import Difference, paired_difference
from l0rnn.compare.plan import Plan, Run, read_plan, task_plan
from l0rnn.compare.report import Comparison, write_comparison
from l0rnn.compare.runner import run_all
from l0rnn.compare.task import Task, load_task

__all__ = [
    "Comparison",
    "Difference",
    "Plan",
    "Run",
    "Task",
    "load_task",
    "paired_difference",
    "read_plan",
    "run_all",
    "task_plan",
    "write_comparison",
]
