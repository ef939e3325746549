"""The training loop: Adam, a warm start, a cosine down to nothing, an average of the weights, and checkpoints."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from l0rnn import Pruner
from recipes.g2p.batches import Batch, Examples, mask


@dataclass(frozen=True)
class Settings:
    """How a network is trained.

    Attributes:
        epochs: how often each pronunciation of the dictionary is seen.
        invented: invented words of each epoch, beside those of the dictionary; 0 without a teacher.
        teacher_share: share of the teacher's opinion in the loss on words of the dictionary, in [0, 1].
        batch_size: examples of a step.
        learning_rate: the largest, after the warm start.
        warm: share of the steps in which it rises.
        weight_decay: of AdamW.
        average: the weights that count are their running average, which forgets at this rate; 0 for the last weights.
        seed: of order and dropout.
    """

    epochs: int = 40
    invented: int = 0
    teacher_share: float = 0.0
    batch_size: int = 256
    learning_rate: float = 3e-3
    warm: float = 0.03
    weight_decay: float = 0.0
    average: float = 0.999
    seed: int = 0


class Run:
    """One training, from epoch to epoch, which a checkpoint can take up again.

    Args:
        network: the network to train, called as `network(letters, lengths, phonemes)`.
        examples: those of the dictionary.
        settings: how.
        invented: examples that a teacher made up; `settings.invented` of them, or all if they are fewer, in each epoch.
        pruner: what prunes the network meanwhile.
    """

    def __init__(
        self,
        network: nn.Module,
        examples: Examples,
        settings: Settings,
        *,
        invented: Examples | None = None,
        pruner: Pruner | None = None,
    ) -> None:
        self.network, self.examples, self.settings, self.invented = network, examples, settings, invented
        self.pruner = pruner
        self.average = copy.deepcopy(network) if settings.average else network
        self.weights = list(network.parameters())
        self.optimizer = torch.optim.AdamW(
            self.weights, settings.learning_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay
        )
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.epoch, self.step = 0, 0
        self.steps = settings.epochs * sum(math.ceil(count / settings.batch_size) for count in self._counts())
        if pruner is not None:
            pruner.begin(self.steps)

    def train(self, checkpoint: Path | None = None, *, title: str = "training", quiet: bool = False) -> nn.Module:
        """Train to the end and return the average.

        Args:
            checkpoint: file to go on from and to write after every epoch.
            title: what the progress bar says.
            quiet: without a progress bar.
        """
        if checkpoint is not None and checkpoint.is_file():
            self.load(checkpoint)
        with tqdm(total=self.steps, initial=self.step, desc=title, unit="step", disable=quiet) as bar:
            while self.epoch < self.settings.epochs:
                self.one_epoch(bar)
                if checkpoint is not None:
                    self.save(checkpoint)
        return self.average.eval()

    def one_epoch(self, bar: tqdm[Any] | None = None) -> float:
        """Train one epoch and return the mean loss."""
        torch.manual_seed(self.settings.seed * 1000 + self.epoch)  # dropout and gates; the same if taken up again
        self.network.train()
        total, count = 0.0, 0
        for batch in self._batches():
            total += self._one_step(batch)
            count += 1
            if bar is not None:
                bar.update()
                bar.set_postfix(epoch=self.epoch + 1, loss=f"{total / count:.3f}", refresh=False)
        self.epoch += 1
        return total / count

    def _counts(self) -> tuple[int, int]:
        """Examples of an epoch: of the dictionary, and invented."""
        return len(self.examples), min(self.settings.invented, 0 if self.invented is None else len(self.invented))

    def _batches(self) -> Iterator[Batch]:
        size, generator = self.settings.batch_size, self.generator
        parts = [self.examples.epoch(size, generator)]
        if self.invented is not None:
            parts.append(self.invented.epoch(size, generator, among=self.settings.invented))
        turns = [part for part, count in enumerate(self._counts()) for _ in range(math.ceil(count / size))]
        for turn in torch.randperm(len(turns), generator=generator).tolist():
            yield next(parts[turns[turn]])

    def _one_step(self, batch: Batch) -> float:
        self.step += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * rate(self.step / self.steps, self.settings.warm)
        loss = loss_of(self.network, batch, self.settings.teacher_share)
        self.optimizer.zero_grad()
        (loss if self.pruner is None else loss + self.pruner.penalty()).backward()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        if self.pruner is not None:
            self.pruner.step()
        if self.settings.average:
            self._follow()
        return loss.item()

    @torch.no_grad()
    def _follow(self) -> None:
        """The average follows the weights, faster in the beginning."""
        keep = min(self.settings.average, (1 + self.step) / (10 + self.step))
        for ours, theirs in zip(self.average.parameters(), self.network.parameters(), strict=True):
            ours.lerp_(theirs, 1 - keep)

    def save(self, path: Path) -> None:
        """Write everything that going on needs."""
        state = {
            "settings": asdict(self.settings),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pruner": None if self.pruner is None else self.pruner.state_dict(),
            "generator": self.generator.get_state(),
            "epoch": self.epoch,
            "step": self.step,
        }
        aside = path.with_suffix(".part")
        torch.save(state, aside)
        aside.replace(path)

    def load(self, path: Path) -> None:
        """Go on where a checkpoint ends.

        Raises:
            ValueError: it is of a training with other settings.
        """
        state = torch.load(path, weights_only=True)
        if state["settings"] != asdict(self.settings):
            raise ValueError(
                f"`checkpoint` must be of a training with the same settings, got {str(path)!r} with "
                f"{state['settings']}; delete it or name another folder"
            )
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.pruner is not None:
            self.pruner.load_state_dict(state["pruner"])
        self.generator.set_state(state["generator"])
        self.epoch, self.step = state["epoch"], state["step"]


def rate(progress: float, warm: float) -> float:
    """Share of the learning rate after a share of the training: up in a line, then down as a cosine.

    Example:
        >>> [round(rate(progress, 0.1), 2) for progress in (0.05, 0.1, 0.55, 1)]
        [0.5, 1.0, 0.5, 0.0]
    """
    if progress < warm:
        return progress / warm
    return 0.5 * (1 + math.cos(math.pi * (progress - warm) / (1 - warm)))


def loss_of(network: nn.Module, batch: Batch, teacher_share: float) -> Tensor:
    """Cross entropy with the labels, with a teacher's opinion, or with both, in nats per phoneme.

    Args:
        network: called as `network(letters, lengths, phonemes)`.
        batch: what to say, and what the teacher would.
        teacher_share: share of the teacher's opinion, where the batch has one.
    """
    where = mask(batch)
    logs = F.log_softmax(network(batch.letters, batch.lengths, batch.phonemes)[where], dim=-1)  # (step, phoneme)
    if not teacher_share or batch.likely is None or batch.shares is None:
        return F.nll_loss(logs, batch.labels[where])
    theirs = -(logs.gather(1, batch.likely[where]) * batch.shares[where]).sum(dim=1).mean()
    if teacher_share == 1:
        return theirs
    return teacher_share * theirs + (1 - teacher_share) * F.nll_loss(logs, batch.labels[where])
