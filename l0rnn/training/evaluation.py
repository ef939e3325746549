"""Evaluation and prediction: the mean loss, summed up in place, of each loader and of all of them together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from l0rnn.training.batches import (
    arguments_of,
    detached,
    inputs_of,
    loss_parts,
    number_of_targets,
    smaller_batch,
)
from l0rnn.training.processes import of_all_processes


class MeanLoss:
    """Adds up losses and what they are means over, without a new tensor per batch that would stay.

    A small tensor kept for each batch lies where its large logits were, so that the next ones find no room and the
    heap grows by them. The sum is in float32, or in float64 where the losses are, since not every device has that; what
    a float32 sum loses is carried along (Kahan 1965).

    Example:
        >>> mean = MeanLoss()
        >>> mean.add(torch.tensor(2.0), 3)
        >>> mean.add(torch.tensor(6.0), torch.tensor(1))
        >>> mean.value()
        tensor(3.)
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None  # of losses, what it lost, and of counts

    @torch.no_grad()
    def add(self, loss: Tensor, count: int | Tensor) -> None:
        """Add the mean loss of a batch over so many targets; one of no targets, which is NaN, counts for nothing."""
        loss = loss.detach().reshape(())
        if loss.dtype != torch.float64:
            loss = loss.float()
        if self._sums is None:
            self._sums = loss.new_zeros(3)
        total, lost, counted = self._sums.to(loss.device)
        number = torch.as_tensor(count, device=loss.device).to(loss.dtype)
        term = torch.where(number > 0, loss * number, torch.zeros_like(loss)) - lost
        whole = total + term
        self._sums.copy_(torch.stack((whole, (whole - total) - term, counted + number)))

    def value(self) -> Tensor:
        """The mean, in float32; NaN if nothing was counted."""
        if self._sums is None:
            return torch.tensor(torch.nan)
        return (self._sums[0] / self._sums[2]).float()

    def to(self, device: torch.device | str) -> MeanLoss:
        """The same on a device."""
        moved = MeanLoss()
        moved._sums = None if self._sums is None else self._sums.to(device)
        return moved

    def joined(self, other: MeanLoss) -> MeanLoss:
        """That of both."""
        both = MeanLoss()
        for part in (self, other):
            if part._sums is not None:
                both._sums = part._sums.clone() if both._sums is None else both._sums + part._sums.to(both._sums)
        return both


def joined(means: Iterable[MeanLoss]) -> MeanLoss:
    """The mean over all that these are means over."""
    return functools.reduce(MeanLoss.joined, means, MeanLoss())


class Evaluation:
    """Losses and the carried state of one evaluation: of each loader by its number.

    Example:
        >>> evaluation = Evaluation()
        >>> evaluation.add(0, torch.tensor(1.0), 1)
        >>> evaluation.add(1, torch.tensor(4.0), 2)
        >>> {name: mean.item() for name, mean in evaluation.means().items()}
        {'': 3.0, '/0': 1.0, '/1': 4.0}
    """

    def __init__(self) -> None:
        self._losses: dict[int, MeanLoss] = {}

    def starts(self, loader: int) -> bool:
        """Whether nothing of a loader has been evaluated yet, so that it starts from a zero state."""
        return loader not in self._losses

    def add(self, loader: int, loss: Tensor, count: int | Tensor) -> None:
        """Add a batch of a loader."""
        self._losses.setdefault(loader, MeanLoss()).add(loss, count)

    def means(self, *, is_shared: bool = False) -> dict[str, Tensor]:
        """Ending of the figure's name → mean loss: that over all targets, and where there are several, of each loader.

        Empty if there was no batch.

        Args:
            is_shared: whether each process has evaluated a share, so that the means are those over all of them.
        """
        own = {loader: mean.to("cpu") for loader, mean in self._losses.items()}
        every = of_all_processes(own) if is_shared else [self._losses]
        loaders = sorted({loader for of_one in every for loader in of_one})
        losses = [joined(of_one[loader] for of_one in every if loader in of_one) for loader in loaders]
        each = {f"/{loader}": mean.value() for loader, mean in zip(loaders, losses, strict=True)}
        return {"": joined(losses).value(), **(each if len(each) > 1 else {})} if losses else {}


class EvaluatedModule(LightningModule):
    """What `PrunableModule` does with batches that train nothing; the loss of those that do is the same."""

    network: nn.Module
    loss: Callable[..., Any]
    carries_state: bool

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[bool, Any] = {}  # in training or not → those of the input that the state comes from
        self._evaluation = Evaluation()
        self._evaluation_state: Any = None

    def _loss(self, batch: Any, state: Any) -> tuple[Tensor, Any]:
        """Mean loss, and state to go on with."""
        return self._counted_loss(batch, state)[:2]

    def _counted_loss(self, batch: Any, state: Any) -> tuple[Tensor, Any, Any]:
        """Mean loss, state to go on with, and number of targets where `loss` tells it."""
        if not self.carries_state:
            return loss_parts(self.loss(self.network, batch), carries_state=False)
        inputs = inputs_of(batch)
        before = self._sizes.get(self.training)
        self._sizes[self.training] = now = tuple(inputs.shape) if isinstance(inputs, Tensor) else None
        try:
            loss, state, count = loss_parts(self.loss(self.network, batch, state), carries_state=True)
        except (RuntimeError, ValueError) as error:
            if state is not None and (smaller := smaller_batch(before, now)):
                raise ValueError(smaller) from error
            raise
        return loss, detached(state), count

    def on_validation_epoch_start(self) -> None:
        """Evaluate from a zero state; the training's state waits."""
        self._evaluation, self._evaluation_state = Evaluation(), None

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Loss of a batch, weighted by its number of targets: that of `loss`, its second tensor, or else its size."""
        state = None if self._evaluation.starts(dataloader_idx) else self._evaluation_state
        loss, self._evaluation_state, count = self._counted_loss(batch, state)
        self._evaluation.add(dataloader_idx, loss, number_of_targets(batch) if count is None else count)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Log the mean loss of the evaluation."""
        self._log_evaluation("valid")

    def on_test_epoch_end(self) -> None:
        """Log the mean loss of the test."""
        self._log_evaluation("test")

    def _log_evaluation(self, stage: str) -> None:
        is_shared = self.trainer.world_size > 1
        for ending, mean in self._evaluation.means(is_shared=is_shared).items():
            figures = self.evaluation_figures(stage, mean.to(self.device))
            named = {f"{name}{ending}": figure for name, figure in figures.items()}
            self.log_dict(named, prog_bar=not ending, sync_dist=is_shared)  # which are the same in all processes

    def on_predict_epoch_start(self) -> None:
        """Predict from a zero state."""
        self._evaluation, self._evaluation_state = Evaluation(), None

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Outputs of the network for a batch of the training's form; with ``carries_state``, without the state.

        Override it where the network is not called as ``network(inputs)``, or ``network(inputs, state)``.
        """
        arguments = arguments_of(batch, self.example_input_array)
        if not self.carries_state:
            return self.network(*arguments)
        state = None if self._evaluation.starts(dataloader_idx) else self._evaluation_state
        output, self._evaluation_state = self.network(*arguments, state)
        self._evaluation.add(dataloader_idx, torch.zeros(()), 1)
        return output

    def evaluation_figures(self, stage: str, loss: Tensor) -> dict[str, Tensor]:
        """What to log of an evaluation, given its mean loss in nats per target."""
        return {f"{stage}/loss": loss}
