"""No pruning: the run that all others are compared with."""

from __future__ import annotations

from torch import Tensor, nn

from l0rnn.methods.method import Method
from l0rnn.tracing.units import Units


class Dense(Method):
    """Trains the network as it is.

    Example:
        >>> method = Dense()
        >>> method.attach(nn.Sequential(nn.Linear(2, 3)), Units())
        >>> method.gates(), float(method.penalty())
        ({}, 0.0)
    """

    def attach(self, network: nn.Module, units: Units) -> None:
        """Nothing is changed."""
        super().attach(network, units)
        self.choose_()

    def gates(self) -> dict[str, Tensor]:
        """None: every axis is whole."""
        return {}
