"""Training goes on where it stopped, learns, and takes over a teacher's opinion."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recipes.g2p.batches import Examples, mask
from recipes.g2p.network import G2P, pronounce
from recipes.g2p.symbols import END
from recipes.g2p.teacher import Teacher, add_opinions
from recipes.g2p.training import Run, Settings, loss_of

WORDS = {
    "a": [("AH0",), ("EY1",)],
    "ab": [("AE1", "B")],
    "bab": [("B", "AE1", "B")],
    "baba": [("B", "AE1", "B", "AH0")],
    "abba": [("AE1", "B", "AH0")],
}


def test_every_pronunciation_is_an_example_once() -> None:
    examples = Examples(WORDS)
    assert len(examples) == 6
    batches = list(examples.epoch(4, torch.Generator().manual_seed(1)))
    assert sorted(row for batch in batches for row in batch.rows.tolist()) == list(range(6))
    assert sorted(len(batch.rows) for batch in batches) == [2, 4]
    for batch in batches:
        assert batch.letters.shape[1] == batch.lengths.max()
        assert ((batch.labels == END).sum(dim=1) == 1).all()
        torch.testing.assert_close(batch.phonemes[:, 1:][mask(batch)[:, 1:]], batch.labels[:, :-1][mask(batch)[:, 1:]])
    assert sum(len(batch.rows) for batch in examples.epoch(2, torch.Generator(), among=3)) == 3


def test_a_small_network_learns_its_words() -> None:
    network = G2P(8, 8, 24)
    trained = Run(network, Examples(WORDS), Settings(epochs=60, batch_size=3, average=0.9, learning_rate=0.02))
    found = pronounce(trained.train(quiet=True), list(WORDS))
    assert all(phonemes in right for phonemes, right in zip(found, WORDS.values(), strict=True))


def run(settings: Settings) -> Run:
    torch.manual_seed(3)
    examples, invented = Examples(WORDS), Examples({"bb": [("B", "B")], "aa": [("AA1",)]})
    teacher = Teacher(8, 4)
    add_opinions(examples, [teacher])
    return Run(G2P(4, 4, 6), examples, settings, invented=invented)


def test_a_training_taken_up_again_ends_the_same(tmp_path: Path) -> None:
    settings = Settings(epochs=3, batch_size=2, invented=2, teacher_share=0.5)
    whole = run(settings).train(quiet=True)
    interrupted = run(settings)
    interrupted.one_epoch()
    interrupted.save(tmp_path / "run.ckpt")
    again = run(settings).train(tmp_path / "run.ckpt", quiet=True)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)
    with pytest.raises(ValueError, match="`checkpoint` must be of a training with the same settings"):
        run(Settings(epochs=4, batch_size=2)).train(tmp_path / "run.ckpt", quiet=True)


def test_no_more_invented_words_than_there_are() -> None:
    assert run(Settings(epochs=3, batch_size=2, invented=5)).steps == 3 * (3 + 1)
    assert Run(G2P(2, 2, 2), Examples(WORDS), Settings(epochs=1, batch_size=2, invented=5)).steps == 3


def test_the_loss_with_a_teacher() -> None:
    examples = Examples(WORDS)
    network, teachers = G2P(4, 4, 6), [Teacher(8, 4).eval(), Teacher(8, 4).eval()]
    add_opinions(examples, teachers, batch_size=2)
    batch = examples.batch(torch.arange(6))
    assert batch.likely is not None
    assert batch.shares is not None
    inputs = (batch.letters, batch.lengths, batch.phonemes)
    where = mask(batch)
    with torch.no_grad():
        mean = sum(teacher(*inputs)[where].softmax(dim=-1) for teacher in teachers) / 2
        logs = network(*inputs)[where].log_softmax(dim=-1)
        top, numbers = mean.topk(8)
        torch.testing.assert_close(batch.likely[where], numbers)
        top = top / top.sum(dim=1, keepdim=True)
        theirs = -(logs.gather(1, numbers) * top).sum(dim=1).mean()
        plain = torch.nn.functional.nll_loss(logs, batch.labels[where])
        torch.testing.assert_close(loss_of(network, batch, 1.0), theirs, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(loss_of(network, batch, 0.0), plain)
        torch.testing.assert_close(loss_of(network, batch, 0.25), 0.25 * theirs + 0.75 * plain, rtol=1e-3, atol=1e-4)


def test_padding_changes_nothing_for_the_teacher() -> None:
    teacher, examples = Teacher(8, 4).eval(), Examples(WORDS)
    whole = examples.batch(torch.arange(6))
    with torch.no_grad():
        together = teacher(whole.letters, whole.lengths, whole.phonemes)
        for row in range(6):
            one = examples.batch(torch.tensor([row]))
            alone = teacher(one.letters, one.lengths, one.phonemes)[0]
            torch.testing.assert_close(together[row, : len(alone)], alone)
            assert teacher.greedy(one.letters, one.lengths)[0] == teacher.greedy(whole.letters, whole.lengths)[row]
