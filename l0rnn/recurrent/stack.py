"""The one walk over the layers, directions and states of a recurrent stack."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

# data and state of one layer and direction → output and final state
Run = Callable[[Any, Any], tuple[Any, Any]]


def run_stack(
    layers: Iterable[Sequence[Run]],
    data: Any,
    states: Iterable[Any],
    *,
    between: Callable[[Any], Any] = lambda data: data,
    join: Callable[[list[Any]], Any] = lambda outputs: torch.cat(outputs, -1),
) -> tuple[Any, list[Any]]:
    """Run one layer after the other, each on the output of the one before.

    What data and states are is the layers' own affair: this passes them on.

    Args:
        layers: for each layer its directions. What runs two directions at once, as torch's kernels do, is one.
        data: input of the first layer.
        states: one for each layer and direction, in torch's order: layer by layer, forwards before backwards.
        between: what is done to the data on their way from one layer to the next, such as dropout.
        join: puts the outputs of two directions side by side.

    Returns:
        The output of the last layer, and the final states in the order of ``states``.

    Example:
        >>> def add(data, state):
        ...     return data + state, data
        >>> run_stack([[add], [add]], 1, [10, 20])
        (31, [1, 11])
    """
    remaining = iter(states)
    finals: list[Any] = []
    for depth, directions in enumerate(layers):
        if depth:
            data = between(data)
        ran = [run(data, next(remaining)) for run in directions]
        finals.extend(final for _, final in ran)
        data = ran[0][0] if len(ran) == 1 else join([output for output, _ in ran])
    return data, finals
