"""From a config to layers without storage: every argument is checked before anything of its size is made."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from l0rnn.export.config import Config
from l0rnn.export.describe import ARGUMENTS, BUFFER_DTYPES, DTYPES, LAYERS
from l0rnn.export.directory import CONFIG, WEIGHTS
from l0rnn.foreign_text import printable, shown
from l0rnn.recurrent.ragged_rnn import CLASSES

_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_MOST_LAYERS = 10_000
_SLACK = 100  # of the tensors missing, so many are named one by one
Rule = tuple[str, Callable[[Any, int], bool]]


def _is_size(value: Any, most: int) -> bool:
    return type(value) is int and 0 < value <= most


def _are_sizes(value: Any, most: int) -> bool:
    is_list = isinstance(value, list) and 0 < len(value) <= _MOST_LAYERS
    return is_list and all(_is_size(part, most) for part in value)


def _are_layered_sizes(value: Any, most: int) -> bool:
    is_list = isinstance(value, list) and 0 < len(value) <= _MOST_LAYERS
    return is_list and all(_are_sizes(part, most) for part in value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


_SIZE: Rule = ("a whole number > 0 that the file of weights can hold", _is_size)
_FLAG: Rule = ("true or false", lambda value, most: type(value) is bool)
_SHARE: Rule = ("a number in [0, 1]", lambda value, most: _is_number(value) and 0 <= value <= 1)
# constructor argument → what it must be
RULES: dict[str, Rule] = {
    **dict.fromkeys(("input_size", "hidden_size", "in_features", "out_features"), _SIZE),
    **dict.fromkeys(("num_embeddings", "embedding_dim"), _SIZE),
    **dict.fromkeys(("bias", "batch_first", "bidirectional", "elementwise_affine"), _FLAG),
    **dict.fromkeys(("dropout", "p"), _SHARE),
    "num_layers": (f"a number of layers up to {_MOST_LAYERS:,}", lambda value, most: _is_size(value, _MOST_LAYERS)),
    "proj_size": ("a whole number ≥ 0", lambda value, most: value == 0 and type(value) is int or _is_size(value, most)),
    "padding_idx": ("null or a word id", lambda value, most: value is None or type(value) is int),
    "eps": ("null or a number in [0, 1]", lambda value, most: value is None or _is_number(value) and 0 <= value <= 1),
    "mode": (f"one of {', '.join(CLASSES)}", lambda value, most: isinstance(value, str) and value in CLASSES),
    "nonlinearity": ("tanh or relu", lambda value, most: value in ("tanh", "relu")),
    "dtype": (f"one of {', '.join(DTYPES)}", lambda value, most: isinstance(value, str) and value in DTYPES),
    "normalized_shape": ("a list of whole numbers > 0 that the file of weights can hold", _are_sizes),
    "hidden_sizes": ("lists of whole numbers > 0 that the file of weights can hold", _are_layered_sizes),
    "proj_sizes": (
        "null, or lists of whole numbers > 0 that the file of weights can hold",
        lambda value, most: value is None or _are_layered_sizes(value, most),
    ),
}


def empty_layers(config: Config, *, most: int, tensors: int) -> dict[str, nn.Module]:
    """The layers of a config on the meta device, where they take no memory.

    Args:
        config: as read from a file.
        most: no dimension may be larger: the bytes of the file of weights, since each unit has a weight in it.
        tensors: number of tensors in that file.

    Raises:
        ValueError: if a name or an argument is not what it should be, or the layers have more tensors than the file.

    Example:
        >>> config = Config(
        ...     "Tagger",
        ...     {
        ...         "norm": {
        ...             "type": "LayerNorm",
        ...             "normalized_shape": [10**12],
        ...             "eps": 0.0,
        ...             "elementwise_affine": True,
        ...             "bias": True,
        ...             "dtype": "float32",
        ...         }
        ...     },
        ... )
        >>> empty_layers(config, most=1000, tensors=2)
        Traceback (most recent call last):
        ...
        ValueError: config.json must give 'normalized_shape' of 'norm' as ..., got [1000000000000]
    """
    if len(config.layers) > _MOST_LAYERS:
        raise ValueError(f"{CONFIG} must have at most {_MOST_LAYERS:,} layers, got {len(config.layers):,}")
    layers: dict[str, nn.Module] = {}
    needed = 0
    for name, settings in config.layers.items():
        layers[name] = _empty_layer(name, settings, most)
        needed += len(list(layers[name].parameters()))
        if needed > tensors + len(config.tied) + _SLACK:
            raise ValueError(f"{WEIGHTS} does not match {CONFIG}: it holds {tensors:,} tensors, fewer than asked for")
    return layers


def _empty_layer(name: str, settings: dict[str, Any], most: int) -> nn.Module:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{CONFIG} must name layers by letters, digits, _ and dots, got {shown(name)}")
    settings = dict(settings)
    kind = settings.pop("type", None)
    layer = LAYERS.get(kind) if isinstance(kind, str) else None
    if layer is None:
        raise ValueError(f"{CONFIG} must give {name!r} a type out of {', '.join(LAYERS)}, got {shown(kind)}")
    if settings.keys() - {"dtype"} != set(ARGUMENTS[layer]):
        raise ValueError(f"{CONFIG} must give {name!r} exactly the arguments {', '.join(ARGUMENTS[layer])}")
    for argument, value in settings.items():
        rule, holds = RULES[argument]
        if not holds(value, most):
            raise ValueError(f"{CONFIG} must give {argument!r} of {name!r} as {rule}, got {shown(value)}")
    options: dict[str, Any] = {"dtype": DTYPES[settings.pop("dtype")]} if "dtype" in settings else {}
    if layer is not nn.Dropout:
        options["device"] = "meta"
    try:
        with warnings.catch_warnings():
            # torch says so of a single layer with dropout, which is what the saved network had
            warnings.filterwarnings("ignore", message="dropout option adds dropout")
            return layer(**settings, **options)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ValueError(f"{CONFIG} describes no {kind} for {name!r}: {printable(error)}") from error


def check_names_and_shapes(
    layers: dict[str, nn.Module],
    found: dict[str, tuple[tuple[int, ...], str]],
    tied: dict[str, str],
    others: dict[str, Tensor],
) -> None:
    """Compare what a file of weights holds with what the layers need.

    Args:
        layers: name → layer of the config.
        found: tensor → shape and name of the dtype, as the file's header has them.
        tied: shared parameter → the name under which it is saved.
        others: tensors of the instance that are in none of the layers; their sizes are those of the file.

    Raises:
        ValueError: if a tensor is missing, is one too many, or has another shape or dtype.
    """
    needed = {
        f"{name}.{parameter}": (tuple(value.shape), str(value.dtype).removeprefix("torch."))
        for name, layer in layers.items()
        for parameter, value in layer.named_parameters()
    }
    needed |= {name: found[tied.get(name, name)] for name in others if tied.get(name, name) in found}
    wrong = [f"{shown(name)} is missing" for name in {**needed, **others} if name not in found and name not in tied]
    wrong += [f"{shown(name)} is not asked for" for name in found if name not in needed or name in tied]
    wrong += [
        f"{shown(name)} has shape {found[name][0]} and dtype {found[name][1]} instead of {shape} and {dtype}"
        for name, (shape, dtype) in needed.items()
        if name in found and found[name] != (shape, dtype)
    ]
    wrong += [
        f"{shown(name)} has shape {needed[name][0]} and dtype {needed[name][1]}, the network's has "
        f"{value.dim()} dimensions and {value.dtype}"
        for name, value in others.items()
        if name in needed and not _fits(needed[name], value)
    ]
    wrong += [
        f"{shown(copy)} cannot be tied to {shown(original)}"
        for copy, original in tied.items()
        if copy not in needed or needed.get(original) != needed[copy] or original in tied
    ]
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"{WEIGHTS} does not match {CONFIG}: {'; '.join(wrong[:3])}{more}")


def _fits(found: tuple[tuple[int, ...], str], value: Tensor) -> bool:
    """Whether a tensor of a file may stand in the place of an instance's: the same dimensions and kind of dtype."""
    shape, dtype = found
    kind = dtype in DTYPES if value.is_floating_point() else BUFFER_DTYPES.get(dtype) == value.dtype
    return kind and len(shape) == value.dim() and 0 not in shape
