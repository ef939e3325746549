"""Parameters and multiply-adds of a network, and how they enter the loss."""

from l0rnn.cost.budget import Budget
from l0rnn.cost.objective import Objective, Penalty

__all__ = ["Budget", "Objective", "Penalty"]
