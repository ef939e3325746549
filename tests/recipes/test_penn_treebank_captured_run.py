"""The loop of captured steps: the same training as Lightning's, and the same again after a pause."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from l0rnn import Budget, Dense, L0GatedLSTM, Method
from l0rnn.compare import configured_run
from l0rnn.cost.cost import cost, masked_cost
from l0rnn.export import save_dense
from l0rnn.language.language_model import LanguageModel
from l0rnn.methods import GradualMagnitude, GroupLasso, L0Gates
from l0rnn.surgery.shrink import operate
from l0rnn.training.resuming import Paused
from l0rnn.training.shrunken import ShrunkenLanguageModel
from recipes.penn_treebank import captured_run, captured_training, queue
from recipes.penn_treebank.captured_steps import PRODUCTS, CapturedSteps, products
from tests.compare.test_compare import L0, base
from tests.tiny_text import WORDS, TinyText

pytestmark = [
    # Lightning 2.6 calls jsonargparse in a way that the latter has deprecated
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]

FIGURES = {"quality": "valid/perplexity", "final": "test/perplexity"}


def weights(result: dict[str, Any]) -> dict[str, torch.Tensor]:
    (path,) = Path(result["model"]).glob("*.safetensors")
    return load_file(path)


def with_callbacks(config: dict[str, Any], *callbacks: dict[str, Any]) -> dict[str, Any]:
    return {**config, "trainer": {**config["trainer"], "callbacks": list(callbacks)}}


SCALE = {"class_path": "l0rnn.training.ScaleDropout", "init_args": {"final": 0.05}}
REMOVE = {"class_path": "l0rnn.training.RemoveClosedUnits", "init_args": {"least": 0.0}}
AVERAGE = {"class_path": "l0rnn.training.AverageLate", "init_args": {"start": 0.5, "patience": 1}}


def test_a_dense_training_is_lightnings(tmp_path: Path) -> None:
    config = base()
    config["model"]["init_args"].update(dropout=0.0, decay=0.5, flat_epochs=1)
    config["trainer"]["gradient_clip_val"] = 0.1
    theirs = configured_run.train_run(config, tmp_path / "lightning", **FIGURES)
    ours = captured_run.train_run(config, tmp_path / "captured", **FIGURES)
    assert ours["quality"] == pytest.approx(theirs["quality"], abs=1e-3)  # perplexity is rounded to three decimals
    assert ours["final"] == pytest.approx(theirs["final"], abs=1e-3)
    for key in ("steps", "epochs", "widths", "multiply_adds", "method", "seed", "config"):
        assert ours[key] == theirs[key]
    for name, weight in weights(theirs).items():
        torch.testing.assert_close(weights(ours)[name], weight, atol=1e-6, rtol=1e-5)


def test_gates_close_and_units_are_removed_on_the_way(tmp_path: Path) -> None:
    config = with_callbacks(base(method=L0), SCALE, REMOVE)
    result = captured_run.train_run(config, tmp_path, **FIGURES)
    assert result["density"] <= 0.5
    assert result["max_abs_difference"] < 1e-5
    rows = [json.loads(line) for line in (tmp_path / captured_training.EPOCHS).read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, result["epochs"] + 1))
    assert rows[-1]["density"] == pytest.approx(result["density"])
    assert rows[-1]["valid/perplexity"] == pytest.approx(result["quality"], abs=1e-3)
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]
    assert result["history"] == rows


def test_a_tied_network_stays_tied_when_units_are_removed_and_when_it_learns_on(tmp_path: Path) -> None:
    config = with_callbacks(base(method=L0, tied=True, embedding_size=8), SCALE, REMOVE)
    pruned = captured_run.train_run(config, tmp_path / "pruned", **FIGURES)
    assert set(pruned["widths"]) == {"embedding"}  # the last layer has its units
    assert pruned["widths"]["embedding"] < 8
    init_args = {"network": pruned["model"], "teacher": pruned["model"], "learning_rate": 0.5}
    name = "l0rnn.training.shrunken.ShrunkenLanguageModel"
    later = captured_run.train_run(
        {**base(), "model": {"class_path": name, "init_args": init_args}}, tmp_path / "later", **FIGURES
    )
    small = LanguageModel(WORDS, width := pruned["widths"]["embedding"], width, num_layers=1, tied=True)
    for result in (pruned, later):
        assert result["parameters"] == sum(parameter.numel() for parameter in small.parameters())
        assert "decoder.weight" not in weights(result)
    assert later["quality"] != pruned["quality"]  # it did learn on


def test_the_average_is_what_is_evaluated_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured_training, "LOOK", 1)  # as often as Lightning
    config = base()
    config["model"]["init_args"]["dropout"] = 0.0
    config = with_callbacks(config, {**AVERAGE, "init_args": {"start": 0.3, "patience": None}})
    theirs = configured_run.train_run(config, tmp_path / "lightning", **FIGURES)
    ours = captured_run.train_run(config, tmp_path / "captured", **FIGURES)
    assert ours["quality"] == pytest.approx(theirs["quality"], abs=1e-3)
    assert ours["history"][-1]["valid/perplexity"] == pytest.approx(ours["quality"], abs=1e-3)
    for name, weight in weights(theirs).items():
        torch.testing.assert_close(weights(ours)[name], weight, atol=1e-6, rtol=1e-5)
    config = with_callbacks(config)
    plain = captured_run.train_run(config, tmp_path / "plain", **FIGURES)
    assert plain["quality"] != pytest.approx(ours["quality"], abs=1e-2)  # else the test could not tell


def pruned_by_and_by() -> dict[str, Any]:
    """A configuration whose gates close one after the other, and whose dropout follows."""
    return with_callbacks(base(method=L0, dropout=0.6, gate_learning_rate=0.3), SCALE, REMOVE, AVERAGE)


def taught(folder: Path) -> dict[str, Any]:
    """The configuration of a network that learns from itself and another, on a text with noise."""
    for name, width in {"itself": 5, "other": 9}.items():
        save_dense(LanguageModel(WORDS, 4, width, init_range=0.5).eval(), folder / name)
    settings: dict[str, Any] = {"network": str(folder / "itself"), "dropout": 0.1, "learning_rate": 0.5, "noise": 0.2}
    settings["teacher"] = [str(folder / "itself"), str(folder / "other")]
    name = "l0rnn.training.shrunken.ShrunkenLanguageModel"
    return {**base(), "model": {"class_path": name, "init_args": settings}}


def test_a_run_that_ends_without_being_asked_goes_on_from_its_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captured_training, "LOOK", 4)
    monkeypatch.setattr(captured_training, "SAVED", 0.0)
    config = pruned_by_and_by()
    whole = captured_run.train_run(config, tmp_path / "whole", **FIGURES)
    one_step, done = CapturedSteps._step, 0

    def lost(self: CapturedSteps, length: int) -> None:
        nonlocal done
        done += 1
        if done == 22:
            raise MemoryError
        one_step(self, length)

    monkeypatch.setattr(CapturedSteps, "_step", lost)
    with pytest.raises(MemoryError):
        captured_run.train_run(config, tmp_path / "parts", **FIGURES)
    parts = captured_run.train_run(config, tmp_path / "parts", **FIGURES)
    assert done == 22 + whole["steps"] - 19  # what came after the last look of the first epoch was lost
    assert parts["figures"] == whole["figures"]
    assert [row["epoch"] for row in parts["history"]] == [row["epoch"] for row in whole["history"]]
    for name, weight in weights(whole).items():
        assert torch.equal(weights(parts)[name], weight)


@pytest.mark.parametrize(("step", "is_taught"), [(7, False), (18, False), (33, False), (19, True)])
def test_a_pause_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, is_taught: bool) -> None:
    monkeypatch.setattr(captured_training, "LOOK", 4)
    config = taught(tmp_path) if is_taught else pruned_by_and_by()
    whole = captured_run.train_run(config, tmp_path / "whole", **FIGURES)
    one_step, done = CapturedSteps._step, 0

    def interrupted(self: CapturedSteps, length: int) -> None:
        nonlocal done
        one_step(self, length)
        done += 1
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(CapturedSteps, "_step", interrupted)
    with pytest.raises(Paused, match=f"paused after step {step}"):
        captured_run.train_run(config, tmp_path / "parts", **FIGURES)
    assert not (tmp_path / "parts" / "result.json").exists()
    monkeypatch.setattr(CapturedSteps, "_step", one_step)
    parts = captured_run.train_run(config, tmp_path / "parts", **FIGURES)
    for key in ("figures", "widths", "steps"):
        assert parts[key] == whole[key]
    for name, weight in weights(whole).items():
        assert torch.equal(weights(parts)[name], weight)

    # what comes after the training can be repeated without it
    monkeypatch.delattr(CapturedSteps, "run")
    again = captured_run.train_run(config, tmp_path / "parts", **FIGURES)
    assert {**again, "training_seconds": None} == {**parts, "training_seconds": None}


def test_steps_before_a_pause_are_not_told_as_fast_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured_training, "LOOK", 4)
    monkeypatch.setattr(captured_training, "EVERY", 0.0)
    seconds, rates = itertools.count(), []
    monkeypatch.setattr(captured_training.time, "monotonic", lambda: float(next(seconds)))
    write = captured_training.replace

    def told(path: Path, text: str) -> None:
        if path.name == captured_training.PROGRESS:
            rates.append(json.loads(text)["steps_per_second"])
        write(path, text)

    monkeypatch.setattr(captured_training, "replace", told)
    one_step, done = CapturedSteps._step, 0

    def interrupted(self: CapturedSteps, length: int) -> None:
        nonlocal done
        one_step(self, length)
        done += 1
        if done == 33:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(CapturedSteps, "_step", interrupted)
    with pytest.raises(Paused):
        captured_run.train_run(base(), tmp_path, **FIGURES)
    before = len(rates)
    captured_run.train_run(base(), tmp_path, **FIGURES)
    assert len(rates) > before > 0
    assert max(rates) <= 4  # a look every four steps, and no two in one second


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulate_grad_batches": 2}, "`trainer.accumulate_grad_batches` must be 1 for captured steps, got 2"),
        ({"precision": "bf16-mixed"}, "`trainer.precision` must be 32-true for captured steps, got bf16-mixed"),
        ({"max_epochs": None, "max_steps": 5}, "the length must be given as `trainer.max_epochs`"),
        (
            {"callbacks": [{**AVERAGE, "init_args": {"monitor": "valid/density"}}]},
            "`monitor` must be valid/loss or valid/perplexity for captured steps, got valid/density",
        ),
        (
            {"callbacks": [{"class_path": "lightning.pytorch.callbacks.LearningRateMonitor"}]},
            "`callbacks` must be of ScaleDropout, RemoveClosedUnits, AverageLate for .*, got LearningRateMonitor",
        ),
    ],
)
def test_what_only_lightning_does_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    config = base()
    config["trainer"].update(changes)
    with pytest.raises(ValueError, match=message):
        captured_run.train_run(config, tmp_path, **FIGURES)


class Another(Dense):
    """A method of somebody's own."""


