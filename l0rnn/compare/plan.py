"""What a comparison consists of: one base, a task or a configuration, and for each run what it changes of it."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from l0rnn.arguments import checked
from l0rnn.compare.instances import class_path, kind_of, source_hash
from l0rnn.compare.task import task_hash
from l0rnn.compare.ways import METHODS, changes_of

# `${dense:model}`: the directory of an earlier run's model; `${l0:encoder.l0}`: the units it kept on an axis
REFERENCE = re.compile(r"\$\{([^:{}]+):([^{}]+)\}")
OF_CONFIGURATIONS = {"base", "runs", "quality", "final", "seeds", "grid", "headline", "threads"}
OF_TASKS = {"task", "methods", "densities", "epochs", "runs", "seeds"}
OF_MODULES = {*OF_TASKS, "quality", "final", "trainer", "higher_is_better"}
CONFIGURED, TASK, MODULE = (f"l0rnn.compare.{kind}_run:train_run" for kind in ("configured", "task", "module"))


@checked
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


@checked
@dataclass(frozen=True)
class Plan:
    """A comparison, as its YAML says it.

    Attributes:
        base: what all runs share: a configuration as ``l0rnn fit`` takes it, or for a task what
            `l0rnn.compare.task_run.train_run` takes.
        runs: in the order of the file, for each seed.
        quality: the figure of validation that methods are chosen by.
        final: the figure of the test, which is looked at once, at the end; a task may have none.
        grid: pairs (batch, steps) at which latency is measured.
        headline: the one of them that the plot shows.
        threads: CPU threads of the latency measurement.
        name: that of its file, which the names of results begin with.
        trainer: ``module:function`` that trains a run.
    """

    base: dict[str, Any]
    runs: list[Run]
    quality: str = "valid/loss"
    final: str = "test/loss"
    grid: list[tuple[int, int]] = field(default_factory=lambda: [(1, 1), (1, 35), (10, 30)])
    headline: tuple[int, int] = (1, 35)
    threads: int = 1
    name: str = "plan"
    trainer: str = CONFIGURED

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
        config = self.config(run, known)
        if "task" in config:  # the text counts, wherever the file is
            config["task"] = task_hash(Path(config["task"]))
        for part in ("module", "data") if self.trainer == MODULE else ():
            config[f"source of {part}"] = source_hash(class_path(config[part]))
        return key_of(config)


def task_plan(
    task: Path | Mapping[str, Any],
    *,
    methods: Sequence[Any] | Mapping[str, Any] = METHODS,
    densities: Sequence[float] = (0.3, 0.1),
    seeds: Sequence[int] = (1, 2, 3),
    epochs: int | None = None,
    runs: Mapping[str, Mapping[str, Any]] | None = None,
    name: str | None = None,
    quality: str = "val_loss",
    final: str = "test_loss",
    trainer: Mapping[str, Any] | None = None,
    higher_is_better: bool = False,
) -> Plan:
    """The comparison of methods on a task: the runs of `l0rnn.compare.ways.changes_of`, for each seed.

    Args:
        task: the Python file, see `l0rnn.compare.task.Task`; or ``module`` and ``data``, the class paths of a
            LightningModule and its DataModule, or ``class_path`` and ``init_args`` of each.
        methods: names of methods, or name → name or ``class_path`` and ``init_args``.
        densities: multiply-adds to keep, as fractions of the dense network's.
        seeds: of weights, gates and the order of batches; several, or there is no interval.
        epochs: how often the training data are gone through; what the task says if None.
        runs: further runs, name → what each changes.
        name: of the plan; that of the file if None.
        quality: for a LightningModule, the figure that it logs in validation and that is compared.
        final: the same in its test.
        trainer: for a LightningModule, arguments of Lightning's Trainer.
        higher_is_better: for a LightningModule, whether more of ``quality`` is better.

    Raises:
        FileNotFoundError: if the task does not exist.
        ValueError: if something is out of range.
    """
    if isinstance(task, Mapping):
        if set(task) != {"module", "data"}:
            raise ValueError(
                f"`task` must be a Python file, or have `module` and `data`, got {', '.join(map(str, task))}"
            )
        for part in task.values():
            kind_of(class_path(part))
    else:
        task_hash(task)
    if not isinstance(seeds, (list, tuple)) or not seeds or any(type(seed) is not int for seed in seeds):
        raise ValueError(f"`seeds` must be a list of whole numbers, got {seeds!r}")
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"`seeds` must differ from one another, got {list(seeds)}")
    if epochs is not None and (type(epochs) is not int or epochs < 1):
        raise ValueError(f"`epochs` must be a whole number > 0, got {epochs!r}")
    changes = changes_of(methods, densities)
    twice = set(changes) & set(runs or {})
    if twice:
        raise ValueError(f"`runs` must have names of their own, got {', '.join(sorted(twice))}")
    changes |= {str(run): dict(changed or {}) for run, changed in (runs or {}).items()}
    _check_references(changes)
    base: dict[str, Any] = {"method": None, "widths": None, "epochs": epochs}
    every = [Run(run, seed, changed) for seed in seeds for run, changed in changes.items()]
    if isinstance(task, Mapping):
        base |= {**task, "trainer": dict(trainer or {}), "higher_is_better": higher_is_better}
        return Plan(base, every, quality=quality, final=final, grid=[], name=name or "module", trainer=MODULE)
    base["task"] = str(task)
    return Plan(base, every, quality="valid", final="test", grid=[], name=name or task.stem, trainer=TASK)


@checked
def read_plan(path: Path) -> Plan:
    """Read and check the YAML of a comparison, or take a task file (``.py``) with the settings of `task_plan`.

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
    if path.suffix == ".py":
        return task_plan(path)
    told = _yaml(path)
    is_module = isinstance(told.get("task"), dict)
    keys = OF_MODULES if is_module else OF_TASKS if "task" in told else OF_CONFIGURATIONS
    unknown = set(told) - keys
    if unknown:
        raise ValueError(f"{path} has unknown keys {', '.join(sorted(unknown))}; there are {', '.join(sorted(keys))}")
    if "task" in told:
        settings = {key: value for key, value in told.items() if key != "task"}
        return task_plan(told["task"] if is_module else path.parent / str(told["task"]), **settings, name=path.stem)
    for key in ("base", "runs"):
        if not told.get(key):
            raise ValueError(
                f"{path} must have `{key}`: the configuration that all runs share, and what each changes; or `task`, "
                "a Python file"
            )
    base = _yaml(path.parent / str(told["base"]))
    seeds = told.get("seeds", [1])
    if not isinstance(seeds, list) or not seeds or any(not isinstance(seed, int) for seed in seeds):
        raise ValueError(f"`seeds` must be a list of whole numbers, got {seeds!r}")
    runs = [Run(str(name), seed, dict(changes or {})) for seed in seeds for name, changes in told["runs"].items()]
    _check_references(told["runs"])
    grid = [_size(pair) for pair in told.get("grid", [[1, 1], [1, 35], [10, 30]])]
    headline = _size(told.get("headline", grid[min(1, len(grid) - 1)]))
    if headline not in grid:
        raise ValueError(f"`headline` must be one of `grid`, {grid}, got {headline}")
    figures = {key: str(told[key]) for key in ("quality", "final") if key in told}
    return Plan(
        base, runs, grid=grid, headline=headline, threads=int(told.get("threads", 1)), name=path.stem, **figures
    )


def _check_references(changes: Mapping[str, Any]) -> None:
    """Refuse a run that refers to one that does not come before it."""
    known: set[str] = set()
    for name, changed in changes.items():
        missing = Run(str(name), 0, dict(changed or {})).needs() - known
        if missing:
            raise ValueError(f"`runs`: {name!r} refers to {', '.join(sorted(missing))}, which must come before it")
        known.add(str(name))


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
    if what in ("model", "widths"):
        return result[what]
    axis = next((axis for axis in what.split("|") if axis in result["widths"]), None)
    if axis is None:
        raise ValueError(
            f"`${{{name}:{what}}}` must name `model`, `widths` or an axis of {name!r}: {', '.join(result['widths'])}"
        )
    return result["widths"][axis]
