"""Search for settings of a run by Optuna, whose trials are runs like all others: queued, hashed, and trained once."""

from __future__ import annotations

import copy
import inspect
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from l0rnn.compare.engines import Engine
from l0rnn.compare.instances import kind_of
from l0rnn.compare.plan import Plan, Run, key_of
from l0rnn.compare.results import figure, table_row
from l0rnn.compare.runner import check_runs, run_all
from l0rnn.extras import require

DENSITY = "density"
HOPELESS = 5  # trials that fail, and none that does not, after which a search gives up


@dataclass(frozen=True)
class Setting:
    """What may vary.

    Attributes:
        name: dotted, in the configuration of the run.
        low: smallest value; None for one of several.
        high: largest.
        is_log: whether a ratio is a step.
        choices: the values, where it is one of several.
    """

    name: str
    low: float | None = None
    high: float | None = None
    is_log: bool = False
    choices: tuple[Any, ...] = ()

    def of(self, trial: Any) -> Any:
        """The value that a trial of Optuna suggests."""
        if self.choices:
            return trial.suggest_categorical(self.name, list(self.choices))
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.name, self.low, self.high, log=self.is_log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.is_log)


def read_setting(text: str) -> Setting:
    """``NAME=LOW:HIGH``, ``NAME=LOW:HIGH:log`` or ``NAME=A,B,C``.

    Raises:
        ValueError: if it is something else.

    Example:
        >>> read_setting("rate=0.01:0.1:log")
        Setting(name='rate', low=0.01, high=0.1, is_log=True, choices=())
        >>> read_setting("curve=linear,cubic").choices
        ('linear', 'cubic')
    """
    name, is_told, value = text.partition("=")
    wrong = ValueError(f"`--search` takes NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A,B,C, got {text!r}")
    if not is_told or not name or not value:
        raise wrong
    if ":" not in value:
        return Setting(name, choices=tuple(_number(part) for part in value.split(",")))
    low, high, *log = value.split(":")
    ends = [_number(end) for end in (low, high)]
    if any(isinstance(end, str) for end in ends) or log not in ([], ["log"]) or not ends[0] < ends[1]:
        raise wrong
    if log and not ends[0] > 0:
        raise ValueError(f"`--search` {name}: a range in ratios must begin above 0, got {low}")
    return Setting(name, ends[0], ends[1], bool(log))


def placed(setting: Setting, config: Mapping[str, Any]) -> Setting:
    """The same by its whole name in a configuration.

    A short name is that of one value that is there, or of an argument of the method, or of the method's objective.

    Raises:
        ValueError: if there is none, or several.

    Example:
        >>> method = {"class_path": "l0rnn.methods.StructuredMagnitude", "init_args": {"density": 0.3}}
        >>> placed(Setting("start", 0.1, 0.5), {"method": method}).name
        'method.init_args.start'
    """
    there = list(_leaves(config))
    found = [name for name in there if name == setting.name or name.endswith(f".{setting.name}")]
    if not found:
        found = [name for name in _arguments(config) if name.rpartition(".")[2] == setting.name]
    if not found and "." in setting.name and setting.name.rpartition(".")[0] in {_above(name) for name in there}:
        found = [setting.name]
    if len(found) != 1:
        known = found or [name for name in {*there, *_arguments(config)} if not name.endswith("class_path")]
        why = f"there are {', '.join(sorted(known))}"
        raise ValueError(f"`--search` must name one setting of the run, got {setting.name!r}; {why}")
    return replace(setting, name=found[0])


def search(
    plan: Plan,
    name: str,
    settings: Sequence[Setting],
    out: Path,
    *,
    trials: int = 20,
    storage: str | None = None,
    engine: Engine,
    **options: Any,
) -> str:
    """Try settings of one run, and write what came out to ``search.md``.

    Each trial is trained for all seeds of the plan, and judged by the mean of the figure of validation; where a
    ``density`` varies, by the density as well, and the result is all trials that no other beats in both. What a call
    before has tried counts, and what it began goes on.

    Args:
        plan: the comparison.
        name: of the run.
        settings: what varies.
        out: folder of the runs.
        trials: number of trials in all, those of calls before included.
        storage: Optuna's, such as ``sqlite:///file.db`` or a database's address; a file in ``out`` if None.
        engine: where runs are trained.
        **options: of `run_all`.

    Returns:
        The table of all trials, the best first, with the test figures of the best alone.

    Raises:
        ModuleNotFoundError: if Optuna is not installed; it says which extra brings it.
        ValueError: if a setting or the run is not there, or no trial could be trained.
    """
    optuna: Any = require("optuna", "search")
    runs = [run for run in plan.runs if run.name == name]
    if not runs:
        raise ValueError(f"`--search` must be of a run of the plan, got {name!r}; there are {', '.join(_names(plan))}")
    if runs[0].needs():
        raise ValueError(f"`--search` must be of a run that refers to no other, got {name!r}")
    if trials < 1:
        raise ValueError(f"`trials` must be at least 1, got {trials}")
    settings = [placed(setting, plan.config(runs[0], {})) for setting in settings]
    by_density = any(setting.name.rpartition(".")[2] == DENSITY for setting in settings)
    check_runs(replace(plan, runs=runs))
    higher = is_higher_better(plan)
    out.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = [[setting.name, setting.low, setting.high, setting.is_log, list(setting.choices)] for setting in settings]
    study = _study(
        optuna,
        storage or f"sqlite:///{(out / 'search.db').resolve()}",
        f"{plan.name} {name} {key_of({'space': space, 'keys': [plan.key(run, {}) for run in runs]})}",
        ["maximize" if higher else "minimize", *(["minimize"] if by_density else [])],
    )
    while True:
        left = trials - sum(trial.state.is_finished() for trial in study.trials)
        begun = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.RUNNING]
        while len(begun) < min(left, engine.jobs):
            asked = study.ask()
            for setting in settings:
                setting.of(asked)
            begun.append(study.trials[asked.number])
        if left <= 0 or not begun:
            break
        _train(optuna, study, begun, plan, runs, out, engine, options)
        states = [trial.state for trial in study.trials]
        if optuna.trial.TrialState.COMPLETE not in states and states.count(optuna.trial.TrialState.FAIL) >= HOPELESS:
            raise ValueError(f"no trial could be trained; look at {out / 'runs'}/*/log.txt")
        if any(trial.state == optuna.trial.TrialState.RUNNING for trial in study.trials):
            break  # the time of this call is up
    table = _table(study, plan, [setting.name for setting in settings])
    (out / "search.md").write_text(table + "\n", encoding="utf-8")
    return table


