"""One optimiser for Lightning, two inside: the user's for the weights, Adam for the gates."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


class WeightsAndGates(Optimizer):
    """Steps the user's optimiser and one for the gates as a single optimiser.

    Gates want Adam with a large learning rate and no weight decay, whatever trains the weights; Lightning's automatic
    optimisation wants one optimiser. Its parameter groups are those of the weights, so that schedulers and clipping act
    on these alone.

    Args:
        weights: the user's optimiser, over all parameters but the gates.
        gates: the optimiser of the gates.

    Example:
        >>> weight, log_alpha = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
        >>> both = WeightsAndGates(torch.optim.SGD([weight], lr=1.0), torch.optim.Adam([log_alpha], lr=0.03))
        >>> [group["lr"] for group in both.param_groups]
        [1.0]
    """

    def __init__(self, weights: Optimizer, gates: Optimizer) -> None:
        self.weights = weights
        self.gates = gates
        self._gate_rates = [group["lr"] for group in gates.param_groups]
        self._is_built = False
        super().__init__(weights.param_groups, weights.defaults)
        self._is_built = True

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The very dicts of the weights' optimiser, on which schedulers and clipping work; they see no gate."""
        return self.weights.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        if self._is_built:  # not by torch, which begins with an empty list
            self.weights.param_groups = groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """What both remember of their parameters; written to where the parameter belongs."""
        return _States(self)

    @state.setter
    def state(self, state: Any) -> None:
        """Torch begins with an empty one; there is nothing to be put in the place of those of the two."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Hand a group of parameters, such as those of a layer that is thawed, on to the optimiser of the weights."""
        if self._is_built:
            self.weights.add_param_group(param_group)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step the weights and then the gates; the closure goes to the weights' optimiser, which may need it twice."""
        loss = None
        if closure is None:
            self.weights.step()
        elif "closure" in inspect.signature(self.weights.step).parameters:
            loss = self.weights.step(closure)
        else:
            with torch.enable_grad():
                loss = closure()
            self.weights.step()
        for group, rate in zip(self.gates.param_groups, self._gate_rates, strict=True):
            group["lr"] = rate  # a checkpoint may tell another one
            for parameter in group["params"]:
                if parameter.grad is not None:  # what a GradScaler lets overflow would stay in Adam for good
                    parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
        self.gates.step()
        return loss

    def set_gate_rate_(self, rate: float) -> None:
        """Step the gates with another learning rate from now on; schedulers leave it alone."""
        self._gate_rates = [rate] * len(self.gates.param_groups)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of weights and gates."""
        self.weights.zero_grad(set_to_none)
        self.gates.zero_grad(set_to_none)

    def train(self) -> None:
        """Tell the weights' optimiser that training goes on, if it is one that asks to be told (schedule-free)."""
        if hasattr(self.weights, "train"):
            self.weights.train()  # type: ignore[operator]

    def eval(self) -> None:
        """Tell the weights' optimiser that an evaluation follows, if it is one that asks to be told (schedule-free)."""
        if hasattr(self.weights, "eval"):
            self.weights.eval()  # type: ignore[operator]

    def state_dict(self) -> dict[str, Any]:
        """The state of both optimisers."""
        return {"weights": self.weights.state_dict(), "gates": self.gates.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: if the state is that of another kind of optimiser, or of other groups of parameters.
        """
        if set(state_dict) != {"weights", "gates"}:
            raise ValueError(
                f"the optimiser state must have the parts 'weights' and 'gates', got {sorted(state_dict)}; "
                "the checkpoint is of a run with another method"
            )
        theirs = [len(group["params"]) for group in state_dict["weights"]["param_groups"]]
        own = [len(group["params"]) for group in self.weights.param_groups]
        if theirs != own:
            raise ValueError(
                f"the optimiser state is of groups of {theirs} parameters, but this optimiser has groups of {own}; add "
                "the groups that were added in that training, by `add_param_group`, before its state is loaded"
            )
        self.weights.load_state_dict(state_dict["weights"])
        self.gates.load_state_dict(state_dict["gates"])

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)


class _States(MutableMapping[Any, Any]):
    """The states of both optimisers as one mapping, parameter → what is remembered of it."""

    def __init__(self, optimizer: WeightsAndGates) -> None:
        self._weights, self._gates = optimizer.weights.state, optimizer.gates.state
        self._of_gates = {id(parameter) for group in optimizer.gates.param_groups for parameter in group["params"]}

    def _of(self, parameter: Any) -> Any:
        return self._gates if id(parameter) in self._of_gates else self._weights

    def __getitem__(self, parameter: Any) -> Any:
        return self._of(parameter)[parameter]

    def __setitem__(self, parameter: Any, state: Any) -> None:
        self._of(parameter)[parameter] = state

    def __delitem__(self, parameter: Any) -> None:
        del self._of(parameter)[parameter]

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain(self._weights, self._gates)

    def __len__(self) -> int:
        return len(self._weights) + len(self._gates)


def build_optimizer(
    network: nn.Module,
    gate_parameters: list[nn.Parameter],
    make: Callable[[list[nn.Parameter]], Optimizer],
    gate_learning_rate: float,
) -> Optimizer:
    """The user's optimiser over the weights, joined with Adam over the gates if there are any.

    Args:
        network: the network with its gates.
        gate_parameters: those of its parameters that are gates.
        make: parameters → the user's optimiser.
        gate_learning_rate: learning rate of the gates.

    Raises:
        ValueError: if ``gate_learning_rate`` is not positive.
    """
    if not gate_learning_rate > 0:
        raise ValueError(f"`gate_learning_rate` must be > 0, got {gate_learning_rate}")
    gates = {id(parameter) for parameter in gate_parameters}
    weights = make([parameter for parameter in network.parameters() if id(parameter) not in gates])
    if not gate_parameters:
        return weights
    return WeightsAndGates(weights, torch.optim.Adam(gate_parameters, lr=gate_learning_rate, weight_decay=0.0))


def single_optimizers(optimizer: Optimizer) -> tuple[Optimizer, ...]:
    """The optimisers that hold the state: those of weights and gates where they are joined."""
    return (optimizer.weights, optimizer.gates) if isinstance(optimizer, WeightsAndGates) else (optimizer,)
