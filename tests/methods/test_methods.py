"""What every method must do, whatever it prunes: fitted for a few steps on a small text."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from l0rnn import Budget, L0GatedGRU, L0GatedLSTM, Method
from l0rnn.blueprint import draw_blueprint
from l0rnn.cost.cost import cost, masked_cost
from l0rnn.methods import (
    METHODS,
    BlockGroupLasso,
    BlockPruning,
    Dense,
    GradualMagnitude,
    GroupLasso,
    L0Gates,
    RandomStructure,
    RandomUnits,
    StructuredMagnitude,
)
from l0rnn.models import load_model
from l0rnn.surgery.shrink import operate
from l0rnn.training.settings import from_settings, settings_of
from tests.tiny_text import WORDS, TinyText

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]

DENSITY = 0.5
# name in METHODS → (method, the density it promises, whether units or weights only ever close)
CASES: dict[str, tuple[Callable[[], Method], float | None, bool]] = {
    "dense": (Dense, 1.0, True),
    "l0_gates": (lambda: L0Gates(Budget(DENSITY, ramp=0.3), freeze=0.6), DENSITY, False),
    "group_lasso": (lambda: GroupLasso(1e-3, density=DENSITY, units="both"), DENSITY, True),
    "structured_magnitude": (lambda: StructuredMagnitude(DENSITY, frequency=5), DENSITY, True),
    "random_units": (lambda: RandomUnits(DENSITY), DENSITY, True),
    "gradual_magnitude": (lambda: GradualMagnitude(DENSITY, frequency=5), DENSITY, True),
    "block_pruning": (lambda: BlockPruning(DENSITY, block=4, frequency=5, group_lasso=1e-4), DENSITY, True),
    "block_group_lasso": (lambda: BlockGroupLasso(1e-4, block=4, density=DENSITY), DENSITY, True),
    "random_structure": (lambda: RandomStructure("watts_strogatz", density=DENSITY), DENSITY, True),
}
MODELS = {"LSTM": L0GatedLSTM, "GRU": L0GatedGRU}


class Watch(Callback):
    """Keeps the losses, and the density after each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.densities: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *args: Any) -> None:
        self.losses.append(float(outputs["loss"]))
        self.densities.append(density_of(module))


def density_of(module: Any) -> float:
    """Kept multiply-adds as a fraction, counted from what the method says it keeps."""
    blueprint = draw_blueprint(module.network, module.wiring)
    masks = module.method.masks()
    keep = {axis: gates.cpu() > 0 for axis, gates in module.method.gates().items()}
    kept = masked_cost(blueprint, masks) if masks else cost(blueprint, keep)
    return kept.multiply_adds / cost(blueprint).multiply_adds


def fitted(method: Method, folder: Path, cell: str = "LSTM", **trainer: Any) -> tuple[Any, Watch]:
    torch.manual_seed(1)
    watch = Watch()
    model = MODELS[cell](WORDS, 16, 2, method=method, dropout=0.1, init_range=0.2, learning_rate=0.5)
    options: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    options |= {"max_epochs": 3, "accelerator": "cpu", "enable_checkpointing": False, "callbacks": [watch]}
    Trainer(default_root_dir=folder, **{**options, **trainer}).fit(model, TinyText(), ckpt_path=None)
    return model, watch


def test_there_is_a_case_for_every_method() -> None:
    assert list(CASES) == list(METHODS)
    assert all(type(make()) is METHODS[name] for name, (make, _, _) in CASES.items())


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
@pytest.mark.parametrize("name", CASES)
def test_a_method_trains_keeps_its_promise_and_survives_surgery(name: str, cell: str, tmp_path: Path) -> None:
    make, promised, is_monotone = CASES[name]
    model, watch = fitted(make(), tmp_path, cell)
    assert len(watch.losses) == 3 * 20
    assert all(math.isfinite(loss) for loss in watch.losses)
    if promised is not None:
        assert 0.85 * promised <= watch.densities[-1] <= promised + 0.002
        assert watch.densities[-1] == density_of(model)
    if is_monotone:
        assert all(later <= before for before, later in zip(watch.densities, watch.densities[1:], strict=False))
    model.eval()
    surgery = operate(model)
    assert surgery.max_abs_difference < 1e-5
    assert surgery.network(torch.randint(WORDS, (7, 3)))[0].shape == (7, 3, WORDS)
    figures = model.method.figures()
    assert name == "dense" or figures["density"] == pytest.approx(watch.densities[-1])


