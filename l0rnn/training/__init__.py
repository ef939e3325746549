"""Lightning from here up: the training of a prunable network."""

from l0rnn.training.callbacks import ScaleDropout
from l0rnn.training.module import PrunableModule

__all__ = ["PrunableModule", "ScaleDropout"]
