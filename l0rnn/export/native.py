"""The library's own format: explicit widths in ``config.json``, weights in ``model.safetensors``; no pickle."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from l0rnn.arguments import checked
from l0rnn.export.card import write_card
from l0rnn.export.config import Config, Figures, config_of, read_config, write_config
from l0rnn.export.describe import (
    BUFFER_DTYPES,
    DTYPES,
    describe_layers,
    layer_widths,
    other_tensors,
    own_numbers,
    vocabulary_size,
    weight_lengths,
)
from l0rnn.export.directory import CONFIG, WEIGHTS, written_aside
from l0rnn.export.rebuild import check_names_and_shapes, empty_layers
from l0rnn.export.vocabulary import checked_vocabulary, read_vocabulary, write_vocabulary
from l0rnn.extras import require
from l0rnn.foreign_text import printable, shown
from l0rnn.language.language_model import LanguageModel
from l0rnn.recurrent.names import RECURRENT
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.surgery.sizes import set_module_sizes_

# the names that the header of a safetensors file has for dtypes
_DTYPES = {
    **{"F32": "float32", "F64": "float64", "F16": "float16", "BF16": "bfloat16"},
    **{"I64": "int64", "I32": "int32", "U8": "uint8", "BOOL": "bool"},
}


@checked
def save_dense(
    network: nn.Module,
    directory: str | Path,
    *,
    vocabulary: Sequence[str] | None = None,
    figures: Figures | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a shrunken network to a directory that `load_dense` reads.

    The directory is written aside, loaded again and compared weight by weight, and only then moved to its place.

    Args:
        network: any network; a `LanguageModel` loads without further help, another into an instance of its class.
        directory: where to write; made if it does not exist.
        vocabulary: the words of a language model in the order of their ids.
        figures: what was measured, such as ``{"valid perplexity": 120.5}``, for config and model card.
        overwrite: whether an export that is there may be replaced.

    Returns:
        The directory.

    Raises:
        ValueError: if the network still has gates, a layer with hooks or weights of a dtype that the format cannot
            hold, or vocabulary or figures are not what they should be.
        FileExistsError: if the directory is not empty and ``overwrite`` is False, or holds other files.

    Example:
        >>> import tempfile
        >>> directory = save_dense(LanguageModel(50, 4, 6), tempfile.mkdtemp())
        >>> sorted(path.name for path in directory.iterdir())
        ['README.md', 'config.json', 'model.safetensors']
    """
    to_bytes = require("safetensors.torch", "export").save
    words = None if vocabulary is None else checked_vocabulary(vocabulary, vocabulary_size(network))
    config = config_of(network, has_vocabulary=words is not None, figures=figures)
    tensors = dict(network.named_parameters()) | other_tensors(network, config.layers)
    state = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with written_aside(directory, overwrite=overwrite) as aside:
        (aside / WEIGHTS).write_bytes(to_bytes(state, metadata={"format": "pt"}))
        write_config(config, aside)
        write_card(config, aside)
        if words is not None:
            write_vocabulary(words, aside)
        _check_round_trip(network, load_dense(aside, network))
    return Path(directory)


