"""What a batch says about itself, its like in another size, and the state that goes on to the next."""

from __future__ import annotations

from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor, nn

from l0rnn.recurrent.nested import map_tensors
from l0rnn.tracing.trace import as_call


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


def as_example(network: nn.Module, inputs: Any) -> Any:
    """Example inputs in the form that Lightning calls a module with: a tensor, a tuple of arguments, or a dict of them.

    Example:
        >>> as_example(nn.Linear(2, 2), [1, 2]), as_example(nn.Linear(2, 2), {"x": 1})
        (([1, 2],), ({'x': 1},))
    """
    if inputs is None or isinstance(inputs, Tensor):
        return inputs
    args, kwargs = as_call(network, inputs)
    return kwargs or args


def arguments_of(batch: Any, example: Any) -> tuple[Any, ...]:
    """The arguments of the network's forward in a batch: as many of its first parts as the example has.

    Raises:
        ValueError: if the batch is a dict, say, of which nobody knows what goes in.

    Example:
        >>> import torch
        >>> [len(arguments_of((1, 2, 3), example)) for example in (None, torch.zeros(1), (torch.zeros(1), None))]
        [1, 1, 2]
    """
    count = len(example) if isinstance(example, tuple) else 1
    if count > 1 and isinstance(batch, (tuple, list)) and len(batch) >= count:
        return tuple(batch[:count])
    inputs = inputs_of(batch)
    if inputs is None:
        raise ValueError(
            f"`predict_step` takes batches that are a tensor, or a tuple or list that begins with the network's input, "
            f"got a {type(batch).__name__}; override it in a subclass to say how the network is called"
        )
    return (inputs,)


IGNORED = -100  # the class id that torch's losses leave out unless told otherwise


def number_of_targets(batch: Any) -> int | Tensor:
    """How many targets the loss of a batch is a mean over: numbers in its second tensor, or else its size, or 1.

    Of whole numbers, those that are -100 are not counted, which torch's losses leave out (``ignore_index``). 1 is for
    objects of which Lightning does not know the size; each of their batches then counts alike.

    Example:
        >>> import torch
        >>> number_of_targets((torch.zeros(7, 2, 3), torch.zeros(7, 2))), number_of_targets({"x": torch.zeros(5, 3)})
        (14, 5)
        >>> number_of_targets((torch.zeros(2, 3), torch.tensor([[1, 0, 2], [1, -100, -100]])))
        tensor(4)
        >>> number_of_targets(object())
        1
    """
    if isinstance(batch, (tuple, list)) and len(batch) > 1 and isinstance(batch[1], Tensor):
        targets = batch[1]
        is_ids = targets.dtype in (torch.int64, torch.int32, torch.int16)
        return (targets != IGNORED).sum() if is_ids else targets.numel()  # a tensor, so that no device is waited for
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


def loss_parts(found: Any, *, carries_state: bool) -> tuple[Tensor, Any, Any]:
    """Mean loss, state and number of targets out of what a loss function returned; None for what it did not.

    Raises:
        ValueError: if it is not what it should be.

    Example:
        >>> import torch
        >>> loss_parts((torch.tensor(2.0), 7), carries_state=False)
        (tensor(2.), None, 7)
    """
    parts = list(found) if isinstance(found, (tuple, list)) else [found]
    least, form = (2, "(mean loss, state)") if carries_state else (1, "a mean loss")
    loss = parts[0] if parts else None
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not least <= len(parts) <= least + 1:
        shape = f" of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else ""
        raise ValueError(
            f"`loss` must return {form}, or with the number of targets it is a mean over behind it; the loss is a "
            f"tensor of one number, got {type(found).__name__} of {len(parts)}, first a {type(loss).__name__}{shape}"
        )
    return loss.reshape(()), parts[1] if carries_state else None, parts[least] if len(parts) > least else None


def smaller_batch(before: Any, now: Any) -> str | None:
    """What to say of a batch that cannot go on from the state of the one before it, or None if their sizes agree.

    Args:
        before: sizes of the input of the batch before, or None.
        now: that of this one.

    Example:
        >>> smaller_batch((6, 4), (6, 3))[:55]
        'the carried state is of 4 sequences and the batch of 3,'
    """
    if not before or not now or len(before) != len(now) or before == now:
        return None
    differing = [place for place, (a, b) in enumerate(zip(before, now, strict=True)) if a != b]
    place = differing[-1] if differing[-1] < 2 else differing[0]
    return (
        f"the carried state is of {before[place]} sequences and the batch of {now[place]}, given inputs of shape "
        f"{tuple(before)} and then {tuple(now)}; let the loader leave the last batch out (drop_last=True), or begin "
        "each batch from zeros (carries_state=False)"
    )
