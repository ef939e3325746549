"""The task of tones.py as a LightningModule and its DataModule."""

import torch
from lightning import LightningDataModule, LightningModule

from tests.compare import tones


class LouderModule(LightningModule):
    def __init__(self, learning_rate=0.01):
        super().__init__()
        self.network = tones.Louder()
        self.learning_rate = learning_rate

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch):
        return tones.loss(self, batch)

    def validation_step(self, batch):
        self.log("val_loss", tones.loss(self, batch))

    def test_step(self, batch):
        self.log("test_loss", tones.loss(self, batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.learning_rate)


class LouderData(LightningDataModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.loaders = tones.data()

    def train_dataloader(self):
        return self.loaders["train"]

    def val_dataloader(self):
        return self.loaders["valid"]

    def test_dataloader(self):
        return self.loaders["test"]
