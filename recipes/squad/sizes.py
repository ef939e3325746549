"""What a BiDAF network is made of, in numbers, and rebuilt from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from recipes.squad.network import TWO_WAY, Bidaf

# the names of the published tables
LSTMS = {
    "ContextFwd": "contextual.forwards",
    "ContextBwd": "contextual.backwards",
    "ModFwd1": "modelling1.forwards",
    "ModBwd1": "modelling1.backwards",
    "ModFwd2": "modelling2.forwards",
    "ModBwd2": "modelling2.backwards",
    "OutFwd": "output.forwards",
    "OutBwd": "output.backwards",
}
CONFIG, WEIGHTS, VOCABULARY = "config.json", "weights.pt", "vocabulary.json"


def widths(network: nn.Module) -> dict[str, int]:
    """Units of each LSTM, under its published name."""
    return {name: int(_lstm(network, layer).hidden_size) for name, layer in LSTMS.items()}


def sizes(network: nn.Module) -> dict[str, Any]:
    """Widths, parameters and multiply-adds of a plain network.

    ``multiply_adds`` are per context word, of all weights but those of the word features, each used once. What
    attention multiplies without a weight is left out: it grows with the length of the question.
    """
    everything = sum(p.numel() for p in network.parameters()) + _words(network).fixed.numel()
    words = _words(network).fixed.numel() + _words(network).learned.numel()
    recurrent = sum(p.numel() for layer in LSTMS.values() for p in _lstm(network, layer).parameters())
    return {
        "widths": widths(network),
        "parameters": everything,
        "parameters_without_word_vectors": everything - words,
        "recurrent_parameters": recurrent,
        "multiply_adds": sum(p.numel() for name, p in network.named_parameters() if _multiplies(name)),
    }


def plain_network(arguments: Mapping[str, Any], units: Mapping[str, int]) -> Bidaf:
    """A network of given widths, with fresh weights.

    Args:
        arguments: those of `Bidaf`.
        units: as from `widths`.
    """
    named = {layer: tuple(units[name] for name, lstm in LSTMS.items() if lstm.startswith(layer)) for layer in TWO_WAY}
    return Bidaf(**{**arguments, "hidden": named})


def save_model(network: nn.Module, folder: Path, *, arguments: Mapping[str, Any], vocabulary: Any, extra: Any) -> None:
    """Write a plain network as JSON and a state dict, to be opened without pickled code."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model": "bidaf", "arguments": dict(arguments), "widths": widths(network), **extra}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    listed = {"words": list(vocabulary.words), "characters": list(vocabulary.characters)}
    (folder / VOCABULARY).write_text(json.dumps(listed, ensure_ascii=False))
    torch.save({name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}, folder / WEIGHTS)


def load_model(folder: Path) -> tuple[Bidaf, dict[str, Any], dict[str, list[str]]]:
    """The network in evaluation mode, its configuration, and its words and characters.

    Raises:
        ValueError: if the folder holds no such model.
    """
    missing = [name for name in (CONFIG, WEIGHTS, VOCABULARY) if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"`--model` must be a folder written by recipes.squad.train, got {str(folder)!r} without {missing[0]}"
        )
    try:
        config = json.loads((folder / CONFIG).read_text())
        listed = json.loads((folder / VOCABULARY).read_text())
        weights = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
        network = plain_network(config["arguments"], config["widths"])
        table = network.features.words
        table.fixed, table.slots = weights["features.words.fixed"], weights["features.words.slots"]
        table.learned = nn.Parameter(weights["features.words.learned"])
        network.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError, EOFError, OSError, UnpicklingError) as error:
        raise ValueError(f"the model in {str(folder)!r} is damaged: {type(error).__name__}; train it again") from error
    return network.eval(), config, listed


def _multiplies(parameter: str) -> bool:
    return "bias" not in parameter and not parameter.startswith("features.")


def _lstm(network: nn.Module, layer: str) -> Any:
    return network.get_submodule(layer)


def _words(network: Any) -> Any:
    return network.features.words
