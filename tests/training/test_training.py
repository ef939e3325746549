"""Training with Lightning: optimiser, carried state, checkpoints that go on bit for bit, and clear ends of bad runs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, StochasticWeightAveraging
from lightning.pytorch.utilities.model_summary import ModelSummary
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset, IterableDataset

from l0rnn import Budget, Dense, L0GatedGRU, L0GatedLSTM, L0Gates, Penalty, PrunableModule, shrink
from l0rnn.methods import GradualMagnitude, Method, RandomUnits
from l0rnn.models import load_model
from l0rnn.surgery.shrink import is_prunable
from l0rnn.training import ScaleDropout
from l0rnn.training.optimizer import WeightsAndGates
from recipes.penn_treebank.data import SegmentLoader, batchify
from tests.export.models import write_checkpoint
from tests.networks import skip_without_bfloat16

# Lightning's advice on what a run lacks (validation data, workers) is not about these tests
pytestmark = pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")

WORDS = 23


def text(columns: int = 4, length: int = 61) -> Tensor:
    """A stream with something to learn: each word follows from the one before, most of the time."""
    generator = torch.Generator().manual_seed(5)
    words = [1]
    for _ in range(columns * length - 1):
        jump = torch.rand((), generator=generator) < 0.2
        words.append(int(torch.randint(WORDS, (), generator=generator)) if jump else (3 * words[-1] + 1) % WORDS)
    return batchify(torch.tensor(words), columns)


def segments() -> SegmentLoader:
    return SegmentLoader(text(), steps=5)


def model(**options: Any) -> L0GatedLSTM:
    torch.manual_seed(1)
    settings: dict[str, Any] = {
        "objective": Budget(density=0.4),
        "dropout": 0.2,
        "init_range": 0.2,
        "learning_rate": 2.0,
    }
    return L0GatedLSTM(WORDS, 16, **{**settings, **options})


def trainer(path: Path, **options: Any) -> Trainer:
    settings: dict[str, Any] = {
        "max_epochs": 3,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "accelerator": "cpu",
        "gradient_clip_val": 0.5,
        "default_root_dir": path,
    }
    return Trainer(**{**settings, **options})


class TestOptimizer:
    def test_gates_have_adam_with_their_own_rate_and_no_weight_decay(self) -> None:
        module = model(weight_decay=0.1, gate_learning_rate=0.07)
        optimizer = module.configure_optimizers()["optimizer"]
        assert isinstance(optimizer, WeightsAndGates)
        (gate_group,) = optimizer.gates.param_groups
        assert (gate_group["lr"], gate_group["weight_decay"]) == (0.07, 0.0)
        gates = {id(parameter) for parameter in module.method.gate_parameters()}
        assert {id(parameter) for parameter in gate_group["params"]} == gates
        others = {id(parameter) for group in optimizer.weights.param_groups for parameter in group["params"]}
        assert not gates & others
        assert len(others) == len(list(module.network.parameters()))

    def test_schedulers_leave_the_rate_of_the_gates(self, tmp_path: Path) -> None:
        rates = []

        class Watch(Callback):
            def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
                optimizer: Any = trainer.optimizers[0]
                rates.append((optimizer.weights.param_groups[0]["lr"], optimizer.gates.param_groups[0]["lr"]))

        module = model(flat_epochs=1, decay=0.5)
        trainer(tmp_path, callbacks=[Watch()]).fit(module, segments())
        own = module.method.gate_learning_rate(3 * len(segments()))  # what gates need in a training as short as this
        assert own > module.method.gate_learning_rate(100_000)
        within = len(segments()) - 1  # the scheduler has stepped by the time an epoch's last batch ends
        for epoch, rate in enumerate((2.0, 1.0, 0.5)):
            steps = rates[epoch * (within + 1) :][:within]
            assert steps == [(rate, own)] * within

    def test_dense_runs_have_the_plain_optimizer(self) -> None:
        optimizer = model(objective=None, method=Dense()).configure_optimizers()["optimizer"]
        assert type(optimizer) is torch.optim.SGD

    def test_state_of_another_optimizer_is_refused(self) -> None:
        optimizer = model().configure_optimizers()["optimizer"]
        with pytest.raises(ValueError, match="the parts 'weights' and 'gates'.*another method"):
            optimizer.load_state_dict(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0).state_dict())

    def test_gate_learning_rate_must_be_positive(self) -> None:
        with pytest.raises(ValueError, match="`gate_learning_rate` must be > 0, got 0"):
            model(gate_learning_rate=0).configure_optimizers()

    def test_one_step_is_the_step_of_the_two_optimizers(self) -> None:
        weight, gate = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([1.0]))
        both = WeightsAndGates(torch.optim.SGD([weight], lr=0.5), torch.optim.Adam([gate], lr=0.1))
        (weight * 3 + gate * 7).sum().backward()
        both.step()
        assert weight.item() == pytest.approx(1 - 0.5 * 3)
        assert gate.item() == pytest.approx(1 - 0.1, abs=1e-6)


class TestCarriedState:
    def test_segments_in_a_row_are_one_long_sequence(self) -> None:
        module = model(dropout=0.0).eval()
        tokens = text()
        whole, _ = module(tokens)
        state, parts = None, []
        for start in range(0, len(tokens), 7):
            logits, state = module(tokens[start : start + 7], state)
            parts.append(logits)
        torch.testing.assert_close(torch.cat(parts), whole, atol=1e-6, rtol=0)

    def test_state_goes_on_within_an_epoch_and_starts_afresh_with_the_next(self, tmp_path: Path) -> None:
        starts: list[bool] = []

        class Watch(Callback):
            def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
                starts.append(pl_module._carried is None)

        trainer(tmp_path, max_epochs=2, callbacks=[Watch()]).fit(model(), segments())
        per_epoch = len(segments())
        assert starts == ([True] + [False] * (per_epoch - 1)) * 2

    def test_validation_does_not_disturb_the_training(self, tmp_path: Path) -> None:
        weights = []
        for every in (None, segments()):
            module = model()
            trainer(tmp_path, val_check_interval=3 if every else None, num_sanity_val_steps=0).fit(
                module, segments(), every
            )
            weights.append({name: value.clone() for name, value in module.state_dict().items()})
        assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


class TestCheckpoints:
    def test_a_checkpoint_loads_without_pickle_and_shrinks(self, tmp_path: Path) -> None:
        module = model()
        run = trainer(tmp_path)
        run.fit(module, segments())
        run.save_checkpoint(tmp_path / "model.ckpt")
        loaded = load_model(tmp_path / "model.ckpt")
        tokens = text()[:6]
        torch.testing.assert_close(loaded(tokens)[0], module.eval()(tokens)[0], atol=0, rtol=0)
        torch.testing.assert_close(shrink(loaded)(tokens)[0], module(tokens)[0], atol=1e-5, rtol=0)

    def test_load_model_knows_the_class(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        module = L0GatedGRU(WORDS, 8, objective=Penalty(0.5))
        run = trainer(tmp_path, max_epochs=1)
        run.fit(module, segments())
        run.save_checkpoint(tmp_path / "gru.ckpt")
        assert type(load_model(tmp_path / "gru.ckpt")) is L0GatedGRU

    def test_another_configuration_is_refused(self, tmp_path: Path) -> None:
        run = trainer(tmp_path, max_epochs=1)
        run.fit(model(), segments())
        run.save_checkpoint(tmp_path / "model.ckpt")
        other = L0GatedLSTM(WORDS, 12, objective=Budget(density=0.4))
        before = {name: value.clone() for name, value in other.state_dict().items()}
        with pytest.raises(ValueError, match=r"another configuration: .* has shape .* instead of .*same arguments"):
            trainer(tmp_path).fit(other, segments(), ckpt_path=str(tmp_path / "model.ckpt"), weights_only=True)
        assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())

    def test_files_that_are_no_checkpoints(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="does not exist; `l0rnn fit` writes one"):
            load_model(tmp_path / "none.ckpt")
        torch.save({"a": 1}, tmp_path / "other.ckpt")
        with pytest.raises(ValueError, match="is not a checkpoint of L0GatedLSTM or L0GatedGRU"):
            load_model(tmp_path / "other.ckpt")


class TestTrainerOptions:
    def test_accumulation_counts_optimizer_steps(self, tmp_path: Path) -> None:
        module = model()
        trainer(tmp_path, max_epochs=2, accumulate_grad_batches=3).fit(module, segments())
        assert int(module.method.steps) == int(module.method.total_steps) == 8

    def test_bf16_autocast_trains_and_shrinks(self, tmp_path: Path) -> None:
        skip_without_bfloat16()
        module = model()
        trainer(tmp_path, precision="bf16-mixed").fit(module, segments())
        assert all(torch.isfinite(value).all() for value in module.state_dict().values() if value.is_floating_point())
        assert sum(p.numel() for p in shrink(module).parameters()) < sum(p.numel() for p in module.network.parameters())

    def test_training_without_an_end_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="`max_epochs` or `max_steps` of the Trainer must be set"):
            trainer(tmp_path, max_epochs=-1).fit(model(), segments())


class TestBadRuns:
    def test_a_nan_loss_stops_and_keeps_the_weights(self, tmp_path: Path) -> None:
        module = model()
        step = 0

        def loss(network: nn.Module, batch: Any, state: Any) -> tuple[Tensor, Any]:
            nonlocal step
            step += 1
            logits, state = network(batch[0], state)
            value = logits.square().mean()
            return value * float("nan") if step == 4 else value, state

        module.loss = loss
        with pytest.raises(FloatingPointError, match=r"the loss became nan at step 3 \(epoch 0, batch 3\)"):
            trainer(tmp_path).fit(module, segments())
        assert all(torch.isfinite(value).all() for value in module.state_dict().values() if value.is_floating_point())

    def test_token_ids_outside_the_vocabulary(self, tmp_path: Path) -> None:
        tokens = text()
        tokens[7, 2] = WORDS
        with pytest.raises(ValueError, match=rf"token ids must be in \[0, {WORDS}\), the vocabulary, got {WORDS}"):
            trainer(tmp_path).fit(model(), SegmentLoader(tokens, steps=5))

    def test_shrinking_before_training(self) -> None:
        with pytest.raises(RuntimeError, match="has not been trained.*fit"):
            shrink(model())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"method": Dense()}, "`objective` belongs to the default method"),
            ({"optimizer": "lion"}, "`optimizer` must be 'sgd' or 'adam', got 'lion'"),
            ({"learning_rate": 0.0}, "`learning_rate` must be > 0, got 0.0"),
            ({"decay": -1.0}, "`decay` must be > 0, got -1.0"),
            ({"num_layers": 0}, "`num_layers` must be > 0, got 0"),
            ({"embedding_size": -3}, "`embedding_size` must be > 0, got -3"),
            ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\), got 1.0"),
            ({"tied": True, "embedding_size": 8}, "`tied` needs `embedding_size` equal to `hidden_size`, got 8 and 16"),
            ({"objective": {"class": "Lottery"}}, "`class` of `objective` must be one of"),
            ({"objective": Budget(density=0.001)}, "one unit per layer already costs"),
        ],
    )
    def test_arguments(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            model(**options)


class TestScaleDropout:
    def test_rates_follow_the_density(self, tmp_path: Path) -> None:
        module = model(dropout=0.5)
        callback = ScaleDropout(0.1)
        trainer(tmp_path, callbacks=[callback]).fit(module, segments())
        density = module.method.figures()["density"]
        wanted = 0.1 + 0.4 * density
        assert module.network.dropout.p == pytest.approx(wanted)  # type: ignore[union-attr]
        assert module.network.encoder.dropout == pytest.approx(wanted)  # type: ignore[union-attr]

    def test_between_two_looks_at_the_density_nothing_is_counted(self, tmp_path: Path) -> None:
        module = model(dropout=0.5)
        looks = []
        figures = module.method.figures
        module.method.figures = lambda: looks.append(1) or figures()  # type: ignore[method-assign, func-returns-value]
        run = trainer(tmp_path, callbacks=[ScaleDropout(0.1, every=7)], log_every_n_steps=10_000)
        run.fit(module, segments())
        assert len(looks) == -(-run.global_step // 7)

    def test_a_resumed_run_has_the_density_of_the_last_look(self) -> None:
        first, second = ScaleDropout(0.1), ScaleDropout(0.1)
        first._density = 0.3
        second.load_state_dict(first.state_dict())
        assert second._density == 0.3

    def test_arguments_are_checked(self) -> None:
        with pytest.raises(ValueError, match=r"`final` must be in \[0, 1\), got 1.5"):
            ScaleDropout(1.5)
        with pytest.raises(ValueError, match="`every` must be at least 1, got 0"):
            ScaleDropout(0.1, every=0)


class TestCheckpointsOfVersion01:
    """Every layer held the gates of its units."""

    def old(self, module: L0GatedLSTM) -> dict[str, Any]:
        state = {name: value.clone() for name, value in module.state_dict().items()}
        places = {"embedding": "embedding.gates", "encoder.l0": "encoder.gates.l0", "encoder.l1": "encoder.gates.l1"}
        for part in ("log_alpha", "fixed"):
            for axis, value in module.units.by_axis(state.pop(f"network.unit_gates.{part}")).items():
                state[f"network.{places[axis]}.{part}"] = value
        frozen = state.pop("network.unit_gates.frozen")
        state |= {f"network.{place}.frozen": frozen.clone() for place in places.values()}
        settings = dict(module.hparams)
        gone = {"milliseconds": None, "batch": None, "steps": None, "threads": 1, "device": "cpu", "table": None}
        settings["method"]["objective"] = settings["method"]["objective"] | gone
        settings["method"]["units"] = "both"
        added = {"carried": None, "random": {}, "remaining": {}, "model": "L0GatedLSTM"}
        versions = {"pytorch-lightning_version": "2.5.0", "hyper_parameters": settings, "l0rnn": added}
        return {"state_dict": state, "optimizer_states": [{}], "epoch": 1, "global_step": 3, **versions}

    def test_they_load_and_shrink(self, tmp_path: Path) -> None:
        module = model()
        trainer(tmp_path).fit(module, segments())
        torch.save(self.old(module), tmp_path / "old.ckpt")
        loaded, tokens = load_model(tmp_path / "old.ckpt"), text()[:6]
        torch.testing.assert_close(loaded(tokens)[0], module.eval()(tokens)[0], atol=0, rtol=0)
        assert loaded.method.has_chosen
        assert loaded.method.figures() == module.method.figures()
        torch.testing.assert_close(shrink(loaded)(tokens)[0], module(tokens)[0], atol=1e-5, rtol=0)

    def test_their_trainings_do_not_go_on_and_other_axes_are_refused(self, tmp_path: Path) -> None:
        old = self.old(model())
        torch.save(old, tmp_path / "old.ckpt")
        with pytest.raises(ValueError, match="written by version 0.1 of l0rnn, whose trainings cannot go on here"):
            trainer(tmp_path).fit(model(), segments(), ckpt_path=str(tmp_path / "old.ckpt"), weights_only=True)
        with pytest.raises(ValueError, match="version 0.1 of l0rnn and has gates on encoder.l1, where"):
            model(num_layers=1).on_load_checkpoint(copy.deepcopy(old))
        settings = {"class": "Budget", "density": 0.3, "milliseconds": 2.0, "threads": 1}
        with pytest.raises(ValueError, match="Budget has no argument milliseconds, threads"):
            model(objective=settings)


def test_a_module_is_known_as_prunable_by_what_it_finds_with_getattr() -> None:
    """From Python 3.12 on isinstance of a protocol does not look there, where a module has its submodules."""
    assert is_prunable(model())
    assert not is_prunable(model().network)


class Features(Dataset[Any]):
    """Sequences of features with a class each, in batches of several forms."""

    def __init__(self, form: str = "tuple", count: int = 65) -> None:
        generator = torch.Generator().manual_seed(0)
        self.features = torch.randn(count, 5, 3, generator=generator)
        self.form = form

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> Any:
        features, label = self.features[index], int(self.features[index, :, 0].sum() > 0)
        return {"x": features, "y": label} if self.form == "dict" else (features, label)


class Stream(IterableDataset[Any]):
    """The same, without a length."""

    def __iter__(self) -> Iterator[Any]:
        return (Features()[index] for index in range(64))


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.classifier = nn.GRU(3, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(self.encoder(features)[1][-1])


def class_loss(network: nn.Module, batch: Any) -> Tensor:
    features, labels = batch.values() if isinstance(batch, dict) else batch
    return nn.functional.cross_entropy(network(features), labels)


def classifier(method: Method | None = None, loss: Any = class_loss, **options: Any) -> PrunableModule:
    torch.manual_seed(0)
    options = {"example_inputs": torch.randn(2, 5, 3)} | options
    return PrunableModule(Classifier(), loss, method or L0Gates(Budget(density=0.4)), **options)


class TestExampleInputs:
    @pytest.mark.parametrize("form", ["tensor", "tuple", "dict", "keywords", "list", "packed"])
    def test_lightning_sums_up_the_model_whatever_their_form(self, tmp_path: Path, form: str) -> None:
        class AnyForm(Classifier):
            def forward(self, features: Any = None, *, x: Any = None) -> Tensor:
                features = x if features is None else features
                features = features["a"] if isinstance(features, dict) else features
                return super().forward(features[0] if isinstance(features, list) else features)

        x = torch.randn(4, 5, 3)
        forms: dict[str, Any] = {"tensor": x, "tuple": (x,), "dict": {"a": x}, "keywords": {"x": x}, "list": [x]}
        example = {**forms, "packed": pack_padded_sequence(x, torch.tensor([5, 4, 2, 2]), batch_first=True)}[form]
        module = PrunableModule(
            AnyForm(), lambda net, _: net(x).square().mean(), RandomUnits(0.5), example_inputs=example
        )
        run = trainer(tmp_path, max_epochs=1, enable_model_summary=True)
        run.fit(module, DataLoader(torch.zeros(2), batch_size=1))
        assert str(ModelSummary(module)).splitlines()[2].rstrip().endswith("| [4, 2]")  # the size of what came out
        assert shrink(module)(x).shape == (4, 2)

    def test_a_method_needs_them(self) -> None:
        with pytest.raises(ValueError, match="`example_inputs` must be given: the network is run on them once"):
            classifier(example_inputs=None)

    def test_they_may_be_on_another_device_than_the_network_by_the_time_it_is_shrunk(self, tmp_path: Path) -> None:
        module = classifier()
        trainer(tmp_path, max_epochs=1).fit(module, DataLoader(Features(), batch_size=16))
        module.example_input_array = module.example_input_array.to("meta")
        with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):  # it is moved
            shrink(module)


class TestLossOfTheShrunkenNetwork:
    """A loss that reads weights, as a sampled softmax does, goes round the gates."""

    @pytest.mark.parametrize("carries_state", [False, True])
    def test_it_is_compared_on_the_first_batch(self, tmp_path: Path, *, carries_state: bool) -> None:
        def sampled(network: Any, batch: Any, *state: Any) -> Any:
            states = network.encoder(batch[0])[1][-1]
            loss = (states @ network.classifier.weight[torch.tensor([1, 0])].T).square().mean()
            return (loss, None) if carries_state else loss

        module = classifier(loss=sampled, carries_state=carries_state)
        trainer(tmp_path, max_epochs=3).fit(module, DataLoader(Features(), batch_size=16))
        with pytest.raises(ValueError, match=r"the training loss is .* on the shrunken network and .*; it reads"):
            shrink(module)
        shrink(module, loss=False)
        module.loss = lambda network, batch, *state: (class_loss(network, batch), None)
        shrink(module)

    def test_a_loss_that_fails_on_the_small_network_is_named_and_one_that_cannot_be_had_is_left_out(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        module = classifier()
        trainer(tmp_path, max_epochs=1).fit(module, DataLoader(Features(), batch_size=16))
        with pytest.raises(ValueError, match=r"the training loss fails on the shrunken network, RuntimeError: .*6"):
            shrink(module, loss=lambda network: network.encoder.weight_hh_l0.reshape(18, 6).sum())
        values = iter(range(10))
        for loss in (lambda network: torch.tensor(float(next(values))), lambda network: network.no_such_part):
            shrink(module, loss=loss)
        messages = [record.message for record in caplog.records if "was not compared" in record.message]
        assert [message.partition(": ")[2].split()[0] for message in messages] == ["from", "AttributeError:"]


class TestData:
    def test_data_without_a_length_need_a_number_of_steps(self, tmp_path: Path) -> None:
        loader = DataLoader(Stream(), batch_size=16)
        with pytest.raises(ValueError, match="for data without a length `max_steps`, or `limit_train_batches`"):
            trainer(tmp_path).fit(classifier(), loader)
        for options in ({"max_steps": 8, "max_epochs": -1}, {"limit_train_batches": 4, "max_epochs": 2}):
            module = classifier()
            trainer(tmp_path, **options).fit(module, loader)
            assert module.method.has_chosen

    def test_batches_in_dicts_count_by_their_size(self, tmp_path: Path) -> None:
        module, data = classifier(Dense(), example_inputs=None), Features("dict")
        run = trainer(tmp_path, max_epochs=1)
        run.fit(module, DataLoader(data, batch_size=64), DataLoader(data, batch_size=64))
        labels = torch.tensor([data[index]["y"] for index in range(len(data))])
        expected = class_loss(module.network.eval(), (data.features, labels))
        assert run.callback_metrics["valid/loss"] == pytest.approx(expected.item(), rel=1e-5)
        with pytest.raises(ValueError, match="`example_inputs` must be given"):
            shrink(module)

    def test_a_batch_that_is_a_tensor_is_the_input(self, tmp_path: Path) -> None:
        module = classifier(Dense(), lambda network, batch: network(batch).square().mean(), example_inputs=None)
        trainer(tmp_path, max_epochs=1).fit(module, DataLoader(torch.randn(64, 5, 3), batch_size=16))
        assert module.example_input_array.shape == (16, 5, 3)
        assert shrink(module)(torch.randn(2, 5, 3)).shape == (2, 2)

    def test_a_loss_with_weights_is_refused(self) -> None:
        class Weighted(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.scale = nn.Parameter(torch.ones(1))

        with pytest.raises(ValueError, match="`loss` must have no weights to train, .* got a Weighted"):
            classifier(loss=Weighted())

    def test_nothing_is_logged_if_so_asked(self, tmp_path: Path) -> None:
        module = classifier()
        trainer(tmp_path, max_epochs=1, log_every_n_steps=0).fit(module, DataLoader(Features(), batch_size=16))
        assert int(module.method.steps) == 5

    def test_a_schedule_of_one_cycle(self, tmp_path: Path) -> None:
        module = classifier()
        module.make_scheduler = lambda joint: OneCycleLR(joint, 0.1, total_steps=10)
        trainer(tmp_path, max_epochs=1).fit(module, DataLoader(Features(), batch_size=16))
        assert int(module.method.steps) == 5


@pytest.mark.parametrize(
    ("method", "callback"),
    [
        (GradualMagnitude(0.3), EMAWeightAveraging(decay=0.9)),
        (GradualMagnitude(0.3), StochasticWeightAveraging(swa_lrs=0.1)),
    ],
    ids=["EMA", "SWA"],
)
def test_averages_that_undo_pruning_are_refused(tmp_path: Path, method: Method, callback: Callback) -> None:
    module = classifier(method)
    with pytest.raises(ValueError, match=r"cannot be combined with .*use `l0rnn.training.AverageLate`"):
        trainer(tmp_path, callbacks=[callback]).fit(module, DataLoader(Features(), batch_size=16))
    assert int(module.method.steps) == 0


def test_a_new_training_from_a_checkpoint_has_its_own_random_numbers_and_state(tmp_path: Path) -> None:
    trainer(tmp_path, max_steps=5, max_epochs=-1).fit(saved := model(), segments())
    write_checkpoint(saved, tmp_path / "middle.ckpt")
    assert torch.load(tmp_path / "middle.ckpt", weights_only=True)["l0rnn"]["carried"] is not None
    ends = []
    for seed in (11, 12):
        again = L0GatedLSTM.load_from_checkpoint(tmp_path / "middle.ckpt", weights_only=True)
        torch.manual_seed(seed)
        trainer(tmp_path, max_epochs=1).fit(again, SegmentLoader(text(columns=3), steps=5))  # another batch size
        ends.append(again.network.decoder.weight.detach())
    assert not torch.equal(*ends)
