"""`Pruner`: a network, a pruning method and nothing else; for any training loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from l0rnn.arguments import checked
from l0rnn.bench.report import BenchReport
from l0rnn.methods.dense import Dense
from l0rnn.methods.method import Method
from l0rnn.methods.units import UnitMethod
from l0rnn.recurrent.nested import moved_to
from l0rnn.report import MOST_POINTS, History, write_training_report
from l0rnn.surgery.shrink import operate, shrink
from l0rnn.surgery.trial import tried_units
from l0rnn.tracing.trace import trace
from l0rnn.training.processes import (
    Replicas,
    WatchForReplicas,
    joined,
    refuse_shards,
    refuse_what_ddp_cannot,
    refuse_wrapped,
)

PATIENCE = 3  # steps in a row without a gradient for the gates that are let pass


@checked
class Pruner:
    """Prunes a network in whatever loop trains it.

    It finds the units of the network by running it once, tries a cut, and puts gates in where the method needs them. In
    the loop, `penalty` is added to the loss and `step` called after the optimiser's. Gates have an Adam of their own,
    and are not among the parameters of the network: an optimiser of those, made before or afterwards, is that of the
    weights, and what the user does with all parameters, such as clipping, leaves gates alone.

    Args:
        network: any network in torch; the method may change it in place.
        method: the pruning method; None prunes nothing.
        example_inputs: arguments of the network's forward: a tuple for several, a dict of keyword arguments, or the
            only one. Needed to find the units, and `shrink` compares the outputs on them.
        steps: optimiser steps of the whole training, of which schedules are fractions.
        gate_learning_rate: of the gates' Adam; None for what the method takes for that many steps.
        fixed: layers or axes that have to stay whole.
        tied: groups of axes whose units have to be removed together.

    Raises:
        ValueError: if an argument is out of range, the network fails on the example inputs, or nothing can be pruned.

    Example:
        >>> from l0rnn import Budget, L0Gates
        >>> network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
        >>> optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        >>> pruner = Pruner(network, L0Gates(Budget(density=0.5)), torch.randn(8, 4), steps=100)
        >>> for _ in range(100):
        ...     x = torch.randn(8, 4)
        ...     loss = (network(x) - x[:, :2]).square().mean() + pruner.penalty()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        ...     pruner.step()
        >>> pruner.shrink()
        Sequential(
          (0): Linear(in_features=4, out_features=8, bias=True)
          (1): ReLU()
          (2): Linear(in_features=8, out_features=2, bias=True)
        )
    """

    def __init__(
        self,
        network: nn.Module,
        method: Method | None,
        example_inputs: Any,
        *,
        steps: int | None = None,
        gate_learning_rate: float | None = None,
        fixed: Sequence[str] = (),
        tied: Sequence[Sequence[str]] = (),
    ) -> None:
        if example_inputs is None:
            raise ValueError(
                "`example_inputs` must be given: the network is run on them once to find its units; a batch of two "
                "short sequences will do"
            )
        if gate_learning_rate is not None and not gate_learning_rate > 0:
            raise ValueError(f"`gate_learning_rate` must be > 0, got {gate_learning_rate}")
        refuse_wrapped(network)
        self.network = network
        self.method = Dense() if method is None else method
        self.method.refuse_second_network()
        self.example_inputs = example_inputs
        self.gate_learning_rate = gate_learning_rate
        find = trace if isinstance(self.method, Dense) else tried_units  # what is never cut need not be tried
        self.units = find(network, example_inputs, fixed=fixed, tied=tied)
        self.method.attach(network, self.units)
        if isinstance(self.method, UnitMethod):
            self.units = self.method.traced
        self.history = History()
        self._optimizer: torch.optim.Adam | None = None
        self._remembered: dict[str, Any] | None = None  # by the gates' optimiser of a checkpoint
        self._held: dict[nn.Parameter, Tensor] = {}  # gradients of gates that have been unscaled
        self._versions: list[int] = []  # of the gates after the last step
        self._without_gradient, self._without_penalty = 0, 0  # steps in a row
        self._step = 0
        self._is_loaded = False
        self._replicas: Replicas | None = None
        self._watch = network.register_forward_pre_hook(WatchForReplicas(self))
        if steps is not None:
            self.begin(steps)

    @checked
    def begin(self, steps: int) -> None:
        """Say how many optimiser steps the training has, if that was not known before.

        Raises:
            ValueError: if it is not a whole number > 0.
            RuntimeError: if a training has begun, and `load_state_dict` is not what let it go on.
        """
        if not isinstance(steps, int) or steps <= 0:
            raise ValueError(f"`steps` must be a whole number of optimiser steps > 0, got {steps!r}")
        if self._step and not self._is_loaded:
            raise RuntimeError(
                f"`begin` must come before the first step, but {self._step} have been made; for another training make "
                "another Pruner, of the network as it was built or of the shrunken one"
            )
        self.method.begin(steps)

    def start_afresh_(self) -> None:
        """Forget what a training before has chosen; its weights stay. `begin` comes next."""
        self.method.start_afresh_()
        self._step, self._is_loaded, self.history = 0, False, History()
        self._forget_optimizer()

    def _forget_optimizer(self) -> None:
        self._optimizer, self._remembered, self._held, self._versions = None, None, {}, []
        self._without_gradient, self._without_penalty = 0, 0
        for parameter in self.method.gate_parameters():
            parameter.grad = None

    def weights(self) -> list[nn.Parameter]:
        """The parameters of the network, which the gates are not among: what an optimiser of one's own is made of."""
        return list(self.network.parameters())

    def gates(self) -> list[nn.Parameter]:
        """The parameters of the gates that learn; none once they are fixed."""
        return [parameter for parameter in self.method.gate_parameters() if parameter.requires_grad]

    def penalty(self) -> Tensor:
        """What is added to the loss: a scalar. Once per optimiser step, or with every accumulated batch."""
        self._follow_device()
        if self._step == 0:
            refuse_shards(self.network)
        self._without_penalty = 0
        return self.method.penalty()

    def unscale_(self, scale: float) -> None:
        """Divide the gates' gradients so far by the scale of a `GradScaler`, which does not know of them."""
        for parameter in self.gates():
            if parameter.grad is not None:
                gradient = parameter.grad / scale
                self._held[parameter] = gradient + self._held[parameter] if parameter in self._held else gradient
                parameter.grad = None

    def add_penalty_gradients_(
        self, weights: Iterable[nn.Parameter] = (), *, to_gates: bool = True, loss_factor: float = 1.0
    ) -> None:
        """Back-propagate the penalty by itself, for a loop whose loss is not one's own to add it to.

        Args:
            weights: parameters of the network whose gradients are complete but for it.
            to_gates: whether to those of the gates too, once per `step`.
            loss_factor: by which the loss was multiplied before its `backward`, for a `GradScaler` or as one of several
                accumulated batches; methods that compare its gradients with those of the penalty ask for it.

        Raises:
            RuntimeError: if the loss has not reached the gates in the last steps: who calls the network?
        """
        gates = self.gates() if to_gates else []
        if gates:
            is_missed = all(parameter.grad is None and parameter not in self._held for parameter in gates)
            self._without_gradient = self._without_gradient + 1 if is_missed else 0
            if self._without_gradient >= PATIENCE:
                raise RuntimeError(
                    f"the loss has given the gates no gradient in {PATIENCE} optimiser steps in a row: the network "
                    f"that is pruned, a {type(self.network).__name__}, is not the one that the loss is computed with"
                )
        with torch.enable_grad():
            penalty = self.penalty()
        if not penalty.requires_grad:
            return
        inputs = [*gates, *(weight for weight in weights if weight.requires_grad)]
        factor = torch.full_like(penalty, loss_factor)
        found = torch.autograd.grad(penalty, inputs, factor, allow_unused=True) if inputs else ()
        for parameter, gradient in zip(inputs, found, strict=True):
            if gradient is not None:
                gradient = gradient / loss_factor
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    @torch.no_grad()
    def step(self, number: int | None = None) -> None:
        """Follow an optimiser step: step the gates, let the price move, close and fix units when it is time.

        Args:
            number: the how many-th step of the training it is, of the ``steps`` there are; the next one if None.

        Raises:
            RuntimeError: if the gates get no gradients, nobody asks for the penalty, another optimiser steps the gates
                too, or `steps` is unknown.
        """
        if int(self.method._total) == 0:
            raise RuntimeError("`steps` must be given before the first step, since schedules are fractions of it")
        self._follow_device()
        self._check_penalty()
        self.stop_watching()
        gates = self.gates()
        if gates:
            self._step_gates(gates)
        self._step = self._step + 1 if number is None else number
        had_chosen = self.has_chosen
        self.method.after_step(self._step)
        self._versions = [parameter._version for parameter in self.gates()]
        if self._step % max(1, self.method._total // MOST_POINTS) == 0:
            self.history.record(self._step, self.figures())
        if self._replicas is not None and gates:
            self._replicas.average_(self.method.measured())
        if self._replicas is not None and self.has_chosen and not had_chosen:
            self._replicas.check_choice(self.method)

    def join_replicas(self, ddp: DistributedDataParallel) -> None:
        """Follow a training in several processes; called in the first pass that DDP runs.

        All processes begin with the gates of the first.

        Raises:
            RuntimeError: if they have not been given the same to do, or DDP is used in a way that does not go with it.
        """
        if self._replicas is not None:
            return
        refuse_what_ddp_cannot(ddp)
        facts = {"`gate_learning_rate`": self.gate_learning_rate, "the state of the Pruner": self.state_dict()}
        self._follow_device()
        self._replicas = joined(ddp.process_group, self.method, self.units, **facts)

    def stop_watching(self) -> None:
        """Take the hook off the network that finds out whether several processes train it; the first step does."""
        self._watch.remove()

    def _step_gates(self, gates: list[nn.Parameter]) -> None:
        if self._versions and self._versions != [parameter._version for parameter in gates]:
            raise RuntimeError(
                "another optimiser steps the gates too, or something else has changed them since the last step: leave "
                "them to the Pruner"
            )
        for parameter, gradient in self._held.items():
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        self._held = {}
        if self._replicas is not None:
            self._replicas.average_gradients_(gates)
        for parameter in gates:
            if parameter.grad is not None:  # what a GradScaler lets overflow would stay in Adam for good
                parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
        optimizer = self.optimizer()
        optimizer.step()
        optimizer.zero_grad()

    def optimizer(self) -> torch.optim.Adam:
        """The gates' Adam."""
        if self._optimizer is None:
            rate = self.gate_learning_rate
            rate = self.method.gate_learning_rate(self.method._total) if rate is None else rate
            self._optimizer = torch.optim.Adam(self.method.gate_parameters(), lr=rate)
            if self._remembered is not None:  # not earlier: the gates may have moved to another device since
                self._optimizer.load_state_dict(self._remembered)
                self._remembered = None
        return self._optimizer

    def _check_penalty(self) -> None:
        self._without_penalty += 1
        if self._without_penalty <= PATIENCE or self.method.has_chosen:
            return
        with torch.enable_grad():
            is_missed = self.method.penalty().requires_grad
        if is_missed:
            raise RuntimeError(
                f"nobody has asked for the penalty in {PATIENCE} steps, without which {type(self.method).__name__} "
                "prunes nothing: add `pruner.penalty()` to the loss of every step"
            )

    def _follow_device(self) -> None:
        """The network may have been moved; the method is no part of it."""
        device = next(self.network.parameters()).device
        if self.method.steps.device != device:
            self.method.to(device)

    @property
    def has_chosen(self) -> bool:
        """Whether what is kept is fixed for the rest of the training."""
        return self.method.has_chosen

    def figures(self) -> dict[str, float]:
        """What to log: density, kept units per axis and the like."""
        return self.method.figures()

    def note(self, **figures: float) -> None:
        """Add figures of this moment to what `report` draws, such as ``pruner.note(valid_loss=loss)``."""
        self.history.record(self._step, {name.replace("_", "/", 1): figure for name, figure in figures.items()})

    def report(self, path: str | Path, *, bench: BenchReport | None = None, **options: Any) -> Path:
        """Write one HTML page about the training: units, density and price over time, what was not pruned, the proof.

        Args:
            path: of the page.
            bench: latencies, as `l0rnn.bench.benchmark` measures them.
            **options: as for `shrink`.

        Returns:
            The path.

        Raises:
            RuntimeError: if no step has been made.
            ValueError: if the network cannot be shrunk, as `shrink`.
        """
        surgery = operate(self.network, self.trained_gates(), **self._surgery_options(options))
        self.history.record(self._step, self.figures())
        title = f"{type(self.network).__name__} under {type(self.method).__name__}"
        return write_training_report(
            path, self.history, title=title, surgery=surgery, bench=bench or "`bench` was not given"
        )

    def trained_gates(self) -> dict[str, Tensor]:
        """Axis → gate of each unit.

        Raises:
            RuntimeError: if no step has been made.
        """
        if self._step == 0:
            raise RuntimeError("no step has been made, so no unit has been selected; call `pruner.step()` in the loop")
        return self.method.gates()

    def shrink(self, **options: Any) -> nn.Module:
        """The smaller dense network that gives the same outputs, see `l0rnn.shrink`, which has the options.

        For a loss that reads weights of the network by itself, ``loss=lambda network: loss(network, batch)`` lets it be
        compared too.
        """
        return shrink(self.network, self.trained_gates(), **self._surgery_options(options))

    def _surgery_options(self, options: dict[str, Any]) -> dict[str, Any]:
        example = moved_to(self.example_inputs, next(self.network.parameters()).device)
        return {"example_inputs": example, "units": self.units, **options}

    def state_dict(self) -> dict[str, Any]:
        """All that the network's own state has not: price, schedule, and what the gates' optimiser remembers."""
        return {
            "method": self.method.state_dict(),
            "optimizer": self._remembered if self._optimizer is None else self._optimizer.state_dict(),
            "step": self._step,
            "history": {step: dict(figures) for step, figures in self.history.rows.items()},
        }

    @checked
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was; the network's state has been loaded before, into the network with gates.

        The length of the training is that of the state, unless `begin` is called afterwards.
        """
        self.method.load_state_dict(state["method"])
        self._step, self._is_loaded = int(state["step"]), True
        self.history = History(dict(state.get("history", {})))  # which states of earlier versions lack
        self._forget_optimizer()
        self._remembered = state["optimizer"]
