"""The loop of a training by captured steps: epochs, looks of the host, progress, pause and resume."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map

from l0rnn.compare.outcome import PROGRESS
from l0rnn.training import AverageLate, PrunableModule, RemoveClosedUnits, ScaleDropout
from l0rnn.training.resuming import Paused, set_random_state
from recipes.penn_treebank.captured_steps import CapturedSteps
from recipes.penn_treebank.train import perplexity

CHECKPOINT, EPOCHS = "captured.ckpt", "epochs.jsonl"
CALLBACKS = (ScaleDropout, RemoveClosedUnits, AverageLate)  # all that the loop knows
LOOK = 200  # steps between two looks of the host
EVERY = 2.0  # seconds between two lines of progress
SAVED = 600.0  # seconds after which a checkpoint is due, for runs that end without being asked


class CapturedTraining:
    """A training of a language model in epochs of captured steps.

    Args:
        model: the module to train.
        data: its text, as `PennTreebank` gives it.
        trainer: Lightning's, for device, length, clipping and callbacks; it does not run.
        folder: for checkpoint, progress and a line for each epoch.

    Attributes:
        step: optimiser steps so far.
    """

    def __init__(self, model: PrunableModule, data: Any, trainer: Any, folder: Path) -> None:
        self.model, self.data, self.trainer, self.folder = model, data, trainer, folder
        self.device = torch.device(trainer.strategy.root_device)
        self.dropout, self.removal, self.average = (_only(trainer, kind) for kind in CALLBACKS)
        self.step, self.epoch, self.segment, self.is_asked = 0, 0, 0, False
        self._before, self._started = 0.0, time.monotonic()
        self._told: tuple[Any, ...] = ()  # what the step was captured with
        self._quality: float | None = None
        self._reported = (0, time.monotonic())
        self._saved = time.monotonic()
        data.setup("fit")
        saved = self._load()
        model.to(self.device).train()
        made: Any = model.configure_optimizers()
        self.optimizer = made["optimizer"] if isinstance(made, dict) else made
        self.scheduler = made["lr_scheduler"] if isinstance(made, dict) else None
        loader = data.train_dataloader()
        tokens = loader._tokens.to(self.device)
        self.steps = CapturedSteps(model, self.optimizer, tokens, data.steps, trainer.gradient_clip_val)
        self.per_epoch = len(loader)
        self.total = self.per_epoch * trainer.max_epochs
        if saved is None:
            (folder / EPOCHS).unlink(missing_ok=True)  # of a call that failed
            model.method.begin(self.total)
            if self.dropout is not None:
                self.dropout.on_fit_start(trainer, model)
        else:
            self._go_on(saved)

    def seconds(self) -> float:
        """Seconds of training so far, over all calls."""
        return self._before + time.monotonic() - self._started

    def run(self) -> None:
        """Train to the end.

        Raises:
            Paused: if the process was asked to stop by a signal; a checkpoint has been written.
            FloatingPointError: if the loss is not finite.
        """
        self._reported = (self.step, time.monotonic())
        asked = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            while self.epoch < self.trainer.max_epochs:
                if self.segment == 0:
                    self.steps.restart()
                self._run_epoch()
                if self.scheduler is not None:
                    self.scheduler.step()
                self.epoch, self.segment = self.epoch + 1, 0
                self._report_epoch()
            if self.average is not None:
                self.average.keep_(self.model)
            self._save()  # so that what comes after the training can be repeated without it
        finally:
            for number, handler in asked.items():
                signal.signal(number, handler)

    def _run_epoch(self) -> None:
        while self.segment < len(self.steps):
            self._adapt(look=self.step % LOOK == 0 or self.segment == 0)
            count = min(LOOK - self.step % LOOK, len(self.steps) - self.segment)
            done = self.steps.run(count, lambda: self.is_asked)
            if done == count:
                self._count(count)
            else:  # the next call goes on to the look that was to come
                self.step, self.segment = self.step + done, self.segment + done
            if self.is_asked:
                self._save()
                raise Paused(f"paused after step {self.step}")
            if time.monotonic() - self._saved > SAVED:
                self._save()
        self._adapt()
        if self.steps.finish():
            self._count(1)

    def _count(self, steps: int) -> None:
        """Look at the loss, and let the method and the removal of units follow."""
        self.step, self.segment = self.step + steps, self.segment + steps
        loss = float(self.steps.loss) / self.segment
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss became {loss} by step {self.step}; lower the learning rate or set gradient_clip_val"
            )
        had_chosen = self.model.method.has_chosen
        self.model.method.after_step(self.step)
        if self.model.method.has_chosen and not had_chosen:
            self.steps.renew()
        if self.removal is not None:
            self.model._carried = self.steps.state
            if self.removal.remove_(self.model, [self.optimizer], self.step):
                self.steps.state = self.model._carried
                self.steps.renew(has_new_shapes=True)
        if self.average is not None:
            self.average.take_(self.model)
        self._report(loss)

    def _adapt(self, *, look: bool = True) -> None:
        """Set what the host decides, and have the step captured anew if it is not as before."""
        if self.dropout is not None:
            self.dropout.scale_(self.model, look=look)
        method = self.model.method
        self.steps.progress = 1.0 if method.has_chosen else method.progress
        rates = [round(module.p, 3) for module in self.model.modules() if isinstance(module, torch.nn.Dropout)]
        told = (self.steps.progress, *rates, *(group["lr"] for group in self.optimizer.param_groups))
        if told != self._told:
            self._told = told
            self.steps.renew()

    def _report(self, loss: float) -> None:
        """One line for whoever shows the progress of several runs."""
        now, (step, then) = time.monotonic(), self._reported
        if now - then < EVERY and self.step < self.total:
            return
        self._reported = (self.step, now)
        density = self.model.method.figures().get("density")
        figures = {"loss": loss, "quality": self._quality, "density": density}
        place = {"step": self.step, "steps": self.total, "epoch": self.epoch}
        rate = {"steps_per_second": (self.step - step) / (now - then)}
        known = {name: figure for name, figure in figures.items() if figure is not None}
        replace(self.folder / PROGRESS, json.dumps({**place, **rate, **known}))

    def _report_epoch(self) -> None:
        """One line for each epoch, with the perplexity of validation as often as the Trainer is told to look."""
        row: dict[str, Any] = {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": round(self.seconds(), 1),
            "train/loss": float(self.steps.loss) / self.per_epoch,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **self.model.method.figures(),
        }
        if self.epoch % self.trainer.check_val_every_n_epoch == 0 or self.epoch == self.trainer.max_epochs:
            self._quality = row["valid/perplexity"] = self._evaluated()
        with (self.folder / EPOCHS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    def _evaluated(self) -> float:
        """Perplexity of validation: that of the average of the weights, once there is one."""
        if self.average is not None:
            self.average.put_in_(self.model)
        found = perplexity(self.model.network, self.data.val_dataloader())
        self.model.train()
        if self.average is not None:
            self.average.put_back_(self.model)
            self.average.look(found, is_late=self.step >= self.average.start * self.total)
        return found

    def history(self) -> list[dict[str, Any]]:
        """What was reported of each epoch."""
        return [json.loads(line) for line in (self.folder / EPOCHS).read_text(encoding="utf-8").splitlines()]

    def _callbacks(self) -> list[Any]:
        return [callback for callback in (self.dropout, self.removal, self.average) if callback is not None]

    def _ask(self, *signal_and_frame: Any) -> None:
        self.is_asked = True

    def _save(self) -> None:
        """Write all that is needed to go on from here."""
        callbacks = {type(callback).__name__: callback.state_dict() for callback in self._callbacks()}
        checkpoint: dict[str, Any] = {
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "callbacks": callbacks,
            "place": (self.step, self.epoch, self.segment, self.seconds()),
            "text": (self.steps.state, self.steps.position, self.steps.loss),
        }
        self.model.on_save_checkpoint(checkpoint)
        aside = self.folder / f"{CHECKPOINT}.new"
        torch.save(checkpoint, aside)
        aside.replace(self.folder / CHECKPOINT)
        self._saved = time.monotonic()

    def _load(self) -> dict[str, Any] | None:
        """The checkpoint, if there is one, whose weights and widths the model gets."""
        path = self.folder / CHECKPOINT
        if not path.is_file():
            return None
        saved = torch.load(path, map_location="cpu", weights_only=True)
        self.model.on_load_checkpoint(saved)
        self.model.load_state_dict(saved["state_dict"])
        return saved

    def _go_on(self, saved: Mapping[str, Any]) -> None:
        """All that is not the model's, once the optimiser is built for its parameters."""
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(saved["scheduler"])
        for callback in self._callbacks():
            callback.load_state_dict(saved["callbacks"][type(callback).__name__])
        self.step, self.epoch, self.segment, self._before = saved["place"]
        if (self.folder / EPOCHS).is_file():  # without the epochs after the checkpoint, which come again
            rows = [row for row in self.history() if row["epoch"] <= self.epoch]
            replace(self.folder / EPOCHS, "".join(f"{json.dumps(row)}\n" for row in rows))
        state, position, loss = saved["text"]
        self.steps.state = tree_map(lambda part: part.to(self.device), state)
        self.steps.position.copy_(position)
        self.steps.loss.copy_(loss)
        set_random_state(saved["l0rnn"]["random"])


def replace(path: Path, text: str) -> None:
    """Write a file as a whole."""
    aside = path.with_suffix(".new")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def _only(trainer: Any, kind: type) -> Any:
    found = [callback for callback in trainer.callbacks if isinstance(callback, kind)]
    return found[0] if found else None
