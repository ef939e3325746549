"""Parameters and multiply-adds of a network: exact for kept units, expected for open probabilities, one polynomial.

The gates of different units are independent, so a weight between axes a and b has the expected size E[n_a]·E[n_b],
where n is the number of open units. When both are the same axis, as in a recurrent weight, the diagonal carries one
gate instead of two: E[n²] = (Σp)² + Σp(1-p). With p in {0, 1} that is the exact count. Summed over all weights and all
products it is ``constant + linear · e + eᵀ quadratic e + spread · v``, with e the expected number of open units of each
axis and v its variance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from l0rnn.tracing.units import STAYS, Units, Weight

Number = Any  # int for exact counts, float or a differentiable Tensor for expected ones
KINDS = ("parameters", "embedding_parameters", "multiply_adds")


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        parameters: number of parameters, all of them.
        embedding_parameters: those of embeddings that are not tied to a decoder.
        multiply_adds: multiply-adds of every product with a weight or between activations, lookups are free. Per step:
            what all operations run over, such as time steps and sequences, is divided by what they have in common.
    """

    parameters: Number
    embedding_parameters: Number
    multiply_adds: Number

    @property
    def parameters_without_embedding(self) -> Number:
        """Parameters less those of untied embeddings."""
        return self.parameters - self.embedding_parameters

    def __getitem__(self, kind: str) -> Number:
        return getattr(self, kind)


class CostOf:
    """The cost of a network as a polynomial in the numbers of its open units.

    Args:
        units: the network's units.

    Example:
        >>> from torch import nn
        >>> from l0rnn.tracing import trace
        >>> units = trace(nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10)), torch.arange(10))
        >>> CostOf(units).expected(torch.full((4,), 0.5)).multiply_adds
        tensor(20.)

    Reference:
        Wen et al. 2019 (arXiv 1906.06847): expected L0 norm of the weights under input and hidden gates.
    """

    def __init__(self, units: Units) -> None:
        self.units = units
        self._places = {axis: place for place, axis in enumerate(units.axes)}
        self._sizes = [axis.size for axis in units.axes.values()]
        count = len(units.axes)
        exact: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}  # not every device has float64
        self._constant = torch.zeros(len(KINDS), **exact)
        self._linear = torch.zeros(len(KINDS), count, **exact)
        self._spread = torch.zeros(len(KINDS), count, **exact)
        self._quadratic = torch.zeros(len(KINDS), count, count, **exact)
        for weight in units.weights.values():
            if weight.is_parameter:
                kinds = [0, 1] if weight.is_lookup and not weight.is_matrix else [0]
                self._add(kinds, 1.0, *_sides(units, weight))
        for product in units.products:
            sides = [product.rows] if product.is_diagonal else [product.rows, product.columns]
            self._add([2], product.factor, *sides)

    def _add(self, kinds: list[int], factor: float, *sides: Mapping[str, int]) -> None:
        """Add ``factor`` times the product of the sides, each a sum of axes with their rows per unit."""
        if not sides:
            self._constant[kinds] += factor
            return
        one, *others = sides
        for first, per_unit in one.items():
            if not others:
                if first:
                    self._linear[kinds, self._places[first]] += factor * per_unit
                else:
                    self._constant[kinds] += factor * per_unit
                continue
            for second, per_other in others[0].items():
                size = factor * per_unit * per_other
                if first and second:
                    row, column = self._places[first], self._places[second]
                    self._quadratic[kinds, row, column] += size
                    if row == column:
                        self._spread[kinds, row] += size
                elif first or second:
                    self._linear[kinds, self._places[first or second]] += size
                else:
                    self._constant[kinds] += size

    def expected(self, open: Tensor) -> Cost:
        """The expected cost.

        Args:
            open: P(open) of all units, `(unit,)`.

        Returns:
            Tensors through which gradients flow.
        """
        if self._constant.device != open.device or self._constant.dtype != open.dtype:
            for name in ("_constant", "_linear", "_spread", "_quadratic"):
                setattr(self, name, getattr(self, name).to(open))
        moments = torch.stack((open, open * (1 - open)))  # (moment, unit)
        per_axis = [part.sum(-1) for part in moments.split(self._sizes, 1)]
        expected, variance = torch.stack(per_axis, 1).unbind() if per_axis else moments.new_zeros(2, 0).unbind()
        # no matrix product: a GPU may be told to round those to TF32
        summed = ((self._quadratic * expected).sum(-1) + self._linear) * expected + self._spread * variance
        return Cost(*((summed.sum(-1) + self._constant).unbind()))

    def saved(self, counts: Tensor) -> Tensor:
        """Multiply-adds that one unit less of each axis saves, where axes have so many units: `(axis,)` in float64.

        Args:
            counts: units of each axis, `(axis,)`.
        """
        quadratic, linear = self._quadratic[2].double().cpu(), self._linear[2].double().cpu()
        return linear + (quadratic + quadratic.T) @ counts.double().cpu() - quadratic.diagonal()

    def kept(self, keep: Mapping[str, Tensor] | None = None) -> Cost:
        """The exact cost of kept units.

        Args:
            keep: axis → bool per unit, `(unit,)`; an axis that is absent is kept whole.

        Raises:
            ValueError: if an axis is unknown or a vector has another size than its axis.
        """
        counts = torch.tensor(self._sizes, dtype=torch.float64, device="cpu")
        for name, units in (keep or {}).items():
            if name not in self._places:
                raise ValueError(f"`keep` names {name!r}, which is none of the axes {', '.join(self._places)}")
            if units.shape != (self._sizes[self._places[name]],):
                size = self._sizes[self._places[name]]
                raise ValueError(f"`keep` must have shape ({size},) for {name!r}, got {tuple(units.shape)}")
            counts[self._places[name]] = int((units > 0).sum())
        quadratic, linear, constant = (part.double().cpu() for part in (self._quadratic, self._linear, self._constant))
        totals = (((quadratic * counts).sum(-1) + linear) * counts).sum(-1) + constant
        return Cost(*(round(total) for total in totals.tolist()))


