"""What a comparison consists of: one base configuration, and for each run what it changes of it."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

# `${dense:model}`: the directory of an earlier run's model; `${l0:encoder.l0}`: the units it kept on an axis
REFERENCE = re.compile(r"\$\{([^:{}]+):([^{}]+)\}")
KEYS = {"base", "runs", "quality", "final", "seeds", "grid", "headline", "threads"}


@dataclass(frozen=True)
class Run:
    """One training of the comparison.

    Attributes:
        name: its name in the table.
        seed: seed of weights and gates.
        changes: dotted name in the configuration → value, which may refer to earlier runs.
    """

    name: str
    seed: int
    changes: dict[str, Any]

    @property
    def title(self) -> str:
        """Name and seed."""
        return f"{self.name}, seed {self.seed}"

    def needs(self, what: str | None = None) -> set[str]:
        """Names of the runs that the changes refer to: to anything of them, or to ``what``, such as ``model``."""
        found = [pair for text in _texts(self.changes) for pair in REFERENCE.findall(text)]
        return {name for name, part in found if what in (None, part)}


@dataclass(frozen=True)
class Plan:
    """A comparison, as its YAML says it.

    Attributes:
        base: the configuration that all runs share, as ``l0rnn fit`` takes it.
        runs: in the order of the file, for each seed.
        quality: the logged figure of validation that methods are chosen by; lower is better.
        final: the logged figure of the test, which is looked at once, at the end.
        grid: pairs (batch, steps) at which latency is measured.
        headline: the one of them that the plot shows.
        threads: CPU threads of the latency measurement.
        name: that of its file, which the names of results begin with.
    """

    base: dict[str, Any]
    runs: list[Run]
    quality: str = "valid/loss"
    final: str = "test/loss"
    grid: list[tuple[int, int]] = field(default_factory=lambda: [(1, 1), (1, 35), (10, 30)])
    headline: tuple[int, int] = (1, 35)
    threads: int = 1
    name: str = "plan"

    def config(self, run: Run, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The whole configuration of a run.

        Args:
            run: one of the runs.
            results: run name → what an earlier run of the same seed wrote, for those that it refers to.

        Raises:
            ValueError: if a change has no place in the base, or a reference finds nothing.
        """
        config = copy.deepcopy(self.base)
        config["seed_everything"] = run.seed
        for name, value in run.changes.items():
            _set_(config, name, _resolved(value, results))
        return config

    def key(self, run: Run, results: Mapping[str, Mapping[str, Any]]) -> str:
        """`key_of` the configuration, the same wherever the models are that it refers to.

        Example:
            >>> run = Run("tuned", 1, {"model": "${l0:model}"})
            >>> places = [{"l0": {"model": place, "configuration": "4f"}} for place in ("here", "there")]
            >>> len({Plan({}, [run]).key(run, results) for results in places})
            1
        """
        known = {
            name: {**result, "model": result.get("configuration") or result.get("model")}
            for name, result in results.items()
        }
        return key_of(self.config(run, known))


