"""The library's own format: explicit widths in ``config.json``, weights in ``model.safetensors``; no pickle."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.export.card import write_card
from l0rnn.export.config import Config, Figures, config_of, read_config, write_config
from l0rnn.export.describe import DTYPES, describe_layers, layer_widths, vocabulary_size
from l0rnn.export.directory import CONFIG, WEIGHTS, written_aside
from l0rnn.export.rebuild import check_names_and_shapes, empty_layers
from l0rnn.export.untrusted_json import shown
from l0rnn.export.vocabulary import checked_vocabulary, read_vocabulary, write_vocabulary
from l0rnn.extras import require
from l0rnn.language.language_model import LanguageModel
from l0rnn.recurrent.names import RECURRENT
from l0rnn.recurrent.ragged_rnn import RaggedRNN

# the names that the header of a safetensors file has for dtypes
_DTYPES = {"F32": "float32", "F64": "float64", "F16": "float16", "BF16": "bfloat16"}


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
        network: made of plain torch layers and `RaggedRNN`; a `LanguageModel` loads without further help.
        directory: where to write; made if it does not exist.
        vocabulary: the words of a language model in the order of their ids.
        figures: what was measured, such as ``{"valid perplexity": 120.5}``, for config and model card.
        overwrite: whether an export that is there may be replaced.

    Returns:
        The directory.

    Raises:
        ValueError: if the network still has gates or layers that the format cannot hold, or vocabulary or figures are
            not what they should be.
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
    state = {
        name: value.detach().cpu().contiguous()
        for name, value in network.named_parameters(remove_duplicate=False)
        if name not in config.tied
    }
    with written_aside(directory, overwrite=overwrite) as aside:
        (aside / WEIGHTS).write_bytes(to_bytes(state, metadata={"format": "pt"}))
        write_config(config, aside)
        write_card(config, aside)
        if words is not None:
            write_vocabulary(words, aside)
        _check_round_trip(network, load_dense(aside, network))
    return Path(directory)


def load_dense(directory: str | Path, network: nn.Module | None = None) -> nn.Module:
    """Load what `save_dense` wrote, checking every name, shape and dtype before a weight is used; nothing is unpickled.

    Args:
        directory: where the model is.
        network: for a network of one's own, an instance of its class of any size, which is copied and given the layers
            of the file; None for a `LanguageModel`.

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
            check_names_and_shapes(layers, shapes, config.tied)
            loaded = _with_layers(_template(config, network), layers, config)
            weights = {name: file.get_tensor(name).clone() for name in shapes}
    except errors as error:
        raise ValueError(f"{WEIGHTS} is not a whole safetensors file: {str(error)[:200]}") from error
    _fill_(loaded, layers, weights, config.tied)
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
    _fill_(loaded, layers, weights, config.tied)
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
    if config.widths != layer_widths(network):
        raise ValueError(f"{CONFIG} has 'widths' that are not those of its 'layers'")
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


def _fill_(network: nn.Module, layers: dict[str, nn.Module], weights: dict[str, Tensor], tied: dict[str, str]) -> None:
    for name, layer in layers.items():
        for kind in [kind for kind, _ in layer.named_parameters()]:
            if f"{name}.{kind}" not in tied:
                _set_(layer, kind, nn.Parameter(weights[f"{name}.{kind}"]))
    for tied_name, original in tied.items():
        _set_(network, tied_name, network.get_parameter(original))
    for module in network.modules():
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()


def _set_(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, kind = name.rpartition(".")
    setattr(module.get_submodule(owner), kind, parameter)


def _check_round_trip(network: nn.Module, loaded: nn.Module) -> None:
    found = dict(loaded.named_parameters(remove_duplicate=False))
    for name, value in network.named_parameters(remove_duplicate=False):
        bits = [tensor.detach().cpu().contiguous().view(torch.uint8) for tensor in (value, found[name])]
        if not torch.equal(*bits):
            raise RuntimeError(f"the saved {name!r} differs from that of the network; is the disk full?")


assert set(_DTYPES.values()) == set(DTYPES)
