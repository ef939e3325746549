"""What modules remember of the sizes of their weights, kept in step with the weights after a cut."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.tracing.units import STAYS, Units

GUESSES = 8  # combinations of a user's numbers that are tried


def set_sizes_(network: nn.Module, units: Units, keep: Tensor) -> None:
    """Let every module of torch know the sizes of the weights that it holds now.

    Args:
        network: with its weights cut already.
        units: the units before.
        keep: which of them are kept, bool `(unit,)`.
    """
    for name, module in network.named_modules():
        set_module_sizes_(module)
        if name in units.normalised and isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
            module.normalized_shape = (width(units.normalised[name], keep),)
    for module in network.modules():
        if isinstance(module, RaggedRNN):
            _set_ragged_sizes_(module)


def set_module_sizes_(module: Any) -> None:
    """Let a module of torch know the sizes of the weights that it holds now."""
    own: Mapping[str, Tensor | None] = {**module._parameters, **module._buffers}
    weight = own.get("weight")
    if weight is None and hasattr(module, "parametrizations") and "weight" in module.parametrizations:
        weight = module.weight
    if isinstance(module, nn.Linear) and weight is not None:
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and weight is not None:
        module.num_embeddings, module.embedding_dim = weight.shape
    elif isinstance(module, _ConvNd) and weight is not None:
        is_depthwise = module.groups == module.in_channels > 1
        outer, inner = (1, 0) if isinstance(module, _ConvTransposeNd) else (0, 1)
        if is_depthwise:
            module.groups = weight.size(0)
            module.in_channels = module.out_channels = weight.size(0)
        else:
            module.out_channels = weight.size(outer) * (module.groups if outer == 1 else 1)
            module.in_channels = weight.size(inner) * (module.groups if inner == 1 else 1)
    elif isinstance(module, _NormBase):
        sized = [tensor for tensor in (weight, own.get("running_mean")) if tensor is not None]
        module.num_features = len(sized[0]) if sized else module.num_features
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and weight is not None:
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.PReLU) and weight is not None:
        module.num_parameters = weight.numel()
    elif isinstance(module, nn.RNNCellBase):
        module.input_size, module.hidden_size = own["weight_ih"].size(1), own["weight_hh"].size(1)  # type: ignore[union-attr]
    elif isinstance(module, nn.RNNBase) and len(set(stack_widths(module))) == 1:
        ((module.hidden_size, module.proj_size),) = set(stack_widths(module))
        module.input_size = own["weight_ih_l0"].size(1)  # type: ignore[union-attr]
        module._init_flat_weights()


def width(numbers: Tensor, keep: Tensor) -> int:
    """How many indices along a dimension are kept, given the unit of each."""
    return int(((numbers == STAYS) | keep[numbers.clamp(min=0)]).sum()) if len(keep) else len(numbers)


def stack_widths(module: nn.RNNBase) -> list[tuple[int, int]]:
    """Hidden and projected units (0 for none) of each layer and direction, as its weights have them."""
    widths = []
    for depth in range(module.num_layers):
        for reverse in ("", "_reverse")[: 2 if module.bidirectional else 1]:
            rows: Any = module._parameters[f"weight_ih_l{depth}{reverse}"]
            projection = module._parameters.get(f"weight_hr_l{depth}{reverse}")
            if projection is None:
                widths.append((rows.size(0) // {"LSTM": 4, "GRU": 3}.get(module.mode, 1), 0))
            else:
                widths.append((projection.size(1), projection.size(0)))
    return widths


def _set_ragged_sizes_(module: Any) -> None:
    module.hidden_sizes = [[int(layer.hidden_size) for layer in row] for row in module.layers]
    if module.proj_sizes is not None:
        module.proj_sizes = [[int(layer.proj_size) for layer in row] for row in module.layers]
    module.input_size = int(module.layers[0][0].input_size)
    module.output_size = sum(int(layer.proj_size or layer.hidden_size) for layer in module.layers[-1])


@dataclass(frozen=True)
class Number:
    """A number of a user's own module, such as ``self.hidden_size``, that may be a width.

    Attributes:
        module: name of the module.
        attribute: its attribute.
        place: place in the attribute, where that is a tuple or list of numbers, else None.
        old: the number as it is.
        new: what it may be after the cut, most likely first.
    """

    module: str
    attribute: str
    place: int | None
    old: int
    new: tuple[int, ...]


def numbers_to_follow(network: nn.Module, units: Units, keep: Tensor) -> list[Number]:
    """Numbers of a user's modules that may be widths, with the widths they may become.

    What the trace has seen used as a width becomes that width. Any other number may be any width, before the cut, of
    the weights or axes of its module and of those within. What it becomes is a guess: the proof says whether it was
    right.
    """
    found = []
    for name, module in network.named_modules():
        if type(module).__module__.startswith(("torch.nn.", "l0rnn.")):
            continue
        prefix = f"{name}." if name else ""
        lengths: dict[int, list[int]] = {}
        for weight in units.weights.values():
            if weight.name.startswith(prefix):
                for numbers in weight.units:
                    lengths.setdefault(len(numbers), []).append(width(numbers, keep))
        for axis in units.axes.values():  # a part of a dimension, such as one of several that lie side by side
            if axis.layer.startswith(name):
                lengths.setdefault(axis.size, []).append(int(keep[axis.units].sum()))
        for attribute, value in vars(module).items():
            is_many = isinstance(value, (tuple, list)) and all(type(part) is int for part in value)
            parts: Any = value if is_many else [value]
            for place, part in enumerate(parts):
                if type(part) is not int:
                    continue
                counted = None if is_many else units.numbers.get((name, attribute))
                known = lengths.get(part, []) if counted is None else [width(counted, keep)]
                new = [length for length in known if length != part]
                if new:
                    found.append(Number(name, attribute, place if is_many else None, part, tuple(dict.fromkeys(new))))
    return found


def guesses(numbers: list[Number]) -> list[list[tuple[Number, int]]]:
    """What to try, one after the other: first nothing, then the numbers in all likely combinations, up to some."""
    choices = itertools.product(*([(number, new) for new in (*number.new, number.old)] for number in numbers))
    return [[], *([list(choice) for choice in itertools.islice(choices, GUESSES)] if numbers else [])]


def follow_(network: nn.Module, guess: list[tuple[Number, int]]) -> list[str]:
    """Set numbers of a user's modules; what was set, such as ``encoder.hidden_size 256 → 80``."""
    changed = []
    for number, new in guess:
        if new == number.old:
            continue
        module = network.get_submodule(number.module)
        value: Any = new
        place = ""
        if number.place is not None:
            parts = list(getattr(module, number.attribute))
            parts[number.place] = new
            value = type(getattr(module, number.attribute))(parts)
            place = f"[{number.place}]"
        setattr(module, number.attribute, value)
        changed.append(f"{number.module}.{number.attribute}{place} {number.old} → {new}".removeprefix("."))
    return changed


def raw_tensor(network: nn.Module, name: str) -> Tensor:
    """A parameter or buffer by its name, without the gates that its module may read it with."""
    layer, _, own = name.rpartition(".")
    module = network.get_submodule(layer)
    found = module._parameters.get(own)
    found = module._buffers.get(own) if found is None else found
    if found is None:
        raise ValueError(f"`network` has no parameter or buffer {name!r} any more; trace it again")
    return found
