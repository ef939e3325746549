"""Cross-entropy over a large vocabulary, with its gradient made along with it.

On a CPU softmax over a vocabulary is a large part of a training step, and automatic differentiation takes all logits
through memory several times. Some rows at a time, they stay in the cache from the logits to their gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from l0rnn.gates.transforms import needs_plain_operations

CACHED = 2**17  # logits that the cache of a core holds a few times over


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """`torch.nn.functional.cross_entropy` in nats, the mean over the rows, faster in training on a CPU.

    Args:
        logits: `(token, word)`.
        targets: word ids `(token,)`, int64.

    Example:
        >>> logits = torch.zeros(2, 4, requires_grad=True)
        >>> loss = cross_entropy(logits, torch.tensor([1, 3]))
        >>> loss.backward()
        >>> round(loss.item(), 4), logits.grad[0]
        (1.3863, tensor([ 0.1250, -0.3750,  0.1250,  0.1250]))
    """
    is_training = logits.requires_grad and torch.is_grad_enabled()
    # what is of another form goes to torch, which knows more forms and refuses the others
    is_plain = logits.dim() == 2 and targets.shape == logits.shape[:1] and targets.dtype == torch.int64
    is_here = (
        not needs_plain_operations()
        and is_plain
        and logits.device.type == targets.device.type == "cpu"
        and not torch.compiler.is_compiling()
    )
    if is_training and is_here and logits.numel() and _are_words(targets, logits.size(1)):
        return _CrossEntropy.apply(logits, targets)  # type: ignore[no-any-return]
    return nn.functional.cross_entropy(logits, targets)  # which leaves out a target of -100


def _are_words(targets: Tensor, words: int) -> bool:
    """Whether all targets are word ids, none one to be left out or out of range."""
    low, high = targets.aminmax()
    return int(low) >= 0 and int(high) < words


def rows_in_cache(logits: Tensor) -> int:
    """How many rows of logits to take at a time: all of them on a GPU."""
    return len(logits) if logits.is_cuda else max(1, CACHED // logits.size(1))


class _CrossEntropy(Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        gradients = torch.empty_like(logits)
        exact = logits.dtype if logits.dtype in (torch.float32, torch.float64) else torch.float32
        loss = logits.new_zeros((), dtype=exact)
        tokens, rows = len(logits), rows_in_cache(logits)
        for start in range(0, tokens, rows):
            part = slice(start, start + rows)
            given, place = torch.log_softmax(logits[part], -1, dtype=exact), targets[part, None]
            loss -= given.gather(1, place).sum()
            gradient = given.exp_().scatter_add_(1, place, given.new_full(place.shape, -1.0))
            torch.div(gradient, tokens, out=gradients[part])
        ctx.save_for_backward(gradients)
        return loss / tokens

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (gradients,) = ctx.saved_tensors
        return gradients if factor.item() == 1 else gradients * factor, None
