"""Train one run of a task in a plain loop, with checkpoints, shrink the network, and write down what came out."""

from __future__ import annotations

import itertools
import random
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from l0rnn.compare.engines.engine import RESULT
from l0rnn.compare.instances import instance
from l0rnn.compare.outcome import MODEL, PROGRESS, check_figure, device_name, sizes, write_json
from l0rnn.compare.task import Task, first_batch, load_task
from l0rnn.cost.cost import cost
from l0rnn.methods.method import Method
from l0rnn.recurrent.nested import moved_to
from l0rnn.surgery.fresh import fresh, started_otherwise, without_reset
from l0rnn.surgery.shrink import operate, shrink
from l0rnn.tracing.trace import trace
from l0rnn.training.pruner import Pruner
from l0rnn.training.resuming import Paused, random_state, seed_all, set_random_state

CHECKPOINT = "checkpoint.pt"
SAVED = 120.0  # seconds after which a checkpoint is due, for runs that end without being asked
TOLD = 2.0  # seconds between two lines of progress


def train_run(
    config: Mapping[str, Any],
    folder: Path,
    *,
    quality: str,
    final: str,
    extra: Sequence[str] = (),
    key: str | None = None,
) -> dict[str, Any]:
    """Train a run of a task, or go on where an earlier call was stopped.

    Args:
        config: ``task``, the file; ``seed_everything``; ``method`` as ``class_path`` and ``init_args``, or None;
            ``widths``, axis → units of the small network from scratch, or None; ``epochs``, or None for the task's.
        folder: for the checkpoint, the weights and ``result.json``.
        quality: the data whose first figure methods are chosen by.
        final: the data of the test, if there are any.
        extra: ``--device=DEVICE``.
        key: what identifies the configuration, for the result.

    Returns:
        What was written to ``result.json``.

    Raises:
        Paused: if the process was asked to stop by a signal; a checkpoint of that step has been written.
        ValueError: if something of the task is not as it has to be.
        FloatingPointError: if the loss or a figure is not finite.
    """
    training = TaskTraining(config, folder, device=_device(extra))
    with stop_asked() as asked:
        training.run(asked)
    result = training.finish(quality, final) | {"seed": config["seed_everything"], "configuration": key}
    result |= {"config": dict(config)}
    if config.get("widths") is not None:  # by the names that the axes have in the whole network
        result["widths"] = dict(config["widths"])
    write_json(result, folder / RESULT)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return result


def start(config: Mapping[str, Any], task: Task, batch: Any) -> tuple[nn.Module, Method | None]:
    """The network of a run as it starts, and its method."""
    seed_all(int(config["seed_everything"]))
    network = task.network()
    if config.get("widths") is not None:
        network = from_scratch(network, config["widths"], task, batch)
    method = None if config.get("method") is None else instance(config["method"])
    return network, method


def from_scratch(network: nn.Module, widths: Mapping[str, int], task: Task, batch: Any) -> nn.Module:
    """A network of given widths with weights as if it had been built so.

    Args:
        network: as the task builds it.
        widths: axis → units; an axis that is absent stays whole.
        task: the task, whose `initialise` sets what torch's layers do not.
        batch: any.

    Raises:
        ValueError: if nobody knows how the small network starts: the task has to say it.
    """
    check_start(network, task.initialise)
    inputs = task.inputs(batch)
    units = trace(network, inputs, fixed=task.fixed, tied=task.tied)
    gates = {name: (torch.arange(axis.size) < widths.get(name, axis.size)).float() for name, axis in units.axes.items()}
    small = shrink(network, gates, example_inputs=inputs, units=units)
    return fresh(small, task.initialise).train()


def check_start(network: nn.Module, initialise: Any, place: str = "the task") -> None:
    """Refuse a network just built whose start cannot be repeated at other widths; see `from_scratch`."""
    if initialise is not None:
        return
    lost = without_reset(network)
    if lost:
        raise ValueError(
            f"the small network from scratch needs `initialise(network)` in {place}: {', '.join(lost[:4])} belong to "
            "modules without `reset_parameters`, so nobody knows how they start"
        )
    found = started_otherwise(network)
    if found:
        name, (ours, theirs) = next(iter(found.items()))
        raise ValueError(
            f"the small network from scratch needs `initialise(network)` in {place}: {name} starts with a root mean "
            f"square of {ours:.3g}, torch's layer by itself with {theirs:.3g}"
            f"{f', and {len(found) - 1} more otherwise' if len(found) > 1 else ''}. Define there what is done to the "
            "weights after building the layers; if trained ones are loaded, a function that does nothing"
        )


