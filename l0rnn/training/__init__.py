"""Lightning from here up: the training of a prunable network."""

from l0rnn.training.callbacks import AverageLate, ScaleDropout
from l0rnn.training.module import PrunableModule
from l0rnn.training.removal import RemoveClosedUnits

__all__ = ["AverageLate", "PrunableModule", "RemoveClosedUnits", "ScaleDropout"]
