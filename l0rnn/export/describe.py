"""A network as data: the type and the constructor arguments of every layer, and what no format can hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from l0rnn.gates.gates import Gates
from l0rnn.recurrent.names import RECURRENT, recurrent_sizes
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
    nn.RMSNorm: ("normalized_shape", "eps", "elementwise_affine"),
    nn.Dropout: ("p",),
}
LAYERS = {layer.__name__: layer for layer in ARGUMENTS}
DTYPES = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}
BUFFER_DTYPES = {"int64": torch.int64, "int32": torch.int32, "uint8": torch.uint8, "bool": torch.bool}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_BUFFER_NAMES = {dtype: name for name, dtype in BUFFER_DTYPES.items()}


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
    """Layer name → type, constructor arguments and dtype, for the layers that are built anew from a file.

    Other modules, such as convolutions and modules of the user's, stay those of the instance that is loaded into; see
    `other_tensors`.

    Raises:
        ValueError: if the network has gates, or is a single layer, or one of these layers has hooks.

    Example:
        >>> describe_layers(nn.Sequential(nn.Linear(2, 3), nn.Conv1d(3, 3, 1)))
        {'0': {'type': 'Linear', 'in_features': 2, 'out_features': 3, 'bias': True, 'dtype': 'float32'}}
    """
    refuse_gates(network)
    layers: dict[str, dict[str, Any]] = {}
    for name, module in outer_modules(network, tuple(ARGUMENTS)):
        if type(module) not in ARGUMENTS:
            continue
        if _has_hooks(module):
            raise ValueError(
                f"`network` has a layer that the format cannot hold: {name or 'the network itself'} (a "
                f"{type(module).__name__} with hooks); call what they do in the network's forward"
            )
        if _is_plain(module):
            layers[name] = _describe(module)
    if "" in layers:
        raise ValueError("`network` must hold its layers as submodules; wrap the single layer in a module")
    return layers


def other_tensors(network: nn.Module, layers: Iterable[str]) -> dict[str, Tensor]:
    """Parameters and buffers that are in none of the described layers, shared ones under their first name.

    Raises:
        ValueError: if one has a dtype that the format cannot hold.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, affine=False))
        >>> list(other_tensors(network, ["0"]))
        ['1.running_mean', '1.running_var', '1.num_batches_tracked']
    """
    prefixes = tuple(f"{layer}." for layer in layers)
    tensors = {
        name: tensor
        for name, tensor in (*network.named_parameters(), *network.named_buffers())
        if not name.startswith(prefixes)
    }
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES and (isinstance(tensor, nn.Parameter) or tensor.dtype not in _BUFFER_NAMES):
            raise ValueError(
                f"`network` must have weights of a dtype out of {', '.join(DTYPES)}, but {name} has {tensor.dtype}"
            )
    return tensors


def own_numbers(network: nn.Module) -> dict[str, int]:
    """Whole numbers that modules of the user's remember, by their names: some of them follow the widths.

    Example:
        >>> class Head(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.units, self.linear = 3, nn.Linear(2, 3)
        >>> own_numbers(nn.Sequential(Head()))
        {'0.units': 3}
    """
    return {
        f"{name}.{attribute}" if name else attribute: value
        for name, module in network.named_modules()
        if not type(module).__module__.startswith("torch.nn.") and not isinstance(module, RaggedRNN)
        for attribute, value in vars(module).items()
        if type(value) is int and not attribute.startswith("_")
    }


def weight_lengths(module: nn.Module) -> set[int]:
    """Lengths of all dimensions of all weights within a module."""
    return {size for parameter in module.parameters() for size in parameter.shape}


def _is_plain(module: nn.Module) -> bool:
    """Whether its constructor arguments and one dtype say all about a layer."""
    dtypes = {parameter.dtype for parameter in module.parameters()}
    return getattr(module, "max_norm", None) is None and len(dtypes) < 2 and dtypes <= _NAMES.keys()


def _describe(module: nn.Module) -> dict[str, Any]:
    arguments = {argument: _plain(argument, getattr(module, argument)) for argument in ARGUMENTS[type(module)]}
    dtypes = [_NAMES[parameter.dtype] for parameter in module.parameters()][:1]
    return {"type": type(module).__name__, **arguments, **dict.fromkeys(["dtype"] * len(dtypes), *dtypes)}


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
    """Units of every embedding, linear layer, convolution, cell, and layer and direction of a recurrent stack.

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
        elif isinstance(module, nn.RNNCellBase):
            widths[name] = module.hidden_size
        elif isinstance(module, _ConvNd):
            widths[name] = module.out_channels
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
