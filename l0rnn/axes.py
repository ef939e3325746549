"""Which units each dimension of each weight belongs to.

One table of einops patterns, one row per kind of weight. Folding, cost and surgery all read it, so LSTM,
GRU, RNN, Linear, Embedding and LayerNorm differ by data, not by code. The names in a pattern:

=============  =====================================================================
``unit``       units that the layer produces
``cell``       units inside an LSTM with ``proj_size``, read only by its projection
``previous``   the layer's own units one time step earlier
``feature``    units that the layer reads
``word``       rows of an embedding: the vocabulary, never pruned
``gate``       the 4, 3 or 1 gates of a recurrent cell, packed as (gate, unit)
=============  =====================================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import torch
from einops import rearrange
from torch import Tensor

GATES_PER_CELL: dict[str, int] = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}

RECURRENT_PATTERNS = {
    "weight_ih": "(gate unit) feature",
    "weight_hh": "(gate unit) previous",
    "bias_ih": "(gate unit)",
    "bias_hh": "(gate unit)",
}
PROJECTED_PATTERNS = {
    "weight_ih": "(gate cell) feature",
    "weight_hh": "(gate cell) previous",
    "bias_ih": "(gate cell)",
    "bias_hh": "(gate cell)",
    "weight_hr": "unit cell",
}
LINEAR_PATTERNS = {"weight": "unit feature", "bias": "unit"}
EMBEDDING_PATTERNS = {"weight": "word unit"}
LAYER_NORM_PATTERNS = {"weight": "unit", "bias": "unit"}

# The dimension of a pattern that is summed over when the weight is used: where gates fold in.
READ_DIMENSIONS = {"feature", "previous"}


@dataclass(frozen=True)
class Weight:
    """One parameter and the axes of its dimensions.

    Attributes:
        layer: the layer it belongs to, such as ``encoder``.
        kind: its kind within the layer, such as ``weight_hh``.
        key: layer and direction within a recurrent layer, such as ``l0_reverse``; empty elsewhere.
        parameter: name of the parameter within the layer, such as ``weight_hh_l0_reverse``.
        pattern: einops pattern of its shape, such as ``(gate unit) previous``.
        axes: for each name in the pattern but ``gate``, the unit axes concatenated along it.
        gates: length of the ``gate`` dimension.
    """

    layer: str
    kind: str
    key: str
    parameter: str
    pattern: str
    axes: dict[str, tuple[str, ...]]
    gates: int = 1

    @property
    def name(self) -> str:
        """Full name of the parameter in the network."""
        return f"{self.layer}.{self.parameter}" if self.layer else self.parameter

    @property
    def reads(self) -> str | None:
        """The dimension that is summed over when the weight is used, or None (embedding, bias)."""
        return read_dimension(self.pattern)

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the dimensions after the pattern is unpacked, such as ``("gate", "unit", "previous")``."""
        return dimensions(self.pattern)


@dataclass(frozen=True)
class Axis:
    """A set of units that are kept or closed one by one.

    Attributes:
        name: such as ``encoder.l0_reverse`` or ``embedding``.
        size: number of units.
        layer: the layer that produces the units.
        fixed: why all units stay, or None if they can be pruned.
    """

    name: str
    size: int
    layer: str
    fixed: str | None = None


@dataclass
class Blueprint:
    """Axes, weights and reading order of a network; see `draw_blueprint`.

    Attributes:
        axes: every unit axis by name.
        weights: every parameter of a supported layer, with the axes of its dimensions.
        inputs: layer → names of the axes it reads, concatenated in order.
        outputs: layer → names of the axes it produces, concatenated in order.
        prescaled: layer → for each axis it reads, whether its producer hands the units on already scaled by their
            gates after surgery: a tied embedding does, since the decoder's gates fold into the shared weight.
        tied: Embedding → the Linear layer that shares its weight.
        normalised: axes whose units pass through a LayerNorm.
        other_parameters: parameters outside the supported layers.
        undescribed: layer with parameters that the wiring does not describe → why it is left alone.
    """

    axes: dict[str, Axis] = field(default_factory=dict)
    weights: list[Weight] = field(default_factory=list)
    inputs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    outputs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    prescaled: dict[str, tuple[bool, ...]] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    normalised: set[str] = field(default_factory=set)
    other_parameters: int = 0
    undescribed: dict[str, str] = field(default_factory=dict)

    def prunable(self) -> list[Axis]:
        """The axes whose units can be removed."""
        return [axis for axis in self.axes.values() if axis.fixed is None]

    def weights_of(self, layer: str) -> list[Weight]:
        """The weights of one layer."""
        return [weight for weight in self.weights if weight.layer == layer]


def read_dimension(pattern: str) -> str | None:
    """The dimension of a pattern that a layer sums over.

    Example:
        >>> read_dimension("(gate unit) previous"), read_dimension("unit cell"), read_dimension("word unit")
        ('previous', 'cell', None)
    """
    names = dimensions(pattern)
    if names == ("unit", "cell"):  # the projection of an LSTM reads its cell units
        return "cell"
    return next((name for name in names if name in READ_DIMENSIONS), None)


def cut(tensor: Tensor, weight: Weight, *, indices: dict[str, Tensor], scale: Tensor | None = None) -> Tensor:
    """Keep some units along each dimension of a weight, and scale the ones it reads.

    Args:
        tensor: the weight, in torch's packed layout.
        weight: its row of the table.
        indices: for each dimension to cut, the positions kept, int64 `(kept,)`.
        scale: factors of the dimension that the weight reads, `(kept,)`, or None.

    Returns:
        A new tensor in the packed layout.

    Example:
        >>> weight = Weight("", "hh", "", "hh", "(gate unit) previous", {"unit": ("h",), "previous": ("h",)}, 2)
        >>> cut(torch.arange(8.0).reshape(4, 2), weight, indices={"unit": torch.tensor([1])})
        tensor([[2., 3.],
                [6., 7.]])
    """
    names = weight.dimensions
    unpacked = " ".join(names)
    sizes = {"gate": weight.gates} if "gate" in names else {}
    grouped = rearrange(tensor, f"{weight.pattern} -> {unpacked}", **sizes)
    for dimension, name in enumerate(names):
        if name in indices:
            grouped = grouped.index_select(dimension, indices[name].to(grouped.device))
    if scale is not None and weight.reads is not None:
        shape = [-1 if name == weight.reads else 1 for name in names]
        grouped = grouped * scale.to(grouped).reshape(shape)
    result = rearrange(grouped, f"{unpacked} -> {weight.pattern}").contiguous()
    return result.clone() if result.data_ptr() == tensor.data_ptr() else result  # where nothing was cut


@cache
def dimensions(pattern: str) -> tuple[str, ...]:
    """Names in a pattern, in order: ``"(gate unit) previous"`` has ``("gate", "unit", "previous")``."""
    return tuple(pattern.replace("(", "").replace(")", "").split())


def positions(keep: list[Tensor]) -> Tensor:
    """Positions kept along a dimension made of several axes, given the bool vector of each: int64 `(kept,)`."""
    return torch.cat(keep).nonzero().squeeze(1)