def test_a_method_that_may_want_every_step_is_refused(tmp_path: Path) -> None:
    method = {"class_path": f"{__name__}.Another"}
    with pytest.raises(ValueError, match="`method` must be one of Dense, L0Gates, .* got Another"):
        captured_run.train_run(base(method=method), tmp_path, **FIGURES)


METHODS: dict[str, Callable[[], Method]] = {
    "trained gates": lambda: L0Gates(Budget(0.5, ramp=0.3), freeze=0.6),
    "a penalty, then units closed": lambda: GroupLasso(1e-3, density=0.5, units="both"),
    "weights closed now and then": lambda: GradualMagnitude(0.5, frequency=5),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_is_asked_now_and_then_keeps_its_promise(name: str) -> None:
    make = METHODS[name]
    torch.manual_seed(1)
    model = L0GatedLSTM(WORDS, 16, 2, method=make(), dropout=0.1, init_range=0.2, learning_rate=0.5).train()
    steps = CapturedSteps(
        model, model.configure_optimizers()["optimizer"], TinyText().train_dataloader()._tokens, 5, 1.0
    )
    model.method.begin(60)
    for step in range(6, 61, 6):
        if step % 18 == 0:
            steps.restart()
        steps.progress = model.method.progress
        steps.run(6)
        model.method.after_step(step)
    assert model.method.has_chosen
    masks = model.method.masks()
    keep = {axis: gates.cpu() > 0 for axis, gates in model.method.gates().items()}
    kept = masked_cost(model.units, masks) if masks else cost(model.units, keep)
    assert 0.85 * 0.5 <= kept.multiply_adds / cost(model.units).multiply_adds <= 0.502
    assert operate(model.eval()).max_abs_difference < 1e-5


def gated(folder: Path) -> L0GatedLSTM:
    return L0GatedLSTM(WORDS, 16, 2, dropout=0.0, init_range=0.2, learning_rate=0.5)


def tied(folder: Path) -> L0GatedLSTM:
    return L0GatedLSTM(WORDS, 16, 2, tied=True, dropout=0.0, init_range=0.2, learning_rate=0.5)


def regularised(folder: Path) -> L0GatedLSTM:
    drops: dict[str, Any] = {"dropout": 0.2, "locked_dropout": True, "weight_dropout": 0.2, "word_dropout": 0.1}
    return L0GatedLSTM(WORDS, 16, 2, init_range=0.2, learning_rate=0.5, **drops)


def distilled(folder: Path) -> ShrunkenLanguageModel:
    paths = [str(folder / "teacher"), str(folder / "other")]
    for path in paths:
        save_dense(LanguageModel(WORDS, 16, 16, init_range=1.0).eval(), path, overwrite=True)
    student = LanguageModel(WORDS, 5, [6, 7], init_range=0.2)
    return ShrunkenLanguageModel(student, learning_rate=0.5, teacher=paths)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("make", [gated, tied, regularised, distilled])
def test_captured_steps_are_the_steps_one_by_one(make: Callable[[Path], Any], tmp_path: Path) -> None:
    tokens = TinyText(length=4000).train_dataloader()._tokens.cuda()
    losses = []
    for is_captured in (False, True):
        torch.manual_seed(1)
        model = make(tmp_path).cuda().train()
        model.method.begin(100)
        steps = CapturedSteps(model, model.configure_optimizers()["optimizer"], tokens, 5, 1.0)
        steps.is_cuda = is_captured
        steps.run(60)
        steps.renew()
        steps.run(40)
        losses.append(float(steps.loss) / 100)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("precision", PRODUCTS)
def test_products_are_rounded_for_a_while(precision: str) -> None:
    def state() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = state()
    with products(precision):
        assert state() == (PRODUCTS[precision], precision != "float32")
    assert state() == before


def test_products_that_a_device_does_not_round_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert captured_run.rounding("float32", cpu) == "float32"
    monkeypatch.setitem(PRODUCTS, "tf32", "highest")  # a processor that has no such products
    assert captured_run.rounding("tf32", cpu) == "float32"


def test_the_result_says_what_products_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    step = CapturedSteps._step
    monkeypatch.setattr(
        CapturedSteps, "_step", lambda *args: (seen.append(torch.get_float32_matmul_precision()), step(*args))
    )
    monkeypatch.setenv(captured_run.ROUNDED, "float32")
    config = base()
    config["trainer"]["max_epochs"] = 1
    assert captured_run.train_run(config, tmp_path, **FIGURES)["products"] == "float32"
    assert set(seen) == {"highest"}
    monkeypatch.setenv(captured_run.ROUNDED, "int8")
    with pytest.raises(ValueError, match="L0RNN_PRODUCTS must be one of float32, tf32, got 'int8'"):
        captured_run.train_run(config, tmp_path / "again", **FIGURES)


def test_products_of_lightnings_loop_are_not_the_queues_to_choose(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        queue.main(["--plan", "p.yaml", "--out", "o", "--products", "float32"])
    assert "--products needs --captured" in capsys.readouterr().err
