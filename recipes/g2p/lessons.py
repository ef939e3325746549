"""What networks are taught with: the dictionary, a teacher's opinion of it, and invented words as it says them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from recipes.g2p.batches import Examples
from recipes.g2p.invented import invented_words
from recipes.g2p.network import pronounce
from recipes.g2p.teacher import Teacher, add_opinions
from recipes.g2p.training import Run, Settings
from recipes.g2p.words import Dictionary, Side


@dataclass(frozen=True)
class Lessons:
    """Examples of the dictionary's words for training, and of invented ones."""

    examples: Examples
    invented: Examples | None


@dataclass(frozen=True)
class TeacherSettings:
    """The teachers, and what they invent.

    Attributes:
        teachers: how many; their opinions are averaged. With none, the dictionary is all there is.
        units: hidden units of each.
        dropout: of each.
        invented: how many words are invented.
        training: how each is trained.
    """

    teachers: int = 1
    units: int = 192
    dropout: float = 0.25
    invented: int = 300_000
    training: Settings = Settings(epochs=12, learning_rate=2e-3, weight_decay=0.01)


def prepared(sides: dict[Side, Dictionary], settings: TeacherSettings, folder: Path, *, quiet: bool = False) -> Lessons:
    """Train the teachers on the words for training alone and ask them; what the folder has is taken up again."""
    examples = Examples(sides["train"])
    if not settings.teachers:
        return Lessons(examples, None)
    teachers = [one_teacher(examples, settings, number, folder, quiet=quiet) for number in range(settings.teachers)]
    add_opinions(examples, teachers)
    if not settings.invented:
        return Lessons(examples, None)
    held_out = {word for side, words in sides.items() if side != "train" for word in words}
    words = invented_words(sides["train"], settings.invented, avoid=held_out)
    invented = Examples({word: [said] for word, said in zip(words, pronounce(teachers[0], words), strict=True) if said})
    add_opinions(invented, teachers)
    return Lessons(examples, invented)


def one_teacher(
    examples: Examples, settings: TeacherSettings, number: int, folder: Path, *, quiet: bool = False
) -> Teacher:
    """A trained teacher; the number is its seed."""
    folder.mkdir(parents=True, exist_ok=True)
    training = replace(settings.training, seed=number)
    torch.manual_seed(number)
    run = Run(Teacher(settings.units, dropout=settings.dropout), examples, training)
    trained = run.train(folder / f"teacher{number}.ckpt", title=f"teacher {number + 1}", quiet=quiet)
    assert isinstance(trained, Teacher)
    return trained
