"""Gates on units: their distribution, what reads through them, and the recurrent layers that run on folded weights."""

from l0rnn.gates.gates import Gates
from l0rnn.gates.hard_concrete import HardConcrete
from l0rnn.gates.recurrence import GatedGRU, GatedLSTM, GatedRecurrence, GatedRNN, gate_layer

__all__ = ["GatedGRU", "GatedLSTM", "GatedRNN", "GatedRecurrence", "Gates", "HardConcrete", "gate_layer"]
