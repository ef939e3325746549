"""Strings of a grammar that a finite automaton accepts, and the automaton itself, read from a YAML file."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

START, END = "start", "end"
REBER = Path(__file__).parent / "configs" / "reber_grammar.yaml"


@dataclass(frozen=True)
class Grammar:
    """A deterministic automaton: it begins in the state ``start``, and accepts a string that leads to ``end``.

    Args:
        transitions: state → symbol → next state. A symbol is one printable ASCII character, as the networks read
            codes below 128.

    Raises:
        ValueError: if a transition leads to no known state, a symbol is not one character, a state cannot be reached,
            or from a state no path leads to the end.

    Example:
        >>> grammar = Grammar({"start": {"B": "loop"}, "loop": {"S": "loop", "E": "end"}})
        >>> grammar.accepts("BSSE"), grammar.accepts("BS"), grammar.accepts("BESE")
        (True, False, False)
    """

    transitions: Mapping[str, Mapping[str, str]]

    def __post_init__(self) -> None:
        if START not in self.transitions:
            raise ValueError(f"`transitions` must have the state {START!r}, where every string begins")
        if self.transitions.get(END):
            raise ValueError(f"`transitions` must not leave {END!r}, where every string ends")
        for state, ways in self.transitions.items():
            for symbol, target in ways.items():
                if len(symbol) != 1 or not (symbol.isascii() and symbol.isprintable()):
                    raise ValueError(f"`transitions` must have symbols of one ASCII character, got {symbol!r}")
                if target != END and target not in self.transitions:
                    raise ValueError(f"`transitions` lead from {state!r} to {target!r}, which is no state; add it")
        reached = _closure({START}, {state: set(ways.values()) for state, ways in self.transitions.items()})
        sources: dict[str, set[str]] = {}
        for state, ways in self.transitions.items():
            for target in ways.values():
                sources.setdefault(target, set()).add(state)
        ending = _closure({END}, sources)
        for state in self.transitions:
            if state not in ending and state != END:
                raise ValueError(
                    f"`transitions` have a dead end: from the state {state!r} no path leads to {END!r}; "
                    "add a transition that leaves it, or remove the state"
                )
            if state not in reached and state != END:
                raise ValueError(f"`transitions` never lead to the state {state!r}; remove it")

    @property
    def alphabet(self) -> str:
        """All symbols, in the order of the alphabet."""
        return "".join(sorted({symbol for ways in self.transitions.values() for symbol in ways}))

    def states(self, text: str) -> list[str] | None:
        """The state before each symbol; None if the string is not accepted."""
        state, passed = START, []
        for symbol in text:
            passed.append(state)
            following = self.transitions.get(state, {}).get(symbol)
            if following is None:
                return None
            state = following
        return passed if state == END else None

    def accepts(self, text: str) -> bool:
        """Whether the string leads from the start to the end."""
        return self.states(text) is not None

    def draw(self, generator: random.Random) -> str:
        """A string by a random walk, every way out of a state being as likely as the others."""
        state, text = START, ""
        while state != END:
            symbol, state = generator.choice(list(self.transitions[state].items()))
            text += symbol
        return text


def read_grammar(path: Path = REBER) -> Grammar:
    """The grammar of a YAML file: ``state: {symbol: next state}``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no mapping of that form, or `Grammar` refuses it; the message names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"`grammar` must name a file, but there is no {path}")
    told: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(told, dict) or not all(isinstance(ways, dict) for ways in told.values()):
        raise ValueError(f"{path} must map each state to its symbols, and those to states, like `0: {{T: 1, P: 2}}`")
    transitions = {
        str(state): {str(symbol): str(target) for symbol, target in ways.items()} for state, ways in told.items()
    }
    try:
        return Grammar(transitions)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _closure(found: set[str], neighbours: Mapping[str, set[str]]) -> set[str]:
    """What can be reached from some states, themselves included."""
    waiting = list(found)
    reached = set(found)
    while waiting:
        fresh = neighbours.get(waiting.pop(), set()) - reached
        reached |= fresh
        waiting.extend(fresh)
    return reached