def read_plan(path: Path) -> Plan:
    """Read and check the YAML of a comparison.

    Raises:
        FileNotFoundError: if the file or its base does not exist.
        ValueError: if something in it is unknown, missing, or refers to a run that does not come before.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "base.yaml").write_text("{model: {init_args: {}}, trainer: {max_epochs: 2}}")
        >>> _ = (folder / "plan.yaml").write_text("{base: base.yaml, runs: {longer: {trainer.max_epochs: 4}}}")
        >>> plan = read_plan(folder / "plan.yaml")
        >>> plan.config(plan.runs[0], {})["trainer"]
        {'max_epochs': 4}
    """
    told = _yaml(path)
    unknown = set(told) - KEYS
    if unknown:
        raise ValueError(f"{path} has unknown keys {', '.join(sorted(unknown))}; there are {', '.join(sorted(KEYS))}")
    for key in ("base", "runs"):
        if not told.get(key):
            raise ValueError(f"{path} must have `{key}`: the configuration that all runs share, and what each changes")
    base = _yaml(path.parent / str(told["base"]))
    seeds = told.get("seeds", [1])
    if not isinstance(seeds, list) or not seeds or any(not isinstance(seed, int) for seed in seeds):
        raise ValueError(f"`seeds` must be a list of whole numbers, got {seeds!r}")
    runs = [Run(str(name), seed, dict(changes or {})) for seed in seeds for name, changes in told["runs"].items()]
    known: set[str] = set()
    for run in runs[: len(told["runs"])]:
        missing = run.needs() - known
        if missing:
            raise ValueError(f"`runs`: {run.name!r} refers to {', '.join(sorted(missing))}, which must come before it")
        known.add(run.name)
    grid = [_size(pair) for pair in told.get("grid", [[1, 1], [1, 35], [10, 30]])]
    headline = _size(told.get("headline", grid[min(1, len(grid) - 1)]))
    if headline not in grid:
        raise ValueError(f"`headline` must be one of `grid`, {grid}, got {headline}")
    figures = {key: str(told[key]) for key in ("quality", "final") if key in told}
    return Plan(
        base, runs, grid=grid, headline=headline, threads=int(told.get("threads", 1)), name=path.stem, **figures
    )


def key_of(config: Mapping[str, Any]) -> str:
    """Short hash of a configuration: a run whose configuration changes is another run.

    Example:
        >>> key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1}), len(key_of({}))
        (True, 10)
    """
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:10]


def slug(text: str) -> str:
    """A name as the name of a file.

    Example:
        >>> slug("L0, 30 %")
        'l0-30'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def folder_name(run: Run, config: Mapping[str, Any], key: str | None = None) -> str:
    """Name of a run's folder: readable, and another one for another configuration.

    Example:
        >>> folder_name(Run("L0, 30 %", 1, {}), {})
        'l0-30-seed1-44136fa355'
    """
    return f"{slug(run.name)}-seed{run.seed}-{key or key_of(config)}"


def _yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(told, dict):
        raise ValueError(f"{path} must be a mapping of names to values")
    return told


def _size(pair: Any) -> tuple[int, int]:
    if not isinstance(pair, (list, tuple)) or len(pair) != 2 or any(not isinstance(n, int) or n <= 0 for n in pair):
        raise ValueError(f"`grid` and `headline` must hold pairs [batch, steps], both > 0, got {pair!r}")
    return int(pair[0]), int(pair[1])


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _set_(config: dict[str, Any], name: str, value: Any) -> None:
    *path, last = name.split(".")
    place = config
    for step in path:
        if not isinstance(place.get(step), dict):
            raise ValueError(f"`runs` changes {name!r}, but the base configuration has no {step!r} to change it in")
        place = place[step]
    place[last] = value


def _resolved(value: Any, results: Mapping[str, Mapping[str, Any]]) -> Any:
    if isinstance(value, Mapping):
        return {key: _resolved(part, results) for key, part in value.items()}
    if isinstance(value, list):
        return [_resolved(part, results) for part in value]
    if not isinstance(value, str):
        return value
    whole = REFERENCE.fullmatch(value)
    if whole:
        return _looked_up(whole[1], whole[2], results)
    return REFERENCE.sub(lambda found: str(_looked_up(found[1], found[2], results)), value)


def _looked_up(name: str, what: str, results: Mapping[str, Mapping[str, Any]]) -> Any:
    result = results.get(name)
    if result is None:
        raise ValueError(f"the run {name!r} has no result to refer to")
    if what == "model":
        return result["model"]
    axis = next((axis for axis in what.split("|") if axis in result["widths"]), None)
    if axis is None:
        raise ValueError(
            f"`${{{name}:{what}}}` must name `model` or an axis of {name!r}: {', '.join(result['widths'])}"
        )
    return result["widths"][axis]