@checked
def load_dense(directory: str | Path, network: nn.Module | None = None) -> nn.Module:
    """Load what `save_dense` wrote, checking every name, shape and dtype before a weight is used; nothing is unpickled.

    Args:
        directory: where the model is.
        network: for a network of one's own, an instance of its class of any size. It is copied, and the copy gets the
            sizes and weights of the file; numbers of its own that are widths, such as ``self.hidden_size``, follow.
            None for a `LanguageModel`.

    Returns:
        The network, in evaluation mode.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is not what it should be; it says what is wrong.

    Example:
        >>> import tempfile
        >>> directory = save_dense(LanguageModel(50, 4, 6), tempfile.mkdtemp())
        >>> load_dense(directory).encoder
        LSTM(4, 6, num_layers=2)
    """
    directory = Path(directory)
    config = read_config(directory)
    path = directory / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; name a directory that save_dense wrote")
    errors = require("safetensors", "export").SafetensorError
    try:
        with require("safetensors", "export").safe_open(path, framework="pt") as file:
            shapes = _header(file)
            layers = empty_layers(config, most=path.stat().st_size, tensors=len(shapes))
            template = _template(config, network)
            others = other_tensors(template, describe_layers(template))
            check_names_and_shapes(layers, shapes, config.tied, others)
            loaded = _with_layers(template, layers, config)
            weights = {name: file.get_tensor(name).clone() for name in shapes}
    except errors as error:
        raise ValueError(f"{WEIGHTS} is not a whole safetensors file: {printable(error)}") from error
    infinite = next((name for name, weight in weights.items() if not bool(weight.isfinite().all())), None)
    if infinite is not None:
        raise ValueError(
            f"{WEIGHTS} holds {shown(infinite)} with NaN or infinite values, which no network gives an answer with; "
            "the training had diverged, so shrink and save an earlier checkpoint"
        )
    lengths = {name: weight_lengths(module) for name, module in _template(config, network).named_modules()}
    _fill_(loaded, layers, weights, config.tied, others)
    if config.widths != layer_widths(loaded):
        raise ValueError(f"{CONFIG} has 'widths' that are not those of its 'layers'")
    _set_numbers_(loaded, config, lengths, path.stat().st_size)
    if config.has_vocabulary:
        read_vocabulary(directory, vocabulary_size(loaded))
    return loaded.eval()


def build_from(config: Config) -> nn.Module:
    """A `LanguageModel` of the widths of a config, for weights to be loaded into.

    Raises:
        ValueError: if the config is not that of a `LanguageModel`.

    Example:
        >>> build_from(config_of(LanguageModel(50, 4, 6))).encoder
        LSTM(4, 6, num_layers=2)
    """
    layers = empty_layers(config, most=2**40, tensors=2**40)
    loaded = _with_layers(_template(config, None), layers, config)
    weights = {
        f"{name}.{kind}": torch.zeros_like(value, device="cpu")
        for name, layer in layers.items()
        for kind, value in layer.named_parameters()
    }
    _fill_(loaded, layers, weights, config.tied, {})
    if config.widths != layer_widths(loaded):
        raise ValueError(f"{CONFIG} has 'widths' that are not those of its 'layers'")
    return loaded


