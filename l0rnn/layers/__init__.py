"""Gated recurrent layers, and the plain stack of unequal widths that surgery builds."""

from l0rnn.layers.gated_recurrence import GatedRecurrence
from l0rnn.layers.gated_rnn import GatedGRU, GatedLSTM, GatedRNN, gate_layer
from l0rnn.layers.gates import Gates
from l0rnn.layers.ragged_rnn import RaggedRNN

__all__ = ["GatedGRU", "GatedLSTM", "GatedRNN", "GatedRecurrence", "Gates", "RaggedRNN", "gate_layer"]
