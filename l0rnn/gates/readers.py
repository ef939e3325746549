"""What reads gated units: layers of torch whose class is changed when a network is gated, and parameters of any module.

A Linear multiplies what it reads, which is little, and a LayerNorm leaves closed units out of its mean. Everything else
gets the gates multiplied into the columns of its weight: the class of the module is replaced by a subclass in which the
parameter is a property, so that the module's own code, whatever it is, reads the folded weight under the old name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.gates.folding import fold
from l0rnn.gates.gates import Gates, GateView, KeptView
from l0rnn.gates.open_units import WORTH_SKIPPING
from l0rnn.tracing.trace import is_without_gates


class Reader:
    """What the classes share that read through gates: what is computed from one draw of them is kept until the next."""

    def prepare(self) -> None:
        """Compute what the pass needs once, now.

        Later would do, but for activation checkpointing: what a part of the network computes only at its first run, and
        not when it is run again for the gradient, would be missed there.
        """

    def once_per_draw(self, name: str, gates: Gates, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """What is computed from a parameter and from gates.

        Args:
            name: of the parameter.
            gates: what it depends on beside the parameter.
            compute: is called with the parameter, where it has changed or the gates have.
        """
        module: Any = self
        raw = module._parameters[name]
        _ = gates.value  # draws if the mode has changed
        found = module.__dict__.setdefault("_folded", {}).get(name)
        key = (gates.draws, raw._version, torch.is_grad_enabled())
        if found is None or found[0] != key or found[1] is not raw:
            found = module._folded[name] = (key, raw, compute(raw))
        return found[2]  # type: ignore[no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        # what is folded hangs on an autograd graph, which neither copy nor pickle can take along
        return {**self.__dict__, "_folded": {}}


class GatedLinear(Reader, nn.Linear):
    """Linear that multiplies what it reads by the gates of the units; on a CPU it leaves out those that are closed."""

    input_gates: GateView

    def forward(self, input: Tensor) -> Tensor:
        """`(…, feature)` → `(…, unit)`."""
        if is_without_gates():
            return nn.functional.linear(input, self.weight, self.bias)
        _check_width(input, self.in_features)
        values = self.input_gates.value.to(input.dtype)
        units = self._units_to_read()
        if units is None:
            return nn.functional.linear(fold(input, values), self.weight, self.bias)
        open_input = input.index_select(-1, units) * values[units]
        return nn.functional.linear(open_input, self._weight_of(units), self.bias)

    def prepare(self) -> None:
        """Pick the columns of the open units."""
        units = self._units_to_read()
        if units is not None:
            self._weight_of(units)

    def _units_to_read(self) -> Tensor | None:
        """Positions of the open units where leaving out the others saves time, else None."""
        if self.weight.device.type != "cpu":  # the host would have to wait for the gates to know which are open
            return None
        units = self.input_gates.open_positions()
        return None if len(units) > WORTH_SKIPPING * len(self.input_gates) else units

    def _weight_of(self, units: Tensor) -> Tensor:
        return self.once_per_draw("weight", self.input_gates.gates, lambda weight: weight.index_select(1, units))


class GatedEmbedding(Reader, nn.Embedding):
    """Embedding whose weight a decoder shares: it hands its units on scaled, as the folded weight will."""

    input_gates: GateView  # of the units it makes

    def forward(self, input: Tensor) -> Tensor:
        """`(…)` → `(…, unit)`."""
        vectors = super().forward(input)
        return vectors if is_without_gates() else vectors * self.input_gates.value.to(vectors.dtype)


class _OverKeptUnits(Reader):
    """A norm over those units alone that surgery would keep.

    On a CPU they are picked, normalised by torch, and put back among zeros. Elsewhere the host would have to wait for
    the gates to know which they are, so the others are masked.
    """

    input_gates: KeptView
    eps: Any

    def normalised(self, input: Tensor) -> Tensor | None:
        """What comes out, or None where all units are kept and the layer's own code does."""
        view = self.input_gates
        _check_width(input, len(view))
        if view.value.device.type != "cpu":
            return self._masked(input, view.value)
        units = view.open_positions()
        if len(units) == len(view):
            return None
        own = [self._picked(name, units) for name in ("weight", "bias")]
        normal = self.of_units(input.index_select(-1, units), *own)
        return normal.new_zeros(input.shape).index_copy(-1, units, normal)

    def of_units(self, data: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Torch's function, on kept units."""
        raise NotImplementedError

    def of_masked(self, data: Tensor, mask: Tensor) -> Tensor:
        """The same before weight and bias, on units of which only those with a 1 count."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Pick the weights of the kept units."""
        if self.input_gates.value.device.type == "cpu":
            units = self.input_gates.open_positions()
            if len(units) < len(self.input_gates):
                for name in ("weight", "bias"):
                    self._picked(name, units)

    def _own(self, name: str) -> Tensor | None:
        return getattr(self, name, None)  # an RMSNorm has no bias

    def _picked(self, name: str, units: Tensor) -> Tensor | None:
        if self._own(name) is None:
            return None
        return self.once_per_draw(name, self.input_gates.gates, lambda weight: weight.index_select(0, units))

    def _masked(self, input: Tensor, mask: Tensor) -> Tensor:
        # in float32 at least, in which torch's norms add up; under autocast they return it
        wide = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        normal = self.of_masked(wide, mask.to(wide.dtype))
        weight, bias = self._own("weight"), self._own("bias")
        normal = normal if weight is None else normal * weight
        normal = normal if bias is None else normal + bias
        return normal if torch.is_autocast_enabled(input.device.type) else normal.to(input.dtype)


class GatedLayerNorm(_OverKeptUnits, nn.LayerNorm):
    """LayerNorm over the kept units alone, as it will be once the others are gone."""

    def forward(self, input: Tensor) -> Tensor:
        """`(…, unit)`; what comes out for units that are not kept is read by nobody."""
        normal = None if is_without_gates() else self.normalised(input)
        return super().forward(input) if normal is None else normal

    def of_units(self, data: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Torch's function, on kept units."""
        return nn.functional.layer_norm(data, (data.size(-1),), weight, bias, self.eps)

    def of_masked(self, data: Tensor, mask: Tensor) -> Tensor:
        """Of which only those with a 1 count."""
        units = mask.sum()
        centred = (data - (data * mask).sum(-1, keepdim=True) / units) * mask
        return centred * torch.rsqrt(centred.square().sum(-1, keepdim=True) / units + self.eps)


class GatedRMSNorm(_OverKeptUnits, nn.RMSNorm):
    """RMSNorm over the kept units alone."""

    def forward(self, x: Tensor) -> Tensor:
        """`(…, unit)`; what comes out for units that are not kept is read by nobody."""
        normal = None if is_without_gates() else self.normalised(x)
        return super().forward(x) if normal is None else normal

    def of_units(self, data: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Torch's function, on kept units."""
        return nn.functional.rms_norm(data, (data.size(-1),), weight, self.eps)

    def of_masked(self, data: Tensor, mask: Tensor) -> Tensor:
        """Of which only those with a 1 count."""
        eps = torch.finfo(data.dtype).eps if self.eps is None else self.eps
        return data * torch.rsqrt((data * mask).square().sum(-1, keepdim=True) / mask.sum() + eps)


GATED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: GatedLinear,
    nn.Embedding: GatedEmbedding,
    nn.LayerNorm: GatedLayerNorm,
    nn.RMSNorm: GatedRMSNorm,
}


class Folded(Reader):
    """Marks the classes in which parameters are read with gates multiplied in; see `fold_parameter_`."""

    _folds: dict[str, list[tuple[int, GateView]]]

    def prepare(self) -> None:
        """Fold all that is folded."""
        for name in self._folds:
            getattr(self, name)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # the class is made on the spot, so that a file can only say how
        return _new_folded, (type(self).__mro__[BASE], tuple(sorted(self._folds))), self.__getstate__()


BASE = 3  # place of the class that a folded one is made from: after it and `Folded` and `Reader`


def fold_parameter_(module: nn.Module, name: str, folds: list[tuple[int, GateView]]) -> None:
    """From now on the module's own code reads a parameter with gates multiplied in.

    `state_dict`, `parameters` and the parameter itself stay as they are.

    Args:
        module: any module.
        name: of one of its parameters.
        folds: dimensions, with the gates of the indices along each.
    """
    base = plain_class(module)
    own = module.__dict__.setdefault("_folds", {})
    own[name] = folds
    module.__dict__["_folded"] = {}
    module.__class__ = _folded_class(base, tuple(sorted(own)))


@cache
def _folded_class(base: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    members = {"__module__": base.__module__, **{name: _folded_property(name) for name in names}}
    return type(base.__name__, (Folded, base), members)


def _new_folded(base: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    kind: Any = _folded_class(base, names)
    return kind.__new__(kind)  # type: ignore[no-any-return]


def _folded_property(name: str) -> property:
    def read(self: Any) -> Tensor:
        if is_without_gates():
            return self._parameters[name]  # type: ignore[no-any-return]
        folds = self._folds[name]

        def folded(weight: Tensor) -> Tensor:
            for dimension, view in folds:
                values = view.value.to(weight.dtype)
                if dimension == weight.dim() - 1:
                    weight = fold(weight, values)
                else:
                    weight = weight * values.reshape([-1 if d == dimension else 1 for d in range(weight.dim())])
            return weight

        return self.once_per_draw(name, folds[0][1].gates, folded)  # type: ignore[no-any-return]

    return property(read)


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The class that a module had before it was gated."""
    kind = type(module)
    if isinstance(module, Folded):
        return kind.__mro__[BASE]
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
