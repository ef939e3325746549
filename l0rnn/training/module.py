"""The LightningModule that trains any network under any pruning method."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from l0rnn.arguments import checked
from l0rnn.methods import Dense, Method
from l0rnn.methods.units import UnitMethod, unit_method
from l0rnn.recurrent.nested import moved_to
from l0rnn.surgery.removal import buildable, remove_units_, resize_, resized_shapes, widen_
from l0rnn.tracing.units import Units
from l0rnn.training.averaging import refuse_early_averages
from l0rnn.training.batches import as_example, inputs_of, of_size
from l0rnn.training.evaluation import EvaluatedModule
from l0rnn.training.length import steps_of, what_is_open
from l0rnn.training.old_checkpoints import bring_up_to_date_, leave_gates_out_of_schedulers_
from l0rnn.training.optimizer import WeightsAndGates, build_optimizer, single_optimizers
from l0rnn.training.processes import Replicas, joined
from l0rnn.training.pruner import Pruner
from l0rnn.training.resuming import (
    RandomNumbers,
    check_same_network,
    own_part,
    state_to_save,
    widths_to_load,
    with_others,
)
from l0rnn.training.strategy import group_of, mean_over_processes, refuse_strategy, wrap_anew_
from l0rnn.training.whole_checkpoints import write_whole_checkpoints_

log = logging.getLogger(__name__)


@checked
class PrunableModule(EvaluatedModule):
    """Trains a network under a pruning method, by Lightning's automatic optimisation.

    Gradient clipping, precision, accumulation, loggers and checkpoints are the Trainer's. A checkpoint holds all that a
    run needs to go on exactly where it was: weights, gates, price, the state carried over segments, random numbers.

    Args:
        network: modules of plain torch; the method may change it in place.
        loss: ``loss(network, batch) → mean loss``; with ``carries_state``,
            ``loss(network, batch, state) → (mean loss, state)``. Either may return, behind these, how many targets the
            loss is a mean over, by which an evaluation weights its batches.
        method: the pruning method; None trains the network as it is.
        fixed: layers or axes that have to stay whole, see `l0rnn.tracing.trace`.
        tied: groups of axes whose units have to be removed together.
        optimizer: parameters → optimiser of the weights. Default: SGD with learning rate 1.
        scheduler: optimiser → learning rate scheduler, stepped once per epoch, a `ReduceLROnPlateau` by ``valid/loss``;
            or what Lightning takes for ``lr_scheduler``, a dict of ``scheduler``, ``interval``, ``monitor`` and so on;
            None for a constant rate.
        gate_learning_rate: learning rate of Adam for the gates; None for what the method takes for that many steps.
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
        gate_learning_rate: float | None = None,
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
        self.example_input_array = as_example(network, example_inputs)
        self.fixed, self.tied = tuple(fixed), tuple(map(tuple, tied))
        if example_inputs is None and isinstance(self.method, Dense):
            self.units = Units()
            self.method.attach(network, self.units)  # which changes nothing
        else:
            pruner = Pruner(
                network, self.method, example_inputs, gate_learning_rate=gate_learning_rate, fixed=fixed, tied=tied
            )
            pruner.stop_watching()  # the Trainer says whether there are several processes
            self.units = pruner.units
        self._all_units = self.units  # before any is removed
        self.remaining: dict[str, Tensor] = {}
        self._carried: Any = None
        self._example_batch: Any = None
        self._random = RandomNumbers()
        self._replicas: Replicas | None = None

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Run the network."""
        return self.network(*inputs, **named)

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
        if isinstance(example, dict):
            raise ValueError("`inputs_of_size` must be overridden for a network that takes keyword arguments")
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
        """Refuse callbacks of Lightning that would undo what the method does, and see to mode and checkpoints."""
        refuse_strategy(self.trainer)
        refuse_early_averages(self.trainer.callbacks, self.method)  # type: ignore[attr-defined]
        write_whole_checkpoints_(self.trainer)
        # what was loaded for use is in evaluation mode, which Lightning leaves as it is: no gate would be drawn, and
        # nothing dropped. A part that its user has put into that mode stays in it.
        if not any(module.training for module in self.network.modules()):
            log.info("the network was in evaluation mode throughout; it is put into training mode")
            self.train()
        self._random.begin_epoch()

    def on_train_start(self) -> None:
        """Tell the method how long the training is."""
        # not earlier: asking the Trainer sets up its data, after which it no longer resumes in the middle of an epoch
        steps = steps_of(self.trainer)
        if self.trainer.global_step == 0:
            if int(self.method.steps) > 0:
                log.warning(
                    "the module was trained before, for %d steps, and this training chooses anew what to keep; to go "
                    "on with that one, give `ckpt_path`, and to train what it left, `shrink` the module",
                    int(self.method.steps),
                )
            self.method.start_afresh_()
        self.method.begin(steps)
        self._set_gate_rate(steps)
        self._carried = moved_to(self._carried, self.device)
        if self.trainer.world_size > 1:
            self._replicas = joined(group_of(self.trainer), self.method, self.units)

    def _set_gate_rate(self, steps: int) -> None:
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        if self.gate_learning_rate is None and isinstance(optimizer, WeightsAndGates):
            optimizer.set_gate_rate_(self.method.gate_learning_rate(steps))

    def on_train_end(self) -> None:
        """Say so if the training has ended before the method had chosen what to keep."""
        self._replicas = None
        if isinstance(self.method, UnitMethod):
            self.method.group = None  # which no copy could take along
        if open_question := what_is_open(self.method, self.trainer.global_step, int(self.method.total_steps)):
            log.warning("%s", open_question)

    def on_train_epoch_start(self) -> None:
        """A new epoch starts from a zero state, unless it is the rest of one that a checkpoint interrupted."""
        if not self._random.goes_on:
            self._carried = None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """After a resume, go on with the random numbers where they were."""
        self._random.begin_batch()
        if self.example_input_array is None:
            self.example_input_array = as_example(self.network, inputs_of(batch))
        if self._example_batch is None:
            self._example_batch = batch

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
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        is_logged = bool(every) and (self.global_step + 1) % every == 0
        if is_logged and self._replicas is not None:
            loss = mean_over_processes(self.trainer, loss)
        self.log("train/loss", loss)
        self.log("loss", loss, prog_bar=True, logger=False)
        if is_logged:
            for name, value in self.method.figures().items():
                self.log(f"train/{name}", value)
                if name == "density" or name.startswith("kept/"):
                    self.log(name.rpartition(".")[2].removeprefix("kept/"), value, prog_bar=True, logger=False)

    @property
    def example_loss(self) -> Callable[[nn.Module], Any] | None:
        """Network → loss of the first batch of the training, which `shrink` compares; None before there is one."""
        if self._example_batch is None:
            return None
        batch = moved_to(self._example_batch, next(self.network.parameters()).device)
        state = (None,) if self.carries_state else ()
        return lambda network: self.loss(network, batch, *state)

    def _last_checkpoint(self) -> str:
        callback: Any = self.trainer.checkpoint_callback
        path = callback.best_model_path if callback is not None else ""
        return f"Last good checkpoint: {path}" if path else "No checkpoint had been written yet."

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Unscale and average the gradients of the gates, which neither a GradScaler nor DDP knows of."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        gates = [gate for gate in self.method.gate_parameters() if gate.requires_grad]
        for gate in gates:
            if scaler is not None and gate.grad is not None:
                gate.grad /= scaler.get_scale()
        if self._replicas is not None:
            self._replicas.average_gradients_(gates)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step the optimiser, then let the method follow."""
        super().optimizer_step(*args, **kwargs)
        had_chosen = self.method.has_chosen
        self.method.after_step(self.trainer.global_step + 1)
        if self._replicas is not None and not had_chosen:
            self._replicas.average_(self.method.measured())
        if self._replicas is not None and self.method.has_chosen and not had_chosen:
            self._replicas.check_choice(self.method)

    def configure_optimizers(self) -> Any:
        """The user's optimiser, with the gates beside it."""
        gates = list(self.method.gate_parameters())
        rate = self.method.gate_learning_rate(0) if self.gate_learning_rate is None else self.gate_learning_rate
        optimizer = build_optimizer(self.network, gates, self.make_optimizer, rate)
        if self.make_scheduler is None:
            return optimizer
        scheduler = self.make_scheduler(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler = {"scheduler": scheduler, "monitor": "valid/loss"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

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
        self.units, self._carried = remove_units_(self.network, self.units, keep, optimizers=each, state=self._carried)
        for axis, kept in before.items():
            if not bool(kept.all()):
                left = self.remaining.get(axis, torch.ones_like(kept))
                self.remaining[axis] = left.masked_scatter(left, kept)
        method.redraw_(self.units, self._all_units.vector(self.remaining, True))
        if self._replicas is not None:
            wrap_anew_(self.trainer, self._replicas, keep)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the carried state, the random numbers, and which units are left."""
        # after the last batch of an epoch a training goes on with a new epoch, which starts from a zero state
        self._random.is_over = self._trainer is not None and self._trainer.is_last_batch
        carried = None if self._random.is_over else state_to_save(self._carried)
        processes = 1 if self._trainer is None else self._trainer.world_size
        own = with_others({"carried": carried, "random": self._random.state_dict()}, processes)
        checkpoint["l0rnn"] = {**own, "remaining": dict(self.remaining)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint is of this network, give it the checkpoint's widths, and take over what it adds.

        Raises:
            ValueError: if parameters differ in name or shape, or units were removed that this network never had.
        """
        # for a training that goes on; a new one, from the weights of a checkpoint, begins with its own
        goes_on = self._trainer is not None and self._trainer.state.fn == "fit"
        axes = {name: axis.size for name, axis in self.units.axes.items()}
        bring_up_to_date_(checkpoint, axes, goes_on=goes_on)
        leave_gates_out_of_schedulers_(checkpoint)
        saved = checkpoint.get("l0rnn", {})
        shapes = {name: tensor.shape for name, tensor in self.state_dict().items()}
        remaining = saved.get("remaining", {})
        if remaining or self.remaining:
            method = unit_method(self.method)
            widths = widths_to_load(remaining, self.remaining, axes)
            resized = resized_shapes(self.network, self._all_units, widths)
            check_same_network(
                shapes | {f"network.{name}": shape for name, shape in resized.items()}, checkpoint["state_dict"]
            )
            if self.remaining:
                widen_(self.network, self._all_units)
            self.units = resize_(self.network, self._all_units, widths)
            self.remaining = dict(remaining)
            method.redraw_(self.units, self._all_units.vector(self.remaining, True))
        else:
            check_same_network(shapes, checkpoint["state_dict"])
        own = own_part(saved, self.global_rank, self.trainer.world_size) if goes_on else {}
        self._random.load_state_dict(own.get("random"))
        self._carried = moved_to(own.get("carried"), self.device)
