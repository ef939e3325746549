"""Surgery on a network that goes on training: closed units leave it, its optimiser and its carried state."""

from l0rnn.removal.network import buildable, remove_units_, resize_, resized_shapes
from l0rnn.removal.states import check_optimizer_state

__all__ = ["buildable", "check_optimizer_state", "remove_units_", "resize_", "resized_shapes"]
