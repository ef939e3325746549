"""Checkpoints of versions 0.1, in which every layer held the gates of its units, and 0.2."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from l0rnn.gates.hard_concrete import LOG_ALPHA_LIMIT
from l0rnn.gates.network import NAME

GATES = re.compile(r"network\.(?P<layer>.+?)\.gates\.(?:(?P<key>\w+)\.)?(?P<part>log_alpha|frozen|fixed)")


def bring_up_to_date_(checkpoint: dict[str, Any], axes: Mapping[str, int], *, goes_on: bool) -> None:
    """Let a checkpoint of version 0.1 hold the gates of all its axes as one vector, as networks have them today.

    Args:
        checkpoint: changed in place, if it is one of version 0.1.
        axes: axis → units of the network that is to load it; empty for one without gates.
        goes_on: whether a training goes on from it.

    Raises:
        ValueError: if a training goes on, or the axes are others.

    Example:
        >>> parts = {"log_alpha": torch.ones(2), "frozen": torch.tensor(True), "fixed": torch.tensor([1.0, 0.0])}
        >>> old = {f"network.encoder.gates.l0.{name}": part for name, part in parts.items()}
        >>> checkpoint = {"state_dict": old}
        >>> bring_up_to_date_(checkpoint, {"encoder.l0": 2}, goes_on=False)
        >>> checkpoint["state_dict"]["network.unit_gates.fixed"]
        tensor([1., 0.])
    """
    state: dict[str, Tensor] = checkpoint["state_dict"]
    found = {name: match for name in state if (match := GATES.fullmatch(name)) is not None}
    if not axes or not found or f"network.{NAME}.log_alpha" in state:
        return
    what = "the checkpoint was written by version 0.1 of l0rnn"
    if goes_on:
        raise ValueError(
            f"{what}, whose trainings cannot go on here; load its weights by `load_from_checkpoint` and train anew, or "
            "let it go on under that version"
        )
    parts: dict[str, dict[str, Tensor]] = {"log_alpha": {}, "frozen": {}, "fixed": {}}
    for name, match in found.items():
        axis = match["layer"] if match["key"] is None else f"{match['layer']}.{match['key']}"
        parts[match["part"]][axis] = state.pop(name)
    unknown = sorted(parts["log_alpha"].keys() - axes.keys())
    if unknown or any(part.keys() != parts["log_alpha"].keys() for part in parts.values()):
        others = ", ".join(unknown) or "something else"
        raise ValueError(f"{what} and has gates on {others}, where this network has none; build it as it was then")
    one = next(iter(parts["log_alpha"].values()))
    open_ = {"log_alpha": LOG_ALPHA_LIMIT, "fixed": 1.0}  # axes that had no gates then
    for part, value in open_.items():
        vectors = [parts[part].get(axis, one.new_full((size,), value)) for axis, size in axes.items()]
        state[f"network.{NAME}.{part}"] = torch.cat(vectors)
    state[f"network.{NAME}.frozen"] = torch.stack(list(parts["frozen"].values())).all()


def leave_gates_out_of_schedulers_(checkpoint: dict[str, Any]) -> None:
    """Let schedulers of version 0.2, which had a learning rate for the gates, know those of the weights alone.

    Args:
        checkpoint: changed in place, where one of its schedulers counts more groups than the weights have.

    Example:
        >>> group = {"params": [0], "initial_lr": 1.0}
        >>> both = {"weights": {"param_groups": [group]}, "gates": {"param_groups": [group]}}
        >>> old = {"optimizer_states": [both], "lr_schedulers": [{"base_lrs": [1.0, 0.03], "last_epoch": 2}]}
        >>> leave_gates_out_of_schedulers_(old)
        >>> old["lr_schedulers"]
        [{'base_lrs': [1.0], 'last_epoch': 2}]
    """
    for state in checkpoint.get("optimizer_states", ()):
        if not isinstance(state, dict) or state.keys() != {"weights", "gates"}:
            continue
        weights, gates = (len(state[part]["param_groups"]) for part in ("weights", "gates"))
        for scheduler in checkpoint.get("lr_schedulers", ()):
            for name, values in scheduler.items():
                if isinstance(values, list) and len(values) == weights + gates:
                    # a group of the weights that was added in the training came behind the gates
                    place = min(weights, _first_added(state["weights"]["param_groups"]))
                    scheduler[name] = values[:place] + values[place + gates :]


def _first_added(groups: list[dict[str, Any]]) -> int:
    """Number of the first group that no scheduler had seen when it was made."""
    return next((number for number, group in enumerate(groups) if "initial_lr" not in group), len(groups))
