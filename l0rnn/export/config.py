"""What a model directory says about its model: written to ``config.json``, and read back field by field."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from l0rnn.arguments import checked
from l0rnn.export.describe import describe_layers, layer_widths, own_numbers, tied_parameters
from l0rnn.export.directory import CONFIG
from l0rnn.export.untrusted_json import read_json
from l0rnn.foreign_text import shown
from l0rnn.version import __version__

FORMAT = 1
Figures = Mapping[str, "float | int | str"]


@dataclass(frozen=True)
class Config:
    """The content of a native ``config.json``.

    Attributes:
        network: name of the network's class.
        layers: layer → type and constructor arguments.
        tied: shared parameter → the name under which it is saved.
        widths: units of every layer and direction, for the reader; must agree with ``layers``.
        numbers: whole numbers that modules of the user's remember, such as ``encoder.hidden_size``.
        has_vocabulary: whether there is a ``vocabulary.json``.
        figures: measured figures, such as ``{"valid perplexity": 120.5}``.
        version: the version of l0rnn that wrote it.
    """

    network: str
    layers: dict[str, dict[str, Any]]
    tied: dict[str, str] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    has_vocabulary: bool = False
    figures: dict[str, Any] = field(default_factory=dict)
    version: str = ""


def config_of(network: nn.Module, *, has_vocabulary: bool = False, figures: Figures | None = None) -> Config:
    """The config of a network as it is now, so after surgery that of the smaller one.

    Raises:
        ValueError: if the network has gates or layers that the format cannot hold, or a figure is not a number or text.

    Example:
        >>> from l0rnn.language.language_model import LanguageModel
        >>> config_of(LanguageModel(50, 4, 6)).widths
        {'embedding': 4, 'encoder.l0': 6, 'encoder.l1': 6, 'decoder': 50}
    """
    return Config(
        network=type(network).__name__,
        layers=describe_layers(network),
        tied=tied_parameters(network),
        widths=layer_widths(network),
        numbers=own_numbers(network),
        has_vocabulary=has_vocabulary,
        figures=checked_figures(figures),
        version=__version__,
    )


def checked_figures(figures: Figures | None) -> dict[str, Any]:
    """The figures, if they are numbers and texts by name.

    Raises:
        ValueError: if not.
    """
    if not isinstance(figures or {}, Mapping):
        raise ValueError(f"`figures` must map names to numbers or texts, got {type(figures).__name__}")
    for name, value in (figures or {}).items():
        is_number = isinstance(value, (int, float)) and math.isfinite(value)
        if not isinstance(name, str) or not (is_number or isinstance(value, str)):
            raise ValueError(f"`figures` must map names to finite numbers or texts, got {shown(name)}: {shown(value)}")
    return dict(figures or {})


def write_config(config: Config, directory: Path) -> None:
    """Write ``config.json``."""
    details = {
        "network": config.network,
        "widths": config.widths,
        "layers": config.layers,
        "tied": config.tied,
        "numbers": config.numbers,
        "vocabulary": config.has_vocabulary,
        "figures": config.figures,
    }
    write_header(directory, "native", details)


def write_header(directory: Path, export: str, details: Mapping[str, Any]) -> None:
    """Write the ``config.json`` of any export: its kind, and what is particular to it."""
    content = {"format": FORMAT, "export": export, "l0rnn": __version__, **details}
    (directory / CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@checked
def read_config(directory: str | Path) -> Config:
    """The config of a native model directory; what its layers ask for is not checked yet.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not the config of a native model that this version reads.
    """
    content = read_header(directory, "native")
    content.setdefault("numbers", {})  # which files of earlier versions lack
    dicts = dict.fromkeys(("layers", "tied", "widths", "numbers", "figures"), dict)
    kinds: dict[str, type] = {"network": str, "vocabulary": bool, **dicts}
    for key, kind in kinds.items():
        if not isinstance(content.get(key), kind):
            raise ValueError(f"{CONFIG} must have {key!r} as a {kind.__name__}, got {shown(content.get(key))}")
    wrong = [name for name, settings in content["layers"].items() if not isinstance(settings, dict)]
    if wrong:
        raise ValueError(f"{CONFIG} must describe each layer by its arguments, but not so {shown(wrong[0])}")
    if not all(isinstance(original, str) for original in content["tied"].values()):
        raise ValueError(f"{CONFIG} must give the names of tied parameters, got {shown(content['tied'])}")
    return Config(
        network=content["network"],
        layers=content["layers"],
        tied=content["tied"],
        widths=content["widths"],
        numbers=content["numbers"],
        has_vocabulary=content["vocabulary"],
        figures=checked_figures(content["figures"]),
        version=str(content.get("l0rnn", ""))[:40],
    )


def read_header(directory: str | Path, export: str | None = None) -> dict[str, Any]:
    """The content of any export's ``config.json``, of which only format and kind of export are checked.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not of an export, or of another kind than asked for, or of a newer format.
    """
    content = read_json(Path(directory) / CONFIG)
    if not isinstance(content, dict) or type(content.get("format")) is not int or "export" not in content:
        raise ValueError(f"{CONFIG} must be that of a model that l0rnn exported")
    if content["format"] != FORMAT:
        raise ValueError(f"{CONFIG} has format {content['format']}, this version reads {FORMAT}; update l0rnn")
    if export is not None and content["export"] != export:
        raise ValueError(f"{CONFIG} is that of a {shown(content['export'])} export, but a {export!r} one is needed")
    return content
