"""Time networks against each other fairly, in several runtimes, and against what the machine can do at most.

`l0rnn.bench.runtimes` and `l0rnn.bench.zeros`, which need the exports and the sparse layers, are imported by name.
"""

from l0rnn.bench.measure import benchmark
from l0rnn.bench.roofline import Roofline, Work, measure_roofline, work_of
from l0rnn.bench.timing import parameter_bytes, sample_seconds

__all__ = [
    "Roofline",
    "Work",
    "benchmark",
    "measure_roofline",
    "parameter_bytes",
    "sample_seconds",
    "work_of",
]
