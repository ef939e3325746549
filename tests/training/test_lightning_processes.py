"""Lightning's ``strategy="ddp"``: all processes keep the same, go on from a checkpoint, and tell one figure."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from l0rnn import Budget, L0GatedLSTM, L0Gates, Prune, shrink
from l0rnn.training import RemoveClosedUnits
from l0rnn.training.strategy import refuse_strategy
from tests.tiny_text import WORDS, TinyText
from tests.training.several import in_lightning, in_processes, message_of


class Drawn(Callback):
    """The last random gates of each step, and what the first batch of the training is."""

    def __init__(self) -> None:
        self.batches: list[Tensor] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch[0])


class Own(LightningModule):
    """Somebody's module."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.GRU(3, 16, batch_first=True), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x)[1][-1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def gates(density: float = 0.4) -> L0Gates:
    return L0Gates(Budget(density=density, start=0.0, ramp=0.2), freeze=0.4)


def trainer(count: int, folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    defaults = {"max_epochs": 2, "accelerator": "cpu", "enable_checkpointing": False, "gradient_clip_val": 0.5}
    # with more than two the order of a sum counts, and DDP changes it after its first step if it may
    ddp = "ddp" if count == 2 else "ddp_find_unused_parameters_true"
    several = {"strategy": options.pop("strategy", ddp) if count > 1 else "auto", "devices": count}
    return Trainer(default_root_dir=folder, callbacks=list(callbacks), **quiet, **several, **(defaults | options))


class SaveAt(Callback):
    def __init__(self, path: Path, *steps: int) -> None:
        self.path, self.steps = path, steps

    def on_train_batch_end(self, trainer: Trainer, *rest: Any) -> None:
        if trainer.global_step in self.steps:
            trainer.save_checkpoint(self.path / f"{trainer.global_step}.ckpt")


def language_model(rank: int) -> L0GatedLSTM:
    torch.manual_seed(rank)
    return L0GatedLSTM(WORDS, 16, dropout=0.2, learning_rate=1.0, num_layers=1, method=gates())


def of_text(rank: int, count: int, folder: Path) -> dict[str, Any]:
    """The ready-made language model: a state that is carried on, units that leave, an evaluation."""
    removal = {"every": 4, "patience": 1, "least": 0.01}
    whole, drawn = language_model(rank), Drawn()
    saving = SaveAt(folder, 6, 26)
    fit = trainer(count, folder, RemoveClosedUnits(**removal), saving, drawn)
    fit.fit(whole, TinyText(batch_size=4))
    fit.save_checkpoint(folder / "end.ckpt")
    found: dict[str, Any] = {
        "end": str(folder / "end.ckpt"),
        "batch": drawn.batches[0],
        "steps": fit.global_step,
        "whole": whole.state_dict(),
        "density": whole.method.figures()["density"],
        "price": float(whole.method.objective.price),  # type: ignore[union-attr]
        "valid": float(fit.callback_metrics["valid/loss"]),
        "train": float(fit.callback_metrics["train/loss"]),
        "small": shrink(whole).state_dict(),
        "remaining": {axis: int(kept.sum()) for axis, kept in whole.remaining.items()},
    }
    for step in saving.steps:
        again = language_model(rank + 10)
        trainer(count, folder, RemoveClosedUnits(**removal)).fit(
            again, TinyText(batch_size=4), ckpt_path=folder / f"{step}.ckpt"
        )
        found[f"resumed at {step}"] = again.state_dict()
    return found


def of_own_module(rank: int, count: int, folder: Path) -> dict[str, Any]:
    """The callback on a module of one's own: 22 samples, so that last batches differ in size."""
    x = torch.randn(22, 5, 3, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(x, (x[..., 0].sum(1) > 0).long())

    def fitted(seed: int, *saved_at: int, **options: Any) -> tuple[Own, Prune]:
        torch.manual_seed(seed)
        module, prune = Own(), Prune(gates())
        # at the end of an epoch, since torch's loader cannot start within one
        fit = trainer(count, folder, prune, SaveAt(folder, *saved_at), max_epochs=6)
        fit.fit(module, DataLoader(data, batch_size=4, shuffle=True), **options)
        return module, prune

    per_epoch = math.ceil(math.ceil(len(data) / count) / 4)
    whole, prune = fitted(rank, 3 * per_epoch)
    again, _ = fitted(rank + 10, ckpt_path=folder / f"{3 * per_epoch}.ckpt")
    return {
        "own": whole.state_dict(),
        "own resumed": again.state_dict(),
        "own small": prune.shrink().state_dict(),
        "own density": prune.pruner.figures()["density"],  # type: ignore[union-attr]
    }


def trainings(rank: int, count: int, folder: str) -> dict[str, Any]:
    warnings.simplefilter("ignore")  # Lightning's advice on workers
    in_lightning(rank, count)
    found = of_text(rank, count, Path(folder)) | of_own_module(rank, count, Path(folder))
    alone = trainer(count, Path(folder))
    found["odd"] = message_of(lambda: alone.fit(language_model(rank), TinyText(batch_size=3)))
    return found


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return in_processes(request.param, trainings, request.param, str(tmp_path_factory.mktemp("ddp")))


def assert_same(first: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert first.keys() == other.keys()
    for name, value in first.items():
        assert torch.equal(value, other[name]), name


def test_all_processes_keep_the_same(results: list[dict[str, Any]]) -> None:
    first = results[0]
    for other in results[1:]:
        for part in ("whole", "small", "own", "own small"):
            assert_same(first[part], other[part])
        for figure in ("price", "density", "valid", "remaining", "own density"):
            assert other[figure] == first[figure], figure
    assert first["density"] <= 0.4
    assert first["own density"] <= 0.4
    assert first["price"] > 0


def test_units_leave_while_it_trains(results: list[dict[str, Any]]) -> None:
    assert results[0]["remaining"]["encoder.l0"] < 16
    assert results[0]["whole"]["network.encoder.weight_hh_l0"].shape[1] == results[0]["remaining"]["encoder.l0"]


def test_a_killed_training_goes_on_bit_for_bit(results: list[dict[str, Any]]) -> None:
    for result in results:
        for step in (6, 26):
            assert_same(result["whole"], result[f"resumed at {step}"])
        assert_same(result["own"], result["own resumed"])


def test_each_process_reads_columns_of_its_own(results: list[dict[str, Any]]) -> None:
    together = torch.cat([result["batch"] for result in results], dim=1)
    assert torch.equal(together, next(iter(TinyText(batch_size=4).train_dataloader()))[0])
    assert results[0]["steps"] == 2 * len(TinyText(batch_size=4).train_dataloader())


def test_the_figure_of_an_evaluation_is_that_of_the_whole_text(results: list[dict[str, Any]], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (figures,) = trainer(1, tmp_path).validate(
            language_model(0), TinyText(batch_size=4), ckpt_path=results[0]["end"], verbose=False
        )
    assert figures["valid/loss"] == pytest.approx(results[0]["valid"], rel=1e-6)


def test_a_text_that_cannot_be_shared_out_is_refused(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert f"must be a multiple of the number of processes, {len(results)}, got 3" in result["odd"]


@pytest.mark.parametrize(
    ("name", "launcher", "message"),
    [
        ("FSDPStrategy", "", "cannot be FSDPStrategy: it gives each process a part of every weight"),
        ("SingleTPUStrategy", "", "must be 'ddp' for several processes, got SingleTPUStrategy"),
    ],
)
def test_other_strategies_are_refused(name: str, launcher: str, message: str) -> None:
    strategy = type(name, (), {"launcher": launcher})()
    with pytest.raises(ValueError, match=message):
        refuse_strategy(SimpleNamespace(strategy=strategy, world_size=2))


def test_processes_that_hand_back_weights_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="starts them from this process"):
        refuse_strategy(trainer(2, tmp_path, strategy="ddp_spawn"))
