"""Methods and objectives as plain data, for configurations and checkpoints that need no pickle."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from l0rnn.foreign_text import printable

_OF_LATENCY = ("milliseconds", "batch", "steps", "threads", "device", "table")


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


def from_settings(settings: Mapping[str, Any], classes: Mapping[str, type], argument: str = "settings") -> Any:
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
        raise ValueError(f"`class` of `{argument}` must be one of {', '.join(classes)}, got {settings.get('class')!r}")
    arguments = {
        key: from_settings(value, classes, key) if isinstance(value, Mapping) and "class" in value else value
        for key, value in settings.items()
        if key != "class"
    }
    if arguments.get("milliseconds", 0) is None:  # of version 0.1, where no latency was asked for
        arguments = {key: value for key, value in arguments.items() if key not in _OF_LATENCY}
    unknown = set(arguments) - set(inspect.signature(classes[name]).parameters)
    if unknown:
        raise ValueError(f"{name} has no argument {printable(', '.join(sorted(unknown)))}")
    return classes[name](**arguments)


def refuse_foreign(settings: Any, classes: Mapping[str, type]) -> None:
    """Refuse settings out of a file that would read or write another file, or measure, when they are built.

    A class says so by a static method ``refuse_foreign`` of its arguments. What this library saves has nothing of it:
    it saves what was read or measured, not the path.

    Args:
        settings: as `settings_of` gives them, or what somebody put in their place.
        classes: those that `from_settings` may build.

    Raises:
        ValueError: if they would; it names the argument.

    Example:
        >>> from l0rnn.methods import GradualMagnitude
        >>> settings = {"class": "GradualMagnitude", "dense": "/etc/dense.safetensors"}
        >>> refuse_foreign(settings, {"GradualMagnitude": GradualMagnitude})
        Traceback (most recent call last):
        ...
        ValueError: `dense` of a method in a checkpoint must be ..., got '/etc/dense.safetensors'; ...
    """
    waiting = [settings]
    seen: set[int] = set()
    while waiting:
        part = waiting.pop()
        if not isinstance(part, (Mapping, list, tuple)) or id(part) in seen:
            continue
        seen.add(id(part))
        waiting.extend(part.values() if isinstance(part, Mapping) else part)
        kind: Any = classes.get(str(part.get("class"))) if isinstance(part, Mapping) else None
        if hasattr(kind, "refuse_foreign"):
            kind.refuse_foreign(part)
