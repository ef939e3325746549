"""What a network is, found by running it once: its units, who writes and who reads them, and what stays whole."""

from l0rnn.tracing.rules import rule
from l0rnn.tracing.trace import explain, trace
from l0rnn.tracing.units import Axis, Units, Weight

__all__ = ["Axis", "Units", "Weight", "explain", "rule", "trace"]
