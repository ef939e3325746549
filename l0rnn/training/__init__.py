"""Lightning from here up: the training of a prunable network."""

from l0rnn.training.averaging import AverageLate
from l0rnn.training.callbacks import ScaleDropout
from l0rnn.training.module import PrunableModule
from l0rnn.training.removal import RemoveClosedUnits

__all__ = ["AverageLate", "PrunableModule", "RemoveClosedUnits", "ScaleDropout"]
