"""Tensors in any nesting of tuples, named tuples, lists and dicts."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


def map_tensors(change: Callable[[Any], Any], nested: Any) -> Any:
    """The same nesting with each tensor and `PackedSequence` changed; dicts of any class become plain ones.

    Fields of dataclasses are followed too; other objects stay as they are.

    Example:
        >>> map_tensors(torch.neg, {"a": (torch.ones(1), None), "b": [torch.zeros(1), 2]})
        {'a': (tensor([-1.]), None), 'b': [tensor([-0.]), 2]}
    """
    if isinstance(nested, (Tensor, PackedSequence)):
        return change(nested)
    if isinstance(nested, dict):
        return {key: map_tensors(change, part) for key, part in nested.items()}
    if isinstance(nested, (tuple, list)):
        return sequence_like(nested, (map_tensors(change, part) for part in nested))
    if dataclasses.is_dataclass(nested) and not isinstance(nested, type):
        changed = copy.copy(nested)
        for field in dataclasses.fields(nested):
            # a frozen one too: the copy is nobody else's yet
            object.__setattr__(changed, field.name, map_tensors(change, getattr(nested, field.name)))
        return changed
    return nested


def sequence_like(sequence: tuple[Any, ...] | list[Any], parts: Iterable[Any]) -> Any:
    """A tuple, named tuple or list of other parts.

    Example:
        >>> sequence_like([1, 2], iter((3, 4)))
        [3, 4]
    """
    return type(sequence)(*parts) if hasattr(sequence, "_fields") else type(sequence)(parts)


def moved_to(nested: Any, device: torch.device) -> Any:
    """The same on a device.

    Example:
        >>> moved_to((torch.ones(1), [2, None]), torch.device("meta"))
        (tensor(..., device='meta', size=(1,)), [2, None])
    """
    return map_tensors(lambda part: part.to(device), nested)
