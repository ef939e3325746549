"""Hold a checkpoint of a language model against itself before a model is built by what it says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from l0rnn.export.config import Config
from l0rnn.export.rebuild import check_names_and_shapes, empty_layers
from l0rnn.foreign_text import printable, shown
from l0rnn.language.language_model import LanguageModel
from l0rnn.surgery.proof import check_finite
from l0rnn.training.checkpoint_file import TensorHeader, read_header, settings_in, shapes_in
from l0rnn.training.settings import refuse_foreign

_MOST_SIZE = 2**31
_FEW_NUMBERS, _MOST_TIMES = 2**28, 100  # what a network may have had before units were removed from it
_NETWORK = "network."


def is_local(checkpoint: Any) -> bool:
    """Whether it is a path on this machine; Lightning loads from stores and open files as well."""
    return isinstance(checkpoint, (str, Path)) and (Path(checkpoint).exists() or "://" not in str(checkpoint))


def check_gated_model(
    checkpoint: str | Path, cell: Literal["LSTM", "GRU"], classes: Mapping[str, type], given: Mapping[str, Any]
) -> None:
    """Compare the hyper-parameters of an `L0GatedLSTM` or `L0GatedGRU` with the shapes that its file has.

    Args:
        checkpoint: the file.
        cell: of the recurrent layers.
        classes: those that methods and objectives may be of.
        given: hyper-parameters that the caller gives instead.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no checkpoint, or asks for sizes that are not those of its weights, or for a file.
    """
    header = read_header(checkpoint)
    try:
        settings = settings_in(header)
        refuse_foreign({name: value for name, value in settings.items() if name not in given}, classes)
        found = {name: shape for name, shape in shapes_in(header).items() if name.startswith(_NETWORK)}
        network = _empty_network({**settings, **given}, cell, most_layers=len(found))
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}") from error
    needed = {f"{_NETWORK}{name}": tuple(value.shape) for name, value in network.named_parameters()}
    added = header.get("l0rnn")
    if isinstance(added, Mapping) and added.get("remaining"):  # the weights are of a smaller network
        numbers = sum(parameter.numel() for parameter in network.parameters())
        stored = sum(torch.Size(shape).numel() for shape in found.values())
        if numbers > max(_FEW_NUMBERS, _MOST_TIMES * stored):
            raise ValueError(
                f"{checkpoint}: a network of {numbers:,} weights is asked for, of which {stored:,} are left; that is "
                "more than any training removes"
            )
        return
    wrong = [name for name, shape in needed.items() if found.get(name, shape) != shape]
    if wrong:
        raise ValueError(
            f"{checkpoint}: the hyper-parameters ask for {shown(wrong[0])} of shape {needed[wrong[0]]}, but the "
            f"weights there have {found[wrong[0]]}; the file is damaged, or was not written by l0rnn"
        )


def check_shrunken_model(checkpoint: str | Path, given: Mapping[str, Any]) -> None:
    """As `check_gated_model`, of a `ShrunkenLanguageModel`, whose hyper-parameters describe every layer.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no checkpoint, or asks for sizes that are not those of its weights, or for a file.
    """
    header = read_header(checkpoint)
    try:
        settings = settings_in(header)
        if "teacher" not in given and settings.get("teacher") is not None:
            raise ValueError(
                f"it names the file of a `teacher`, {shown(settings['teacher'])}, and a checkpoint is not followed to "
                "other files; give it, as in load_from_checkpoint(path, teacher=…), or leave it out with teacher=None, "
                "noise=0"
            )
        if "network" in given:
            return
        described = settings.get("network")
        if not isinstance(described, dict) or not all(isinstance(name, str) for name in described):
            raise ValueError("it does not describe its network")
        try:
            config = Config(**described)
        except TypeError as error:
            raise ValueError(f"it does not describe its network: {printable(error)}") from error
        if not isinstance(config.layers, dict) or not isinstance(config.tied, dict):
            raise ValueError("it does not describe its network")
        tensors = {
            name.removeprefix(_NETWORK): part
            for name, part in header["state_dict"].items()
            if isinstance(part, TensorHeader) and isinstance(name, str) and name.startswith(_NETWORK)
        }
        shapes_in(header)
        layers = empty_layers(config, most=Path(checkpoint).stat().st_size, tensors=len(tensors))
        own = {name: part for name, part in tensors.items() if name not in config.tied}
        needed = {
            f"{name}.{kind}": str(value.dtype).removeprefix("torch.")
            for name, layer in layers.items()
            for kind, value in layer.named_parameters()
        }
        # a checkpoint has the dtypes in the tensors themselves, which are cast to those of the network
        found = {name: (part.shape, needed.get(name, "")) for name, part in own.items()}
        check_names_and_shapes(layers, found, config.tied, others={})
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{checkpoint} does not describe a network: {printable(repr(error))}") from error
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}") from error


def check_weights(network: nn.Module, checkpoint: str | Path) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        ValueError: if there are; it names the parameter.
    """
    try:
        check_finite(network, [name for name, _ in network.named_parameters()])
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}") from error


def _empty_network(settings: Mapping[str, Any], cell: Literal["LSTM", "GRU"], *, most_layers: int) -> nn.Module:
    """The network of some hyper-parameters on the meta device, where sizes take no memory."""
    layers, widths = settings.get("num_layers"), settings.get("hidden_size")
    if type(layers) is not int or not 0 < layers <= most_layers:  # each has weights of its own
        raise ValueError(
            f"`num_layers` must be a number of layers that the {most_layers} weights allow, got {shown(layers)}"
        )
    each = widths if isinstance(widths, list) else [widths]
    sizes = {"vocabulary_size": settings.get("vocabulary_size"), "hidden_size": next(iter(each), None)}
    sizes |= {"embedding_size": settings.get("embedding_size") or sizes["hidden_size"]}
    for name, size in [*sizes.items(), *(("hidden_size", width) for width in each)]:
        if type(size) is not int or not 0 < size < _MOST_SIZE:
            raise ValueError(f"`{name}` must be a whole number > 0, got {shown(size)}")
    if len(each) > most_layers:
        raise ValueError(f"`hidden_size` must have one width for each of {layers} layers, got {len(each)}")
    try:
        with torch.device("meta"):
            return LanguageModel(
                sizes["vocabulary_size"],  # type: ignore[arg-type]
                sizes["embedding_size"],  # type: ignore[arg-type]
                widths,  # type: ignore[arg-type]
                num_layers=layers,
                cell=cell,
                tied=settings.get("tied") is True,
            )
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"the hyper-parameters are those of no network: {printable(error)}") from error
