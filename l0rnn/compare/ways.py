"""The runs of a comparison: the dense network, each method at each density, and what each of them has to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from l0rnn.compare.instances import DENSITY, filled, kind_of, method_at_densities
from l0rnn.methods import RandomOrder, RandomUnits, StructuredMagnitude
from l0rnn.methods.units import UnitMethod

METHODS = ("l0_gates", "structured_magnitude", "group_lasso", "random_units")
DENSE, RANDOM_ORDER, SCRATCH = "dense", "random order", "from scratch, widths of "


def changes_of(methods: Sequence[Any] | Mapping[str, Any], densities: Sequence[float]) -> dict[str, dict[str, Any]]:
    """Run → what it changes of the base of a task.

    Beside the methods there are always the dense network; for each density units that close in random order, when
    structured magnitude closes them, which is what any order of the units has to beat; and for each method that
    removes units in the course of its training the widths that it left, trained from scratch.

    Args:
        methods: names, or name → name in `l0rnn.methods.METHODS`, or ``class_path`` and ``init_args`` with
            ``${density}`` where a density goes; without that the method is run once.
        densities: multiply-adds to keep, as fractions of the dense network's.

    Raises:
        ValueError: if there is no such method, or a density is out of range.

    Example:
        >>> for name in changes_of(["l0_gates"], [0.3]):
        ...     print(name)
        dense
        l0_gates, 30 %
        random order, 30 %
        from scratch, widths of l0_gates, 30 %
    """
    if not methods or isinstance(methods, str):
        raise ValueError(f"`methods` must be a list of methods, or a mapping of names to methods, got {methods!r}")
    if not isinstance(densities, (list, tuple)) or not densities:
        raise ValueError(f"`densities` must be a list of fractions, got {densities!r}")
    for density in densities:
        if isinstance(density, bool) or not isinstance(density, (int, float)) or not 0 < density < 1:
            raise ValueError(f"`densities` must be fractions of the dense network in (0, 1), got {density!r}")
    named = dict(methods) if isinstance(methods, Mapping) else {_name(told): told for told in methods}
    told = {str(name): method_at_densities(method) for name, method in named.items()}
    clash = {DENSE, RANDOM_ORDER} & set(told)
    if clash:
        raise ValueError(f"`methods` must not be named {' or '.join(sorted(clash))}, which are always there")
    changes: dict[str, dict[str, Any]] = {DENSE: {}}
    for density in densities:
        changes |= {at(name, density): _method(method, density) for name, method in told.items() if _varies(method)}
        changes[at(RANDOM_ORDER, density)] = _method(_random_order(told), density)
    changes |= {name: _method(method, None) for name, method in told.items() if not _varies(method)}
    scratch = {
        SCRATCH + name: {"widths": f"${{{name}:widths}}"} for name, change in changes.items() if _chooses(change)
    }
    return changes | scratch


def at(name: str, density: float) -> str:
    """Name of the run of a method at a density.

    Example:
        >>> at("gates", 0.075)
        'gates, 7.5 %'
    """
    return f"{name}, {100 * density:g} %"


def _random_order(told: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Units closed in random order, when the plan's structured magnitude closes them."""
    timing = next(
        (
            method.get("init_args", {})
            for method in told.values()
            if kind_of(method["class_path"]) is StructuredMagnitude
        ),
        {},
    )
    arguments = {
        "density": DENSITY,
        **{key: value for key, value in timing.items() if key not in ("density", "embedding")},
    }
    return {"class_path": "l0rnn.methods.RandomOrder", "init_args": arguments}


def _name(told: Any) -> str:
    return str(told.get("class_path")).rpartition(".")[2] if isinstance(told, Mapping) else str(told)


def _method(told: Mapping[str, Any], density: float | None) -> dict[str, Any]:
    return {"method": filled(told, density)}


def _varies(told: Mapping[str, Any]) -> bool:
    return filled(told, 0.5) != dict(told)


def _chooses(change: Mapping[str, Any]) -> bool:
    """Whether a run ends with widths that its own training chose, and not with those of any order of the units."""
    method = change.get("method")
    if method is None:
        return False
    kind = kind_of(method["class_path"])
    return issubclass(kind, UnitMethod) and kind not in (RandomUnits, RandomOrder)
