"""What methods that set single weights to zero share: masks that stay, and what is counted of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from l0rnn.cost.cost import cost, masked_cost
from l0rnn.methods.method import Method
from l0rnn.surgery.sizes import raw_tensor
from l0rnn.tracing.units import Units, Weight


class MaskMethod(Method):
    """A method that leaves zeros in the weights, all of which keep their shape.

    Prunes the matrices that are multiplied in every time step; biases, norms, `fixed` layers and, unless ``embedding``,
    the embeddings stay whole. A subclass sets `masks` in `update_masks_`. The masks are applied after every optimiser
    step, so a weight that was pruned stays 0; a zero in a dense matrix saves no time, only a sparse kernel does (docs).

    Args:
        embedding: whether embeddings are pruned too.
    """

    def __init__(self, *, embedding: bool = False) -> None:
        super().__init__()
        self.embedding = embedding
        self._targets: dict[str, Weight] = {}

    def attach(self, network: nn.Module, units: Units) -> None:
        """Find the matrices to prune and give each a mask of ones."""
        self.refuse_second_network()
        targets = {
            weight.name: weight
            for weight in units.weights.values()
            if (weight.is_matrix or (self.embedding and weight.is_parameter and weight.is_lookup))
            and not _is_fixed(weight, units.fixed)
        }
        if not targets:
            raise ValueError(
                "`network` must have a matrix that something is multiplied by, and not `fixed`; found none to prune"
            )
        self.check(network, {name: raw_tensor(network, name) for name in targets})
        super().attach(network, units)
        self.traced, self._targets = units, targets
        for name, parameter in self.targets().items():
            self.register_buffer(_buffer(name), torch.ones_like(parameter, dtype=torch.bool))

    def check(self, network: nn.Module, targets: Mapping[str, Tensor]) -> None:
        """Raise ValueError if these matrices, by name, cannot be pruned as asked; called before anything is changed."""

    def targets(self) -> dict[str, Tensor]:
        """The parameters that are pruned, by name, as the network holds them now."""
        return {name: raw_tensor(self._network[0], name) for name in self._targets}

    def masks(self) -> dict[str, Tensor]:
        """Parameter name → which of its entries are kept, bool, in its shape."""
        return {name: self.get_buffer(_buffer(name)) for name in self._targets}

    def gates(self) -> dict[str, Tensor]:
        """None: every axis keeps its width."""
        return {}

    def update_masks_(self) -> None:
        """Prune what is due after the current step, by changing `masks` in place; nothing by default."""

    def after_step(self, step: int) -> None:
        """Prune what is due, and set the pruned weights to 0 again."""
        super().after_step(step)
        self.update_masks_()
        self.follow_(self.progress)

    def follow_(self, progress: float) -> None:
        """Set the pruned weights to 0 again."""
        self.apply_masks_()

    @torch.no_grad()
    def apply_masks_(self) -> None:
        """Set the pruned weights to 0."""
        targets = self.targets()
        for name, mask in self.masks().items():
            targets[name].mul_(mask)

    def unmask_(self) -> None:
        """Let all weights be, and choose again; for `start_afresh_`."""
        self.forget_choice_()
        for mask in self.masks().values():
            mask.fill_(True)

    def kept_fraction(self) -> float:
        """Fraction of the weights under a mask that are kept."""
        masks = self.masks().values()
        return sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)

    def figures(self) -> dict[str, float]:
        """Density, parameters that are not 0, and the density of every matrix."""
        kept = masked_cost(self.traced, self.masks())
        figures = {
            "density": kept.multiply_adds / cost(self.traced).multiply_adds,
            "parameters": float(kept.parameters),
        }
        return figures | {f"density/{name}": float(mask.float().mean()) for name, mask in self.masks().items()}


def _is_fixed(weight: Weight, fixed: Iterable[str]) -> bool:
    return any(alias.startswith(f"{layer}.") for alias in weight.aliases for layer in fixed)


def _buffer(parameter: str) -> str:
    """Name of a mask's buffer; torch allows no dots in it."""
    return f"mask of {parameter}".replace(".", "/")
