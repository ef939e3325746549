"""The LightningModule that trains any network under any pruning method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from l0rnn.methods import Dense, Method
from l0rnn.methods.units import unit_method
from l0rnn.surgery.removal import buildable, remove_units_, resize_, resized_shapes
from l0rnn.tracing.units import Units
from l0rnn.training.averaging import refuse_early_averages
from l0rnn.training.batches import detached, inputs_of, number_of_targets, of_size
from l0rnn.training.optimizer import build_optimizer, single_optimizers
from l0rnn.training.pruner import Pruner
from l0rnn.training.resuming import check_same_network, random_state, set_random_state, widths_to_load


class PrunableModule(LightningModule):
    """Trains a network under a pruning method, by Lightning's automatic optimisation.

    Gradient clipping, precision, accumulation, loggers and checkpoints are the Trainer's. A checkpoint holds all that a
    run needs to go on exactly where it was: weights, gates, price, the state carried over segments, random numbers.

    Args:
        network: modules of plain torch; the method may change it in place.
        loss: ``loss(network, batch) → mean loss``; with ``carries_state``,
            ``loss(network, batch, state) → (mean loss, state)``.
        method: the pruning method; None trains the network as it is.
        fixed: layers or axes that have to stay whole, see `l0rnn.tracing.trace`.
        tied: groups of axes whose units have to be removed together.
        optimizer: parameters → optimiser of the weights. Default: SGD with learning rate 1.
        scheduler: optimiser → learning rate scheduler, stepped once per epoch; None for a constant rate.
        gate_learning_rate: learning rate of Adam for the gates.
        carries_state: whether the recurrent state goes on from batch to batch (truncated back-propagation).
        example_inputs: arguments of the network's forward: a tuple for several, a dict of keyword arguments, or the
            only one. The network is run on them to find its units, and `shrink` compares the outputs on them. Needed
            with any method but `Dense`.

    Raises:
        ValueError: if the network fails on the example inputs or has nothing to prune, or the loss has parameters to
            train of its own.

    Example:
        >>> from l0rnn import Budget, L0Gates
        >>> class Tagger(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.encoder, self.decoder = nn.LSTM(3, 8), nn.Linear(8, 2)
        ...
        ...     def forward(self, x):
        ...         return self.decoder(self.encoder(x)[0])
        >>> module = PrunableModule(
        ...     Tagger(),
        ...     loss=lambda network, batch: nn.functional.mse_loss(network(batch[0]), batch[1]),
        ...     method=L0Gates(Budget(density=0.5)),
        ...     example_inputs=torch.randn(5, 2, 3),
        ... )
        >>> type(module.network.encoder).__name__
        'GatedLSTM'
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[..., Any],
        method: Method | None = None,
        *,
        fixed: Sequence[str] = (),
        tied: Sequence[Sequence[str]] = (),
        optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
        scheduler: Callable[[Optimizer], Any] | None = None,
        gate_learning_rate: float = 0.03,
        carries_state: bool = False,
        example_inputs: Any = None,
    ) -> None:
        super().__init__()
        if isinstance(loss, nn.Module) and any(weight.requires_grad for weight in loss.parameters()):
            raise ValueError(
                f"`loss` must have no weights to train, which nobody would, got a {type(loss).__name__}; make it a "
                "part of the network"
            )
        self.network = network
        self.loss = loss
        self.method = method or Dense()
        self.make_optimizer = optimizer or (lambda parameters: SGD(parameters, lr=1.0))
        self.make_scheduler = scheduler
        self.gate_learning_rate = gate_learning_rate
        self.carries_state = carries_state
        self.example_input_array = example_inputs
        self.fixed, self.tied = tuple(fixed), tuple(map(tuple, tied))
        if example_inputs is None and isinstance(self.method, Dense):
            self.units = Units()
            self.method.attach(network, self.units)
        else:
            self.units = Pruner(network, self.method, example_inputs, fixed=fixed, tied=tied).units
        self.remaining: dict[str, Tensor] = {}
        self._carried: Any = None
        self._random_state: dict[str, Any] | None = None
        self._evaluated: list[Tensor] = []

    def forward(self, *inputs: Any) -> Any:
        """Run the network."""
        return self.network(*inputs)

    def inputs_of_size(self, batch: int, steps: int) -> tuple[Any, ...]:
        """Arguments of the network's forward at another size, for measurements: the example, repeated and cut.

        Tensors of two or more dimensions are taken to be `(time, batch, …)`; override it where they are not.

        Raises:
            ValueError: if there is no example yet.
        """
        if self.example_input_array is None:
            raise ValueError("`example_inputs` must be given to the module, or a batch be trained, before it is timed")
        example: Any = self.example_input_array
        parts = example if isinstance(example, tuple) else (example,)
        return tuple(of_size(part, batch, steps) for part in parts)

    def trained_gates(self) -> dict[str, Tensor]:
        """Axis → gate of each unit, for `shrink`.

        Raises:
            RuntimeError: if the module has not been trained.
        """
        if int(self.method.steps) == 0:
            raise RuntimeError(
                "the model has not been trained, so no unit has been selected; "
                "run Trainer().fit(model, data) first, or load a checkpoint of a trained one"
            )
        return self.method.gates()

    def on_fit_start(self) -> None:
        """Refuse callbacks of Lightning that would undo what the method does."""
        refuse_early_averages(self.trainer.callbacks, self.method)  # type: ignore[attr-defined]

    def on_train_start(self) -> None:
        """Tell the method how long the training is."""
        # not earlier: asking the Trainer sets up its data, after which it no longer resumes in the middle of an epoch
        steps = self.trainer.estimated_stepping_batches
        if not 0 < steps < float("inf"):  # -1 for data without length
            raise ValueError(
                "`max_epochs` or `max_steps` of the Trainer must be set, and for data without a length `max_steps`, or "
                f"`limit_train_batches`: schedules are fractions of the training, got {steps} steps"
            )
        self.method.begin(int(steps))

    def on_train_epoch_start(self) -> None:
        """A new epoch starts from a zero state, unless it is the rest of one that a checkpoint interrupted."""
        if self._random_state is None:
            self._carried = None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """After a resume, go on with the random numbers where they were."""
        if self._random_state is not None:
            set_random_state(self._random_state)
            self._random_state = None
        if self.example_input_array is None:
            self.example_input_array = inputs_of(batch)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Loss of a batch plus the method's penalty."""
        loss, self._carried = self._loss(batch, self._carried)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss became {loss.item()} at step {self.global_step} (epoch {self.current_epoch}, batch "
                f"{batch_idx}); the weights before this step are kept. Lower the learning rate or set "
                f"gradient_clip_val of the Trainer. {self._last_checkpoint()}"
            )
        self._log_step(loss.detach())
        return loss + self.method.penalty()

    def _log_step(self, loss: Tensor) -> None:
        """The loss, and now and then the method's figures; short names, and only the telling ones, in the bar."""
        self.log("train/loss", loss)
        self.log("loss", loss, prog_bar=True, logger=False)
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (self.global_step + 1) % every == 0:
            for name, value in self.method.figures().items():
                self.log(f"train/{name}", value)
                if name == "density" or name.startswith("kept/"):
                    self.log(name.rpartition(".")[2].removeprefix("kept/"), value, prog_bar=True, logger=False)

    def _loss(self, batch: Any, state: Any) -> tuple[Tensor, Any]:
        if not self.carries_state:
            return self.loss(self.network, batch), None
        loss, state = self.loss(self.network, batch, state)
        return loss, detached(state)

    def _last_checkpoint(self) -> str:
        callback: Any = self.trainer.checkpoint_callback
        path = callback.best_model_path if callback is not None else ""
        return f"Last good checkpoint: {path}" if path else "No checkpoint had been written yet."

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step the optimiser, then let the method follow."""
        super().optimizer_step(*args, **kwargs)
        self.method.after_step(self.trainer.global_step + 1)

    def on_validation_epoch_start(self) -> None:
        """Evaluate from a zero state; the training's state waits."""
        self._evaluated, self._evaluation_state = [], None

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Loss of a batch, weighted by its number of targets, its second tensor, or else by its size."""
        loss, self._evaluation_state = self._loss(batch, self._evaluation_state)
        count = number_of_targets(batch)
        self._evaluated.append(torch.stack((loss.detach().double() * count, torch.tensor(count).to(loss))))

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Log the mean loss of the evaluation."""
        self._log_evaluation("valid")

    def on_test_epoch_end(self) -> None:
        """Log the mean loss of the test."""
        self._log_evaluation("test")

    def _log_evaluation(self, stage: str) -> None:
        if self._evaluated:
            total, count = torch.stack(self._evaluated).double().sum(0)
            self.log_dict(self.evaluation_figures(stage, (total / count).float()), prog_bar=True)

    def evaluation_figures(self, stage: str, loss: Tensor) -> dict[str, Tensor]:
        """What to log of an evaluation, given its mean loss in nats per target."""
        return {f"{stage}/loss": loss}

    def configure_optimizers(self) -> Any:
        """The user's optimiser, with the gates beside it."""
        gates = list(self.method.gate_parameters())
        optimizer = build_optimizer(self.network, gates, self.make_optimizer, self.gate_learning_rate)
        if self.make_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.make_scheduler(optimizer)}

    def remove_units_(self, keep: Tensor, optimizers: Iterable[Optimizer] = ()) -> None:
        """Cut closed units out of the network between two steps of a training, which goes on with what is left.

        Weights, gates, what the optimisers remember and the carried state are cut along; `remaining` tells which of the
        units there were are left, bool `(unit,)` per axis that has lost some. Densities stay fractions of the whole.

        Args:
            keep: which units to keep, bool `(unit,)`; closed ones may stay that torch's layers need to be rectangular.
            optimizers: those of the Trainer.

        Raises:
            ValueError: if the method does not close units, a unit to remove is open, or something cannot be cut along;
                nothing has been changed then.
        """
        method = unit_method(self.method)
        keep = buildable(self.network, self.units, keep)
        each = [part for optimizer in optimizers for part in single_optimizers(optimizer)]
        before = self.units.by_axis(keep)
        self.units, self._carried = remove_units_(
            self.network, self.units, keep, optimizers=each, state=self._carried
        )
        for axis, kept in before.items():
            if not bool(kept.all()):
                left = self.remaining.get(axis, torch.ones_like(kept))
                self.remaining[axis] = left.masked_scatter(left, kept)
        method.redraw_(self.units)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the carried state, the random numbers, and which units are left."""
        # after the last batch of an epoch a training goes on with a new epoch, which starts from a zero state
        is_over = self._trainer is not None and self._trainer.is_last_batch
        carried = None if is_over else self._carried
        checkpoint["l0rnn"] = {"carried": carried, "random": random_state(), "remaining": dict(self.remaining)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint is of this network, give it the checkpoint's widths, and take over what it adds.

        Raises:
            ValueError: if parameters differ in name or shape, or units were removed that this network never had.
        """
        saved = checkpoint.get("l0rnn", {})
        shapes = {name: tensor.shape for name, tensor in self.state_dict().items()}
        remaining = saved.get("remaining", {})
        if remaining or self.remaining:
            method = unit_method(self.method)
            sizes = {name: axis.size for name, axis in self.units.axes.items()}
            widths = widths_to_load(remaining, self.remaining, sizes)
            resized = resized_shapes(self.network, self.units, widths)
            check_same_network(
                shapes | {f"network.{name}": shape for name, shape in resized.items()}, checkpoint["state_dict"]
            )
            self.units = resize_(self.network, self.units, widths)
            method.redraw_(self.units)
            self.remaining = dict(remaining)
        else:
            check_same_network(shapes, checkpoint["state_dict"])
        # for a training that goes on; a new one, from the weights of a checkpoint, begins with its own
        goes_on = self._trainer is not None and self._trainer.state.fn == "fit"
        self._carried, self._random_state = (saved.get(key) if goes_on else None for key in ("carried", "random"))
