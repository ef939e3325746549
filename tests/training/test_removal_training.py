"""Trainings from which closed units are removed: the same steps, checkpoints that go on, and clear refusals."""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from l0rnn import Budget, Dense, L0GatedGRU, L0GatedLSTM, L0Gates, Method, Penalty, PrunableModule, shrink
from l0rnn.cost.cost import cost
from l0rnn.gates import Gates
from l0rnn.methods import BrainSurgeon, GradualMagnitude, GroupLasso, RandomOrder, RandomUnits, StructuredMagnitude
from l0rnn.models import load_model
from l0rnn.tracing import trace
from l0rnn.training import RemoveClosedUnits, ScaleDropout
from tests.methods.loops import Loop
from tests.tiny_text import WORDS, TinyText

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


class Widths(Callback):
    """Keeps the widths, the density and the dropout after each step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, int]] = []
        self.densities: list[float] = []
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        self.seen.append({axis: len(gates) for axis, gates in pl_module.method.gates().items()})
        self.densities.append(pl_module.method.figures()["density"])
        self.rates.append(pl_module.network.dropout.p)

    def steps_of_removal(self) -> list[int]:
        """Steps, counted from 1, after which the widths were others than after the step before."""
        return [i + 2 for i in range(len(self.seen) - 1) if self.seen[i] != self.seen[i + 1]]


METHODS: dict[str, Callable[[], Method]] = {
    "budget": lambda: L0Gates(Budget(density=0.3, start=0.0, ramp=0.2), freeze=0.6),
    "penalty": lambda: L0Gates(Penalty(3.0), freeze=0.8),
    "structured_magnitude": lambda: StructuredMagnitude(0.3, frequency=5),
    "group_lasso": lambda: GroupLasso(1e-3, density=0.3, freeze=0.4),
    "brain_surgeon": lambda: BrainSurgeon(0.3, frequency=5),
    "random_units": lambda: RandomUnits(0.3),
    "random_order": lambda: RandomOrder(0.3, frequency=5),
}


def model(method: Method, kind: type[L0GatedLSTM] = L0GatedLSTM, **options: Any) -> Any:
    torch.manual_seed(1)
    settings: dict[str, Any] = {"dropout": 0.0, "init_range": 0.2, "learning_rate": 0.01, "optimizer": "adam"}
    return kind(WORDS, 16, 2, method=method, **{**settings, "gate_learning_rate": 0.5, **options})


def fit(
    module: LightningModule, folder: Path, *callbacks: Callback, resume: Path | None = None, **more: Any
) -> Trainer:
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    options: dict[str, Any] = {**quiet, "max_epochs": 3, "accelerator": "cpu", "gradient_clip_val": 0.5, **more}
    trainer = Trainer(default_root_dir=folder, callbacks=list(callbacks), enable_checkpointing=saves, **options)
    trainer.fit(module, TinyText(), ckpt_path=None if resume is None else str(resume), weights_only=resume and True)
    return trainer


def removal(**options: Any) -> RemoveClosedUnits:
    return RemoveClosedUnits(**{"every": 4, "least": 0.02, **options})


def test_a_unit_goes_after_so_many_looks_in_a_row() -> None:
    callback = RemoveClosedUnits(threshold=0.05, patience=3)
    gates = Gates(4, open_probability=0.9)
    kept = []
    for second in (-9.0, 2.0, -9.0, -9.0, -9.0):
        # the third is closed, but P(open) is above the threshold
        gates.log_alpha.data = torch.tensor([2.0, second, -2.5, -9.0])
        kept.append(callback.look(gates).tolist())
    assert not bool(gates.keep()[2])
    assert 0.05 < gates.open_probability()[2].item() < 0.5
    one, both, neither = [True, True, True, False], [True, False, True, False], [True] * 4
    assert kept == [neither, neither, one, one, both]


def test_an_open_unit_is_never_looked_upon_as_closed() -> None:
    gates = Gates(3, open_probability=0.9)
    callback = RemoveClosedUnits(threshold=0.999, patience=1)
    assert callback.look(gates).tolist() == [True] * 3


def test_frozen_gates_are_believed_at_once() -> None:
    gates = Gates(3, open_probability=0.9)
    gates.freeze_(torch.tensor([False, True, False]))
    callback = RemoveClosedUnits(patience=5)
    assert callback.look(gates).tolist() == [False, True, False]


def test_the_best_unit_of_an_axis_stays_where_all_are_closed() -> None:
    module = model(METHODS["penalty"]())
    closed = module.method.own_gates.log_alpha.data.fill_(-20.0)
    closed[[axis.start + 3 for axis in module.units.axes.values()]] = -19.0
    assert removal(patience=1).remove_(module, [], 1)
    assert all(units.nonzero().item() == 3 for units in module.remaining.values())


@pytest.mark.parametrize("kind", [L0GatedLSTM, L0GatedGRU])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_that_closes_units_keeps_its_promise(name: str, kind: type[L0GatedLSTM], tmp_path: Path) -> None:
    module = model(METHODS[name](), kind, tied=kind is L0GatedGRU)
    whole = cost(module.units)
    watch = Widths()
    fit(module, tmp_path, removal(), watch)
    left = {axis: int(units.sum()) for axis, units in module.remaining.items()}
    assert left
    assert all(len(module.method.gates()[axis]) == width for axis, width in left.items())
    assert all(len(units) == 16 for units in module.remaining.values())
    assert module.method.dense == whole
    kept = cost(trace(shrunk := shrink(module), module.example_input_array))
    assert sum(p.numel() for p in shrunk.parameters()) == kept.parameters
    assert module.method.figures()["density"] == kept.multiply_adds / whole.multiply_adds
    if name != "penalty":
        assert 0.2 <= watch.densities[-1] <= 0.302
    tokens = torch.randint(WORDS, (6, 2))
    torch.testing.assert_close(shrunk.eval()(tokens)[0], module.eval()(tokens)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("optimizer", "options"), [("adam", {}), ("sgd", {"learning_rate": 0.5})])
@pytest.mark.parametrize("name", ["random_units", "structured_magnitude", "group_lasso"])
def test_frozen_gates_train_on_as_without_removal(
    name: str, optimizer: str, options: dict[str, Any], tmp_path: Path
) -> None:
    ends, densities = [], []
    for callbacks in ([], [removal(every=7)]):
        module = model(METHODS[name](), optimizer=optimizer, **options)
        if optimizer == "sgd":
            module.make_optimizer = lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3)
        watch = Widths()
        fit(module, tmp_path, *callbacks, watch)
        ends.append(module)
        densities.append(watch.densities)
    whole, removed = ends
    assert removed.remaining
    assert not whole.remaining
    tokens = torch.randint(WORDS, (6, 2))
    torch.testing.assert_close(removed.eval()(tokens)[0], whole.eval()(tokens)[0], atol=2e-5, rtol=0)
    assert densities[0] == densities[1]
    embedding = whole.network.embedding.weight[:, removed.remaining.get("embedding", torch.arange(16))]
    torch.testing.assert_close(removed.network.embedding.weight, embedding, atol=2e-5, rtol=0)


def test_l0_gates_are_removed_while_they_learn_and_after_they_froze(tmp_path: Path) -> None:
    module, watch, callback = model(METHODS["budget"]()), Widths(), removal(threshold=0.1)
    fit(module, tmp_path, callback, watch)
    steps = watch.steps_of_removal()
    assert steps[0] < 36 <= steps[-1] <= 40  # frozen after 36 of 60 steps, looked at in every fourth
    assert all(step % 4 == 0 for step in steps)
    assert callback.state_dict()["looks"].shape == (sum(watch.seen[-1].values()),)


def test_a_callback_starts_afresh_with_another_training(tmp_path: Path) -> None:
    callback, ends = removal(), []
    for _ in range(2):
        ends.append(model(METHODS["structured_magnitude"]()))
        fit(ends[-1], tmp_path, callback)
    assert ends[0].remaining
    first, second = (end.state_dict() for end in ends)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_little_is_not_worth_a_removal(tmp_path: Path) -> None:
    module = model(METHODS["random_units"]())
    fit(module, tmp_path, removal(least=0.9), max_epochs=1)
    assert module.remaining == {}


class CountLooks(RemoveClosedUnits):
    """Counts how often it looks."""

    looks = 0

    def look(self, gates: Gates) -> Tensor:
        self.looks += 1
        return super().look(gates)


def test_accumulated_gradients_are_not_lost(tmp_path: Path) -> None:
    callback = CountLooks(every=2, least=0.02)
    fit(model(METHODS["budget"]()), tmp_path, callback, accumulate_grad_batches=3)
    assert callback.looks == 1 + 21 // 2, "once per step, not per batch, lest half a gradient be dropped"
    ends = []
    for callbacks in ([], [removal(every=1)]):
        module = model(METHODS["structured_magnitude"]())
        fit(module, tmp_path, *callbacks, accumulate_grad_batches=3)
        ends.append(module.eval())
    assert ends[1].remaining
    tokens = torch.randint(WORDS, (6, 2))
    torch.testing.assert_close(ends[1](tokens)[0], ends[0](tokens)[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["budget", "structured_magnitude"])
def test_a_resumed_training_ends_as_one_that_was_not_stopped(name: str, tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    options: dict[str, Any] = {"dropout": 0.2}
    whole, watch = model(METHODS[name](), **options), Widths()
    fit(whole, tmp_path, removal(threshold=0.1), ScaleDropout(0.05), watch, saver)
    removed = watch.steps_of_removal()
    assert len(removed) >= 2
    for stop in (removed[0] - 1, removed[0], removed[0] + 1, removed[-1]):
        resumed = model(METHODS[name](), **options)
        torch.manual_seed(99)  # the resumed process has drawn other numbers
        fit(resumed, tmp_path, removal(threshold=0.1), ScaleDropout(0.05), resume=tmp_path / f"step={stop}.ckpt")
        assert resumed.state_dict().keys() == whole.state_dict().keys()
        for key, value in whole.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[key]), (stop, key)
        assert all(torch.equal(units, resumed.remaining[axis]) for axis, units in whole.remaining.items())


class TestCheckpoints:
    @pytest.fixture
    def trained(self, tmp_path: Path) -> Any:
        module = model(METHODS["structured_magnitude"]())
        saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        module.run = fit(module, tmp_path, removal(), saver)
        module.run.save_checkpoint(tmp_path / "model.ckpt")
        return module

    def test_it_loads_by_itself(self, trained: Any, tmp_path: Path) -> None:
        loaded = load_model(tmp_path / "model.ckpt")
        tokens = torch.randint(WORDS, (6, 2))
        assert torch.equal(loaded(tokens)[0], trained.eval()(tokens)[0])
        assert loaded.method.figures() == trained.method.figures()
        torch.testing.assert_close(shrink(loaded)(tokens)[0], loaded(tokens)[0], atol=1e-5, rtol=0)

    def test_an_earlier_one_with_more_units_loads_into_what_is_left(self, trained: Any, tmp_path: Path) -> None:
        fresh = load_model(tmp_path / "step=12.ckpt")
        narrow = trained.network.encoder.hidden_size
        assert fresh.network.encoder.hidden_size > narrow  # type: ignore[union-attr]
        before = trained.run.validate(fresh, TinyText(), verbose=False)
        again = trained.run.validate(trained, TinyText(), ckpt_path=str(tmp_path / "step=12.ckpt"), verbose=False)
        assert again == before
        assert trained.network.encoder.hidden_size > narrow
        assert {a: u.tolist() for a, u in trained.remaining.items()} == {
            a: u.tolist() for a, u in fresh.remaining.items()
        }

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"encoder.l0": torch.ones(15) > 0}, "removed from 'encoder.l0', kept 15 of 15 units, .* network has 16"),
            ({"encoder.l0": torch.ones(16)}, "another configuration: units were removed from 'encoder.l0'"),
            ({"encoder.l0": torch.zeros(16) > 0}, "kept 0 of 16 units, where this network has 16"),
            ({"encoder.l9": torch.ones(16) > 0}, "removed from 'encoder.l9', which this network does not have"),
            ({"embedding": torch.arange(16) < 1}, "embedding.weight has shape .* instead of .*, 1"),
            ({"encoder.l0": torch.arange(16) < 1}, "`widths` must be the same in all layers of a stack of torch"),
        ],
    )
    def test_positions_that_do_not_fit_are_refused(
        self, trained: Any, tmp_path: Path, change: dict[str, Tensor], message: str
    ) -> None:
        saved = torch.load(tmp_path / "model.ckpt", weights_only=True)
        saved["l0rnn"]["remaining"] |= change
        fresh = model(METHODS["structured_magnitude"]())
        before = copy.deepcopy(fresh.state_dict())
        with pytest.raises(ValueError, match=message):
            fresh.on_load_checkpoint(saved)
        assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())
        assert fresh.remaining == {}
        assert fresh.network.encoder.hidden_size == 16

    def test_another_method_refuses_it_by_name(self, trained: Any, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="`method` must close whole units .*, got Dense"):
            model(Dense()).on_load_checkpoint(torch.load(tmp_path / "model.ckpt", weights_only=True))


def test_the_log_knows_of_no_jump_and_dropout_follows(tmp_path: Path) -> None:
    module, watch = model(METHODS["structured_magnitude"](), dropout=0.5), Widths()
    logger = CSVLogger(tmp_path, name="logs")
    fit(module, tmp_path, removal(), ScaleDropout(0.1, every=1), watch, logger=logger, log_every_n_steps=1)
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        logged = [float(row["train/density"]) for row in csv.DictReader(file) if row["train/density"]]
    assert len(logged) == 60
    assert watch.steps_of_removal()
    assert all(later <= before for before, later in zip(logged, logged[1:], strict=False))
    assert logged[-1] == pytest.approx(watch.densities[-1])
    assert watch.densities[-1] <= 0.3 < watch.densities[0]
    rates = [0.1 + 0.4 * density for density in watch.densities]  # set before a step, from the density after the last
    assert watch.rates[1:] == pytest.approx(rates[:-1])


class TestRefusedTrainings:
    @pytest.mark.parametrize("method", [Dense(), GradualMagnitude(0.5)])
    def test_methods_that_close_no_units(self, method: Method, tmp_path: Path) -> None:
        message = f"`method` must close whole units .*, got {type(method).__name__}; use L0Gates"
        with pytest.raises(ValueError, match=message):
            fit(module := model(method), tmp_path, removal())
        with pytest.raises(ValueError, match=message):
            module.remove_units_(torch.ones(0) > 0)

    def test_an_optimizer_is_refused_before_its_first_step(self, tmp_path: Path) -> None:
        module = model(METHODS["budget"]())
        module.make_optimizer = torch.optim.Adafactor
        before = copy.deepcopy(module.state_dict())
        with pytest.raises(ValueError, match="the state 'row_var' of Adafactor"):
            fit(module, tmp_path, removal())
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())

    def test_averages_of_weights(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="cannot be combined with StochasticWeightAveraging"):
            fit(model(METHODS["budget"]()), tmp_path, removal(), StochasticWeightAveraging(swa_lrs=0.01))

    def test_other_modules(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="needs a PrunableModule, got LightningModule"):
            removal().setup(Trainer(logger=False, default_root_dir=tmp_path), LightningModule(), "fit")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"threshold": 0.0}, r"`threshold` must be in \(0, 1\), got 0.0"),
            ({"patience": 0}, "`patience` must be at least 1, got 0"),
            ({"every": 0}, "`every` must be at least 1, got 0"),
            ({"least": 1.0}, r"`least` must be in \[0, 1\), got 1.0"),
        ],
    )
    def test_arguments(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            RemoveClosedUnits(**options)


def test_any_network_and_loss(tmp_path: Path) -> None:
    """Convolution, batch norm, a GRU, and an LSTM cell in a loop, trained on features, not words."""
    features = torch.randn(32, 6, 3, 5)
    batches = [(x, (x[:, 0].sum(1) > 0).long()) for x in features]
    module = PrunableModule(
        Loop(),
        loss=lambda network, batch: nn.functional.cross_entropy(network(batch[0]), batch[1]),
        method=StructuredMagnitude(0.4, frequency=10),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.02),
        example_inputs=features[0],
    )
    options: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(max_epochs=2, accelerator="cpu", callbacks=[removal()], enable_checkpointing=False, **options)
    trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))
    assert module.remaining
    assert module.network.norm.num_features == int(module.remaining["convolution"].sum())  # type: ignore[union-attr]
    small = shrink(module)
    torch.testing.assert_close(small.eval()(features[3]), module.eval()(features[3]), atol=1e-5, rtol=0)
