"""How much the loss changes with the gate of each unit, from the gradients that a training step has in any case."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from l0rnn.surgery.sizes import raw_tensor
from l0rnn.tracing.units import STAYS, Units


class GateGradients:
    """``g ∂L/∂g`` of the gate of each unit, without a gradient through the gates.

    A gate g multiplies the weights w that read its unit, so ``g ∂L/∂g = Σ w · ∂L/∂w`` over all of them, whether g is 1,
    drawn, or trained. The gradients are those that a backward pass leaves in the parameters, so the cost is one look at
    the weights, however long the sequences are.

    The weights are those that the gradient is of, from before the optimiser's step, while a method is called after it:
    `remember` copies them. (With those of after the step every sum would be too small by ``Σ Δw · ∂L/∂w``, which in a
    step of Adam can be as large as the sum itself.)

    Args:
        network: modules of plain torch, or gated ones.
        units: its units.

    Example:
        >>> from l0rnn.tracing import trace
        >>> network, x = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1, bias=False)), torch.ones(1, 2)
        >>> gradients = GateGradients(network, trace(network, x))
        >>> gradients.remember()
        >>> network(x).sum().backward()  # a loss that is linear in the gates: each has its unit's part of it
        >>> values, is_known = gradients.of_step()
        >>> torch.equal(values, (network[1].weight * network[0](x)).detach().squeeze()), is_known
        (True, tensor([True, True]))
    """

    def __init__(self, network: nn.Module, units: Units) -> None:
        self.network, self.units = network, units
        # weight → dimensions in which it reads units, with the unit of each index; one more than there are for none
        self._read: dict[str, list[tuple[int, Tensor]]] = {}
        for weight in units.weights.values():
            if not weight.is_parameter:
                continue
            for dimension, numbers in enumerate(weight.units):
                is_read = weight.is_read[dimension] & ~weight.is_prescaled[dimension] & (numbers != STAYS)
                if bool(is_read.any()):
                    own = torch.where(is_read, numbers, units.count)
                    self._read.setdefault(weight.name, []).append((dimension, own))
        self._before: dict[str, Tensor] = {}

    @torch.no_grad()
    def remember(self) -> None:
        """Copy the weights that read units; before the optimiser's step."""
        for name in self._read:
            tensor = raw_tensor(self.network, name)
            old = self._before.get(name)
            if old is None or old.shape != tensor.shape or old.device != tensor.device or old.dtype != tensor.dtype:
                self._before[name] = tensor.detach().clone()
            else:
                old.copy_(tensor)

    @torch.no_grad()
    def of_step(self) -> tuple[Tensor, Tensor]:
        """``g ∂L/∂g`` of the step, before its gradients are cleared, and of which units it is known.

        Returns:
            The values, `(unit,)` in float32 or float64, 0 where they are not known; and which are, bool `(unit,)` on
            the CPU: those of units that a weight with a gradient reads. There is none in a branch that this batch does
            not take, nor for what nobody trains. A gradient may be NaN or infinite, and so may the values then.
        """
        like = next(self.network.parameters())
        wide = like.dtype if like.dtype == torch.float64 else torch.float32
        values = torch.zeros(self.units.count + 1, dtype=wide, device=like.device)
        is_known = torch.zeros(self.units.count + 1, dtype=torch.bool)
        for name, read in self._read.items():
            gradient, before = raw_tensor(self.network, name).grad, self._before.get(name)
            if gradient is None or before is None:
                continue
            gradient = gradient.to_dense() if gradient.is_sparse else gradient
            for place, (dimension, numbers) in enumerate(read):
                is_known[numbers] = True
                if numbers.device != values.device:
                    numbers = numbers.to(values.device)
                    read[place] = (dimension, numbers)
                values.index_add_(0, numbers, _sums(before, gradient, dimension).to(wide))
        return values[:-1], is_known[:-1]


def _sums(weight: Tensor, gradient: Tensor, dimension: int) -> Tensor:
    """Sums of the products over all but one dimension."""
    if weight.dtype in (torch.float16, torch.bfloat16):
        weight, gradient = weight.float(), gradient.float()
    if dimension == weight.dim() - 1:
        size = weight.size(-1)
        return torch.linalg.vecdot(weight.reshape(-1, size), gradient.reshape(-1, size), dim=0)
    return (weight * gradient).sum([d for d in range(weight.dim()) if d != dimension])
