"""Recurrent networks in plain torch: stacks of unequal width, names of their parts, states, single steps."""

from l0rnn.recurrent.ragged_rnn import RaggedRNN

__all__ = ["RaggedRNN"]
