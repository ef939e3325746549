"""The configuration of a study: read from YAML, and checked before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

import yaml

from recipes.reber.data import SHARES, Readout
from recipes.reber.network import check_cell
from recipes.reber.pruning import KINDS, check_percentage


@dataclass(frozen=True)
class DataConfig:
    """The strings: `recipes.reber.data.make_examples`."""

    strings: int
    test_share: float
    shortest: int


@dataclass(frozen=True)
class PruningConfig:
    """Part 1. ``stop_after_*`` are numbers of epochs; 0 trains all epochs."""

    data: list[str]
    embedding: int
    hidden: int
    layers: int
    readout: str
    batch_size: int
    learning_rate: float
    base_epochs: int
    stop_after_perfect: int
    kinds: list[str]
    percentages: list[float]
    retrain_epochs: int
    stop_after_recovery: int
    recovery_tolerance: float


@dataclass(frozen=True)
class StructuresConfig:
    """Part 2. ``graphs`` is the number of each of the two kinds; ``train_strings`` that of the strings to train on."""

    data: str
    graphs: int
    nodes: list[int]
    readout: str
    train_strings: int
    batch_size: int
    learning_rate: float
    epochs: int
    stop_after_perfect: int
    folds: int
    repeats: int


@dataclass(frozen=True)
class SelectionConfig:
    """Part 3. ``scales`` are the widths of the controls as multiples of those that the gates left."""

    data: str
    cells: list[str]
    layers: list[int]
    embedding: int
    hidden: int
    readout: str
    batch_size: int
    learning_rate: float
    gate_learning_rate: float
    epochs: int
    densities: list[float]
    budget_start: float
    budget_ramp: float
    freeze: float
    gated_seeds: int
    enough: float
    scales: list[float]
    control_seeds: int
    latency_grid: list[list[int]]
    latency_seconds: float


@dataclass(frozen=True)
class StudyConfig:
    """A whole study; without ``cells`` part 3 alone, which has its own."""

    grammar: str
    seed: int
    cells: list[str]
    data: DataConfig
    pruning: PruningConfig
    structures: StructuresConfig
    selection: SelectionConfig

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def data_sets(self) -> list[str]:
        """The kinds of wrong strings that some part asks for."""
        first = [*self.pruning.data, self.structures.data] if self.cells else []
        return list(dict.fromkeys([*first, self.selection.data]))


_PARTS = {"data": DataConfig, "pruning": PruningConfig, "structures": StructuresConfig, "selection": SelectionConfig}


def read_config(path: Path) -> StudyConfig:
    """Read and check a configuration.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a name is missing or unknown, or a value is out of its range.
    """
    if not path.is_file():
        raise FileNotFoundError(f"`config` must name a file, but there is no {path}")
    told: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    _check_names(told, StudyConfig, str(path))
    parts = {}
    for name, part in _PARTS.items():
        _check_names(told[name], part, f"`{name}` of {path}")
        parts[name] = part(**told[name])
    config = StudyConfig(**{**told, **parts, "grammar": str(path.parent / told["grammar"])})
    _check(config)
    return config


def differences(one: Any, other: Any, name: str = "") -> list[str]:
    """Where two configurations differ, as ``name: one, other``.

    Example:
        >>> differences({"a": {"b": 1}}, {"a": {"b": 2}})
        ['a.b: 1, 2']
    """
    if isinstance(one, dict) and isinstance(other, dict):
        names = list(dict.fromkeys([*one, *other]))
        prefix = f"{name}." if name else ""
        return [found for key in names for found in differences(one.get(key), other.get(key), f"{prefix}{key}")]
    return [] if one == other else [f"{name}: {one}, {other}"]


def _check_names(told: Any, wanted: type, where: str) -> None:
    if not isinstance(told, dict):
        raise ValueError(f"{where} must be a mapping of names to values, got {told!r}")
    names = {field.name for field in fields(wanted)}
    if set(told) != names:
        missing, unknown = sorted(names - set(told)), sorted(set(told) - names)
        raise ValueError(f"{where} must have exactly the names of {wanted.__name__}: {missing=}, {unknown=}")


def _check(config: StudyConfig) -> None:
    for name in ("selection.cells", "pruning.data", "pruning.kinds", "pruning.percentages", "selection.densities"):
        if not _value(config, name):
            raise ValueError(f"`{name}` must not be empty")
    for cell in (*config.cells, *config.selection.cells):
        check_cell(cell)
    for name in config.data_sets():
        _one_of("data", name, list(SHARES))
    for kind in config.pruning.kinds:
        _one_of("pruning.kinds", kind, list(KINDS))
    for percentage in config.pruning.percentages:
        check_percentage(percentage)
    for part in ("pruning", "structures", "selection"):
        _one_of(f"{part}.readout", _value(config, f"{part}.readout"), list(get_args(Readout)))
    for name in _AT_LEAST_ONE:
        if not _value(config, name) >= 1:
            raise ValueError(f"`{name}` must be at least 1, got {_value(config, name)}")
    nodes = config.structures.nodes
    if len(nodes) != 2 or not 3 <= nodes[0] <= nodes[1]:
        raise ValueError(
            f"`structures.nodes` must be the least and the largest number of nodes, 3 <= least <= largest, got {nodes};"
            " a graph of one node has no layers to connect, and one of two no properties to compare"
        )
    if 2 * config.structures.graphs < 2 * config.structures.folds:
        raise ValueError(
            f"`structures.folds` must be at most the {config.structures.graphs} graphs of each kind, "
            f"got {config.structures.folds}"
        )


_AT_LEAST_ONE = (
    *("pruning.base_epochs", "pruning.retrain_epochs", "pruning.batch_size"),
    *("structures.graphs", "structures.epochs", "structures.batch_size", "structures.train_strings"),
    *("selection.epochs", "selection.batch_size", "selection.gated_seeds", "selection.control_seeds"),
)


def _value(config: StudyConfig, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"`{name}` must be of {', '.join(allowed)}, got {value!r}")
