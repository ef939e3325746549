"""Pruning methods, one file each, all behind `Method`."""

from l0rnn.methods.block import BlockGroupLasso, BlockPruning
from l0rnn.methods.brain_surgeon import BrainSurgeon
from l0rnn.methods.dense import Dense
from l0rnn.methods.group_lasso import GroupLasso
from l0rnn.methods.l0_gates import L0Gates
from l0rnn.methods.magnitude import GradualMagnitude
from l0rnn.methods.method import Method
from l0rnn.methods.random_order import RandomOrder
from l0rnn.methods.random_structure import RandomStructure
from l0rnn.methods.random_units import RandomUnits
from l0rnn.methods.structured_magnitude import StructuredMagnitude

# name in configurations → class; a new method is one file and one line here
METHODS: dict[str, type[Method]] = {
    "dense": Dense,
    "l0_gates": L0Gates,
    "group_lasso": GroupLasso,
    "structured_magnitude": StructuredMagnitude,
    "brain_surgeon": BrainSurgeon,
    "random_units": RandomUnits,
    "random_order": RandomOrder,
    "gradual_magnitude": GradualMagnitude,
    "block_pruning": BlockPruning,
    "block_group_lasso": BlockGroupLasso,
    "random_structure": RandomStructure,
}

__all__ = [
    "METHODS",
    "BlockGroupLasso",
    "BlockPruning",
    "BrainSurgeon",
    "Dense",
    "GradualMagnitude",
    "GroupLasso",
    "L0Gates",
    "Method",
    "RandomOrder",
    "RandomStructure",
    "RandomUnits",
    "StructuredMagnitude",
]
