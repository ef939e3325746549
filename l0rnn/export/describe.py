"""A network as data: the type and the constructor arguments of every layer, and what no format can hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from l0rnn.recurrent.names import RECURRENT, recurrent_sizes
from l0rnn.gates.gates import Gates
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.surgery.shrink import is_prunable

_RECURRENT_ARGUMENTS = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
# layer type → the constructor arguments that say all about it
ARGUMENTS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.LSTM: (*_RECURRENT_ARGUMENTS, "proj_size"),
    nn.GRU: _RECURRENT_ARGUMENTS,
    nn.RNN: (*_RECURRENT_ARGUMENTS, "nonlinearity"),
    RaggedRNN: ("mode", "input_size", "hidden_sizes", "proj_sizes", "bias", "batch_first", "dropout"),
    nn.Linear: ("in_features", "out_features", "bias"),
    nn.Embedding: ("num_embeddings", "embedding_dim", "padding_idx"),
    nn.LayerNorm: ("normalized_shape", "eps", "elementwise_affine", "bias"),
    nn.Dropout: ("p",),
}
LAYERS = {layer.__name__: layer for layer in ARGUMENTS}
DTYPES = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def refuse_gates(network: nn.Module) -> None:
    """Check that a network is one that `shrink` returned, or never had gates.

    Raises:
        ValueError: if it is a training module, or has gates.

    Example:
        >>> from l0rnn.gates import GatedLSTM
        >>> refuse_gates(GatedLSTM(2, 3))
        Traceback (most recent call last):
        ...
        ValueError: `network` still has gates; shrink it first, and export what shrink() returns
    """
    if any(isinstance(module, Gates) for module in network.modules()):
        raise ValueError("`network` still has gates; shrink it first, and export what shrink() returns")
    if is_prunable(network):
        raise ValueError(
            f"`network` is a {type(network).__name__}, which trains a network; shrink it first, and export what "
            "shrink() returns"
        )


def describe_layers(network: nn.Module) -> dict[str, dict[str, Any]]:
    """Layer name → type, constructor arguments and dtype.

    Raises:
        ValueError: if the network has gates, or layers that cannot be described so; it names them.

    Example:
        >>> describe_layers(nn.Sequential(nn.Linear(2, 3)))
        {'0': {'type': 'Linear', 'in_features': 2, 'out_features': 3, 'bias': True, 'dtype': 'float32'}}
    """
    refuse_gates(network)
    layers: dict[str, dict[str, Any]] = {}
    described: set[str] = set()
    others: dict[str, str] = {}
    for name, module in outer_modules(network, tuple(ARGUMENTS)):
        if _has_hooks(module):
            others[name] = f"a {type(module).__name__} with hooks"
        elif type(module) in ARGUMENTS:
            layers[name] = _describe(name, module)
            described |= {f"{name}.{kind}" for kind, _ in module.named_parameters()}
    if "" in layers:
        raise ValueError("`network` must hold its layers as submodules; wrap the single layer in a module")
    tensors = {name for name, _ in (*network.named_parameters(remove_duplicate=False), *network.named_buffers())}
    for name in sorted(tensors - described):
        owner = name.rpartition(".")[0]
        others.setdefault(owner, f"a {type(network.get_submodule(owner)).__name__}")
    if others:
        named = ", ".join(f"{name or 'the network itself'} ({what})" for name, what in list(others.items())[:5])
        raise ValueError(f"`network` has layers that the format cannot hold: {named}; it holds {', '.join(LAYERS)}")
    return layers


def _describe(name: str, module: nn.Module) -> dict[str, Any]:
    if getattr(module, "max_norm", None) is not None:
        raise ValueError(f"`network` has a layer that the format cannot hold: {name}, an Embedding with max_norm")
    arguments = {argument: _plain(argument, getattr(module, argument)) for argument in ARGUMENTS[type(module)]}
    dtypes = {parameter.dtype for parameter in module.parameters()}
    if not dtypes:
        return {"type": type(module).__name__, **arguments}
    if len(dtypes) > 1 or not dtypes <= _NAMES.keys():
        found = ", ".join(sorted(str(dtype) for dtype in dtypes))
        raise ValueError(f"`network` must have layers of one dtype each out of {', '.join(DTYPES)}; {name} has {found}")
    return {"type": type(module).__name__, **arguments, "dtype": _NAMES[dtypes.pop()]}


def _plain(argument: str, value: Any) -> Any:
    """A constructor argument as JSON holds it; a bias that is a tensor stands for whether there is one."""
    if argument == "bias":
        return value if isinstance(value, bool) else value is not None
    return list(value) if isinstance(value, tuple) else value


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def tied_parameters(network: nn.Module) -> dict[str, str]:
    """Name of a shared parameter → the name under which it is saved.

    Example:
        >>> from l0rnn.language.language_model import LanguageModel
        >>> tied_parameters(LanguageModel(50, 4, 4, tied=True))
        {'decoder.weight': 'embedding.weight'}
    """
    first: dict[int, str] = {}
    tied = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            tied[name] = first[id(parameter)]
    return tied


def vocabulary_size(network: nn.Module) -> int | None:
    """Words that a network reads: those of its only embedding, or None."""
    sizes = {module.num_embeddings for module in network.modules() if isinstance(module, nn.Embedding)}
    return sizes.pop() if len(sizes) == 1 else None


def layer_widths(network: nn.Module) -> dict[str, int]:
    """Units of every embedding, linear layer, and layer and direction of a recurrent stack.

    Example:
        >>> layer_widths(nn.Sequential(nn.GRU(4, 3, bidirectional=True)))
        {'0.l0': 3, '0.l0_reverse': 3}
    """
    widths: dict[str, int] = {}
    for name, module in outer_modules(network, RECURRENT):
        if isinstance(module, RECURRENT):
            for key, (hidden, projection) in recurrent_sizes(module).items():
                path = f"{name}.{key}" if name else key
                widths[path] = projection or hidden
                if projection:
                    widths[f"{path}_cell"] = hidden
        elif isinstance(module, nn.Embedding):
            widths[name] = module.embedding_dim
        elif isinstance(module, nn.Linear):
            widths[name] = module.out_features
    return widths


def outer_modules(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[tuple[str, nn.Module]]:
    """Every module by name, but not what is inside one of the kinds: a `RaggedRNN` is made of torch layers.

    Example:
        >>> stack = nn.ModuleDict({"encoder": RaggedRNN("GRU", 4, [[3], [2]])})
        >>> [name for name, _ in outer_modules(stack, (RaggedRNN,))]
        ['', 'encoder']
    """
    inside: list[str] = []
    for name, module in network.named_modules():
        if any(not layer or name.startswith(f"{layer}.") for layer in inside):
            continue
        if isinstance(module, kinds):
            inside.append(name)
        yield name, module
