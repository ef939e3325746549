"""What a checkpoint holds beside weights and optimiser, so that a training goes on exactly where it was."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l0rnn.foreign_text import printable
from l0rnn.recurrent.nested import moved_to
from l0rnn.training.checkpoint_file import read_header
from l0rnn.training.processes import of_all_processes


class Paused(Exception):  # noqa: N818 - nothing went wrong
    """A training was asked to stop, and has written a checkpoint to go on from."""


def seed_all(seed: int, epoch: int = 0, loader: Any = None) -> None:
    """Start the random numbers of torch, numpy and Python, and of a loader's own generator, afresh."""
    mixed = (seed * 1_000_003 + epoch * 7919) % 2**32
    torch.manual_seed(mixed)
    np.random.seed(mixed)
    random.seed(mixed)
    for part in (loader, getattr(loader, "sampler", None)):
        generator: Any = getattr(part, "generator", None)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(mixed)


def random_state() -> dict[str, Any]:
    """The state of the random number generators of torch."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Go on with the random numbers of `random_state`; those of CUDA only with the same number of devices."""
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([part.cpu() for part in state["cuda"]])


class RandomNumbers:
    """Lets a training that goes on from a checkpoint draw the random numbers that it would have drawn.

    Attributes:
        is_over: whether an epoch has ended with the last batch.
    """

    def __init__(self) -> None:
        self.is_over = False
        self._loaded: Mapping[str, Any] | None = None

    @property
    def goes_on(self) -> bool:
        """Whether the next batch is the first after a checkpoint within an epoch."""
        return self._loaded is not None

    def begin_epoch(self) -> None:
        """Go on where an epoch had ended, before the loader draws the order of the next one's batches.

        Lightning lets it do that between `on_fit_start` and `on_train_start`.
        """
        if self._loaded is not None and self._loaded.get("is_over"):
            self.begin_batch()

    def begin_batch(self) -> None:
        """Go on within an epoch."""
        self.is_over = False
        if self._loaded is not None:
            set_random_state(self._loaded)
            self._loaded = None

    def state_dict(self) -> dict[str, Any]:
        """The state of the generators, and whether an epoch has ended."""
        return random_state() | {"is_over": self.is_over}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """What to go on from; None for nothing."""
        self._loaded = state


OTHERS = "other processes"  # where the first process has what the others add to a checkpoint


def with_others(own: dict[str, Any], processes: int) -> dict[str, Any]:
    """What this process adds to a checkpoint, with what the others add, since the first alone writes it.

    Args:
        own: in plain tuples, lists and dicts of tensors.
        processes: how many train together, all of which call this.
    """
    if processes == 1:
        return own
    first, *others = of_all_processes(moved_to(own, torch.device("cpu")))
    return {**first, OTHERS: others}


def own_part(saved: Mapping[str, Any], rank: int, processes: int) -> Mapping[str, Any]:
    """What a process had added to a checkpoint.

    Raises:
        ValueError: if another number of processes wrote it.

    Example:
        >>> own_part({"random": 1, OTHERS: [{"random": 2}]}, rank=1, processes=2)
        {'random': 2}
    """
    parts = [saved, *saved.get(OTHERS, ())]
    if len(parts) != processes:
        raise ValueError(
            f"the checkpoint is of a training in {len(parts)} processes, and this one has {processes}: each goes on "
            f"with random numbers and a recurrent state of its own; set devices times nodes to {len(parts)}"
        )
    return parts[rank]


def state_to_save(state: Any) -> Any:
    """A carried state as a checkpoint can hold it: tensors in plain tuples, lists and dicts; None for one of a class.

    A class of its user's would be pickled by its name, and the checkpoint load nowhere else, or by unpickling alone.

    Example:
        >>> state_to_save((torch.zeros(1), None))
        (tensor([0.]), None)
    """
    if is_plain(state):
        return state
    warnings.warn(
        f"the carried state, a {type(state).__name__}, is not made of plain tuples, lists and dicts of tensors, which "
        "is all that a checkpoint holds: a training that goes on in the middle of an epoch starts there from zeros; "
        "return the state as a tuple to go on exactly",
        stacklevel=2,
    )
    return None