def cost(units: Units, keep: Mapping[str, Tensor] | None = None) -> Cost:
    """Exact cost of a network, whole or of the units that are kept.

    Args:
        units: the network's units.
        keep: axis → which of its units are kept, bool `(unit,)`; an absent axis is kept whole.

    Example:
        >>> from torch import nn
        >>> from l0rnn.tracing import trace
        >>> units = trace(nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10)), torch.arange(10))
        >>> cost(units)
        Cost(parameters=90, embedding_parameters=40, multiply_adds=40)
        >>> cost(units, {"0": torch.tensor([True, False, True, False])}).multiply_adds
        20
    """
    return CostOf(units).kept(keep)


def masked_cost(units: Units, masks: Mapping[str, Tensor]) -> Cost:
    """Cost of a network of full width in which some weights are 0: those are counted as if they were not there.

    Args:
        units: the network's units.
        masks: parameter name → which of its entries are kept, bool; an absent parameter is whole.

    Example:
        >>> from torch import nn
        >>> from l0rnn.tracing import trace
        >>> units = trace(nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10)), torch.arange(10))
        >>> masked_cost(units, {"1.weight": torch.ones(10, 4).triu() > 0})
        Cost(parameters=60, embedding_parameters=40, multiply_adds=10)
    """
    whole = cost(units)
    parameters, embedding, multiply_adds = whole.parameters, whole.embedding_parameters, whole.multiply_adds
    uses: dict[str, float] = {}
    for product in units.products:
        uses[product.weight] = uses.get(product.weight, 0) + product.factor
    for name, mask in masks.items():
        weight = units.weights[name]
        zeros = int((~mask).sum())
        parameters -= zeros
        embedding -= zeros if weight.is_lookup and not weight.is_matrix else 0
        multiply_adds -= round(zeros * uses.get(name, 0))
    return Cost(parameters, embedding, multiply_adds)


def _sides(units: Units, weight: Weight) -> list[Mapping[str, int]]:
    """For each dimension with units its indices per unit; whole dimensions are one factor."""
    factor, sides = 1, []
    for numbers in weight.units:
        if bool((numbers != STAYS).any()) and len(sides) < 2:
            sides.append(units.per_unit(numbers))
        else:
            factor *= len(numbers)
    if not sides:
        return [{"": factor}]
    return [{name: count * factor for name, count in sides[0].items()}, *sides[1:]]