def is_higher_better(plan: Plan) -> bool:
    """Whether more of the figure of a plan is better: only a task can say so."""
    from l0rnn.compare.task import load_task

    return "task" in plan.base and load_task(Path(plan.base["task"])).higher_is_better


def _train(
    optuna: Any,
    study: Any,
    begun: Sequence[Any],
    plan: Plan,
    runs: Sequence[Run],
    out: Path,
    engine: Engine,
    options: Mapping[str, Any],
) -> None:
    """Train the trials and tell the study; one that is not done stays begun."""
    of_trial = {
        trial.number: [
            Run(f"trial {trial.number}", run.seed, _changed(plan.config(run, {}), run, trial.params)) for run in runs
        ]
        for trial in begun
    }
    every = [run for these in of_trial.values() for run in these]
    results = run_all(replace(plan, runs=every), out, engine=engine, is_checked=True, **options)
    for number, these in of_trial.items():
        found = [results.get((run.name, run.seed)) for run in these]
        if any(result is not None and "error" in result for result in found):
            study.tell(number, state=optuna.trial.TrialState.FAIL)
        elif all(result is not None for result in found):
            done = [result for result in found if result is not None]
            values = [statistics.mean(result["quality"] for result in done)]
            if len(study.directions) > 1:
                values.append(statistics.mean(result["density"] for result in done))
            study.tell(number, values)
            # told here, so that the study in its storage says all by itself
            finals = [result["final"] for result in done if result.get("final") is not None]
            study.set_user_attr(f"test of trial {number}", statistics.mean(finals) if finals else None)


def _changed(config: dict[str, Any], run: Run, params: Mapping[str, Any]) -> dict[str, Any]:
    """The changes of a run with the values of a trial in their places."""
    config = copy.deepcopy(config)
    for name, value in params.items():
        *path, last = name.split(".")
        place = config
        for step in path:
            place = place[step]
        place[last] = value
    tops = {name.partition(".")[0] for name in params}
    return {**run.changes, **{top: config[top] for top in tops}}


def _study(optuna: Any, storage: str, name: str, directions: list[str]) -> Any:
    try:
        return optuna.create_study(
            study_name=name,
            storage=storage,
            directions=directions,
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(seed=None, multivariate=False),
        )
    except Exception as error:  # each database has errors of its own
        raise ValueError(
            f"`storage` must be a database that Optuna can open, such as sqlite:///file.db, got {storage!r}: "
            f"{str(error).splitlines()[0][:200]}"
        ) from error


def _table(study: Any, plan: Plan, names: Sequence[str]) -> str:
    best = {trial.number for trial in study.best_trials}
    done = [trial for trial in study.trials if trial.values is not None]
    sign = -1 if study.directions[0].name == "MAXIMIZE" else 1
    done.sort(key=lambda trial: (trial.number not in best, sign * trial.values[0]))
    titles = ["trial", *names, plan.quality, *(["density"] if len(study.directions) > 1 else []), plan.final]
    lines = [table_row(titles), "|---" * len(titles) + "|"]
    for trial in done:
        cells = [f"**{trial.number}**" if trial.number in best else str(trial.number)]
        cells += [f"{trial.params[name]:.4g}" if _is_float(trial, name) else str(trial.params[name]) for name in names]
        cells += [figure(value) for value in trial.values]
        test = study.user_attrs.get(f"test of trial {trial.number}")
        lines.append(table_row([*cells, figure(test) if trial.number in best else ""]))
    failed = sum(trial.state.name == "FAIL" for trial in study.trials)
    return "\n".join([*lines, *([f"\n{failed} more trials failed."] if failed else [])])


def _is_float(trial: Any, name: str) -> bool:
    return isinstance(trial.params[name], float)


def _names(plan: Plan) -> list[str]:
    return list(dict.fromkeys(run.name for run in plan.runs))


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text, text)


def _leaves(config: Any, above: str = "") -> Iterator[str]:
    for key, value in config.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}.")
        else:
            yield name


def _above(name: str) -> str:
    return name.rpartition(".")[0]


def _arguments(config: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Arguments that the classes of a configuration take, whether they are given or not."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            if "class_path" in value:
                for argument in inspect.signature(kind_of(str(value["class_path"]))).parameters:
                    yield f"{above}{key}.init_args.{argument}"
            yield from _arguments(value, f"{above}{key}.")
