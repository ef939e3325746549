"""Strings of the Reber grammar and strings that only look like it, as batches of ASCII codes.

The three kinds of wrong strings are those found in Darji's data. All begin with B and end with E:

- ``first``: the first choice is exchanged, T for P or P for T, and the rest left as it was;
- ``swapped``: at one other state, the symbols of its two ways out are exchanged wherever the string passes it;
- ``foreign``: the letters in between are replaced by others of A to Z, one for one, at least one of which the grammar
  does not have.
"""

from __future__ import annotations

import csv
import random
import string
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from recipes.reber.grammar import Grammar

Negatives = Literal["original", "hard"]
Readout = Literal["last_padded", "last_symbol"]
# shares of the kinds among the wrong strings; "original" as counted in Darji's data, "hard" without the foreign ones
SHARES: dict[str, dict[str, float]] = {
    "original": {"first": 1500 / 12500, "swapped": 4000 / 12500, "foreign": 7000 / 12500},
    "hard": {"first": 1500 / 5500, "swapped": 4000 / 5500},
}
SHORTEST = 11
VALID = "valid"
MOST_TRIES = 20_000  # per string; the grammar has only so many strings of a length


@dataclass(frozen=True)
class Example:
    """A string, and ``valid`` or the kind of its fault."""

    text: str
    kind: str

    @property
    def label(self) -> int:
        """1 for a string of the grammar, else 0."""
        return int(self.kind == VALID)


