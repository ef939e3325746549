"""Pruning methods, one file each, all behind `Method`."""

from l0rnn.methods.dense import Dense
from l0rnn.methods.l0_gates import L0Gates
from l0rnn.methods.method import Method

# name in configurations → class; a new method is one file and one line here
METHODS: dict[str, type[Method]] = {
    "dense": Dense,
    "l0_gates": L0Gates,
}

__all__ = ["METHODS", "Dense", "L0Gates", "Method"]
