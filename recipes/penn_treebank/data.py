"""Penn Treebank as a stream of word ids, cut into segments for truncated backpropagation through time.

The text of a split is one long stream. It is cut into `batch` columns that lie side by side, and all columns are read
in step, `steps` words at a time: row b of one segment continues row b of the segment before it, so a network may carry
its state from segment to segment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from einops import rearrange
from lightning import LightningDataModule
from torch import Tensor

from recipes.penn_treebank.corpus import Split, load_text

__all__ = ["END_OF_SENTENCE", "PennTreebank", "SegmentLoader", "Vocabulary", "batchify", "load_text"]

END_OF_SENTENCE = "<eos>"


class Vocabulary:
    """The words of a text, numbered from the most frequent one; words of equal frequency alphabetically.

    `<eos>` is a word like any other: it stands once at the end of each line.

    Args:
        text: one sentence per line, words separated by spaces.

    Attributes:
        words: the words in the order of their ids.
    """

    def __init__(self, text: str) -> None:
        counts = Counter(word for _, word in _words(text))
        self.words = tuple(sorted(counts, key=lambda word: (-counts[word], word)))
        self._ids = {word: index for index, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> Tensor:
        """Turn a text into word ids.

        Args:
            text: one sentence per line, words separated by spaces.

        Returns:
            `(token,)` int64, with the id of `<eos>` after each line.

        Raises:
            ValueError: a word is not in the vocabulary.
        """
        ids = []
        for line, word in _words(text):
            index = self._ids.get(word)
            if index is None:
                raise ValueError(
                    f"`text` must be made of the {len(self)} words of the vocabulary, got {word!r} in line {line}; "
                    "build the vocabulary from a text with this word, or write <unk> for it"
                )
            ids.append(index)
        return torch.tensor(ids, dtype=torch.int64)


def _words(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), start=1):
        for word in line.split():
            yield number, word
        yield number, END_OF_SENTENCE


def batchify(tokens: Tensor, batch_size: int) -> Tensor:
    """Cut a stream of tokens into columns of equal length.

    The remainder, fewer than `batch_size` tokens at the end of the stream, is dropped.

    Args:
        tokens: `(token,)`.
        batch_size: number of columns.

    Returns:
        `(time, batch)`; column b is the b-th of `batch_size` consecutive pieces of the stream.

    Raises:
        ValueError: `batch_size` is not positive or there are fewer tokens than columns.
    """
    if not 1 <= batch_size <= len(tokens):
        raise ValueError(f"`batch_size` must be from 1 to the number of tokens, {len(tokens)}, got {batch_size}")
    whole = len(tokens) // batch_size * batch_size
    return rearrange(tokens[:whole], "(batch time) -> time batch", batch=batch_size).contiguous()


class SegmentLoader:
    """Consecutive segments of text, each with the words that follow its words.

    Every segment but the last has `steps` time steps; the last has what is left. Each token but the first of a column
    is a target exactly once in an epoch.

    Where several processes train together, each has its share of the columns.

    The loader is stateful: `state_dict` tells which segment comes next. Lightning's Trainer finds `state_dict` and
    `load_state_dict` on a train loader by itself, writes the state into every checkpoint, and loads it before the
    first batch when `Trainer.fit(ckpt_path=...)` resumes in the middle of an epoch. A segment counts as read from the
    moment it is handed out. That is right for every checkpoint written after a step, because Lightning fetches one
    batch at a time from a loader with a length (it reads ahead only where `len` is unknown). Two limits follow:

    - A checkpoint written within a step, as after an exception, counts the segment of that step as read. The resumed
      epoch is then one step short, and Lightning leaves out the validation at its end.
    - With `Trainer(limit_train_batches=...)` the last batch of the shortened epoch looks like one in the middle.
      To train on less text, shorten the text: `PennTreebank(train_tokens=...)`.

    Args:
        tokens: `(time, batch)`, as `batchify` returns it.
        steps: time steps per segment.

    Raises:
        ValueError: `steps` is not positive or longer than the text.
    """

    def __init__(self, tokens: Tensor, steps: int) -> None:
        targets = len(tokens) - 1  # the first token of a column follows nothing
        if not 1 <= steps <= targets:
            raise ValueError(
                f"`steps` must be from 1 to the length of a column less one, {targets}, got {steps}; "
                "shorten the segments, or use a smaller batch size or more text"
            )
        self._tokens = tokens
        self._steps = steps
        self._next_segment = 0
        self._resume_at = 0

    def __len__(self) -> int:
        """Segments in a whole epoch, also after resuming in the middle of one."""
        return -(-(len(self._tokens) - 1) // self._steps)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Start an epoch, or go on with the one that `load_state_dict` named.

        Returns:
            An iterator over `(inputs, targets)`, both `(time, batch)`: at each time step the target is the next input.
        """
        # Taken here and not at the first batch: an epoch that is started again begins at the beginning.
        first, self._resume_at = self._resume_at, 0
        self._next_segment = first
        return self._segments_from(first, self._own_columns())

    def _own_columns(self) -> Tensor:
        """The columns of this process, `(time, column)`; not before an epoch, as processes may join late."""
        if not (dist.is_available() and dist.is_initialized()):
            return self._tokens
        check_share(self._tokens.size(1), dist.get_world_size())
        return self._tokens.chunk(dist.get_world_size(), dim=1)[dist.get_rank()]

    def _segments_from(self, first: int, tokens: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for index in range(first, len(self)):
            # Before the yield: a checkpoint is written while the generator waits there. After the last segment the
            # next one is the first again, because Lightning loads a state from the end of an epoch into a new epoch.
            self._next_segment = (index + 1) % len(self)
            start = index * self._steps
            stop = min(start + self._steps, len(tokens) - 1)
            yield tokens[start:stop], tokens[start + 1 : stop + 1]

    def state_dict(self) -> dict[str, int]:
        """Where the next epoch or the rest of this one begins.

        Returns:
            ``next_segment``, the index of the segment after the last one handed out, and ``segments``, their number.
        """
        return {"next_segment": self._next_segment, "segments": len(self)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next iteration, and only that one, begin where the saved one was.

        Raises:
            ValueError: the state belongs to a text cut into another number of segments.
        """
        if state_dict["segments"] != len(self):
            raise ValueError(
                f"`state_dict` must come from a loader with {len(self)} segments, got {state_dict['segments']}; "
                "resume with the batch size, steps and text that the checkpoint was made with"
            )
        self._next_segment = self._resume_at = state_dict["next_segment"]


def check_share(columns: int, processes: int) -> None:
    """Refuse a text whose columns cannot be shared out evenly.

    Raises:
        ValueError: it says so.
    """
    if columns % processes:
        raise ValueError(
            f"the batch size must be a multiple of the number of processes, {processes}, got {columns}: each process "
            "reads as many columns of the text; change it, or evaluate in one process, by Trainer(devices=1)"
        )


class PennTreebank(LightningDataModule):
    """Penn Treebank for a Trainer: one loader of consecutive segments for each of train, validation and test.

    Batches are `(inputs, targets)`, both `(time, batch)` int64. The validation and test texts lose the remainder of
    their division into columns (fewer than `evaluation_batch_size` tokens) and the first token of each column; with
    `evaluation_batch_size=1` that is one token in all.

    Args:
        data_dir: folder with the three files; without it see `load_text`.
        batch_size: columns of the train text, over all processes.
        steps: time steps per segment, in all three splits.
        evaluation_batch_size: columns of the validation and of the test text.
        train_tokens: read only so many tokens from the beginning of the train text. The vocabulary is that of the
            whole train text all the same.

    Attributes:
        vocabulary: the 10,000 words of the train text, `<eos>` among them.
    """

    def __init__(
        self,
        data_dir: str | Path | None = None,
        batch_size: int = 20,
        *,
        steps: int = 35,
        evaluation_batch_size: int = 20,
        train_tokens: int | None = None,
    ) -> None:
        super().__init__()
        sizes = {"batch_size": batch_size, "steps": steps, "evaluation_batch_size": evaluation_batch_size}
        for name, size in (sizes if train_tokens is None else sizes | {"train_tokens": train_tokens}).items():
            if size < 1:
                raise ValueError(f"`{name}` must be at least 1, got {size}")
        self.data_dir = data_dir
        self.batch_size = batch_size
        self.steps = steps
        self.evaluation_batch_size = evaluation_batch_size
        self.train_tokens = train_tokens
        self._columns: dict[Split, Tensor] = {}

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(load_text("train", self.data_dir))

    @property
    def vocabulary_size(self) -> int:
        """Number of words; known before training starts, because networks are built with it."""
        return len(self.vocabulary)

    def prepare_data(self) -> None:
        """Fetch the texts, in one process, before any process reads them."""
        for split in ("train", "valid", "test"):
            load_text(split, self.data_dir)

    def setup(self, stage: str | None = None) -> None:
        """Read all three splits, once, whatever the stage."""
        if self.trainer is not None and self.trainer.world_size > 1:
            for columns in (self.batch_size, self.evaluation_batch_size):
                check_share(columns, self.trainer.world_size)
        if not self._columns:
            self._columns = {
                "train": batchify(self._train_stream(), self.batch_size),
                "valid": batchify(self._stream("valid"), self.evaluation_batch_size),
                "test": batchify(self._stream("test"), self.evaluation_batch_size),
            }

    def train_dataloader(self) -> SegmentLoader:
        return self._loader("train")

    def val_dataloader(self) -> SegmentLoader:
        return self._loader("valid")

    def test_dataloader(self) -> SegmentLoader:
        return self._loader("test")

    def _loader(self, split: Split) -> SegmentLoader:
        self.setup()  # for those who iterate without a Trainer
        return SegmentLoader(self._columns[split], self.steps)

    def _stream(self, split: Split) -> Tensor:
        return self.vocabulary.encode(load_text(split, self.data_dir))

    def _train_stream(self) -> Tensor:
        tokens = self._stream("train")
        if self.train_tokens is not None and self.train_tokens > len(tokens):
            raise ValueError(
                f"`train_tokens` must be at most the length of the train text, {len(tokens)} tokens, "
                f"got {self.train_tokens}; leave it out to use the whole text"
            )
        return tokens[: self.train_tokens]
