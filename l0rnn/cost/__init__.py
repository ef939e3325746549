"""What a network costs, exact or expected, and how that enters the loss: at a fixed price or for a limit."""

from l0rnn.cost.budget import Budget
from l0rnn.cost.cost import Cost, ExpectedCost, cost, masked_cost
from l0rnn.cost.objective import Objective, Penalty

__all__ = ["Budget", "Cost", "ExpectedCost", "Objective", "Penalty", "cost", "masked_cost"]
