"""A Linear layer for inference whose matrix is sparse."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.arguments import checked


@checked
class SparseLinear(nn.Module):
    """`torch.nn.Linear` for inference on a CPU, with its matrix held as CSR or BSR.

    Args:
        layer: the Linear layer; its bias is copied.
        matrix: the matrix to hold instead of its weight.

    Example:
        >>> from l0rnn.sparse.csr import CSRMatrix
        >>> layer = nn.Linear(3, 4)
        >>> SparseLinear(layer, CSRMatrix(layer.weight))(torch.randn(5, 2, 3)).shape
        torch.Size([5, 2, 4])
    """

    bias: Tensor | None

    def __init__(self, layer: nn.Linear, matrix: nn.Module) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.matrix: Any = matrix
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())
        self.training = False

    @torch.no_grad()
    def forward(self, input: Tensor) -> Tensor:
        """Multiply the last dimension, `(…, feature)`; returns `(…, unit)`, through which no gradients flow."""
        if input.shape[-1] != self.in_features:
            raise ValueError(
                f"`input` must have {self.in_features} units in its last dimension, got {input.shape[-1]}; "
                "is it the input of another layer?"
            )
        right = input.reshape(-1, self.in_features).t().contiguous()
        bias = right.new_zeros(self.out_features) if self.bias is None else self.bias
        sums = self.matrix.multiplier(right.shape[1])(right, bias.unsqueeze(1).expand(-1, right.shape[1]))
        return sums.t().reshape(*input.shape[:-1], self.out_features).contiguous()

    def train(self, mode: bool = True) -> SparseLinear:
        """Only evaluation; see `refuse_training`."""
        refuse_training(mode)
        return super().train(mode)


def refuse_training(mode: bool) -> None:
    """Raises ValueError if ``mode`` asks a layer without gradients to train."""
    if mode:
        raise ValueError("`mode` must be False, got True: sparse layers are for inference; train the dense network")
