"""Train every method under the same conditions, and put what each buys into one table."""

from l0rnn.compare.plan import Plan, Run, read_plan
from l0rnn.compare.report import Comparison, write_comparison
from l0rnn.compare.runner import run_all

__all__ = ["Comparison", "Plan", "Run", "read_plan", "run_all", "write_comparison"]
