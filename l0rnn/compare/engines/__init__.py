"""Where the runs of a comparison are trained: on this machine, on a Slurm cluster, or on Ray."""

from l0rnn.compare.engines.engine import Engine, Job, all_ended
from l0rnn.compare.engines.local import LocalEngine

__all__ = ["Engine", "Job", "LocalEngine", "all_ended"]