def is_plain(nested: Any) -> bool:
    """Whether something is made of tensors, numbers and texts in plain tuples, lists and dicts alone.

    Example:
        >>> is_plain([{"h": (torch.zeros(1), None)}]), is_plain(object())
        (True, False)
    """
    if type(nested) is dict:
        return all(is_plain(part) for pair in nested.items() for part in pair)
    if type(nested) in (tuple, list):
        return all(is_plain(part) for part in nested)
    return isinstance(nested, (Tensor, bool, int, float, str, type(None)))


def check_same_network(own: Mapping[str, torch.Size], theirs: Mapping[str, Tensor]) -> None:
    """Refuse the weights of another network.

    Args:
        own: parameter or buffer → its shape here.
        theirs: the same, as the checkpoint has it.

    Raises:
        ValueError: if names or shapes differ.

    Example:
        >>> check_same_network({"weight": torch.Size([2])}, {"weight": torch.zeros(2)})
    """
    wrong = [f"{printable(name)} is missing" for name in own.keys() - theirs.keys()]
    wrong += [f"{printable(name)} is unknown" for name in theirs.keys() - own.keys()]
    wrong += [
        f"{printable(name)} has shape {tuple(theirs[name].shape)} instead of {tuple(own[name])}"
        for name in own.keys() & theirs.keys()
        if own[name] != theirs[name].shape
    ]
    if wrong:
        raise ValueError(
            f"the checkpoint is of another configuration: {'; '.join(sorted(wrong)[:5])}"
            f"{f' and {len(wrong) - 5} more' if len(wrong) > 5 else ''}; build the model with the same arguments"
        )


def widths_to_load(theirs: Mapping[str, Tensor], own: Mapping[str, Tensor], sizes: Mapping[str, int]) -> dict[str, int]:
    """Widths that a network needs to load a checkpoint from which units had been removed, or which was whole again.

    Args:
        theirs: axis → which of the original units the checkpoint has, bool `(unit,)`; an absent axis is whole.
        own: the same of the network as it is.
        sizes: axis → units of the network as it is.

    Raises:
        ValueError: if the checkpoint is of a network with other axes or another number of original units.

    Example:
        >>> widths_to_load({"encoder.l0": torch.tensor([True, False, True])}, {}, {"encoder.l0": 3})
        {'encoder.l0': 2}
    """
    original = {**sizes, **{axis: len(units) for axis, units in own.items()}}
    for axis, units in theirs.items():
        if axis not in original:
            reason = "which this network does not have"
        elif not isinstance(units, Tensor) or units.numel() > 10 * original[axis]:  # it may claim any size
            size = f"{units.numel():,}" if isinstance(units, Tensor) else "no number of"
            reason = f"kept some of {size} units, where this network has {original[axis]}"
        elif units.dtype != torch.bool or units.shape != (original[axis],) or not bool(units.any()):
            reason = f"kept {int(units.sum())} of {units.numel()} units, where this network has {original[axis]}"
        else:
            continue
        raise ValueError(
            f"the checkpoint is of another configuration: units were removed from {axis!r}, {reason}; "
            "build the model with the same arguments"
        )
    whole = {axis: original[axis] for axis in own}
    return {**whole, **{axis: int(units.sum()) for axis, units in theirs.items()}}


def model_in(checkpoint: str | Path) -> str | None:
    """Name of the ready-made model that a checkpoint is of, or None if it is another file, or damaged.

    Only headers are read, so that a large file of another kind takes no time. What is wrong with it is not handed on:
    torch's own message advises to load with pickle, which a file from elsewhere must not talk anyone into.
    """
    try:
        content = read_header(checkpoint)
    except (OSError, ValueError):
        return None
    added = content.get("l0rnn") if isinstance(content, Mapping) else None
    name = added.get("model") if isinstance(added, Mapping) else None
    return name if isinstance(name, str) else None
