"""The training of a stack: each network learns as it would alone, and leaves when it is done."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from recipes.reber.data import Batches
from recipes.reber.network import no_number
from recipes.reber.stack import Stack

STRINGS = 100  # evaluated at once


@torch.no_grad()
def accuracies(stack: Stack, batches: Batches) -> dict[int, float]:
    """Number of each network in the stack → the fraction of the strings that it classifies right."""
    right, total = torch.zeros(len(stack.numbers), dtype=torch.long), 0
    for codes, last, labels in batches:
        for part in torch.arange(len(labels)).split(STRINGS):
            scores = stack(codes[:, part], last[part])
            right += (scores.argmax(1) == labels[part]).sum(1)
        total += len(labels)
    return {number: count / total for number, count in zip(stack.numbers, right.tolist(), strict=True)}


def fit_side_by_side(
    stack: Stack,
    batches: Batches,
    *,
    epochs: int,
    learning_rate: float = 1e-3,
    clip: float = 5.0,
    after_epoch: Callable[[int], Collection[int]] = lambda epoch: (),
) -> dict[int, str]:
    """Train all networks on the same batches, as `fit` trains one.

    Args:
        stack: the networks; those that are done leave it, except the last ones.
        batches: the batches of each epoch.
        epochs: how many at most.
        learning_rate: of Adam, which starts afresh.
        clip: largest norm of the gradient of each network.
        after_epoch: called with the number of each epoch, from 1; returns the numbers of the networks that are done.

    Returns:
        Number of each network whose loss is no longer a number → what happened.
    """
    optimizer = torch.optim.Adam(stack.parameters(), lr=learning_rate, fused=True)
    failed: dict[int, str] = {}
    for epoch in range(1, epochs + 1):
        losses = torch.zeros(len(stack.numbers))
        for batch in batches:
            optimizer.zero_grad()
            losses = losses_of(stack, batch)
            losses.sum().backward()
            clip_each_(stack, clip)
            optimizer.step()
        lost = {
            number: no_number(loss, epoch)
            for number, loss in zip(stack.numbers, losses.tolist(), strict=True)
            if not abs(loss) < float("inf")
        }
        failed |= lost
        stay = [number for number in stack.numbers if number not in lost]
        if lost and stay:
            stack.keep_(stay, optimizer)
        done = after_epoch(epoch) if stay else ()
        stay = [number for number in stay if number not in done]
        if not stay:
            break
        if len(stay) < len(stack.numbers):
            stack.keep_(stay, optimizer)
    return failed


def losses_of(stack: Stack, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Mean cross entropy of each network, in nats per string."""
    codes, last, labels = batch
    return cross_entropy(stack(codes, last), labels.expand(len(stack.numbers), -1), reduction="none").mean(1)


@torch.no_grad()
def clip_each_(stack: Stack, clip: float) -> None:
    """Mask the gradients, and scale those of each network whose norm is larger than ``clip`` down to it."""
    gradients: list[Any] = []
    owners: list[Tensor] = []
    for weight, mask, owner in zip(stack.weights, stack.masks, stack.owners, strict=True):
        if weight.grad is not None:
            gradients.append(weight.grad if mask is None else weight.grad.mul_(mask))
            owners.append(torch.tensor(owner))
    squares = torch.cat([torch.linalg.vector_norm(gradient, dim=(1, 2)) for gradient in gradients]).square_()
    norms = squares.new_zeros(len(stack.numbers)).index_add_(0, torch.cat(owners), squares).sqrt_()
    factors = (clip / (norms + 1e-6)).clamp_(max=1.0)  # torch's clip_grad_norm_, one for each network
    for gradient, owner in zip(gradients, owners, strict=True):
        gradient.mul_(factors[owner].view(-1, 1, 1))
