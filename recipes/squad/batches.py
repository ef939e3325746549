"""Batches of questions with their contexts, padded to the longest of the batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recipes.squad.examples import Examples


@dataclass
class Batch:
    """Questions with their contexts; ids are 0 after the end of a text.

    Attributes:
        context_words: `(batch, time)` int64.
        context_characters: `(batch, time, character)` int64.
        question_words: `(batch, time)` int64.
        question_characters: `(batch, time, character)` int64.
        context_lengths: `(batch,)` int64, in tokens.
        question_lengths: `(batch,)` int64, in tokens.
        starts: `(batch,)` int64, first token of the answer, -1 where there is none.
        ends: `(batch,)` int64, its last token, -1 where there is none.
        numbers: `(batch,)` int64, the places of the questions in `Examples`.
    """

    context_words: Tensor
    context_characters: Tensor
    question_words: Tensor
    question_characters: Tensor
    context_lengths: Tensor
    question_lengths: Tensor
    starts: Tensor
    ends: Tensor
    numbers: Tensor


class Batches:
    """The questions of a split in batches of contexts of about the same length.

    In training the questions of a batch and the order of the batches are drawn anew in every epoch, from the seed and
    the number of the epoch; questions without a span, and those whose context is cut, are left out. In evaluation
    every question comes once, from the shortest context to the longest.

    Args:
        examples: the questions.
        batch_size: questions per batch; one batch has the remainder.
        train: whether the batches are for training.
        seed: of the order in training.
        device: where the batches are put.

    Raises:
        ValueError: `batch_size` is not positive, or no question is left to train on.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        *,
        train: bool,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}")
        self._examples, self._batch_size, self._train = examples, batch_size, train
        self._seed, self._epoch, self._device = seed, 0, device
        numbers = np.arange(len(examples))
        if train:
            numbers = numbers[(examples.starts >= 0) & ~examples.too_long[examples.paragraphs]]
        if len(numbers) == 0:
            raise ValueError(
                f"`examples` must hold questions with a span in an uncut context, got none of {len(examples)}; "
                "prepare them with a larger `max_context`"
            )
        self._numbers = numbers
        self._lengths = np.diff(examples.context_borders)[examples.paragraphs]  # (question,)

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return -(-len(self._numbers) // self._batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration have the order of this epoch; without a call it is that of epoch 0."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        numbers, order = self._numbers, np.arange(len(self))
        if self._train:
            generator = np.random.default_rng([self._seed, self._epoch])
            numbers, order = generator.permutation(numbers), generator.permutation(order)
        numbers = numbers[np.argsort(self._lengths[numbers], kind="stable")]
        for index in order:
            yield self._batch(numbers[index * self._batch_size : (index + 1) * self._batch_size])

    def _batch(self, numbers: np.ndarray) -> Batch:
        examples = self._examples
        contexts, context_lengths = _padded(
            examples.context_forms, examples.context_borders, examples.paragraphs[numbers]
        )
        questions, question_lengths = _padded(examples.question_forms, examples.question_borders, numbers)
        return Batch(
            context_words=self._tensor(_looked_up(examples.form_words, contexts)),
            context_characters=self._tensor(_looked_up(examples.form_characters, contexts)),
            question_words=self._tensor(_looked_up(examples.form_words, questions)),
            question_characters=self._tensor(_looked_up(examples.form_characters, questions)),
            context_lengths=self._tensor(context_lengths),
            question_lengths=self._tensor(question_lengths),
            starts=self._tensor(examples.starts[numbers]),
            ends=self._tensor(examples.ends[numbers]),
            numbers=self._tensor(numbers),
        )

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(self._device)


def _padded(flat: np.ndarray, borders: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The texts of some rows side by side, `(row, time)`, with -1 after their ends; their lengths."""
    lengths = borders[rows + 1] - borders[rows]
    padded = np.full((len(rows), int(lengths.max())), -1, dtype=np.int64)
    for line, row, length in zip(padded, rows, lengths, strict=True):
        line[:length] = flat[borders[row] : borders[row] + length]
    return padded, lengths


def _looked_up(table: np.ndarray, forms: np.ndarray) -> np.ndarray:
    found = table[forms]  # a copy; the last row where there is padding
    found[forms < 0] = 0
    return found


def answer_text(examples: Examples, number: int, start: int, end: int) -> str:
    """The text of a span, cut out of the context as it is written there.

    Args:
        examples: the questions.
        number: place of the question in `examples`.
        start: first token.
        end: last token.

    Raises:
        ValueError: there is no such question, or the span is not in its context.
    """
    if not 0 <= number < len(examples):
        raise ValueError(f"`number` must be from 0 to {len(examples) - 1}, got {number}")
    paragraph = examples.paragraphs[number]
    first, stop = (int(border) for border in examples.context_borders[paragraph : paragraph + 2])
    if not 0 <= start <= end < stop - first:
        raise ValueError(
            f"`start` and `end` must be a span in the {stop - first} tokens of the context of question {number}, "
            f"got {start} and {end}"
        )
    begin, finish = examples.text_borders[paragraph : paragraph + 2]
    context = examples.text[begin:finish].tobytes().decode()
    return context[examples.token_starts[first + start] : examples.token_ends[first + end]]
