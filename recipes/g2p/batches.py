"""Training examples, one for each pronunciation, in batches of words of about one length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recipes.g2p.network import padded
from recipes.g2p.symbols import BEGIN, END, PAD
from recipes.g2p.words import Pronunciation, letter_numbers, phoneme_numbers


@dataclass(frozen=True)
class Batch:
    """Some examples.

    Attributes:
        letters: `(batch, letter)`, with the end mark, then padding.
        lengths: letters of each with the end mark, `(batch,)`.
        phonemes: `(batch, phoneme)`, with the begin mark, then padding: what the decoder reads.
        labels: `(batch, phoneme)`, with the end mark, then padding: what it should say.
        rows: which examples these are, `(batch,)`.
        likely, shares: the phonemes that a teacher holds most likely at each step, and how likely, of
            `(batch, phoneme, choice)`; None without a teacher.
    """

    letters: Tensor
    lengths: Tensor
    phonemes: Tensor
    labels: Tensor
    rows: Tensor
    likely: Tensor | None = None
    shares: Tensor | None = None


class Examples:
    """All pronunciations of words as examples.

    Args:
        words: words and their pronunciations.
    """

    def __init__(self, words: Mapping[str, Sequence[Pronunciation]]) -> None:
        pairs = [(word, pronunciation) for word, many in words.items() for pronunciation in many]
        numbers = [phoneme_numbers(pronunciation) for _, pronunciation in pairs]
        self.letters, self.lengths = padded([letter_numbers(word) for word, _ in pairs])
        self.phonemes, self.steps = padded([[BEGIN, *row] for row in numbers])
        self.labels, _ = padded([[*row, END] for row in numbers])
        self.likely: Tensor | None = None
        self.shares: Tensor | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, rows: Tensor) -> Batch:
        """The examples of these rows, with no more padding than they need."""
        letters, steps = int(self.lengths[rows].max()), int(self.steps[rows].max())
        batch = Batch(
            self.letters[rows, :letters],
            self.lengths[rows],
            self.phonemes[rows, :steps],
            self.labels[rows, :steps],
            rows,
        )
        if self.likely is None or self.shares is None:
            return batch
        likely, shares = self.likely[rows, :steps].long(), self.shares[rows, :steps].float()
        return replace(batch, likely=likely, shares=shares)

    def epoch(self, batch_size: int, generator: torch.Generator, *, among: int | None = None) -> Iterator[Batch]:
        """Every example once, in batches of about one length, batches and their members at random.

        Args:
            batch_size: examples of a batch.
            generator: of the order.
            among: only so many examples, drawn at random.
        """
        order = torch.rand(len(self), generator=generator).argsort()[:among]
        order = order[(self.lengths[order] * 100 + self.steps[order]).argsort(stable=True)]
        parts = list(order.split(batch_size))
        for number in torch.rand(len(parts), generator=generator).argsort().tolist():
            yield self.batch(parts[number])


def mask(batch: Batch) -> Tensor:
    """Where a batch has labels and no padding, `(batch, phoneme)`."""
    return batch.labels != PAD
