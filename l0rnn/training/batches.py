"""What a batch says about itself, its like in another size, and the state that goes on to the next."""

from __future__ import annotations

from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor

from l0rnn.recurrent.nested import map_tensors


def inputs_of(batch: Any) -> Any:
    """What the network is called with: the first of a tuple or list, or a batch that is a tensor; else None.

    Example:
        >>> import torch
        >>> inputs_of((torch.zeros(4, 2), torch.zeros(4))).shape, inputs_of({"x": torch.zeros(4)})
        (torch.Size([4, 2]), None)
    """
    if isinstance(batch, Tensor):
        return batch
    return batch[0] if isinstance(batch, (tuple, list)) and batch else None


def number_of_targets(batch: Any) -> int:
    """How many targets the loss of a batch is a mean over: numbers in its second tensor, or else its size, or 1.

    1 is for objects of which Lightning does not know the size; each of their batches then counts alike.

    Example:
        >>> import torch
        >>> number_of_targets((torch.zeros(7, 2, 3), torch.zeros(7, 2))), number_of_targets({"x": torch.zeros(5, 3)})
        (14, 5)
        >>> number_of_targets(object())
        1
    """
    if isinstance(batch, (tuple, list)) and len(batch) > 1 and isinstance(batch[1], Tensor):
        return batch[1].numel()
    try:
        return extract_batch_size(batch)
    except MisconfigurationException:
        return 1


def of_size(example: Any, batch: int, steps: int) -> Any:
    """An example `(time, batch, …)` repeated and cut to another size; what is not of that form stays as it is.

    Example:
        >>> import torch
        >>> of_size(torch.zeros(4, 2, 3), batch=5, steps=7).shape
        torch.Size([7, 5, 3])
    """
    if not isinstance(example, Tensor) or example.dim() < 2:
        return example
    repeats = (-(-steps // example.size(0)), -(-batch // example.size(1)), *([1] * (example.dim() - 2)))
    return example.repeat(repeats)[:steps, :batch].contiguous()


def detached(state: Any) -> Any:
    """A recurrent state, in any nesting of tuples, lists and dicts, cut off from its graph."""
    return map_tensors(Tensor.detach, state)
