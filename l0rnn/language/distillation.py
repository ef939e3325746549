"""Let a small language model learn from the predictions of a large one, or of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import log_softmax

from l0rnn.gates.transforms import needs_plain_operations
from l0rnn.language.cross_entropy import rows_in_cache
from l0rnn.language.language_model import check_targets, next_word_loss

TEACHERS = "teachers"  # where a carried state has those of other networks, which lose no units


class DistilledLoss:
    """Next-word loss mixed with the divergence from a teacher's predictions: ``(1 - weight) * loss + weight * KL``.

    The teacher reads the same segments, with a state of its own carried on, and is neither trained nor saved. Several
    teach the mean of their probabilities, which is often better than the best of them. In evaluation it is the plain
    next-word loss, so figures stay comparable.

    Args:
        teacher: a network over the same words, called like a `LanguageModel`, or several; kept in evaluation mode.
        weight: share of the teacher in the loss, in (0, 1].
        noise: share of the words read, by the student and its teachers, that are replaced by others of the segment, in
            [0, 1). A teacher knows an answer to any text, so a small text can be made to last.

    Raises:
        ValueError: if ``weight`` or ``noise`` is out of range or there is no teacher.

    Example:
        >>> from l0rnn.language.language_model import LanguageModel
        >>> teacher, student = LanguageModel(50, 8, 8), LanguageModel(50, 4, 4)
        >>> tokens = torch.randint(50, (5, 2))  # (time, batch)
        >>> loss, state = DistilledLoss(teacher, weight=0.5)(student, (tokens, tokens), None)
        >>> loss.shape, len(state)
        (torch.Size([]), 2)

    Reference:
        Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network (2015), arXiv 1503.02531, at temperature 1.
        Noise: Xie et al., Data Noising as Smoothing in Neural Network Language Models (2017), arXiv 1703.02573.
    """

    def __init__(self, teacher: nn.Module | Sequence[nn.Module], weight: float = 0.5, noise: float = 0.0) -> None:
        if not 0 < weight <= 1:
            raise ValueError(f"`weight` must be in (0, 1], got {weight}; leave the teacher out to learn without it")
        if not 0 <= noise < 1:
            raise ValueError(f"`noise` must be in [0, 1), got {noise}")
        teachers = [teacher] if isinstance(teacher, nn.Module) else list(teacher)
        if not teachers:
            raise ValueError("`teacher` must be a network or several, got none")
        self.teachers = [network.eval().requires_grad_(False) for network in teachers]
        self.weight, self.noise = weight, noise

    def __call__(self, network: nn.Module, batch: tuple[Tensor, Tensor], state: Any = None) -> tuple[Tensor, Any]:
        """The mean loss in nats per token, and the states of student and teacher after the segment.

        Args:
            network: the student.
            batch: tokens and next tokens, both `(time, batch)`.
            state: what the call before returned, or None.

        Raises:
            ValueError: if student and teacher have different vocabularies, or there is not one target for each token.
        """
        if not network.training:
            return next_word_loss(network, batch, state)
        tokens, targets = batch
        check_targets(tokens, targets)
        if self.noise:
            others = tokens.flatten()[torch.randint(tokens.numel(), tokens.shape, device=tokens.device)]
            tokens = torch.where(torch.rand(tokens.shape, device=tokens.device) < self.noise, others, tokens)
        own, theirs = (None, [None] * len(self.teachers)) if state is None else (state["student"], state[TEACHERS])
        logits, own = network(tokens, own)
        with torch.no_grad():
            told = [
                _on(tokens.device, teacher)(tokens, before)
                for teacher, before in zip(self.teachers, theirs, strict=True)
            ]
        for wanted, _ in told:
            if wanted.shape != logits.shape:
                raise ValueError(
                    f"`teacher` must have the vocabulary of the student, {logits.size(-1)} words, got {wanted.size(-1)}"
                )
        predictions = [wanted.flatten(0, 1) for wanted, _ in told]
        mixed = _mixture if needs_plain_operations() else _Mixture.apply
        loss = mixed(logits.flatten(0, 1), targets.flatten(), self.weight, *predictions)
        return loss, {"student": own, TEACHERS: [after for _, after in told]}


def _on(device: torch.device, teacher: nn.Module) -> nn.Module:
    """The teacher on a device; it is left alone where it is there, since under `torch.func` moving would break it."""
    is_there = next((parameter.device == device for parameter in teacher.parameters()), True)
    return teacher if is_there else teacher.to(device)


def _mixture(logits: Tensor, targets: Tensor, weight: float, *wanted: Tensor) -> Tensor:
    """The mixed loss by plain operations."""
    given = log_softmax(logits.float(), -1)
    teacher = torch.stack([log_softmax(part.float(), -1) for part in wanted]).logsumexp(0) - math.log(len(wanted))
    plain = -given.gather(1, targets[:, None]).mean()
    return (1 - weight) * plain + weight * (teacher.exp() * (teacher - given)).sum(-1).mean()


class _Mixture(Function):
    """The mixed loss, with its gradient made along with it, some rows at a time.

    Softmax over a vocabulary is a large part of what a teacher costs, and automatic differentiation takes it through
    memory a dozen times.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, weight: float, *wanted: Tensor) -> Tensor:
        """Logits of student and teachers are `(token, word)`; the gradient takes the place of the first teacher's."""
        tokens = len(logits)
        first, *others = wanted
        gradients = first if first.dtype == logits.dtype else torch.empty_like(logits)
        rows = rows_in_cache(logits)
        loss = torch.zeros((), dtype=torch.float32, device=logits.device)
        for start in range(0, tokens, rows):
            part = slice(start, start + rows)
            given, place = log_softmax(logits[part].float(), -1), targets[part, None]
            teacher = log_softmax(first[part].float(), -1)
            for other in others:
                torch.logaddexp(teacher, log_softmax(other[part].float(), -1), out=teacher)
            if others:
                teacher -= math.log(len(wanted))
            probabilities = teacher.exp()
            loss -= (1 - weight) * given.gather(1, place).sum()
            loss += weight * teacher.sub_(given).mul_(probabilities).sum()
            gradient = given.exp_().sub_(probabilities, alpha=weight)
            gradient.scatter_add_(1, place, gradient.new_full(place.shape, weight - 1))
            gradients[part] = gradient.div_(tokens)
        ctx.save_for_backward(gradients)
        return loss / tokens

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Of the student's logits."""
        (gradients,) = ctx.saved_tensors
        return gradients * factor, *[None] * (len(ctx.needs_input_grad) - 1)
