"""What every method must do, whatever it prunes, on networks of three kinds."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from l0rnn import Budget, HardConcrete, L0GatedLSTM, Method, Penalty, Pruner
from l0rnn.cost.cost import cost
from l0rnn.methods import (
    METHODS,
    BlockGroupLasso,
    BlockPruning,
    BrainSurgeon,
    Dense,
    GradualMagnitude,
    GroupLasso,
    L0Gates,
    RandomOrder,
    RandomStructure,
    RandomUnits,
    StructuredMagnitude,
)
from l0rnn.methods.units import UnitMethod
from l0rnn.models import load_model
from l0rnn.training.settings import from_settings, settings_of
from tests.methods.loops import KINDS, STEPS, Run, output, same, traced
from tests.tiny_text import WORDS, TinyText

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]

DENSITY = 0.5
CASES: dict[str, Callable[[], Method]] = {
    "dense": Dense,
    "l0_gates": lambda: L0Gates(Budget(DENSITY, start=0.0, ramp=0.2), freeze=0.6),
    "group_lasso": lambda: GroupLasso(1e-3, density=DENSITY, frequency=3),
    "structured_magnitude": lambda: StructuredMagnitude(DENSITY, frequency=3),
    "brain_surgeon": lambda: BrainSurgeon(DENSITY, frequency=3),
    "random_units": lambda: RandomUnits(DENSITY),
    "random_order": lambda: RandomOrder(DENSITY, frequency=3),
    "gradual_magnitude": lambda: GradualMagnitude(DENSITY, frequency=3),
    "block_pruning": lambda: BlockPruning(DENSITY, block=2, frequency=3, group_lasso=1e-4),
    "block_group_lasso": lambda: BlockGroupLasso(1e-4, block=2, density=DENSITY),
    "random_structure": lambda: RandomStructure("watts_strogatz", density=DENSITY),
}
CLASSES: dict[str, type] = {kind.__name__: kind for kind in (*METHODS.values(), Budget, Penalty, HardConcrete)}
every_method = pytest.mark.parametrize("name", CASES)
every_kind = pytest.mark.parametrize("kind", KINDS)


def test_there_is_a_case_for_every_method() -> None:
    assert list(CASES) == list(METHODS)
    assert all(type(make()) is METHODS[name] for name, make in CASES.items())


@every_kind
@every_method
def test_a_method_trains_keeps_its_promise_and_shrinks_to_an_equal_network(name: str, kind: str) -> None:
    run = Run(CASES[name](), kind).train()
    assert all(math.isfinite(loss) for loss in run.losses)
    assert run.pruner.has_chosen
    if name != "l0_gates":  # nothing that has gone comes back
        assert all(later <= before for before, later in zip(run.densities, run.densities[1:], strict=False))
    network, small = run.network.eval(), run.pruner.shrink().eval()
    parameters = sum(parameter.numel() for parameter in small.parameters())
    if isinstance(run.method, UnitMethod):
        assert 0.6 * DENSITY < run.densities[-1] <= DENSITY
        assert parameters == run.method.figures()["parameters"]
        kept = cost(traced(small, run.example)).multiply_adds
        assert kept == pytest.approx(run.densities[-1] * cost(run.pruner.units).multiply_adds)
    elif name != "dense":
        assert DENSITY - 0.05 < run.method.kept_fraction() <= DENSITY + 0.01  # type: ignore[operator]
    inputs = run.kind.inputs()
    torch.testing.assert_close(output(small, inputs), output(network, inputs), atol=1e-5, rtol=1e-5)


@every_kind
@every_method
def test_the_network_computes_with_what_the_method_says_it_keeps(name: str, kind: str) -> None:
    run = Run(CASES[name](), kind).train()
    weights = dict(run.network.named_parameters())
    for weight, mask in run.method.masks().items():
        assert (mask.dtype, mask.shape) == (torch.bool, weights[weight].shape)
        assert bool((weights[weight][~mask] == 0).all())
    inputs, network = run.kind.inputs(), run.network.eval()
    expected = output(network, inputs)
    closed = run.pruner.units.vector(run.method.gates(), 1.0) == 0
    assert bool(closed.any()) == isinstance(run.method, UnitMethod)
    with torch.no_grad():  # weights that read a closed unit may be anything
        for weight in run.pruner.units.weights.values():
            for dimension, (units, is_read) in enumerate(zip(weight.units, weight.is_read, strict=True)):
                places = (is_read & (units >= 0) & closed[units.clamp(min=0)]).nonzero().squeeze(1)
                weights[weight.name].index_fill_(dimension, places, 7.0) if len(places) else None
    torch.testing.assert_close(output(network, inputs), expected)


@every_kind
@every_method
def test_a_training_goes_on_bit_for_bit(name: str, kind: str) -> None:
    for stop in (1, 11, 13):
        whole = Run(CASES[name](), kind).train(range(1, stop + 1))
        saved = copy.deepcopy(whole.states())
        whole.train(range(stop + 1, STEPS + 1))
        resumed = Run(CASES[name](), kind).load(saved).train(range(stop + 1, STEPS + 1))
        assert same(whole.states(), resumed.states()), stop
        assert same(whole.method.gates(), resumed.method.gates())
        assert (resumed.method.progress, resumed.pruner.has_chosen) == (1.0, True)


@every_method
def test_a_finished_training_stays_as_it_is_when_it_is_made_longer(name: str) -> None:
    run = Run(CASES[name]()).train()
    gates, masks = copy.deepcopy((run.method.gates(), run.method.masks()))
    run.method.begin(10 * STEPS)
    run.train(range(STEPS + 1, STEPS + 5))
    assert same(run.method.gates(), gates)
    assert same(run.method.masks(), masks)
    assert run.method.penalty().item() == 0.0


@every_method
def test_a_method_prunes_one_network(name: str) -> None:
    method = CASES[name]()
    first = Run(method)
    before = copy.deepcopy(first.states())
    second = KINDS["loop"]
    network = second.make()
    whole = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match=f"`method` must be new, got a {type(method).__name__}"):
        Pruner(network, method, second.inputs())
    with pytest.raises(ValueError, match="`method` must be new"):
        method.attach(network, traced(network, second.inputs()))
    assert same(network.state_dict(), whole)
    assert same(first.states(), before)
    first.train()
    with pytest.raises(RuntimeError, match="`begin` must come before the first step, but 20 have been made"):
        first.pruner.begin(STEPS)


@every_method
def test_settings_are_plain_data_and_come_back(name: str) -> None:
    settings = settings_of(CASES[name]())
    again = from_settings(json.loads(json.dumps(settings)), CLASSES)
    assert type(again) is METHODS[name]
    assert json.loads(json.dumps(settings_of(again))) == json.loads(json.dumps(settings))


@every_method
def test_the_docstring_is_the_methods_card(name: str) -> None:
    text = " ".join((METHODS[name].__doc__ or "").split())
    parts = ("Removes:", "Rule:", "Cost at run time:", "Args:", "Reference:", "Example:")
    assert name == "dense" or not [part for part in parts if part not in text]


@every_method
def test_under_lightning_a_checkpoint_goes_on_and_loads_by_itself(name: str, tmp_path: Path) -> None:
    def fit(resume: Path | None = None) -> Any:
        torch.manual_seed(99 if resume else 1)  # the resumed process is another one
        model = L0GatedLSTM(WORDS, 8, 2, method=CASES[name](), dropout=0.1, init_range=0.2, learning_rate=0.5)
        saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        options: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
        options |= {"callbacks": [] if resume else [saver], "enable_checkpointing": not resume, "accelerator": "cpu"}
        path = {"ckpt_path": str(resume), "weights_only": True} if resume else {}
        Trainer(max_epochs=2, **options).fit(model, TinyText(200), **path)
        return model

    whole = fit()
    assert (whole.method.progress, whole.method.has_chosen) == (1.0, True)
    for stop in (7, 13):
        resumed = fit(tmp_path / f"step={stop}.ckpt")
        assert same(dict(whole.state_dict()), dict(resumed.state_dict()))
    loaded, words = load_model(tmp_path / "step=20.ckpt"), torch.randint(WORDS, (6, 2))
    assert torch.equal(loaded(words)[0], whole.eval()(words)[0])
    assert same(loaded.method.masks(), whole.method.masks())
    assert type(loaded.method) is METHODS[name]


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"class_path": "l0rnn.Budget", "init_args": {"desnity": 0.3}},
            r"`init_args` of l0rnn.Budget do not fit it .*, got \{'desnity': 0.3\}; it takes density, param",
        ),
        ({"class_path": "l0rnn.Bugdet"}, "`class_path` must be of one of .*Budget.*, got 'l0rnn.Bugdet'"),
        ({"class": "Budget", "density": 0.3, "milliseconds": 2.0}, "Budget has no argument milliseconds"),
    ],
)
def test_a_configuration_that_cannot_be_built_names_what_is_wrong(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_settings(settings, CLASSES)
