"""BiDAF as a LightningModule, and SQuAD as its data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from torch import Tensor, nn
from torch.optim import Adadelta, Adam, Optimizer

from l0rnn import Method, PrunableModule
from recipes.squad.network import Bidaf, example_question, span_loss


class BidafModule(PrunableModule):
    """BiDAF under a pruning method; `load_vocabulary_` has to be called before it is trained.

    What is pruned are the units of its LSTMs. A density is a fraction of all multiply-adds of an `example_question`,
    those of the word features and of the attention included, which cannot be pruned.

    Args:
        hidden: units of each direction of each LSTM.
        vectors: width of the word vectors.
        filters: of the character CNN.
        characters: rows of the table of characters; rarer ones count as unknown.
        dropout: as in `Bidaf`.
        method: the pruning method; None trains the whole network.
        optimizer: ``"adam"`` or ``"adadelta"``.
        learning_rate: of the weights.
        gate_learning_rate: of the gates.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        hidden: int = 100,
        *,
        vectors: int = 100,
        filters: int = 100,
        characters: int = 512,
        dropout: float = 0.2,
        method: Method | None = None,
        optimizer: Literal["adam", "adadelta"] = "adam",
        learning_rate: float = 0.001,
        gate_learning_rate: float = 0.03,
    ) -> None:
        for name, value in {"hidden": hidden, "vectors": vectors, "filters": filters, "characters": characters}.items():
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}")
        if optimizer not in ("adam", "adadelta"):
            raise ValueError(f"`optimizer` must be 'adam' or 'adadelta', got {optimizer!r}")
        if not learning_rate > 0:
            raise ValueError(f"`learning_rate` must be > 0, got {learning_rate}")
        sizes: dict[str, Any] = {"vectors": vectors, "filters": filters, "characters": characters, "dropout": dropout}

        def make_optimizer(parameters: list[nn.Parameter]) -> Optimizer:
            if optimizer == "adam":
                return Adam(parameters, lr=learning_rate, fused=True)
            return Adadelta(parameters, lr=learning_rate)

        super().__init__(
            Bidaf(hidden, **sizes),
            span_loss,
            method,
            fixed=("features",),
            optimizer=make_optimizer,
            gate_learning_rate=gate_learning_rate,
            example_inputs=example_question(1, characters),
        )
        self.arguments: dict[str, Any] = {"hidden": hidden, **sizes}

    def load_vocabulary_(self, vocabulary: Any) -> None:
        """Take the words and their vectors.

        Raises:
            ValueError: if the vectors have another width.
        """
        network: Any = self.network
        network.features.words.load_(
            torch.as_tensor(vocabulary.vectors), torch.as_tensor(vocabulary.trained, dtype=torch.bool)
        )


def moved(batch: Any, device: torch.device | str) -> Any:
    """A batch on a device."""
    parts = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return replace(batch, **{name: part.to(device) for name, part in parts.items() if isinstance(part, Tensor)})


class Epochs:
    """Batches, epoch after epoch, that a checkpoint can go on with in the middle of one.

    Lightning finds `state_dict` and `load_state_dict` by itself. A batch counts as read when it is handed out.

    Args:
        batches: has ``set_epoch``, a length and an iterator; the same batches in the same order for the same epoch.
    """

    def __init__(self, batches: Any) -> None:
        self.batches = batches
        self._epoch = self._next = 0
        self._resumes = False

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        first = self._next if self._resumes else 0
        self._resumes = False
        self.batches.set_epoch(self._epoch)
        return self._from(first)

    def _from(self, first: int) -> Iterator[Any]:
        epoch, last = self._epoch, len(self) - 1
        for index, batch in enumerate(self.batches):
            if index >= first:
                # before the yield, since a checkpoint is written while the generator waits there
                self._epoch, self._next = (epoch, index + 1) if index < last else (epoch + 1, 0)
                yield batch

    def state_dict(self) -> dict[str, int]:
        """Epoch and batch that come next, and the number of batches."""
        return {"epoch": self._epoch, "next": self._next, "batches": len(self)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on there.

        Raises:
            ValueError: if the state is of another number of batches.
        """
        if state_dict["batches"] != len(self):
            raise ValueError(
                f"`state_dict` must come from {len(self)} batches, got {state_dict['batches']}; "
                "resume with the data and batch size that the checkpoint was made with"
            )
        self._epoch, self._next, self._resumes = state_dict["epoch"], state_dict["next"], True


class SquadData(LightningDataModule):
    """SQuAD v1.1 for a Trainer.

    Args:
        data_dir: folder with the JSON files; None to download them.
        cache_dir: folder for the prepared examples.
        vectors: file of word vectors.
        batch_size: questions per batch.
        max_context: longest context to train on, words.
        max_question: longest question to train on, words.
        word_length: characters of a word.
        limit: use only so many questions; None for all.
        held_out: share of the train set, at its end, that is not trained on and stands in for the dev set: to choose
            settings without a look at the dev set.
        seed: of the order of the questions.

    Raises:
        ValueError: if ``held_out`` is out of range.
    """

    def __init__(
        self,
        data_dir: str | None = None,
        cache_dir: str = "out/squad_cache",
        vectors: str | None = None,
        batch_size: int = 60,
        *,
        max_context: int = 400,
        max_question: int = 30,
        word_length: int = 16,
        limit: int | None = None,
        held_out: float = 0.0,
        seed: int = 0,
    ) -> None:
        if not 0 <= held_out < 1:
            raise ValueError(f"`held_out` must be in [0, 1), got {held_out}")
        super().__init__()
        self.data_dir = None if data_dir is None else Path(data_dir)
        self.cache_dir = Path(cache_dir)
        self.vectors = None if vectors is None else Path(vectors)
        self.batch_size = batch_size
        self.lengths = {"max_context": max_context, "max_question": max_question, "word_length": word_length}
        self.limit = limit
        self.held_out = held_out
        self.seed = seed

    @cached_property
    def prepared(self) -> tuple[Any, Any, Any]:
        """Examples to train on, those to evaluate on, and the report on both files."""
        from recipes.squad.preparation import prepare

        train, dev, report = prepare(
            self.data_dir, self.cache_dir, vectors_path=self.vectors, limit=self.limit, progress=True, **self.lengths
        )
        if self.held_out:
            paragraph = train.paragraphs[min(round((1 - self.held_out) * len(train)), len(train) - 1)]
            border = int((train.paragraphs < paragraph).sum())  # no paragraph is on both sides
            train, dev = train.part(0, border), train.part(border, len(train))
        return train, dev, report

    @property
    def vocabulary(self) -> Any:
        """That of the examples."""
        return self.prepared[0].vocabulary

    def train_dataloader(self) -> Epochs:
        """The questions to train on."""
        from recipes.squad.batches import Batches

        return Epochs(Batches(self.prepared[0], self.batch_size, train=True, seed=self.seed))
