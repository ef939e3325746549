"""Arguments of public functions, held against their annotations before anything is done with them.

typeguard compares types, and looks at every item of a collection. What a type does not say, such as a range, each
function checks by itself.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from typeguard import CollectionCheckStrategy, ForwardRefPolicy, TypeCheckError, check_type

Target = TypeVar("Target", bound=Callable[..., Any])


def checked(target: Target) -> Target:
    """Hold the arguments of a function, or of the constructor of a class, against their annotations in every call.

    A whole number will do where the annotation says float, and a number of NumPy where it says int or float. A bool is
    no number here and a text no sequence, though Python has them as such; floats have to be finite.

    Args:
        target: the function or class to decorate; a class is changed in place.

    Returns:
        The function that checks, or the class. A call raises TypeError where a type is wrong, ValueError where one of a
        few words was asked for or a number is not finite. Both name the argument, the rule and the value.

    Example:
        >>> @checked
        ... def scaled(values: list[float], by: float = 2.0, *, kind: Literal["all", "none"] = "all") -> list[float]:
        ...     return [value * by for value in values]
        >>> scaled([1.0, 2])
        [2.0, 4.0]
        >>> scaled([1.0], by="2")
        Traceback (most recent call last):
        TypeError: `by` must be float, got '2'
        >>> scaled([1.0], kind="some")
        Traceback (most recent call last):
        ValueError: `kind` must be 'all' or 'none', got 'some'
    """
    if isinstance(target, type):
        target.__init__ = checked(target.__init__)  # type: ignore[misc]
        return target  # type: ignore[return-value]
    signature = inspect.signature(target)

    @functools.wraps(target)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:  # too many or too few, which Python says well
            given = {}
        check_arguments(target, given)
        return target(*args, **kwargs)

    return call  # type: ignore[return-value]


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """What `checked` does, for a function that has to stay undecorated; names without an annotation are let pass.

    Raises:
        TypeError: if a value is not of the type that its annotation says.
        ValueError: if it is none of the words asked for, or not finite.

    Example:
        >>> def half(number: int) -> float: ...
        >>> check_arguments(half, {"number": "7"})
        Traceback (most recent call last):
        TypeError: `number` must be int, got '7'
    """
    hints = _hints(function)
    for name, value in arguments.items():
        hint = hints.get(name, Any)
        kinds = _kinds(hint)
        value = value.item() if isinstance(value, np.generic) else value
        if not _is_of(value, hint, kinds):
            words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
            error = ValueError if isinstance(value, str) and words else TypeError
            raise error(f"`{name}` must be {described(hint)}, got {value!r:.200}")
        if isinstance(value, float) and float in kinds and not math.isfinite(value):
            raise ValueError(f"`{name}` must be finite, got {value}")
        if isinstance(value, str) and torch.device in kinds:
            try:
                torch.device(value)
            except RuntimeError as error:
                raise ValueError(f"`{name}` must be a device that torch knows, got {value!r}") from error


def check_threads(threads: int, *, least: int = 1) -> None:
    """Raise ValueError for a number of CPU threads that torch would end the process for, or that only wait for others.

    Example:
        >>> check_threads(1)
    """
    most = max(2, os.cpu_count() or 1)
    if not least <= threads <= most:
        raise ValueError(f"`threads` must be from {least} to {most}, what this machine has, got {threads}")


@functools.cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(function).items() if name not in ("self", "cls")}


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation alone."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is_of(value: Any, hint: Any, kinds: tuple[Any, ...]) -> bool:
    if hint is Any or (value is None and NoneType in kinds):
        return True
    if isinstance(value, (bool, str, bytes)):  # not by inheritance from int, nor as a sequence of letters
        kinds = tuple(kind for kind in kinds if kind in (type(value), Any, object) or get_origin(kind) is Literal)
    for kind in kinds:
        try:
            check_type(
                value,
                kind,
                forward_ref_policy=ForwardRefPolicy.ERROR,
                collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS,
            )
        except TypeCheckError:
            continue
        return True
    return False


def described(hint: Any) -> str:
    """An annotation as a message says it.

    Example:
        >>> described(int | list[float] | None), described(Literal["a", "b", "c"])
        ('int, list[float] or None', "'a', 'b' or 'c'")
    """
    kinds = _kinds(hint)
    if len(kinds) == 1 and get_origin(hint) is Literal:
        words = [repr(word) for word in get_args(hint)]
    elif len(kinds) == 1:
        is_plain = isinstance(hint, type) and not get_args(hint)
        text = hint.__qualname__ if is_plain else str(hint).replace("typing.", "").replace("collections.abc.", "")
        words = ["None" if hint is NoneType else text]
    else:
        words = [described(kind) for kind in kinds]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