@pytest.mark.parametrize("name", CASES)
def test_masks_and_gates_are_what_the_network_computes_with(name: str, tmp_path: Path) -> None:
    model, _ = fitted(CASES[name][0](), tmp_path)
    parameters = dict(model.network.named_parameters())
    for parameter, mask in model.method.masks().items():
        assert mask.dtype == torch.bool
        assert mask.shape == parameters[parameter].shape
        assert bool((parameters[parameter][~mask] == 0).all())
    model.eval()
    words = torch.randint(WORDS, (6, 2))
    expected = model(words)[0]
    blueprint = draw_blueprint(model.network, model.wiring)
    closed = {axis: gates == 0 for axis, gates in model.method.gates().items()}
    with torch.no_grad():  # what reads a closed unit may be anything: it is not computed with
        for weight in blueprint.weights:
            for axis in weight.axes.get(weight.reads or "", ()):
                if axis in closed and len(weight.axes[weight.reads or ""]) == 1:
                    parameters[weight.name][:, closed[axis]] = 7.0
    assert torch.equal(model(words)[0], expected)


@pytest.mark.parametrize("name", CASES)
def test_no_parameter_is_skipped_in_silence(name: str, tmp_path: Path) -> None:
    model, _ = fitted(CASES[name][0](), tmp_path, max_epochs=1)
    surgery = operate(model.eval())
    blueprint = draw_blueprint(surgery.network, model.wiring)
    explained = set(surgery.untouched) | set(model.method.gates())
    for weight in blueprint.weights:
        axes = {axis for side in weight.axes.values() for axis in side}
        assert weight.name in model.method.masks() or axes <= explained, weight.name


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_training_ends_as_one_that_was_not_stopped(name: str, tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    make = CASES[name][0]
    whole, _ = fitted(make(), tmp_path, enable_checkpointing=True, callbacks=[saver])
    for stop in (13, 37, 58):
        torch.manual_seed(99)  # the resumed process is another one
        resumed = L0GatedLSTM(WORDS, 16, 2, method=make(), dropout=0.1, init_range=0.2, learning_rate=0.5)
        options: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
        trainer = Trainer(
            max_epochs=3, enable_checkpointing=False, accelerator="cpu", default_root_dir=tmp_path, **options
        )
        trainer.fit(resumed, TinyText(), ckpt_path=str(tmp_path / f"step={stop}.ckpt"), weights_only=True)
        assert same(whole.state_dict(), resumed.state_dict())
        assert same(whole.method.gates(), resumed.method.gates())


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", CASES)
def test_what_the_host_knows_is_in_the_checkpoint(name: str, tmp_path: Path) -> None:
    model, _ = fitted(CASES[name][0](), tmp_path)
    method = model.method
    assert (method.progress, method.has_chosen) == (1.0, True)
    again = MODELS["LSTM"](WORDS, 16, 2, method=CASES[name][0]())
    again.load_state_dict(model.state_dict())
    assert (again.method.progress, again.method.has_chosen) == (1.0, True)


@pytest.mark.parametrize(
    ("steps", "first", "times"),
    [
        (range(1, 13), 0, [5, 10]),
        (range(1, 13), 3, [3, 8]),
        ([1, 4, 9, 16, 17], 0, [9, 16]),  # asked now and then: as soon as it can be
        ([2, 4, 20, 21], 3, [4, 20]),
    ],
)
def test_what_is_done_every_so_many_steps_comes_round(steps: Any, first: int, times: list[int]) -> None:
    method = Dense()
    found = []
    for step in steps:
        method.after_step(step)
        if method.comes_round(5, first):
            found.append(step)
    assert found == times


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_of_a_ready_made_model_loads_by_itself(name: str, tmp_path: Path) -> None:
    model, _ = fitted(CASES[name][0](), tmp_path, max_epochs=1)
    model.trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = load_model(tmp_path / "model.ckpt")
    words = torch.randint(WORDS, (6, 2))
    assert torch.equal(loaded(words)[0], model.eval()(words)[0])
    assert same(loaded.method.masks(), model.method.masks())
    assert type(loaded.method) is METHODS[name]


@pytest.mark.parametrize("name", CASES)
def test_settings_are_plain_data_and_come_back(name: str) -> None:
    settings = settings_of(CASES[name][0]())
    classes: dict[str, type] = {method.__name__: method for method in METHODS.values()}
    from l0rnn.gates.hard_concrete import HardConcrete

    again = from_settings(copy.deepcopy(settings), {**classes, "Budget": Budget, "HardConcrete": HardConcrete})
    assert settings_of(again) == settings


@pytest.mark.parametrize("name", CASES)
def test_the_docstring_is_the_methods_card(name: str) -> None:
    text = " ".join((METHODS[name].__doc__ or "").split())
    if name != "dense":
        for part in ("Removes:", "Rule:", "Cost at run time:", "Args:", "Reference:", "Example:"):
            assert part in text, f"{METHODS[name].__name__} does not say {part}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"class_path": "l0rnn.Budget", "init_args": {"desnity": 0.3}},
            r"`init_args` of l0rnn.Budget do not fit it .*, got \{'desnity': 0.3\}; it takes density, param",
        ),
        ({"class_path": "l0rnn.Bugdet"}, "`class_path` must be of one of .*Budget, got 'l0rnn.Bugdet'"),
    ],
)
def test_a_configuration_that_cannot_be_built_names_what_is_wrong(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_settings(settings, METHODS | {"Budget": Budget})
