"""A callback that ends a training with the average of its weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor

from l0rnn.arguments import checked
from l0rnn.methods import Method

WEIGHTS = "weights beside their average"  # where a checkpoint holds them


@checked
class AverageLate(Callback):
    """Averages the weights over the steps once validation no longer improves; the average is evaluated and kept.

    It starts after an evaluation that is worse than the best of all but the last ``patience`` ones, as in NT-ASGD, and
    not before ``start``, when a method has chosen what to keep. Gates are not averaged. What a method masks stays 0.
    When units are removed, the average starts again. A checkpoint holds the average in the place of the weights, and
    the weights to go on with beside it; one with weights only (``save_weights_only``) holds these alone.

    Args:
        start: fraction of the training before which nothing is averaged, in [0, 1).
        patience: evaluations that may be worse than an earlier one; if None, it starts after the first evaluation
            from ``start`` on, as suits a fine-tuning.
        monitor: name of the logged figure of validation; lower is better.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> average = AverageLate(patience=2)
        >>> [average.is_time(figure) for figure in (9.0, 8.0, 8.5, 8.1, 8.2)]
        [False, False, False, False, True]

    Reference:
        Merity, Keskar, Socher, Regularizing and Optimizing LSTM Language Models (2017), arXiv 1708.02182, algorithm 1.
    """

    def __init__(self, start: float = 0.5, patience: int | None = 5, monitor: str = "valid/loss") -> None:
        if not 0 <= start < 1:
            raise ValueError(f"`start` must be in [0, 1), got {start}")
        if patience is not None and patience < 1:
            raise ValueError(f"`patience` must be at least 1, or None, got {patience}")
        self.start, self.patience, self.monitor = start, patience, monitor
        self._figures: list[float] = []
        self._steps: int | None = None  # in the average; None before it has started
        self._mean: dict[str, Tensor] = {}
        self._own: dict[str, Tensor] = {}  # the weights while the average is in their place

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what a training before has come to."""
        if trainer.global_step == 0:
            self._figures, self._steps, self._mean, self._own = [], None, {}, {}

    def is_time(self, figure: float) -> bool:
        """Whether the average starts after an evaluation with this figure, which is remembered."""
        if self.patience is None:
            return True
        earlier = self._figures[: -self.patience]
        self._figures.append(figure)
        return bool(earlier) and figure > min(earlier)

    def look(self, figure: float, *, is_late: bool) -> None:
        """Remember the figure of an evaluation, and start the average if it is time and late enough in the training."""
        if self._steps is None and self.is_time(figure) and is_late:
            self._steps = 0

    @torch.no_grad()
    def take_(self, module: Any) -> None:
        """Take the weights of a `PrunableModule` into the average, if it has started."""
        if self._steps is None:
            return
        weights = _averaged(module)
        if not self._fits(weights):
            self._steps, self._mean = 0, {name: torch.zeros_like(weight) for name, weight in weights.items()}
        self._steps += 1
        for name, weight in weights.items():
            self._mean[name] = self._mean[name].to(weight.device).lerp_(weight, 1 / self._steps)

    @torch.no_grad()
    def put_in_(self, module: Any) -> None:
        """Put the average, if there is one, in the place of the weights; not one from before units were removed."""
        weights = _averaged(module)
        if not self._steps or not self._fits(weights):
            return
        masks = module.method.masks()
        self._own = {name: weight.clone() for name, weight in weights.items()}
        for name, weight in weights.items():
            weight.copy_(self._mean[name] * masks[name] if name in masks else self._mean[name])

    @torch.no_grad()
    def put_back_(self, module: Any) -> None:
        """Put the weights back in their place."""
        for name, weight in _averaged(module).items() if self._own else ():
            weight.copy_(self._own[name])
        self._own = {}

    def _fits(self, weights: dict[str, Tensor]) -> bool:
        shapes = {name: mean.shape for name, mean in self._mean.items()}
        return shapes == {name: weight.shape for name, weight in weights.items()}

    def keep_(self, module: Any) -> None:
        """End with the average instead of the weights."""
        self.put_in_(module)
        self._own, self._steps = {}, None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Take the step into the average."""
        self.take_(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the average in the place of the weights."""
        if trainer.state.fn == "fit":
            self.put_in_(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the weights, and start the average if it is time."""
        self.put_back_(pl_module)
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            is_late = trainer.global_step >= self.start * trainer.estimated_stepping_batches
            if self.monitor not in trainer.callback_metrics:
                raise ValueError(
                    f"`monitor` must be a logged figure, {', '.join(sorted(trainer.callback_metrics))}, got "
                    f"{self.monitor!r}"
                )
            self.look(float(trainer.callback_metrics[self.monitor]), is_late=is_late)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the average."""
        self.keep_(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the weights, not the average, if an evaluation fails."""
        self.put_back_(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save what is evaluated: the average, with the weights to go on with beside it."""
        is_in_place = bool(self._own)
        if not is_in_place:
            self.put_in_(pl_module)
        if not self._own:  # no average yet
            return
        checkpoint[WEIGHTS] = {name: weight.clone() for name, weight in self._own.items()}
        checkpoint["state_dict"] = {name: value.clone() for name, value in pl_module.state_dict().items()}
        if not is_in_place:
            self.put_back_(pl_module)

    @torch.no_grad()
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with the weights, where a training goes on."""
        if trainer.state.fn == "fit":
            for name, weight in checkpoint.get(WEIGHTS, {}).items():
                pl_module.get_submodule("network").get_parameter(name).copy_(weight)

    def state_dict(self) -> dict[str, Any]:
        """The average and the figures so far."""
        return {"figures": list(self._figures), "steps": self._steps, "mean": dict(self._mean)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._figures, self._steps = list(state_dict["figures"]), state_dict["steps"]
        self._mean = dict(state_dict["mean"])


def refuse_early_averages(callbacks: Iterable[Callback], method: Method) -> None:
    """Refuse averages of Lightning that reach back before a method has masked weights, and so bring them back.

    Of units that a gate closes, the weights may be whatever they are.

    Raises:
        ValueError: if there is one.
    """
    if type(method).masks is Method.masks:
        return
    for callback in callbacks:
        if isinstance(callback, (WeightAveraging, StochasticWeightAveraging)):
            raise ValueError(
                f"{type(callback).__name__} cannot be combined with {type(method).__name__}: it averages over the time "
                "before the method has chosen, and brings back what was removed; use `l0rnn.training.AverageLate`"
            )


def _averaged(module: Any) -> dict[str, Tensor]:
    return dict(module.network.named_parameters())
