"""Text of a small vocabulary as a data module, which a process of its own can import too."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningDataModule

from recipes.penn_treebank.data import SegmentLoader, batchify

WORDS = 12


class TinyText(LightningDataModule):
    """A text in which each word but for some noise follows from the one before."""

    def __init__(self, length: int = 400, batch_size: int = 4, steps: int = 5) -> None:
        super().__init__()
        self.length, self.batch_size, self.steps = length, batch_size, steps

    def _loader(self, seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        noise = (torch.rand(self.length, generator=generator) < 0.1).long()
        words = (torch.arange(self.length) * 5 + noise.cumsum(0)) % WORDS
        return SegmentLoader(batchify(words, self.batch_size), steps=self.steps)

    def train_dataloader(self) -> Any:
        return self._loader(1)

    def val_dataloader(self) -> Any:
        return self._loader(2)

    def test_dataloader(self) -> Any:
        return self._loader(3)
