"""Let a small language model learn from the predictions of a large one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from l0rnn.language_model import next_word_loss


class DistilledLoss:
    """Next-word loss mixed with the divergence from a teacher's predictions: ``(1 - weight) * loss + weight * KL``.

    The teacher reads the same segments, with a state of its own carried on, and is neither trained nor saved. In
    evaluation it is the plain next-word loss, so figures stay comparable.

    Args:
        teacher: a network over the same words, called like a `LanguageModel`; kept in evaluation mode.
        weight: share of the teacher in the loss, in (0, 1].

    Raises:
        ValueError: if ``weight`` is out of range.

    Example:
        >>> from l0rnn.language_model import LanguageModel
        >>> teacher, student = LanguageModel(50, 8, 8), LanguageModel(50, 4, 4)
        >>> tokens = torch.randint(50, (5, 2))  # (time, batch)
        >>> loss, state = DistilledLoss(teacher, weight=0.5)(student, (tokens, tokens), None)
        >>> loss.shape, len(state)
        (torch.Size([]), 2)

    Reference:
        Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network (2015), arXiv 1503.02531, at temperature 1.
    """

    def __init__(self, teacher: nn.Module, weight: float = 0.5) -> None:
        if not 0 < weight <= 1:
            raise ValueError(f"`weight` must be in (0, 1], got {weight}; leave the teacher out to learn without it")
        self.teacher = teacher.eval().requires_grad_(False)
        self.weight = weight

    def __call__(self, network: nn.Module, batch: tuple[Tensor, Tensor], state: Any = None) -> tuple[Tensor, Any]:
        """The mean loss in nats per token, and the states of student and teacher after the segment.

        Args:
            network: the student.
            batch: tokens and next tokens, both `(time, batch)`.
            state: what the call before returned, or None.

        Raises:
            ValueError: if student and teacher have different vocabularies.
        """
        if not network.training:
            return next_word_loss(network, batch, state)
        tokens, targets = batch
        own, theirs = (None, None) if state is None else state
        logits, own = network(tokens, own)
        with torch.no_grad():
            wanted, theirs = self.teacher.to(tokens.device)(tokens, theirs)
        if wanted.shape != logits.shape:
            raise ValueError(
                f"`teacher` must have the vocabulary of the student, {logits.size(-1)} words, got {wanted.size(-1)}"
            )
        given, wanted = log_softmax(logits.flatten(0, 1), -1), log_softmax(wanted.flatten(0, 1), -1)
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
        divergence = kl_div(given, wanted, log_target=True, reduction="batchmean")
        return (1 - self.weight) * loss + self.weight * divergence, (own, theirs)