class TaskTraining:
    """The training of one run.

    The order of batches, dropout and gates of an epoch follow from the seed and the number of the epoch, so runs of
    one seed see the same batches, and a run that was stopped goes on exactly where it was.

    Args:
        config: see `train_run`.
        folder: of the run.
        device: where to train.
    """

    def __init__(self, config: Mapping[str, Any], folder: Path, device: torch.device) -> None:
        self.folder, self.device, self.seed = folder, device, int(config["seed_everything"])
        self.task = load_task(Path(config["task"]))
        seed_all(0)  # data that are drawn are the same for all seeds
        self.loaders = self.task.loaders()
        self.epochs = int(config.get("epochs") or self.task.epochs)
        self.batches = _length(self.loaders["train"])
        batch = first_batch(self.loaders["train"], "train")
        dense = self.task.network()
        network, method = start(config, self.task, batch)
        self.network = network.to(device).train()
        self.example = moved_to(self.task.inputs(batch), device)
        self.whole = cost(trace(dense.to(device), self.example))
        self.pruner = Pruner(
            self.network,
            method,
            self.example,
            steps=self.epochs * self.batches,
            gate_learning_rate=self.task.gate_learning_rate,
            fixed=self.task.fixed,
            tied=self.task.tied,
        )
        self.optimizer = (self.task.optimizer or torch.optim.Adam)(self.pruner.weights())
        self.scheduler = None if self.task.scheduler is None else self.task.scheduler(self.optimizer)
        self.epoch, self.batch, self.seconds = 0, 0, {"wall": 0.0, "processor": 0.0}
        self._random: dict[str, Any] | None = None
        if (folder / CHECKPOINT).is_file():
            self._load()
        self._clock = _clocks()
        self._saved, self._told = time.monotonic(), (0.0, self.step)

    @property
    def step(self) -> int:
        """Optimiser steps so far."""
        return self.epoch * self.batches + self.batch

    def run(self, asked: threading.Event) -> None:
        """Train to the end.

        Raises:
            Paused: once the event is set, after the step and its checkpoint.
        """
        while self.epoch < self.epochs:
            for batch in self._rest_of_epoch():
                loss = self._step(moved_to(batch, self.device))
                self.batch += 1
                self._tell(loss)
                if self.batch < self.batches:  # after the last one, the scheduler's step comes first
                    self._pause_if(asked)
            if self.batch < self.batches:
                raise ValueError(
                    f"`data()['train']` must give as many batches in every epoch, got {self.batches} and {self.batch}"
                )
            if self.scheduler is not None:
                self.scheduler.step()
            self.epoch, self.batch = self.epoch + 1, 0
            self.save()
            self._pause_if(asked)

    def _pause_if(self, asked: threading.Event) -> None:
        if asked.is_set():
            self.save()
            raise Paused(f"paused after step {self.step}; {self.folder / CHECKPOINT} goes on from there")
        if time.monotonic() - self._saved >= SAVED:
            self.save()

    def _rest_of_epoch(self) -> Iterator[Any]:
        """The batches of this epoch that have not been trained."""
        seed_all(self.seed, self.epoch, self.loaders["train"])
        batches = itertools.islice(self.loaders["train"], self.batches)
        for _ in itertools.islice(batches, self.batch):
            pass
        if self._random is not None:  # before the next batch is made, which may draw random numbers
            set_all_random_states(self._random)
            self._random = None
        yield from batches

    def _step(self, batch: Any) -> Tensor:
        loss = self.task.checked_loss(self.network, batch)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss became {float(loss)} at step {self.step}; lower the learning rate")
        self.optimizer.zero_grad(set_to_none=True)
        (loss + self.pruner.penalty()).backward()
        if self.task.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.pruner.weights(), self.task.clip_norm)
        self.optimizer.step()
        self.pruner.step()
        return loss.detach()

    def finish(self, quality: str, final: str) -> dict[str, Any]:
        """Shrink the network, keep its weights, and take the figures of validation and test."""
        surgery = operate(
            self.network,
            self.pruner.trained_gates(),
            example_inputs=self.example,
            units=self.pruner.units,
            loss=False,
        )
        figures, firsts = {}, {}
        for part in (quality, final):
            if part in self.loaders:
                seed_all(0, 0, self.loaders[part])
                told = self.task.value(surgery.network, _moved(self.loaders[part], self.device))
                firsts[part] = check_figure(next(iter(told)), told)
                figures |= {f"{part}/{name}": value for name, value in told.items()}
        torch.save(surgery.network.state_dict(), self.folder / f"{MODEL}.pt")
        return {
            "quality": firsts[quality],
            "final": firsts.get(final),
            "figures": figures,
            "higher_is_better": self.task.higher_is_better,
            **sizes(surgery, self.network, self.pruner.method, self.whole, self.example),
            "model": str(self.folder / f"{MODEL}.pt"),
            "epochs": self.epochs,
            "steps": self.step,
            "training_seconds": {name: round(seconds, 2) for name, seconds in self._seconds().items()},
            "device": device_name(self.device),
        }

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        path = self.folder / CHECKPOINT
        aside = path.with_name(f"{CHECKPOINT}.new")
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "pruner": self.pruner.state_dict(),
            "epoch": self.epoch,
            "batch": self.batch,
            "random": all_random_states(),
            "seconds": self._seconds(),
        }
        torch.save(state, aside)
        aside.replace(path)
        self._saved = time.monotonic()

    def _load(self) -> None:
        # the run's own file, and a scheduler may hold more than plain data
        state = torch.load(self.folder / CHECKPOINT, map_location=self.device, weights_only=False)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.pruner.load_state_dict(state["pruner"])
        self.epoch, self.batch, self.seconds = state["epoch"], state["batch"], state["seconds"]
        self._random = state["random"] if self.batch else None

    def _seconds(self) -> dict[str, float]:
        now = _clocks()
        return {name: self.seconds[name] + now[name] - self._clock[name] for name in now}

    def _tell(self, loss: Tensor) -> None:
        now, (before, step) = time.monotonic(), self._told
        if now - before < TOLD:
            return
        rate = (self.step - step) / (now - before) if before else 0.0
        self._told = (now, self.step)
        place = {"step": self.step, "steps": self.epochs * self.batches, "epoch": self.epoch}
        known = {name: value for name, value in self.pruner.figures().items() if name == "density"}
        write_json({**place, "steps_per_second": rate, "loss": float(loss), **known}, self.folder / PROGRESS)


