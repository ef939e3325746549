"""What reads gated units: layers of torch whose class is changed when a network is gated, and parameters of any module.

A Linear multiplies what it reads, which is little, and a LayerNorm leaves closed units out of its mean. Everything else
gets the gates multiplied into the columns of its weight: the class of the module is replaced by a subclass in which the
parameter is a property, so that the module's own code, whatever it is, reads the folded weight under the old name.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.gates.folding import fold
from l0rnn.gates.gates import GateView
from l0rnn.gates.open_units import WORTH_SKIPPING, open_positions
from l0rnn.tracing.trace import is_without_gates

class GatedLinear(nn.Linear):
    """Linear that multiplies what it reads by the gates of the units; on a CPU it leaves out those that are closed."""

    input_gates: GateView

    def forward(self, input: Tensor) -> Tensor:
        """`(…, feature)` → `(…, unit)`."""
        if is_without_gates():
            return nn.functional.linear(input, self.weight, self.bias)
        _check_width(input, self.in_features)
        values = self.input_gates.value.to(input.dtype)
        if values.device.type != "cpu":  # the host would have to wait for the gates to know which are open
            return nn.functional.linear(fold(input, values), self.weight, self.bias)
        units = open_positions(values)
        if len(units) > WORTH_SKIPPING * len(values):
            return nn.functional.linear(fold(input, values), self.weight, self.bias)
        open_input = input.index_select(-1, units) * values[units]
        return nn.functional.linear(open_input, self.weight.index_select(1, units), self.bias)


class GatedEmbedding(nn.Embedding):
    """Embedding whose weight a decoder shares: it hands its units on scaled, as the folded weight will."""

    input_gates: GateView  # of the units it makes

    def forward(self, input: Tensor) -> Tensor:
        """`(…)` → `(…, unit)`."""
        vectors = super().forward(input)
        return vectors if is_without_gates() else vectors * self.input_gates.value.to(vectors.dtype)


class _OpenUnits:
    """Of the units that a layer normalises over, those that surgery would keep."""

    input_gates: GateView

    def open_units(self, like: Tensor) -> Tensor:
        """1 for units whose gate is not 0, and for the first if there is none: `(unit,)`."""
        is_open = self.input_gates.value != 0
        return torch.cat((is_open[:1] | ~is_open.any(), is_open[1:])).to(like)


class GatedLayerNorm(_OpenUnits, nn.LayerNorm):
    """LayerNorm over the open units alone, as it will be once the closed ones are gone."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `(…, unit)` over the units whose gate is not 0; closed units come out as the bias alone."""
        if is_without_gates():
            return nn.functional.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)
        _check_width(input, self.normalized_shape[0])
        mask = self.open_units(input)
        units = mask.sum()
        centred = (input - (input * mask).sum(-1, keepdim=True) / units) * mask
        variance = centred.square().sum(-1, keepdim=True) / units
        normal = centred * torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            normal = normal * self.weight
        return normal if self.bias is None else normal + self.bias


class GatedRMSNorm(_OpenUnits, nn.RMSNorm):
    """RMSNorm over the open units alone."""

    def forward(self, x: Tensor) -> Tensor:
        """Divide `(…, unit)` by the root mean square of the units whose gate is not 0."""
        if is_without_gates():
            return nn.functional.rms_norm(x, self.normalized_shape, self.weight, self.eps)
        mask = self.open_units(x)
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        normal = x * torch.rsqrt((x * mask).square().sum(-1, keepdim=True) / mask.sum() + eps)
        return normal if self.weight is None else normal * self.weight


GATED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: GatedLinear,
    nn.Embedding: GatedEmbedding,
    nn.LayerNorm: GatedLayerNorm,
    nn.RMSNorm: GatedRMSNorm,
}


class Folded:
    """Marks the classes in which parameters are read with gates multiplied in; see `fold_parameter_`."""

    _folds: dict[str, list[tuple[int, GateView]]]
    _folded: dict[str, tuple[Any, Tensor]]

    def __getstate__(self) -> dict[str, Any]:
        # a folded weight hangs on an autograd graph, which neither copy nor pickle can take along
        return {**self.__dict__, "_folded": {}}


def fold_parameter_(module: nn.Module, name: str, folds: list[tuple[int, GateView]]) -> None:
    """From now on the module's own code reads a parameter with gates multiplied in.

    `state_dict`, `parameters` and the parameter itself stay as they are.

    Args:
        module: any module.
        name: of one of its parameters.
        folds: dimensions, with the gates of the indices along each.
    """
    if not isinstance(module, Folded):
        module.__dict__["_folds"], module.__dict__["_folded"] = {}, {}
    module._folds[name] = folds  # type: ignore[union-attr, operator]
    base = type(module).__mro__[2] if isinstance(module, Folded) else type(module)
    module.__class__ = _folded_class(base, tuple(sorted(module._folds)))  # type: ignore[arg-type]


@cache
def _folded_class(base: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    return type(base.__name__, (Folded, base), {"__module__": base.__module__, **{name: _folded_property(name) for name in names}})


def _folded_property(name: str) -> property:
    def read(self: Any) -> Tensor:
        raw = self._parameters[name]
        if is_without_gates():
            return raw  # type: ignore[no-any-return]
        folds = self._folds[name]
        gates = folds[0][1].gates
        _ = gates.value  # draws if the mode has changed
        key = (gates.draws, raw._version, torch.is_grad_enabled(), id(raw))
        found = self._folded.get(name)
        if found is None or found[0] != key:
            weight = raw
            for dimension, view in folds:
                shape = [-1 if d == dimension else 1 for d in range(weight.dim())]
                weight = weight * view.value.to(weight.dtype).reshape(shape)
            found = self._folded[name] = (key, weight)
        return found[1]

    return property(read)


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The class that a module had before it was gated."""
    kind = type(module)
    if isinstance(module, Folded):
        return kind.__mro__[2]
    return next((plain for plain, gated in GATED.items() if kind is gated), kind)


def forget_gates_(module: nn.Module) -> None:
    """Give a module its class back, and drop what it knew of gates."""
    module.__class__ = plain_class(module)
    for name in ("input_gates", "_folds", "_folded"):
        module.__dict__.pop(name, None)


def _check_width(input: Tensor, width: int) -> None:
    """Torch's own check comes too late: gates would broadcast one unit to all, and picking units hides surplus ones."""
    if input.size(-1) != width:
        raise RuntimeError(f"`input` must have {width} units in its last dimension, got {input.size(-1)}")
