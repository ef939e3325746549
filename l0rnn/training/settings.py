"""Methods and objectives as plain data, for configurations and checkpoints that need no pickle."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any


def settings_of(instance: Any) -> dict[str, Any]:
    """Class name and constructor arguments of an object that keeps each argument in an attribute of its name.

    Where a module has something else under that name, as it has `parameters`, an underscore follows it.

    Example:
        >>> from l0rnn.cost.budget import Budget
        >>> settings_of(Budget(density=0.2))["density"], settings_of(Budget(density=0.2))["class"]
        (0.2, 'Budget')
    """
    values = {
        name: getattr(instance, f"{name}_" if hasattr(instance, f"{name}_") else name)
        for name in inspect.signature(type(instance)).parameters
    }
    return {"class": type(instance).__name__, **{name: _plain(value) for name, value in values.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else settings_of(value)


def from_settings(settings: Mapping[str, Any], classes: Mapping[str, type]) -> Any:
    """Build the object that `settings_of` described, from classes given by name; nothing else can be built.

    Raises:
        ValueError: if the class is none of those given, or an argument is unknown.

    Example:
        >>> from l0rnn.cost.budget import Budget
        >>> from_settings({"class": "Budget", "density": 0.2}, {"Budget": Budget}).density
        0.2
    """
    if "class" not in settings and "class_path" in settings:  # what jsonargparse could not build, it hands on
        path = str(settings["class_path"])
        kind = classes.get(path.rpartition(".")[2])
        if kind is None:
            raise ValueError(f"`class_path` must be of one of {', '.join(classes)}, got {path!r}")
        raise ValueError(
            f"`init_args` of {path} do not fit it in name or type, got {dict(settings.get('init_args') or {})}; it "
            f"takes {', '.join(inspect.signature(kind).parameters)}"
        )
    name = str(settings.get("class"))
    if name not in classes:
        raise ValueError(f"`class` must be one of {', '.join(classes)}, got {name!r}")
    arguments = {
        key: from_settings(value, classes) if isinstance(value, Mapping) and "class" in value else value
        for key, value in settings.items()
        if key != "class"
    }
    unknown = set(arguments) - set(inspect.signature(classes[name]).parameters)
    if unknown:
        raise ValueError(f"{name} has no argument {', '.join(sorted(unknown))}")
    return classes[name](**arguments)
