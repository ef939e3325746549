"""Compare the training loss of two networks, for losses that read weights the forward pass knows nothing of."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.surgery.proof import HALF_PRECISION_TOLERANCE, TOLERANCES, evaluating

log = logging.getLogger(__name__)

Loss = Callable[[nn.Module], Any]


def compare_losses(reference: nn.Module, small: nn.Module, loss: Loss, tolerance: float | None = None) -> None:
    """Refuse a smaller network on which the loss is another than on the original, in evaluation mode.

    A sampled softmax, say, that takes rows of ``network.decoder.weight`` goes round the gates, and sees them only once
    they are folded in. Outputs are equal then and the loss is not. A loss that cannot be computed on the original as it
    is now, or that differs from itself, is not compared.

    Args:
        reference: the network that is right.
        small: the network to check.
        loss: network → loss, or a tuple that begins with it, of one and the same batch.
        tolerance: that of the outputs; a loss may differ by as much, and by a hundred times as much of itself.

    Raises:
        ValueError: if they differ, or the loss cannot be computed on the small network.

    Example:
        >>> full, part = nn.Linear(2, 1), nn.Linear(1, 1)
        >>> compare_losses(full, part, lambda network: network.weight.new_ones(()))
    """
    with torch.no_grad(), evaluating(reference, small), torch.random.fork_rng():
        try:
            expected, again = _value(reference, loss), _value(reference, loss)
        except Exception as error:  # the user's code, on a batch that may be used up by now
            log.warning("the training loss was not compared: %s: %s", type(error).__name__, error)
            return
        if not torch.equal(expected, again):
            log.warning("the training loss was not compared: from the same random numbers it differs from itself")
            return
        try:
            got = _value(small, loss)
        except Exception as error:
            raise ValueError(
                f"the training loss fails on the shrunken network, {type(error).__name__}: {error}; {_ADVICE}"
            ) from error
    if tolerance is None:
        tolerance = TOLERANCES.get(next(reference.parameters()).dtype, HALF_PRECISION_TOLERANCE)
    allowed = tolerance + min(100 * tolerance, HALF_PRECISION_TOLERANCE) * float(expected.abs())
    if not float((expected - got).abs()) <= allowed:
        raise ValueError(
            f"the training loss is {float(got):.6g} on the shrunken network and {float(expected):.6g} on the original, "
            f"though their outputs are equal; {_ADVICE}"
        )


_ADVICE = (
    "it reads weights of the network, or calls parts of it, past the forward pass. Let the forward pass compute what "
    "it needs, or name the layer in `fixed`; a term for the size of the weights is smaller by right, and `loss=False` "
    "leaves the loss out"
)


def _value(network: nn.Module, loss: Loss) -> Tensor:
    torch.manual_seed(0)
    found = loss(network)
    value = torch.as_tensor(found[0] if isinstance(found, (tuple, list)) else found).double()
    if value.numel() != 1:
        raise ValueError(f"`loss` must return one number, got shape {tuple(value.shape)}")
    return value.reshape(())