@contextmanager
def stop_asked() -> Iterator[threading.Event]:
    """Inside the block SIGTERM and SIGINT set an event and do nothing else."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, lambda *_: asked.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def all_random_states() -> dict[str, Any]:
    """The random numbers of torch, numpy and Python, as they are."""
    return {"torch": random_state(), "numpy": np.random.get_state(), "python": random.getstate()}


def set_all_random_states(states: Mapping[str, Any]) -> None:
    """Go on with the random numbers of `all_random_states`."""
    set_random_state(states["torch"])
    np.random.set_state(states["numpy"])
    random.setstate(states["python"])


class _moved:  # noqa: N801 - a loader whose batches are on a device
    def __init__(self, loader: Iterable[Any], device: torch.device) -> None:
        self._loader, self._device = loader, device

    def __iter__(self) -> Iterator[Any]:
        return (moved_to(batch, self._device) for batch in self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return _length(self._loader)


def _length(loader: Iterable[Any]) -> int:
    return len(loader) if hasattr(loader, "__len__") else sum(1 for _ in loader)  # type: ignore[arg-type]


def _device(extra: Sequence[str]) -> torch.device:
    told = [argument.partition("=")[2] for argument in extra if argument.startswith("--device=")]
    return torch.device(told[-1] if told else "cpu")


def _clocks() -> dict[str, float]:
    return {"wall": time.perf_counter(), "processor": time.process_time()}
