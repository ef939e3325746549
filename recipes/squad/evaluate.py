"""Answers of a network: the most probable span of each context."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from recipes.squad.network import inputs_of
from recipes.squad.training import moved

MAX_ANSWER = 20  # words; 98.9 % of the answers of the train set are not longer


def best_spans(start: Tensor, end: Tensor, max_answer: int = MAX_ANSWER) -> tuple[Tensor, Tensor, Tensor]:
    """The span of each context with the largest product of the probabilities of its ends.

    Args:
        start: scores of the first word, before the softmax, `(batch, time)`.
        end: scores of the last word.
        max_answer: longest span, words.

    Returns:
        First word, last word, and probability, each `(batch,)`.

    Example:
        >>> start, end = torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([[9.0, 0.0, 2.0]])
        >>> [part.item() for part in best_spans(start, end)[:2]]
        [0, 0]
    """
    joint = start.float().log_softmax(-1)[:, :, None] + end.float().log_softmax(-1)[:, None, :]
    time = start.size(1)
    allowed = torch.ones(time, time, dtype=torch.bool, device=start.device).triu().tril(max_answer - 1)
    best, place = joint.masked_fill(~allowed, -torch.inf).flatten(1).max(1)
    return place // time, place % time, best.exp()


@torch.no_grad()
def predict(network: nn.Module, batches: Iterable[Any], device: torch.device | str = "cpu") -> dict[int, list[Any]]:
    """Number of a question → first word, last word and probability of its answer.

    A GPU's TF32 is off: its rounding decides between two answers that are as good as equally probable.
    """
    network.eval()
    found: dict[int, list[Any]] = {}
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for batch in batches:
            batch = moved(batch, device)
            parts = best_spans(*network(*inputs_of(batch)))
            numbers = torch.as_tensor(batch.numbers).tolist()
            spans = zip(numbers, *(part.tolist() for part in parts), strict=True)
            found.update({number: span for number, *span in spans})
    return found
