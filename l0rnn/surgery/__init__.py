"""The smaller network of the units that stay, with the proof that its outputs are the same; also while training."""

from l0rnn.surgery.shrink import operate, shrink

__all__ = ["operate", "shrink"]