def _header(file: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and name of the dtype of each tensor, from the header alone."""
    names: list[str] = list(file.keys())  # noqa: SIM118  the file itself cannot be iterated
    slices = {name: file.get_slice(name) for name in names}
    return {
        name: (tuple(part.get_shape()), _DTYPES.get(part.get_dtype(), str(part.get_dtype())))
        for name, part in slices.items()
    }


def _template(config: Config, network: nn.Module | None) -> nn.Module:
    """A network of the right class, whose layers are still of other sizes."""
    if network is not None:
        return copy.deepcopy(network)
    if config.network != LanguageModel.__name__:
        raise ValueError(f"`network` must be given for a {shown(config.network)}: an instance of its class of any size")
    return LanguageModel(1, 1, 1)


def _with_layers(network: nn.Module, layers: dict[str, nn.Module], config: Config) -> nn.Module:
    """The network with the layers in place of its own, if they fit into its forward pass."""
    own = describe_layers(network)
    if own.keys() != layers.keys():
        differing = ", ".join(shown(name) for name in sorted(own.keys() ^ layers.keys())[:5])
        raise ValueError(f"{CONFIG} must describe the layers of a {type(network).__name__}; they differ in {differing}")
    is_general = type(network) is LanguageModel  # its forward pass runs with any cell
    for name, layer in layers.items():
        if _kind(network.get_submodule(name), is_general) != _kind(layer, is_general):
            was = type(network.get_submodule(name)).__name__
            raise ValueError(
                f"{CONFIG} has a {type(layer).__name__} for {name!r} that cannot replace the network's {was}"
            )
        network.set_submodule(name, layer)
    if is_general and network.decoder.out_features != network.embedding.num_embeddings:  # type: ignore[union-attr]
        raise ValueError(f"{CONFIG} must give embedding and decoder the same number of words")
    if is_general:  # layers that read one another agree in width
        chain = [network.embedding.embedding_dim, network.encoder.input_size]  # type: ignore[union-attr]
        chain += [_output_size(network.encoder), network.decoder.in_features]  # type: ignore[union-attr]
        if chain[0] != chain[1] or chain[2] != chain[3]:
            raise ValueError(f"{CONFIG} must give layers that read one another the same width, got {chain}")
    return network


def _output_size(layer: Any) -> int:
    if isinstance(layer, RaggedRNN):
        return layer.output_size
    return int(layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1)


def _kind(layer: nn.Module, is_general: bool) -> tuple[Any, ...]:
    """What of a layer the forward pass of its network depends on."""
    if isinstance(layer, RECURRENT):
        cell = "any" if is_general else str(layer.mode).split("_")[0]
        return cell, layer.batch_first, layer.bidirectional
    return (type(layer),)


def _fill_(
    network: nn.Module,
    layers: dict[str, nn.Module],
    weights: dict[str, Tensor],
    tied: dict[str, str],
    others: dict[str, Tensor],
) -> None:
    for name, layer in layers.items():
        for kind in [kind for kind, _ in layer.named_parameters()]:
            if f"{name}.{kind}" not in tied:
                _set_(layer, kind, nn.Parameter(weights[f"{name}.{kind}"]))
    for name, value in others.items():
        if name not in tied:
            owner, _, kind = name.rpartition(".")
            module = network.get_submodule(owner)
            if isinstance(value, nn.Parameter):
                module._parameters[kind] = nn.Parameter(weights[name], requires_grad=value.requires_grad)
            else:
                module._buffers[kind] = weights[name]
    for tied_name, original in tied.items():
        _set_(network, tied_name, network.get_parameter(original))
    for name in {name.rpartition(".")[0].partition(".parametrizations")[0] for name in others}:
        module = network.get_submodule(name)
        set_module_sizes_(module)
        if isinstance(module, _ConvNd) and tuple(module.weight.shape[2:]) != module.kernel_size:
            raise ValueError(
                f"{WEIGHTS} must have filters of {module.kernel_size} for {name!r}, as the network has, got "
                f"{tuple(module.weight.shape[2:])}"
            )
    for module in network.modules():
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()


def _set_numbers_(network: nn.Module, config: Config, before: dict[str, set[int]], most: int) -> None:
    """Let numbers of the user's follow, those that were widths of the instance."""
    numbers = own_numbers(network)
    for name, value in config.numbers.items():
        owner, _, attribute = name.rpartition(".")
        own = numbers.get(name)
        if own == value and type(own) is type(value):
            continue
        if type(own) is not int or type(value) is not int or not 0 < value <= most:
            raise ValueError(f"{CONFIG} has {shown(value)} for {shown(name)}, where `network` has {shown(own)}")
        if own not in before[owner]:
            raise ValueError(
                f"{CONFIG} has {value} for {shown(name)}, which in `network` is {own} and no width of its weights; "
                "give an instance that was made with the same"
            )
        setattr(network.get_submodule(owner), attribute, value)


def _set_(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, kind = name.rpartition(".")
    setattr(module.get_submodule(owner), kind, parameter)


def _check_round_trip(network: nn.Module, loaded: nn.Module) -> None:
    found = {**dict(loaded.named_parameters(remove_duplicate=False)), **dict(loaded.named_buffers())}
    for name, value in (*network.named_parameters(remove_duplicate=False), *network.named_buffers()):
        bits = [tensor.detach().cpu().contiguous().flatten().view(torch.uint8) for tensor in (value, found[name])]
        if not torch.equal(*bits):
            raise RuntimeError(f"the saved {name!r} differs from that of the network; is the disk full?")


assert set(_DTYPES.values()) == {*DTYPES, *BUFFER_DTYPES}
