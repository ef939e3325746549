"""The expected cost of a gated network as one polynomial in the expected numbers of open units.

`cost` walks over all weights, with several operations on single numbers for each; a training asks for it at every
step. A weight's size is linear or a product in the numbers of open units, so the sum over all weights is ``constant +
linear · e + eᵀ quadratic e + spread · v``, with e the expected number of open units of each axis and v its variance,
which enters where a weight has the same axis on both sides.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l0rnn.axes import Blueprint
from l0rnn.cost import Cost

KINDS = ("parameters", "embedding_parameters", "multiply_adds")


class ExpectedCost:
    """As `cost` for probabilities, for the same blueprint again and again.

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
        exact: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}  # not every device has float64
        self._constant = torch.zeros(len(KINDS), **exact)
        self._linear = torch.zeros(len(KINDS), count, **exact)
        self._spread = torch.zeros(len(KINDS), count, **exact)
        self._quadratic = torch.zeros(len(KINDS), count, count, **exact)
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