def make_examples(
    grammar: Grammar, count: int, seed: int, *, negatives: Negatives = "original", shortest: int = SHORTEST
) -> list[Example]:
    """Strings in random order, half of them of the grammar, no two alike.

    The wrong strings of the kinds ``first`` and ``swapped`` are made of the right strings of the set, so neither
    letters nor lengths tell them apart; these are all that ``"hard"`` has. The ``foreign`` ones of ``"original"`` are
    made of new random walks, most of them short. Together this gives the mean lengths of Darji's data, 23.6 and 18.7.

    Args:
        grammar: what the right strings follow.
        count: number of strings, even.
        seed: the same number makes the same strings.
        negatives: which wrong strings.
        shortest: least length.

    Raises:
        ValueError: if ``count`` is odd or too small, ``negatives`` is unknown, or the grammar has too few strings.

    Reference:
        Darji 2024 (arXiv 2407.20601), the chapter on data; shares and lengths are counted in its files.
    """
    if count < 4 or count % 2:
        raise ValueError(f"`count` must be an even number of strings, at least 4, got {count}")
    if negatives not in SHARES:
        raise ValueError(f"`negatives` must be one of {', '.join(get_args(Negatives))}, got {negatives!r}")
    generator = random.Random(seed)
    found: dict[str, str] = {}

    def walk() -> str:
        return grammar.draw(generator)

    def collect(kind: str, wanted: int, draw: Callable[[], str | None]) -> None:
        taken, tries = 0, 0
        while taken < wanted:
            text, tries = draw(), tries + 1
            if text is not None and len(text) >= shortest and text not in found:
                found[text] = kind
                taken, tries = taken + 1, 0
            if tries > MOST_TRIES:
                raise ValueError(
                    f"`count` must be less than {count}: the grammar gave no new {kind} string of at least "
                    f"{shortest} symbols in {MOST_TRIES} tries, after {taken} of {wanted}"
                )

    collect(VALID, count // 2, walk)
    valid = list(found)
    for kind, wanted in _whole_numbers(SHARES[negatives], count // 2).items():
        source = walk if kind == "foreign" else lambda: generator.choice(valid)
        collect(kind, wanted, lambda kind=kind, source=source: spoiled(source(), kind, grammar, generator))
    examples = [Example(text, kind) for text, kind in found.items()]
    generator.shuffle(examples)
    return examples


def spoiled(text: str, kind: str, grammar: Grammar, generator: random.Random) -> str | None:
    """A string of the grammar with a fault of some kind, or None where the draw gave none."""
    passed = grammar.states(text)
    if passed is None:
        raise ValueError(f"`text` must be a string of the grammar, got {text!r}")
    choices = [state for state in dict.fromkeys(passed) if len(grammar.transitions[state]) > 1]
    if kind == "foreign":
        inner = sorted(set(text[1:-1]))
        exchange = dict(zip(inner, generator.sample(string.ascii_uppercase, len(inner)), strict=True))
        changed = text[0] + "".join(exchange[symbol] for symbol in text[1:-1]) + text[-1]
        return changed if set(changed) - set(grammar.alphabet) else None
    if kind == "first":
        place = passed.index(choices[0])
        others = [symbol for symbol in grammar.transitions[choices[0]] if symbol != text[place]]
        changed = text[:place] + generator.choice(others) + text[place + 1 :]
    elif kind == "swapped":
        if len(choices) < 2:
            return None
        state = generator.choice(choices[1:])
        one, other = generator.sample(list(grammar.transitions[state]), 2)
        exchange = {one: other, other: one}
        changed = "".join(
            exchange.get(symbol, symbol) if before == state else symbol
            for symbol, before in zip(text, passed, strict=True)
        )
    else:
        raise ValueError(f"`kind` must be first, swapped or foreign, got {kind!r}")
    return None if grammar.accepts(changed) else changed


def split(examples: list[Example], test_share: float) -> tuple[list[Example], list[Example]]:
    """Train and test part; the examples are in random order already."""
    if not 0 < test_share < 1:
        raise ValueError(f"`test_share` must be a fraction of the strings in (0, 1), got {test_share}")
    test = max(1, round(len(examples) * test_share))
    return examples[:-test], examples[-test:]


def figures(examples: list[Example]) -> dict[str, float]:
    """Counts and mean lengths, overall and by kind."""
    kinds = Counter(example.kind for example in examples)
    lengths = [len(example.text) for example in examples]
    wrong = [len(example.text) for example in examples if not example.label]
    right = [len(example.text) for example in examples if example.label]
    return {
        "strings": len(examples),
        **{kind: kinds[kind] for kind in sorted(kinds)},
        "shortest": min(lengths),
        "longest": max(lengths),
        "mean_length_valid": round(sum(right) / max(1, len(right)), 2),
        "mean_length_wrong": round(sum(wrong) / max(1, len(wrong)), 2),
    }


def write_examples(examples: list[Example], path: Path) -> None:
    """A CSV file with the columns text and kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "kind"), *((example.text, example.kind) for example in examples)])
    partial.replace(path)


def read_examples(path: Path) -> list[Example]:
    """What `write_examples` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return [Example(row["text"], row["kind"]) for row in csv.DictReader(file)]


Batch = tuple[Tensor, Tensor, Tensor]


class Batches:
    """The batches of one epoch after another: codes `(time, batch)`, step to read `(batch,)`, labels `(batch,)`.

    With ``"last_padded"`` batches are drawn at random and padded with zeros to their longest string, and the network is
    read at the last step, mostly after many zeros: as Darji does. With ``"last_symbol"`` each string is read at its
    last symbol; so strings of about the same length can share a batch, and few zeros are computed.

    Args:
        examples: the strings.
        batch_size: strings in a batch.
        readout: where the network is read.
        seed: of the order; None keeps the strings in theirs, which is for evaluation.

    Raises:
        ValueError: if there are no strings, or an argument is unknown or ≤ 0.
    """

    def __init__(self, examples: list[Example], batch_size: int, readout: Readout, seed: int | None = None) -> None:
        if not examples:
            raise ValueError("`examples` must not be empty")
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}")
        if readout not in get_args(Readout):
            raise ValueError(f"`readout` must be one of {', '.join(get_args(Readout))}, got {readout!r}")
        self.batch_size, self.readout, self.seed = batch_size, readout, seed
        self.epoch = 0
        self.lengths = torch.tensor([len(example.text) for example in examples])
        self.labels = torch.tensor([example.label for example in examples])
        self.codes = torch.zeros(len(examples), int(self.lengths.max()), dtype=torch.long)
        for row, example in zip(self.codes, examples, strict=True):
            row[: len(example.text)] = torch.tensor(list(example.text.encode("ascii")))

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        generator = None
        if self.seed is not None:
            generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
            self.epoch += 1
        for rows in self._order(generator):
            lengths = self.lengths[rows]
            longest = int(lengths.max())
            last = lengths - 1 if self.readout == "last_symbol" else torch.full_like(lengths, longest - 1)
            yield self.codes[rows, :longest].t().contiguous(), last, self.labels[rows]

    def _order(self, generator: torch.Generator | None) -> list[Tensor]:
        order = torch.arange(len(self.labels))
        if generator is not None:
            order = torch.randperm(len(order), generator=generator)
        if self.readout == "last_padded":
            return list(order.split(self.batch_size))
        batches = list(order[self.lengths[order].argsort(stable=True)].split(self.batch_size))
        if generator is None:
            return batches
        return [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]


def _whole_numbers(shares: dict[str, float], total: int) -> dict[str, int]:
    """Whole numbers in about these shares; the last takes what is left."""
    counts = {kind: round(share * total) for kind, share in shares.items()}
    last = list(counts)[-1]
    counts[last] = total - sum(count for kind, count in counts.items() if kind != last)
    return counts
