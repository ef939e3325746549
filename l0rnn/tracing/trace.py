"""`trace`: the units of a network, from one run on example inputs; `explain`: the same, to be read."""

from __future__ import annotations

import torch
from torch import nn

from l0rnn.tracing.rules import RULES
from l0rnn.tracing.run import run_traced
from l0rnn.tracing.units import Units, units_of


def trace(network, args, kwargs=None):
    was = [(m, m.training) for m in network.modules()]
    network.eval()
    run = run_traced(network, args, kwargs or {}, RULES)
    for m, t in was: m.training = t
    params = {n for n, _ in network.named_parameters()}
    return units_of(run, params, {n: n.rpartition(".")[0] for n in run.tensors})


def explain(network, inputs):
    return trace(network, inputs)
