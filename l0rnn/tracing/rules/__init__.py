"""What each operation does to units: a table from the name of an operation to its rule.

One file per family of operations. A rule is a function of one `Call`; it reads the labels of the arguments, unites or
fixes them, and labels the result. An operation without a rule fixes what it touches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from l0rnn.arguments import checked
from l0rnn.tracing.rules import (
    convolutions,
    elementwise,
    lookup,
    norms,
    pieces,
    products,
    recurrent,
    reductions,
    shapes,
    writing,
)
from l0rnn.tracing.rules.run import Call

RULES: dict[Any, Callable[[Call], None]] = {}
FAMILIES = (shapes, pieces, writing, elementwise, reductions, products, convolutions, recurrent, norms, lookup)
for family in FAMILIES:
    for names, function in family.RULES.items():
        RULES.update(dict.fromkeys(names.split(), function))


@checked
def rule(operation: str | Callable[..., Any]) -> Callable[[Callable[[Call], None]], Callable[[Call], None]]:
    """Give an operation a rule of your own, or another one; for a decorator.

    Args:
        operation: the function that torch is called by, such as ``torch.cdist``, or its name without underscores.

    Example:
        >>> @rule("logit")
        ... def same_units(call):  # the result has the units of the first argument
        ...     call.set(call.out, call.labels(call.args[0]))
        >>> RULES.pop("logit") is same_units
        True
    """

    def register(function: Callable[[Call], None]) -> Callable[[Call], None]:
        RULES[operation] = function
        return function

    return register
