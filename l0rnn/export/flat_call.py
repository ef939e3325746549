"""A network whose state goes in and comes out as a flat list of tensors, for torch to trace."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from l0rnn.export.interface import flat, nested


class FlatCall(nn.Module):
    """Calls a network as `Interface` says, whatever its own form of state.

    Args:
        network: to be called.
        nesting: of its state, as `interface_of` returned it; None if it takes none.

    Example:
        >>> import torch
        >>> call = FlatCall(nn.LSTM(3, 5), ("tensor", "tensor"))
        >>> len(call(torch.randn(4, 2, 3), torch.zeros(1, 2, 5), torch.zeros(1, 2, 5)))
        3
    """

    def __init__(self, network: nn.Module, nesting: Any) -> None:
        super().__init__()
        self.network = network
        self.nesting = nesting

    def forward(self, input: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Output, and the state after the last step."""
        if self.nesting is None:
            found = self.network(input)
            return (found[0] if isinstance(found, tuple) else found,)
        output, state = self.network(input, nested(list(states), self.nesting))
        return (output, *flat(state))
