"""One optimiser for Lightning, two inside: the user's for the weights, Adam for the gates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


class WeightsAndGates(Optimizer):
    """Steps the user's optimiser and one for the gates as a single optimiser.

    Gates want Adam with a large learning rate and no weight decay, whatever trains the weights; Lightning's automatic
    optimisation, with its clipping, scaling and accumulation, wants one optimiser. Learning rate schedulers act on the
    weights: the gates keep theirs.

    Args:
        weights: the user's optimiser, over all parameters but the gates.
        gates: the optimiser of the gates.

    Example:
        >>> weight, log_alpha = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
        >>> both = WeightsAndGates(torch.optim.SGD([weight], lr=1.0), torch.optim.Adam([log_alpha], lr=0.03))
        >>> [group["lr"] for group in both.param_groups]
        [1.0, 0.03]
    """

    def __init__(self, weights: Optimizer, gates: Optimizer) -> None:
        self.weights = weights
        self.gates = gates
        self._gate_rates = [group["lr"] for group in gates.param_groups]
        super().__init__([*weights.param_groups, *gates.param_groups], weights.defaults)
        self._share_groups()

    def _share_groups(self) -> None:
        """Schedulers and clipping work on `param_groups`: the very dicts of the two optimisers."""
        self.param_groups = [*self.weights.param_groups, *self.gates.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Evaluate the closure, if any, then step the weights and the gates."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.weights.step()
        for group, rate in zip(self.gates.param_groups, self._gate_rates, strict=True):
            group["lr"] = rate
        self.gates.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of weights and gates."""
        self.weights.zero_grad(set_to_none)
        self.gates.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The state of both optimisers."""
        return {"weights": self.weights.state_dict(), "gates": self.gates.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: if the state is that of another kind of optimiser.
        """
        if set(state_dict) != {"weights", "gates"}:
            raise ValueError(
                f"the optimiser state must have the parts 'weights' and 'gates', got {sorted(state_dict)}; "
                "the checkpoint is of a run with another method"
            )
        self.weights.load_state_dict(state_dict["weights"])
        self.gates.load_state_dict(state_dict["gates"])
        self._share_groups()


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
