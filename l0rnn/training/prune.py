"""`Prune`: a Lightning callback that prunes somebody's LightningModule while he trains it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn
from torch.optim import Optimizer

from l0rnn.arguments import checked
from l0rnn.gates.network import NAME, network_gates
from l0rnn.methods.method import Method
from l0rnn.recurrent.nested import moved_to
from l0rnn.training.averaging import refuse_early_averages
from l0rnn.training.example_inputs import example_inputs_of, run_training_step
from l0rnn.training.length import steps_by_hand, steps_of, what_is_open
from l0rnn.training.pruner import Pruner
from l0rnn.training.resuming import RandomNumbers, own_part, with_others
from l0rnn.training.strategy import refuse_strategy

log = logging.getLogger(__name__)


@checked
class Prune(Callback):
    """Prunes the network of any LightningModule in whatever way that trains it.

    When a training is set up, the units of the network are found, a cut is tried, and gates are put in. The module's
    `training_step`, losses, optimisers, parameter groups, schedulers and clipping stay as they are and know of no gate:
    gates have an Adam of their own, and this callback back-propagates the method's penalty and steps the gates once
    per optimiser step. Optimisation may be automatic or manual. A checkpoint of the Trainer holds all that the training
    needs to go on exactly where it was; in the middle of an epoch the loader has to find its place, by a ``state_dict``
    of its own (Lightning warns if it has none).

    Args:
        method: the pruning method.
        example_inputs: arguments of the network's forward: a tuple for several, a dict of keyword arguments, or the
            only one. Default: the module's ``example_input_array`` where the module itself is pruned, or else what its
            training step calls the network with, given the first items of the training data.
        network: name of the module's attribute to prune, such as ``"model"`` or ``"model.encoder"``; None for the
            module itself, which then needs a `forward`.
        gate_learning_rate: of the gates' Adam; that of the method if None.
        fixed: layers or axes that have to stay whole.
        tied: groups of axes whose units have to be removed together.

    Attributes:
        pruner: the `Pruner` that does it, once a training has been set up, else None.

    Raises:
        ValueError: when a training is set up: if an argument is out of range, there is nothing to prune, nobody knows
            example inputs, or another callback undoes what the method does.

    Example:
        >>> from l0rnn import Budget, L0Gates
        >>> class Tagger(LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.encoder, self.decoder = nn.GRU(3, 8), nn.Linear(8, 2)
        ...
        ...     def forward(self, x):
        ...         return self.decoder(self.encoder(x)[0])
        ...
        ...     def training_step(self, batch):
        ...         return nn.functional.mse_loss(self(batch[0]), batch[1])
        ...
        ...     def configure_optimizers(self):
        ...         return torch.optim.Adam(self.parameters(), lr=0.01)
        >>> data = torch.utils.data.TensorDataset(torch.randn(40, 5, 3), torch.randn(40, 5, 2))
        >>> prune = Prune(L0Gates(Budget(density=0.5)))
        >>> quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        >>> trainer = Trainer(max_epochs=10, callbacks=[prune], enable_model_summary=False, **quiet)
        >>> trainer.fit(Tagger(), torch.utils.data.DataLoader(data, batch_size=10))
        >>> small = prune.shrink()
        >>> type(small).__name__, small.encoder.hidden_size < 8
        ('Tagger', True)
    """

    def __init__(
        self,
        method: Method,
        example_inputs: Any = None,
        *,
        network: str | None = None,
        gate_learning_rate: float | None = None,
        fixed: Sequence[str] = (),
        tied: Sequence[Sequence[str]] = (),
    ) -> None:
        method.refuse_second_network()
        if gate_learning_rate is not None and not gate_learning_rate > 0:
            raise ValueError(f"`gate_learning_rate` must be > 0, got {gate_learning_rate}")
        self.method, self.example_inputs, self.network = method, example_inputs, network
        self.gate_learning_rate, self.fixed, self.tied = gate_learning_rate, tuple(fixed), tuple(map(tuple, tied))
        self.pruner: Pruner | None = None
        self._random = RandomNumbers()
        self._module: LightningModule | None = None
        self._waiting: Any = None  # hook for a checkpoint with gates
        self._example_batch: Any = None
        self._has_stepped = False  # an optimiser of the network, in this batch
        self._batches, self._steps = 0, 0  # so far, of this training
        self._rank, self._processes = 0, 1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put gates in before checkpoints are loaded and optimisers are made, which see the weights alone."""
        self._rank, self._processes = trainer.global_rank, trainer.world_size
        if stage == "fit":
            refuse_strategy(trainer)
            refuse_early_averages(trainer.callbacks, self.method)  # type: ignore[attr-defined]
            if self.pruner is None:
                self._attach(trainer, pl_module)
            self._let_averages_know_gates(trainer)
        elif self.pruner is None:
            self._waiting = pl_module.register_load_state_dict_pre_hook(
                lambda module, state, *_: self._attach_if_pruned(trainer, pl_module, state)
            )
        if self.pruner is not None and self._module is not pl_module:
            raise ValueError(
                f"this Prune prunes another {type(self._module).__name__} already; make a new one, with a new method, "
                "for each module"
            )

    def _attach_if_pruned(self, trainer: Trainer, module: LightningModule, state: dict[str, Any]) -> None:
        """In a test, say: put gates in if a checkpoint with gates is loaded; else there is nothing to prune."""
        if self.pruner is None and any(name.endswith(f"{NAME}.log_alpha") for name in state):
            self._attach(trainer, module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait for no checkpoint any more."""
        if self._waiting is not None:
            self._waiting.remove()
            self._waiting = None

    def _attach(self, trainer: Trainer, module: LightningModule) -> None:
        network = self._network_of(module)
        inputs = self.example_inputs
        if inputs is None and network is module:
            inputs = module.example_input_array
        if inputs is None:
            inputs = example_inputs_of(trainer, module, network)
        inputs = moved_to(inputs, next(network.parameters()).device)
        with torch.compiler.set_stance("force_eager"):
            self.pruner = Pruner(
                network,
                self.method,
                inputs,
                gate_learning_rate=self.gate_learning_rate,
                fixed=self.fixed,
                tied=self.tied,
            )
        self._module = module

    def _network_of(self, module: LightningModule) -> nn.Module:
        name = type(module).__name__
        if self.network is None:
            if not is_overridden("forward", module):
                parts = [child for child, part in module.named_children() if next(part.parameters(), None) is not None]
                raise ValueError(
                    f"`network` must name what to prune, since {name} has no `forward`; its parts with weights are "
                    f"{', '.join(map(repr, parts)) or 'none yet: build them in __init__, not in setup'}"
                )
            network: nn.Module = module
        else:
            try:
                network = module.get_submodule(self.network)
            except AttributeError as error:
                raise ValueError(f"`network` must be the name of a part of {name}, got {self.network!r}") from error
        network = getattr(network, "_orig_mod", network)  # of torch.compile, which compiles at the first call
        if next(network.parameters(), None) is None:
            raise ValueError(
                f"`network`, {self.network or name}, has no weights yet when the training is set up; build it in "
                "__init__, not in setup or configure_model"
            )
        return network

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse an optimiser that has gates among its parameters, and let averages of Lightning know the gates."""
        own = {id(gate) for gate in self.method.gate_parameters()}
        for optimizer in trainer.optimizers:
            if any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"]):
                raise ValueError(
                    f"{type(optimizer).__name__} has the gates among its parameters, which Prune trains by an Adam of "
                    "its own; `self.parameters()` does not give them out, so leave out what does"
                )
        self._let_averages_know_gates(trainer)
        self._random.begin_epoch()

    def _let_averages_know_gates(self, trainer: Trainer) -> None:
        """Averages of weights are saved with the gates as they are, and not as they were when the copy was made."""
        pruner, module = self._known(), self._module
        gates = network_gates(pruner.network)
        if gates is None or module is None:
            return
        place = next(name for name, part in module.named_modules() if part is pruner.network)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            average = getattr(callback, "_average_model", None) if isinstance(callback, WeightAveraging) else None
            if average is not None:
                average.module.get_submodule(place).add_module(NAME, gates)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the method how long the training is."""
        # not earlier: asking the Trainer sets up its data, after which it no longer resumes in the middle of an epoch
        steps = self._length(trainer, pl_module)[1]
        self._has_stepped = False
        if trainer.global_step == 0:
            if self._steps:
                log.warning(
                    "the module was trained before, for %d steps, and this training chooses anew what to keep; to go "
                    "on with that one, give `ckpt_path`, and to train what it left, train what `shrink` returns",
                    self._steps,
                )
            self._batches, self._steps = 0, 0
            self._known().start_afresh_()
        self.method.begin(steps)

    def _length(self, trainer: Trainer, module: LightningModule) -> tuple[int, int]:
        if module.automatic_optimization:
            return self._steps, steps_of(trainer)
        return steps_by_hand(trainer, self._batches)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """After a resume, go on with the random numbers where they were."""
        self._random.begin_batch()
        if self._example_batch is None:
            self._example_batch = batch

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw afresh for what comes next, where parts of the network are called and never the whole."""
        if (gates := network_gates(self._known().network)) is not None:
            gates.forget()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Add the gradients of the penalty: those of the loss are complete and unscaled, and not clipped yet."""
        pruner = self._known()
        weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        own = {id(parameter) for parameter in pruner.network.parameters()}
        if not any(id(parameter) in own for parameter in weights):
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        factor = 1.0 if scaler is None else float(scaler.get_scale())
        if scaler is not None:
            pruner.unscale_(factor)
        if pl_module.automatic_optimization:
            factor /= trainer.accumulate_grad_batches
        pruner.add_penalty_gradients_(weights, to_gates=not self._has_stepped, loss_factor=factor)
        self._has_stepped = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Step the gates, if an optimiser of the network has made a step."""
        self._batches += 1
        self._random.is_over = trainer.is_last_batch
        if not self._has_stepped:
            return
        self._has_stepped = False
        self._steps += 1
        self._known().step(self._length(trainer, pl_module)[0])
        self._log(trainer)

    def _log(self, trainer: Trainer) -> None:
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and self._steps % every == 0:
            log_dict: Any = self.log_dict  # type: ignore[attr-defined]
            log_dict({f"prune/{name}": value for name, value in self._known().figures().items()})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notice optimisers that step where Lightning does not see it."""
        if self._steps == 0:
            raise RuntimeError(
                "no optimiser has stepped a weight of the network in an epoch, as far as Lightning knows; under manual "
                "optimisation call the `step` of what `self.optimizers()` returns"
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so if the training has ended before the method had chosen what to keep."""
        if open_question := what_is_open(self.method, *self._length(trainer, pl_module)):
            log.warning("%s", open_question)

    @property
    def has_chosen(self) -> bool:
        """Whether what is kept is fixed for the rest of the training."""
        return self.method.has_chosen

    def shrink(self, **options: Any) -> nn.Module:
        """The smaller dense network that gives the same outputs: a copy of what is pruned, proved equal.

        The loss that the training step computes of the first batch is compared as well, where it can be called by
        itself. Options are those of `l0rnn.shrink`.

        Raises:
            RuntimeError: if nothing has been trained.
            ValueError: if the outputs differ.
        """
        pruner = self._known()
        module, batch = self._module, self._example_batch
        if "loss" not in options and module is not None and module.automatic_optimization and batch is not None:
            options["loss"] = partial(_training_loss, module, pruner.network, batch)
        return pruner.shrink(**options)

    def _known(self) -> Pruner:
        if self.pruner is None:
            raise RuntimeError("no training has been set up, so nothing has been pruned; run Trainer.fit with it first")
        return self.pruner

    def state_dict(self) -> dict[str, Any]:
        """All that the training needs to go on, beside the module's own state, which has the gates."""
        if self.pruner is None:
            return {}
        counts = {"batches": self._batches, "steps": self._steps}
        random = with_others({"random": self._random.state_dict()}, self._processes)
        return {"pruner": self.pruner.state_dict(), **random, **counts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        if self.pruner is not None and state_dict:
            self.pruner.load_state_dict(state_dict["pruner"])
            self._batches, self._steps = state_dict["batches"], state_dict["steps"]
            self._random.load_state_dict(own_part(state_dict, self._rank, self._processes)["random"])


def _training_loss(module: LightningModule, pruned: nn.Module, batch: Any, network: nn.Module) -> Any:
    """Loss of a batch in a copy of a module that has ``network`` in the place of the pruned one."""
    is_whole = pruned is module
    whole: Any = copy.deepcopy(network if is_whole else module, {} if is_whole else {id(pruned): network})
    batch = moved_to(batch, next(network.parameters()).device)
    found = run_training_step(whole.eval(), batch)
    return found["loss"] if isinstance(found, dict) else found
