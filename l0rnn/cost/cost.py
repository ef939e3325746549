"""Parameters and multiply-adds of a network: exact for kept units, expected for open probabilities, one formula.

The gates of different units are independent, so a weight between axes a and b has the expected size E[n_a]·E[n_b],
where n is the number of open units. When both are the same axis, as in a recurrent weight, the diagonal carries one
gate instead of two: E[n²] = (Σp)² + Σp(1-p). With p in {0, 1} that is the exact count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from l0rnn.axes import Blueprint, Weight

KINDS = ("parameters", "embedding_parameters", "multiply_adds")

Number = Any  # int for exact counts, float or a differentiable Tensor for expected ones


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        parameters: number of parameters, all of them.
        embedding_parameters: those of embeddings that are not tied to a decoder.
        multiply_adds: multiply-adds per time step, every layer applied once; matrix products alone, lookups are free.
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


def cost(blueprint: Blueprint, open: Mapping[str, Tensor] | None = None) -> Cost:
    """Cost of a network in which each unit is open with some probability.

    Args:
        blueprint: the network's blueprint.
        open: axis → P(open) of its units, or bool for units kept; `(unit,)`. An axis that is absent is all open.

    Returns:
        Whole numbers if ``open`` holds bool vectors only, else tensors through which gradients flow.

    Raises:
        ValueError: if ``open`` names an unknown axis or a vector has another size than its axis.

    Example:
        >>> from torch import nn
        >>> from l0rnn.blueprint import draw_blueprint
        >>> from l0rnn.wiring import Wiring
        >>> network = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10))
        >>> blueprint = draw_blueprint(network, Wiring({"1": ["0"]}))
        >>> cost(blueprint)
        Cost(parameters=90, embedding_parameters=40, multiply_adds=40)
        >>> cost(blueprint, {"0": torch.tensor([True, False, True, False])}).multiply_adds
        20
        >>> cost(blueprint, {"0": torch.full((4,), 0.5)}).multiply_adds
        tensor(20.)

    Reference:
        Wen et al. 2019 (arXiv 1906.06847): expected L0 norm of the weights under input and hidden gates.
    """
    counts = _Counts(blueprint, open or {})
    parameters: Number = blueprint.other_parameters
    embedding: Number = 0
    multiply_adds: Number = 0
    for weight in blueprint.weights:
        size = counts.size(weight)
        parameters = parameters + size
        if weight.pattern == "word unit":
            embedding = embedding + size
        elif weight.reads is not None:
            multiply_adds = multiply_adds + size
    return Cost(parameters, embedding, multiply_adds)


def masked_cost(blueprint: Blueprint, masks: Mapping[str, Tensor]) -> Cost:
    """Cost of a network of full width in which some weights are 0: those are counted as if they were not there.

    Args:
        blueprint: the network's blueprint.
        masks: parameter name → which of its entries are kept, bool; an absent parameter is whole.

    Example:
        >>> from torch import nn
        >>> from l0rnn.blueprint import draw_blueprint
        >>> from l0rnn.wiring import Wiring
        >>> network = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10))
        >>> blueprint = draw_blueprint(network, Wiring({"1": ["0"]}))
        >>> masked_cost(blueprint, {"1.weight": torch.ones(10, 4).triu() > 0})
        Cost(parameters=60, embedding_parameters=40, multiply_adds=10)
    """
    whole = cost(blueprint)
    parameters, embedding, multiply_adds = whole.parameters, whole.embedding_parameters, whole.multiply_adds
    for weight in blueprint.weights:
        if weight.name in masks:
            zeros = int((~masks[weight.name]).sum())
            parameters -= zeros
            embedding -= zeros if weight.pattern == "word unit" else 0
            multiply_adds -= zeros if weight.reads is not None else 0
    return Cost(parameters, embedding, multiply_adds)


class ExpectedCost:
    """As `cost` for probabilities, for the same blueprint again and again: one polynomial.

    `cost` walks over all weights, with several operations on single numbers for each; a training asks for it at every
    step. A weight's size is linear or a product in the numbers of open units, so the sum over all weights is ``constant
    + linear · e + eᵀ quadratic e + spread · v``, with e the expected number of open units of each axis and v its
    variance, which enters where a weight has the same axis on both sides.

    Args:
        blueprint: the network's blueprint.
        axes: the axes with gates, in the order in which their probabilities come; all others count as open.

    Example:
        >>> from torch import nn
        >>> from l0rnn.blueprint import draw_blueprint
        >>> from l0rnn.wiring import Wiring
        >>> network = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10))
        >>> blueprint = draw_blueprint(network, Wiring({"1": ["0"]}))
        >>> ExpectedCost(blueprint, ["0"])(torch.full((4,), 0.5)).multiply_adds
        tensor(20.)
    """

    def __init__(self, blueprint: Blueprint, axes: list[str]) -> None:
        self.blueprint = blueprint
        self._places = {axis: place for place, axis in enumerate(axes)}
        count = len(axes)
        self._constant = torch.zeros(len(KINDS), dtype=torch.float64)
        self._linear = torch.zeros(len(KINDS), count, dtype=torch.float64)
        self._spread = torch.zeros(len(KINDS), count, dtype=torch.float64)
        self._quadratic = torch.zeros(len(KINDS), count, count, dtype=torch.float64)
        self._constant[0] = blueprint.other_parameters
        for weight in blueprint.weights:
            is_embedding = weight.pattern == "word unit"
            kinds = [0] + [1] * is_embedding + [2] * (weight.reads is not None and not is_embedding)
            sides = list(weight.axes.values())
            if len(sides) == 1:
                for axis in sides[0]:
                    self._add(kinds, weight.gates, axis)
            else:
                for row in sides[0]:
                    for column in sides[1]:
                        self._add(kinds, weight.gates, row, column)
        self._sizes = [blueprint.axes[axis].size for axis in axes]

    def _add(self, kinds: list[int], factor: float, *axes: str) -> None:
        gated = [self._places[axis] for axis in axes if axis in self._places]
        for axis in axes:
            if axis not in self._places:
                factor *= self.blueprint.axes[axis].size
        if not gated:
            self._constant[kinds] += factor
        elif len(gated) == 1:
            self._linear[kinds, gated[0]] += factor
        else:
            self._quadratic[kinds, gated[0], gated[1]] += factor
            if gated[0] == gated[1]:
                self._spread[kinds, gated[0]] += factor

    def __call__(self, open: Tensor) -> Cost:
        """The expected cost.

        Args:
            open: P(open) of the units of all gated axes, one after the other, `(unit,)`.

        Returns:
            Tensors through which gradients flow.
        """
        if self._constant.device != open.device or self._constant.dtype != open.dtype:
            for name in ("_constant", "_linear", "_spread", "_quadratic"):
                setattr(self, name, getattr(self, name).to(open))
        moments = torch.stack((open, open * (1 - open)))  # (moment, unit)
        expected, variance = torch.stack([part.sum(-1) for part in moments.split(self._sizes, 1)], 1).unbind()
        # no matrix product: a GPU may be told to round those to TF32
        per_axis = ((self._quadratic * expected).sum(-1) + self._linear) * expected + self._spread * variance
        return Cost(*((per_axis.sum(-1) + self._constant).unbind()))


class _Counts:
    """Expected numbers of open units per axis and per pair of axes, each computed once."""

    def __init__(self, blueprint: Blueprint, open: Mapping[str, Tensor]) -> None:
        for name, vector in open.items():
            if name not in blueprint.axes:
                raise ValueError(f"`open` names {name!r}, which is none of the axes {', '.join(blueprint.axes)}")
            if vector.shape != (blueprint.axes[name].size,):
                raise ValueError(
                    f"`open` must have shape ({blueprint.axes[name].size},) for {name!r}, got {tuple(vector.shape)}"
                )
        self.axes = blueprint.axes
        self.open = open
        self.expected = {name: self._expected(name) for name in blueprint.axes}

    def _expected(self, name: str) -> Number:
        vector = self.open.get(name)
        if vector is None:
            return self.axes[name].size
        return int(vector.sum()) if vector.dtype == torch.bool else vector.sum()

    def _expected_square(self, name: str) -> Number:
        square = self.expected[name] ** 2
        vector = self.open.get(name)
        if vector is None or vector.dtype == torch.bool:
            return square
        return square + (vector * (1 - vector)).sum()

    def size(self, weight: Weight) -> Number:
        """Expected number of entries of a weight whose units are all open."""
        sides = list(weight.axes.values())
        if len(sides) == 1:
            return weight.gates * sum(self.expected[axis] for axis in sides[0])
        rows, columns = sides
        if not set(rows) & set(columns):
            return weight.gates * sum(self.expected[a] for a in rows) * sum(self.expected[b] for b in columns)
        pairs = (
            self._expected_square(a) if a == b else self.expected[a] * self.expected[b] for a in rows for b in columns
        )
        return weight.gates * sum(pairs)
