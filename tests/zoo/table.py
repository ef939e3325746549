"""The table of the zoo: what can be removed in each network, and what stays whole and why.

python -m tests.zoo.table > docs/zoo.md
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch

from l0rnn.cost.cost import CostOf
from l0rnn.surgery.trial import tried_units
from l0rnn.tracing.units import Units
from tests.zoo.registry import ZOO

HEAD = """# The zoo

Networks as people run them, rebuilt at small size in the way people write them ([tests/zoo](../tests/zoo)). Nothing
is declared: each is run once on example inputs, and a trial cut with random gates is compared with the gated network.
*Share* is the part of the multiply-adds that could be removed. Every network that torch can train is pruned in a short
training by gates and by magnitude, to two densities, in [test_pruning.py](../tests/zoo/test_pruning.py). *As ONNX*:
half of the units cut, exported, and run in ONNX Runtime against torch (`python -m tests.zoo.onnx`). This page is
written by `python -m tests.zoo.table`.

| network | units that can be removed | share | as ONNX | stays whole, and why |
|---|---|---|---|---|
"""


def removable(units: Units) -> float:
    """Share of the multiply-adds that goes with all units; of each axis one stays, which does not count here."""
    own = CostOf(units)
    none = own.kept({name: torch.zeros(axis.size, dtype=torch.bool) for name, axis in units.axes.items()})
    whole = own.kept().multiply_adds
    return 1 - none.multiply_adds / whole if whole else 0.0


@cache
def onnx() -> dict[str, str]:
    """What came of each export."""
    found: dict[str, str] = json.loads(Path(__file__).with_name("onnx.json").read_text(encoding="utf-8"))
    return found


def row(name: str) -> str:
    """One network."""
    units = tried_units(ZOO[name].network(), ZOO[name].example_inputs())
    reasons: dict[str, list[str]] = {}
    for layer, why in units.whole.items():
        if why != "it is an output of the network":
            reasons.setdefault(why, []).append(f"`{layer}`")
    told = "; ".join(
        f"{', '.join(layers[:3])}{' …' if len(layers) > 3 else ''}: {why.partition(': ')[0]}"
        for why, layers in reasons.items()
    )
    told = told or "its output"
    axes = f"{units.count} on {len(units.axes)} ax{'i' if len(units.axes) == 1 else 'e'}s"
    return f"| {name} | {axes} | {removable(units):.0%} | {onnx()[name]} | {told} |"


def page() -> str:
    """The whole page."""
    return HEAD + "\n".join(row(name) for name in ZOO) + "\n"


if __name__ == "__main__":
    print(page(), end="")
