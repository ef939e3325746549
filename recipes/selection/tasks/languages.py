"""Which of twelve languages a single word is of: one GRU of 96 units."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from recipes.selection.tasks.common import (
    WAY_TO_GET_THEM,
    Batch,
    averages,
    classified,
    last_steps,
    loaders,
    padded,
    part,
)

LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "nl", "sv", "pl", "cs", "fi", "tr")
WORDS = 2000  # the most frequent of each language
epochs = 2


class Network(nn.Module):
    def __init__(self, letters: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(letters, 32)
        self.gru = nn.GRU(32, 96, batch_first=True)
        self.language = nn.Linear(96, len(LANGUAGES))

    def forward(self, letters: Tensor, lengths: Tensor) -> Tensor:
        return self.language(last_steps(self.gru(self.embedding(letters))[0], lengths))


def _words() -> list[tuple[str, int]]:
    try:
        from wordfreq import top_n_list
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"the words of this task come with `wordfreq`: {WAY_TO_GET_THEM}") from error
    return [
        (word, number)
        for number, language in enumerate(LANGUAGES)
        for word in top_n_list(language, WORDS, wordlist="small")
        if word.isalpha()
    ]


def _letters(words: list[tuple[str, int]]) -> dict[str, int]:
    return {letter: number for number, letter in enumerate(sorted({c for word, _ in words for c in word}), start=1)}


def network() -> nn.Module:
    return Network(1 + len(_letters(_words())))


def data() -> dict[str, DataLoader[Any]]:
    words = _words()
    numbers = _letters(words)
    found: dict[str, list[tuple[str, int]]] = {"train": [], "valid": [], "test": []}
    for word, language in words:
        found[part(word)].append((word, language))  # a word of several languages is in one split only
    parts = {}
    for split, labelled in found.items():
        letters = [torch.tensor([numbers[letter] for letter in word]) for word, _ in labelled]
        lengths = torch.tensor([len(word) for word, _ in labelled])
        parts[split] = (padded(letters), lengths, torch.tensor([language for _, language in labelled]))
    return loaders(parts, 64)


def example_inputs(batch: Batch) -> tuple[Tensor, Tensor]:
    return batch[0][:2], batch[1][:2]


def loss(network: nn.Module, batch: Batch) -> Tensor:
    letters, lengths, languages = batch
    return nn.functional.cross_entropy(network(letters[:, : int(lengths.max())], lengths), languages)


def evaluate(network: nn.Module, loader: DataLoader[Any]) -> dict[str, float]:
    return averages(network, loader, lambda network, batch: classified(network(batch[0], batch[1]), batch[2]))


def optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=4e-3)
