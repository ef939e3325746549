"""`Pruner`: a network, a pruning method and nothing else; for any training loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from l0rnn.arguments import checked
from l0rnn.bench.report import BenchReport
from l0rnn.cost.cost import CostOf
from l0rnn.gates.network import network_gates
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
    refuse_shards,
    refuse_what_ddp_cannot,
    refuse_wrapped,
)

PATIENCE = 3  # steps in a row without a gradient for the gates that are let pass


@checked
class Pruner:
    """Prunes a network in whatever loop trains it.

    It finds the units of the network by running it once, tries a cut, and puts gates in where the method needs them. In
    the loop, `penalty` is added to the loss and `step` called after the optimiser's. Gates have an Adam of their own:
    the optimiser of the weights may have been made before, or be made from `weights`.

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
        self._optimizer: torch.optim.Optimizer | None = None
        self._left: list[Tensor] = []
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

    def weights(self) -> list[nn.Parameter]:
        """The parameters of the network without those of the gates, for an optimiser that is made afterwards."""
        gates = network_gates(self.network)
        own = set() if gates is None else {id(parameter) for parameter in gates.parameters()}
        return [parameter for parameter in self.network.parameters() if id(parameter) not in own]

    def penalty(self) -> Tensor:
        """What is added to the loss: a scalar. Once per optimiser step, or with every accumulated batch."""
        self._follow_device()
        if self._step == 0:
            refuse_shards(self.network)
        self._without_penalty = 0
        return self.method.penalty()

    @torch.no_grad()
    def step(self) -> None:
        """Follow an optimiser step: step the gates, let the price move, close and fix units when it is time.

        Raises:
            RuntimeError: if the gates get no gradients, nobody asks for the penalty, another optimiser steps the gates
                too, or `steps` is unknown.
        """
        if int(self.method._total) == 0:
            raise RuntimeError("`steps` must be given before the first step, since schedules are fractions of it")
        self._follow_device()
        self._check_penalty()
        gates = [parameter for parameter in self.method.gate_parameters() if parameter.requires_grad]
        self._watch.remove()
        if gates:
            if self._replicas is not None:
                self._replicas.average_gradients_(gates)
            self._check_gates(gates)
            if self._optimizer is None:
                self._optimizer = self._gates_adam(gates)
            for parameter in gates:
                if parameter.grad is not None:  # what a GradScaler lets overflow would stay in Adam for good
                    parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
            self._optimizer.step()
            self._optimizer.zero_grad()
            self._left = [parameter.detach().clone() for parameter in gates]
        self._step += 1
        had_chosen = self.has_chosen
        self.method.after_step(self._step)
        if self._step % max(1, self.method._total // MOST_POINTS) == 0:
            self.history.record(self._step, self.figures())
        if self._replicas is not None and gates:
            self._replicas.average_(self.method.measured())
        if self._replicas is not None and self.has_chosen and not had_chosen:
            self._replicas.refuse_differences({"what is kept": [self.method.gates(), self.method.masks()]})

    def join_replicas(self, ddp: DistributedDataParallel) -> None:
        """Follow a training in several processes; called in the first pass that DDP runs.

        All processes begin with the gates of the first.

        Raises:
            RuntimeError: if they have not been given the same to do, or DDP is used in a way that does not go with it.
        """
        if self._replicas is not None:
            return
        gates = list(self.method.gate_parameters())
        refuse_what_ddp_cannot(ddp, gates)
        replicas = Replicas(ddp.process_group, next(self.network.parameters()).device)
        facts = {
            "the axes of the network": {name: axis.size for name, axis in self.units.axes.items()},
            "its cost": vars(CostOf(self.units).kept()),
            "the method": type(self.method).__name__,
            "`gate_learning_rate`": self.gate_learning_rate,
            "the number of steps": int(self.method._total),
            "the state of the Pruner": self.state_dict(),
        }
        replicas.refuse_differences(facts)
        replicas.start_alike_(gates)
        self._replicas = replicas
        if isinstance(self.method, UnitMethod):
            self.method.group = replicas.group

    def _gates_adam(self, gates: list[nn.Parameter]) -> torch.optim.Optimizer:
        rate = self.gate_learning_rate
        return torch.optim.Adam(gates, lr=self.method.gate_learning_rate(self.method._total) if rate is None else rate)

    def _check_gates(self, gates: list[nn.Parameter]) -> None:
        if self._left and any(not torch.equal(a, b) for a, b in zip(self._left, gates, strict=True)):
            raise RuntimeError(
                "another optimiser steps the gates too: make it of `pruner.weights()`, or before the Pruner"
            )
        has_none = all(parameter.grad is None for parameter in gates)
        self._without_gradient = self._without_gradient + 1 if has_none else 0
        if self._without_gradient >= PATIENCE:
            raise RuntimeError(
                f"the gates have had no gradient for {PATIENCE} steps: add `pruner.penalty()` to the loss, and call "
                "`pruner.step()` before gradients are cleared"
            )

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
            "optimizer": None if self._optimizer is None else self._optimizer.state_dict(),
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
        self._left, self._without_gradient, self._without_penalty = [], 0, 0
        gates = list(self.method.gate_parameters())
        self.history = History(dict(state.get("history", {})))  # which states of earlier versions lack
        self._optimizer = None
        if state["optimizer"] is not None and gates:
            self._optimizer = self._gates_adam(gates)
            self._optimizer.load_state_dict(state["optimizer"])
