"""Normalisation: by channel it leaves units alone, over units it has to leave out those that are closed."""

from __future__ import annotations

from torch import Tensor

from l0rnn.tracing.rules.atoms import differs, line
from l0rnn.tracing.rules.elementwise import unite_side
from l0rnn.tracing.rules.run import Call
from l0rnn.tracing.rules.shadows import Normalisation


def by_channel(call: Call) -> None:
    """``batch_norm`` and ``instance_norm``: running averages, weight and bias of each channel by itself."""
    data = call.data
    labels = call.labels(data)
    positions = range(2, data.dim())
    if any(differs(call.atoms.roots(labels), d) for d in positions):
        kept = call.tie_or_fix(labels, positions, f"{call.why} takes a mean over it")
        labels = kept.expand(labels.shape)
    shape = [-1 if d == 1 else 1 for d in range(max(2, data.dim()))]
    for position, name in enumerate(("running_mean", "running_var", "weight", "bias"), 1):
        own = call.argument(position, name)
        if isinstance(own, Tensor) and call.shadow(own).sides:
            if call.shadow(own).is_weight:
                labels = unite_side(call, labels, call.shadow(own).sides[0].reshape(shape))
            else:
                call.atoms.unite(labels, call.labels(own).reshape(shape), call.why)
    call.set(call.out, labels)


def over_units(call: Call) -> None:
    """``layer_norm`` and ``rms_norm`` over the last dimension."""
    data, shape = call.data, call.argument(1, "normalized_shape")
    labels = call.labels(data)
    weights = [call.argument(2, "weight"), call.argument(3, "bias") if call.name == "layer_norm" else None]
    weights = [weight for weight in weights if isinstance(weight, Tensor)]
    dims = [shape] if isinstance(shape, int) else list(shape)
    roots = call.atoms.roots(labels)
    if len(dims) > 1 and any(differs(roots, -d) for d in range(1, len(dims) + 1)):
        call.fix([data, *weights], f"{call.why} normalises over several dimensions")
        call.set(call.out, labels)
        return
    for weight in weights:
        if call.shadow(weight).is_weight:
            for side in call.shadow(weight).sides:
                labels = unite_side(call, labels, side)
        else:
            labels = call.join(labels, call.labels(weight), call.why)
    if differs(call.atoms.roots(labels), -1):
        others = [d for d in range(labels.dim() - 1) if differs(call.atoms.roots(labels), d)]
        if others:  # each row of a grid is normalised by itself
            call.atoms.unite(labels, line(labels, *others), call.why)
        units = line(labels, *range(labels.dim() - 1)).reshape(-1)
        call.tracer.run.normalisations.append(Normalisation(call.tracer.module, units))
    elif data.numel():  # a size of its own, which a module that normalises units elsewhere has to keep
        units = labels.expand(data.shape).reshape(-1, data.size(-1))[0]
        call.tracer.run.normalisations.append(Normalisation(call.tracer.module, units))
    call.set(call.out, labels)


def by_group(call: Call) -> None:
    """``group_norm``: a group's channels are normalised together, so they stay."""
    data, groups = call.data, call.argument(1, "num_groups")
    own = [weight for weight in (call.argument(2, "weight"), call.argument(3, "bias")) if isinstance(weight, Tensor)]
    why = f"{call.why} counts its groups" if groups == data.size(1) else f"{call.why} normalises over it"
    call.fix([data, *own], why)
    call.set(call.out, call.labels(data))


RULES = {
    "batch_norm instance_norm": by_channel,
    "layer_norm rms_norm": over_units,
    "group_norm native_group_norm": by_group,
}
