"""No pruning: the run that all others are compared with."""

from __future__ import annotations

from torch import Tensor, nn

from l0rnn.blueprint import draw_blueprint
from l0rnn.methods.method import Method
from l0rnn.wiring import Wiring


class Dense(Method):
    """Trains the network as it is.

    Example:
        >>> method = Dense()
        >>> method.attach(nn.Sequential(nn.Linear(2, 3)), Wiring({"0": ["outside"]}))
        >>> method.gates(), float(method.penalty())
        ({}, 0.0)
    """

    def attach(self, network: nn.Module, wiring: Wiring) -> None:
        """Check the wiring, so that a wrong one is found in the dense run already."""
        draw_blueprint(network, wiring)
        self.choose_()

    def gates(self) -> dict[str, Tensor]:
        """None: every axis is whole."""
        return {}
