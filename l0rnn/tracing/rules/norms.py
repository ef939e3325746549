"""Normalisation: by channel it leaves units alone, over units it has to leave out those that are closed."""

from __future__ import annotations

import torch
from torch import Tensor

from l0rnn.tracing.atoms import OUTSIDE, varies
from l0rnn.tracing.run import Call, Normalisation


def by_channel(call: Call) -> None:
    """``batch_norm`` and ``instance_norm``: running averages, weight and bias of each channel by itself."""
    data = call.args[0]
    labels = call.labels(data)
    per_channel = labels.movedim(1, -1)
    for position, name in enumerate(("running_mean", "running_var", "weight", "bias"), 1):
        own = call.argument(position, name)
        if isinstance(own, Tensor) and call.shadow(own).sides:
            call.atoms.unite(per_channel, call.shadow(own).sides[0], call.why)
    call.set(call.out, labels)


def over_units(call: Call) -> None:
    """``layer_norm`` and ``rms_norm`` over the last dimension."""
    data, shape = call.args[0], call.argument(1, "normalized_shape")
    labels = call.labels(data)
    weights = [call.argument(2, "weight"), call.argument(3, "bias") if call.name == "layer_norm" else None]
    dims = [shape] if isinstance(shape, int) else list(shape)
    roots = call.atoms.roots(labels)
    if len(dims) > 1 and any(varies(roots, -d) for d in range(1, len(dims) + 1)):
        call.fix(data, f"{call.why} normalises over several dimensions")
        call.fix([weight for weight in weights if weight is not None], f"{call.why} normalises over several dimensions")
        call.set(call.out, torch.full((), OUTSIDE))
        return
    for weight in weights:
        if isinstance(weight, Tensor):
            for side in call.shadow(weight).sides:
                call.atoms.unite(labels, side, call.why)
    line = labels
    for d in range(labels.dim() - 1):
        line = line.narrow(d, 0, 1)
    if varies(roots, -1):
        call.tracer.run.normalisations.append(Normalisation(call.tracer.module, line.reshape(-1)))
    call.set(call.out, labels)


def by_group(call: Call) -> None:
    """``group_norm``: a group's channels are normalised together, so they stay unless each is a group."""
    data, groups = call.args[0], call.argument(1, "num_groups")
    labels = call.labels(data)
    own = [call.argument(2, "weight"), call.argument(3, "bias")]
    if groups != data.size(1):
        call.fix([data, *[weight for weight in own if weight is not None]], f"{call.why} normalises over it")
        call.set(call.out, torch.full((), OUTSIDE))
        return
    call.fix([data, *[weight for weight in own if weight is not None]], f"{call.why} counts its groups")
    call.set(call.out, labels)


RULES = {
    "batch_norm instance_norm": by_channel,
    "layer_norm rms_norm": over_units,
    "group_norm native_group_norm": by_group,
}
