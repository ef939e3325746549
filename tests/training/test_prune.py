"""`Prune` on somebody's LightningModule: every way in which Lightning trains one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.tuner.tuning import Tuner
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from l0rnn import Budget, L0Gates, Penalty, PrunableModule, Prune
from l0rnn.methods import GradualMagnitude, GroupLasso, StructuredMagnitude
from l0rnn.training import RemoveClosedUnits

pytestmark = pytest.mark.filterwarnings(
    "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning",
    "ignore:Be aware that when using `ckpt_path`",
    "ignore:Using ModelCheckpoint with manual optimization",
)

EPOCHS, BATCHES = 6, 8


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.GRU(3, 16, batch_first=True), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x)[1][-1])


class Somebody(LightningModule):
    """A module that knows nothing of pruning."""

    def __init__(self, batch_size: int = 16, learning_rate: float = 0.01) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.batch_size, self.learning_rate = batch_size, learning_rate
        self.net = Net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.loss(batch), add_dataloader_idx=dataloader_idx > 0)

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0])

    def train_dataloader(self) -> DataLoader:
        return DataLoader(dataset(), batch_size=self.batch_size)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


def dataset() -> TensorDataset:
    x = torch.randn(16 * BATCHES, 5, 3, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, (x[..., 0].sum(1) > 0).long())


def data() -> DataLoader:
    return DataLoader(dataset(), batch_size=16)


class Resumable(DataLoader):
    """Finds its place in the middle of an epoch, as torchdata's StatefulDataLoader does."""

    def __init__(self) -> None:
        super().__init__(dataset(), batch_size=16)
        self.given = 0

    def __iter__(self) -> Any:
        batches = list(super().__iter__())
        self.given %= BATCHES
        for batch in batches[self.given :]:
            self.given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.given = state["given"]


def gates(density: float = 0.4, **options: Any) -> L0Gates:
    return L0Gates(Budget(density=density, start=0.0, ramp=0.3), **options)


def trainer(*callbacks: Callback, **options: Any) -> Trainer:
    settings: dict[str, Any] = {
        "max_epochs": EPOCHS,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        "accelerator": "cpu",
    }
    return Trainer(callbacks=list(callbacks), **{**settings, **options})


def check(prune: Prune, module: LightningModule, density: float = 0.4) -> Any:
    """The budget is met, and a smaller copy of the network gives the same."""
    figures = prune.pruner.figures()  # type: ignore[union-attr]
    assert density - 0.15 < figures["density"] <= density
    small: Any = prune.shrink()
    x = dataset().tensors[0][:4]
    with torch.no_grad():
        expected = prune.pruner.network.eval()(x)  # type: ignore[union-attr]
        torch.testing.assert_close(small.eval()(x), expected, atol=1e-5, rtol=0)
    return small


class TestAutomaticOptimisation:
    @pytest.mark.parametrize("network", [None, "net"])
    def test_one_callback_is_enough(self, network: str | None, caplog: pytest.LogCaptureFixture) -> None:
        prune, module = Prune(gates(), network=network), Somebody()
        trainer(prune).fit(module, data())
        small = check(prune, module)
        assert type(small) is (Somebody if network is None else Net)
        whole: Any = getattr(small, "net", small)
        assert whole.encoder.hidden_size < 16
        assert "was not compared" not in caplog.text
        assert prune.has_chosen

    def test_the_users_optimiser_never_sees_the_gates(self) -> None:
        seen: list[Any] = []

        class Watch(Callback):
            def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
                seen.append([len(group["params"]) for group in optimizer.param_groups])

        class Groups(Somebody):
            def configure_optimizers(self) -> Any:
                slow = [weight for name, weight in self.named_parameters() if "encoder" in name]
                fast = [weight for name, weight in self.named_parameters() if "encoder" not in name]
                optimizer = torch.optim.SGD([{"params": slow}, {"params": fast, "lr": 0.1}], lr=0.01)
                return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]

        prune, module = Prune(gates(), network="net"), Groups()
        training = trainer(prune, Watch(), gradient_clip_val=0.1)
        training.fit(module, data())
        assert seen == [[4, 2]] * (EPOCHS * BATCHES)
        assert [group["lr"] for group in training.optimizers[0].param_groups] == [0.01 / 2**EPOCHS, 0.1 / 2**EPOCHS]
        check(prune, module)

    @pytest.mark.parametrize("options", [{"accumulate_grad_batches": 3}, {"gradient_clip_val": 0.05}])
    def test_steps_are_the_optimisers(self, options: dict[str, Any]) -> None:
        prune, module = Prune(gates(), network="net"), Somebody()
        trainer(prune, max_epochs=12, **options).fit(module, data())
        check(prune, module)
        expected = 12 * (3 if "accumulate_grad_batches" in options else BATCHES)
        assert int(prune.method.steps) == expected == int(prune.method.total_steps)

    @pytest.mark.parametrize(
        ("method", "options"),
        [
            (lambda: StructuredMagnitude(0.4), {}),
            (lambda: GroupLasso(0.02, density=0.4), {"gradient_clip_val": 1.0}),
            (lambda: GroupLasso(0.02, density=0.4), {"accumulate_grad_batches": 2}),
            (lambda: GradualMagnitude(0.4), {}),
        ],
    )
    def test_other_methods(self, method: Any, options: dict[str, Any]) -> None:
        prune, module = Prune(method(), network="net"), Somebody()
        trainer(prune, **options).fit(module, data())
        assert prune.has_chosen
        assert prune.pruner.figures()["density"] <= 0.45  # type: ignore[union-attr]
        prune.shrink()

    def test_a_lasso_pulls_as_in_the_loss(self) -> None:
        """The penalty's gradients reach the weights once per step, also where batches are accumulated."""

        def trained(module: LightningModule, *callbacks: Callback) -> Tensor:
            trainer(*callbacks, max_epochs=1, accumulate_grad_batches=2).fit(module, data())
            weights: Any = module.net if isinstance(module, Somebody) else module.network
            return weights.encoder.weight_hh_l0.detach()

        network = Somebody().net
        own = PrunableModule(
            network,
            lambda net, batch: nn.functional.cross_entropy(net(batch[0]), batch[1]),
            GroupLasso(0.1),
            optimizer=lambda weights: torch.optim.Adam(weights, lr=0.01),
            example_inputs=dataset().tensors[0][:2],
        )
        torch.testing.assert_close(trained(own), trained(Somebody(), Prune(GroupLasso(0.1), network="net")))


class ByHand(Somebody):
    """Steps two optimisers by itself: that of the encoder in every batch, that of the decoder in every second one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        parts = (self.net.encoder, self.net.decoder)
        return [torch.optim.Adam(part.parameters(), lr=self.learning_rate) for part in parts]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        encoder, decoder = cast("Any", self.optimizers())
        self.manual_backward(self.loss(batch))
        self.clip_gradients(encoder, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
        encoder.step()
        encoder.zero_grad()
        if batch_idx % 2:
            decoder.step()
            decoder.zero_grad()


class Adversaries(Somebody):
    """Two losses in each batch, one after the other, as of a generator and a critic; only one network is pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.critic = nn.Linear(2, 1)

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(part.parameters(), lr=0.01) for part in (self.net, self.critic)]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        net, critic = cast("Any", self.optimizers())
        self.toggle_optimizer(net)
        scores = self.net(batch[0])
        self.manual_backward(nn.functional.cross_entropy(scores, batch[1]) - 0.01 * self.critic(scores).mean())
        net.step()
        net.zero_grad()
        self.untoggle_optimizer(net)
        self.toggle_optimizer(critic)
        self.manual_backward(self.critic(scores.detach()).square().mean())
        critic.step()
        critic.zero_grad()
        self.untoggle_optimizer(critic)


def values(prune: Prune, module: LightningModule) -> dict[str, Tensor]:
    """Weights, gates, price and schedule."""
    state = {**module.state_dict(), **{f"method.{name}": value for name, value in prune.method.state_dict().items()}}
    return {name: value.clone() for name, value in state.items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    torch.testing.assert_close(one, other, atol=0, rtol=0)


class TestManualOptimisation:
    @pytest.mark.parametrize("kind", [ByHand, Adversaries])
    def test_several_optimisers(self, kind: Any) -> None:
        prune, module = Prune(gates(), network="net"), kind()
        trainer(prune).fit(module, data())
        check(prune, module)
        assert int(prune.method.steps) == EPOCHS * BATCHES == int(prune.method.total_steps)

    def test_two_losses_of_a_part_before_one_step(self) -> None:
        """The module is pruned and its `forward` never called: each pass has gates of its own all the same."""

        class Twice(ByHand):
            def training_step(self, batch: Any, batch_idx: int) -> None:
                self.manual_backward(self.loss(batch))
                super().training_step(batch, batch_idx)

        prune, module = Prune(gates()), Twice()
        trainer(prune).fit(module, data())
        check(prune, module)

    def test_a_step_of_another_network_is_none_of_the_gates(self) -> None:
        class Seldom(Adversaries):
            def training_step(self, batch: Any, batch_idx: int) -> None:
                net, critic = cast("Any", self.optimizers())
                scores = self.net(batch[0])
                self.manual_backward(nn.functional.cross_entropy(scores, batch[1]) + self.critic(scores).mean())
                for optimizer in (critic, net) if batch_idx % 2 == 0 else (critic,):
                    optimizer.step()
                    optimizer.zero_grad()

        prune = Prune(gates(), network="net")
        trainer(prune, max_epochs=1).fit(Seldom(), data())
        assert int(prune.method.steps) == 7  # and not 8, in which the critic alone stepped

    def test_the_price_reaches_the_gates_once_however_many_optimisers_step(self) -> None:
        seen: list[float] = []

        class Watch(Callback):
            def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
                gradients = [gate.grad for gate in prune.method.gate_parameters() if gate.grad is not None]
                seen.extend(float(gradient.abs().sum()) for gradient in gradients)

        class WithoutLoss(ByHand):
            def loss(self, batch: Any) -> Tensor:
                return super().loss(batch) * 0

        prune = Prune(L0Gates(Penalty(1.0, ramp=0.0), freeze=0.9), network="net", gate_learning_rate=1e-5)
        trainer(Watch(), prune, max_epochs=1).fit(WithoutLoss(), data())
        # one optimiser steps in the third batch, and two in the fourth; the gates hardly move
        assert seen[3] == pytest.approx(seen[2], rel=0.05) != 0

    def test_a_pull_on_weights_comes_once_per_optimiser(self) -> None:
        """Each optimiser has the penalty's gradients of its own weights, and of no others."""
        seen: dict[int, set[str]] = {}

        class Watch(Callback):
            def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
                names = {n for n, w in pl_module.net.named_parameters() if w.grad is not None and bool(w.grad.any())}
                seen.setdefault(len(optimizer.param_groups[0]["params"]), set()).update(names)

        class WithoutLoss(ByHand):
            def loss(self, batch: Any) -> Tensor:
                return super().loss(batch) * 0

        prune = Prune(GroupLasso(0.1), network="net")
        trainer(prune, Watch(), max_epochs=1).fit(WithoutLoss(), data())
        assert seen[4] >= {"encoder.weight_hh_l0", "encoder.weight_ih_l0"}
        assert "decoder.weight" in seen[2]

    def test_steps_that_lightning_does_not_see(self) -> None:
        class Hidden(ByHand):
            def training_step(self, batch: Any, batch_idx: int) -> None:
                self.loss(batch).backward()
                for optimizer in self.trainer.optimizers:
                    optimizer.step()

        with pytest.raises(RuntimeError, match=r"call the `step` of what `self\.optimizers\(\)` returns"):
            trainer(Prune(gates(), network="net")).fit(Hidden(), data())


class TestResume:
    @pytest.mark.parametrize("kind", [Somebody, ByHand])
    @pytest.mark.parametrize("batches", [8, 12, 28])  # the end of an epoch, the middle of one, after the choice
    def test_bit_for_bit(self, kind: Any, batches: int, tmp_path: Path) -> None:
        def run(*callbacks: Callback, **options: Any) -> dict[str, Tensor]:
            prune, module = Prune(gates(noise=True), network="net"), kind()
            if not options:  # a training that goes on has the random numbers of its checkpoint
                torch.manual_seed(3)
            trainer(prune, *callbacks, max_epochs=4).fit(module, Resumable(), **options)
            return values(prune, module)

        whole = run(ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1))
        path = next(path for path in tmp_path.glob("*.ckpt") if batches_of(path) == batches)
        assert_same(run(ckpt_path=path), whole)

    def test_a_checkpoint_is_plain_data(self, tmp_path: Path) -> None:
        training = trainer(Prune(gates(), network="net"), max_epochs=1)
        training.fit(Somebody(), data())
        training.save_checkpoint(tmp_path / "a.ckpt")
        assert "state_dict" in torch.load(tmp_path / "a.ckpt", weights_only=True)

    @pytest.mark.parametrize("what", ["test", "validate"])
    @pytest.mark.parametrize("epochs", [2, EPOCHS])  # before the choice, after it
    def test_a_checkpoint_is_evaluated_with_its_gates(self, what: str, epochs: int, tmp_path: Path) -> None:
        prune, module = Prune(gates(), network="net"), Somebody()
        training = trainer(prune, max_epochs=epochs)
        training.fit(module, data())
        training.save_checkpoint(tmp_path / "a.ckpt")
        expected = getattr(training, what)(module, data(), verbose=False)
        later, fresh = Prune(gates(), dataset().tensors[0][:2], network="net"), Somebody()
        evaluate = getattr(trainer(later), what)
        assert evaluate(fresh, data(), ckpt_path=tmp_path / "a.ckpt", verbose=False) == expected

    def test_without_gates_there_is_nothing_to_do(self) -> None:
        prune = Prune(gates(), network="net")
        trainer(prune).test(Somebody(), data(), verbose=False)
        assert prune.pruner is None
        with pytest.raises(RuntimeError, match=r"run Trainer\.fit with it first"):
            prune.shrink()


def batches_of(checkpoint: Path) -> int:
    """Batches of the training so far."""
    callbacks = torch.load(checkpoint, weights_only=True)["callbacks"]
    return next(state["batches"] for name, state in callbacks.items() if name.startswith("Prune"))


class TestTrainingAgain:
    def test_a_second_training_chooses_afresh(self, caplog: pytest.LogCaptureFixture) -> None:
        chosen: list[bool] = []

        class Watch(Callback):
            def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
                chosen.append(prune.has_chosen)

        prune, module = Prune(gates()), Somebody()
        trainer(prune).fit(module, data())
        first = check(prune, module)
        trainer(prune, Watch(), max_epochs=1).fit(module, data())
        assert not chosen[0]
        assert chosen[-1]
        assert "was trained before, for 48 steps" in caplog.text
        assert int(prune.method.steps) == BATCHES == int(prune.method.total_steps)
        trainer(prune, max_epochs=8).fit(module, data())
        check(prune, module)
        assert int(prune.method.steps) == 8 * BATCHES
        trainer().fit(first, data())  # what is left is a network as any other

    def test_another_module_is_refused(self) -> None:
        prune = Prune(gates(), network="net")
        trainer(prune, max_epochs=1).fit(Somebody(), data())
        with pytest.raises(ValueError, match="prunes another Somebody already; make a new one, with a new method"):
            trainer(prune, max_epochs=1).fit(Somebody(), data())

    def test_another_callback_on_the_same_module_is_refused(self) -> None:
        module = Somebody()
        trainer(Prune(gates(), network="net"), max_epochs=1).fit(module, data())
        with pytest.raises(ValueError, match="must not have gates yet"):
            trainer(Prune(gates(), network="net"), max_epochs=1).fit(module, data())


class TestTooShort:
    def test_early_stopping(self, caplog: pytest.LogCaptureFixture) -> None:
        class Worse(Somebody):
            def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
                self.log("val_loss", float(self.current_epoch))

        prune = Prune(gates(), network="net")
        stop = EarlyStopping("val_loss", patience=1)
        trainer(prune, stop, num_sanity_val_steps=0).fit(Worse(), data(), data())
        assert not prune.has_chosen
        assert "ended after step 16 of 48, before L0Gates had chosen what to keep" in caplog.text
        assert "EarlyStopping, `max_time`" in caplog.text
        prune.shrink()  # what is closed so far

    def test_max_time(self, caplog: pytest.LogCaptureFixture) -> None:
        prune = Prune(gates(), network="net")
        trainer(prune, max_time={"milliseconds": 100}, max_epochs=1000).fit(Somebody(), data())
        assert "of 8000, before L0Gates had chosen what to keep" in caplog.text

    def test_a_whole_training_says_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        trainer(Prune(gates(), network="net")).fit(Somebody(), data())
        assert "had chosen" not in caplog.text


class TestRefused:
    """Before anything is trained; the error names the argument and the way out."""

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"method": "l0"}, "`method` must be Method, got"),
            ({"method": L0Gates}, "`method` must be Method, got"),
            ({"gate_learning_rate": 0.0}, "`gate_learning_rate` must be > 0, got 0.0"),
        ],
    )
    def test_arguments(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises((TypeError, ValueError), match=message):
            Prune(**{"method": gates(), **options})

    def refused(self, prune: Prune, module: LightningModule, message: str, *, loader: Any = None) -> None:
        with pytest.raises(ValueError, match=message):
            trainer(prune).fit(module, data() if loader is None else loader)
        assert prune.pruner is None
        assert not any("log_alpha" in name for name in module.state_dict())

    def test_no_such_part(self) -> None:
        self.refused(
            Prune(gates(), network="nett"), Somebody(), "`network` must be the name of a part of Somebody.*nett"
        )

    def test_no_forward(self) -> None:
        class Without(LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.net, self.loss = Net(), nn.CrossEntropyLoss()

            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                return self.loss(self.net(batch[0]), batch[1])

            def configure_optimizers(self) -> Any:
                return torch.optim.Adam(self.parameters())

        self.refused(Prune(gates()), Without(), "`network` must name what to prune.*no `forward`.*'net'")

    def test_no_weights_yet(self) -> None:
        class Late(Somebody):
            def __init__(self) -> None:
                super().__init__()
                self.net = nn.Sequential()  # type: ignore[assignment]

        self.refused(Prune(gates(), network="net"), Late(), "has no weights yet.*build it in __init__")

    def test_no_units(self) -> None:
        class Plain(Somebody):
            def __init__(self) -> None:
                super().__init__()
                self.net = nn.Sequential(nn.Flatten(), nn.Linear(15, 2))  # type: ignore[assignment]

        self.refused(Prune(gates(), network="net"), Plain(), "nothing to prune|no unit")

    def test_no_example_inputs(self) -> None:
        class Stream(torch.utils.data.IterableDataset):
            def __iter__(self) -> Any:
                return iter(dataset())

        loader = DataLoader(Stream(), batch_size=16)
        self.refused(Prune(gates(), network="net"), Somebody(), "`example_inputs` must be given.*stream", loader=loader)

    def test_example_inputs_that_do_not_fit(self) -> None:
        self.refused(Prune(gates(), torch.randn(2, 5, 7), network="net"), Somebody(), "example_inputs|input")

    def test_another_optimiser_has_the_gates(self) -> None:
        prune = Prune(gates(), network="net")

        class Thief(Somebody):
            def configure_optimizers(self) -> Any:
                return torch.optim.Adam([*self.parameters(), *prune.method.gate_parameters()])

        with pytest.raises(ValueError, match="Adam has the gates among its parameters"):
            trainer(prune).fit(Thief(), data())

    def test_a_network_that_the_loss_does_not_use(self) -> None:
        class Two(Somebody):
            def __init__(self) -> None:
                super().__init__()
                self.other = Net()

            def loss(self, batch: Any) -> Tensor:
                return nn.functional.cross_entropy(self.other(batch[0]), batch[1])

        prune = Prune(gates(), dataset().tensors[0][:2], network="net")
        with pytest.raises(
            RuntimeError, match="is not the one that the loss is computed with|no optimiser has stepped"
        ):
            trainer(prune, max_epochs=30).fit(Two(), data())

    @pytest.mark.parametrize("is_first", [True, False])
    def test_removal_while_it_trains(self, is_first: bool) -> None:
        both = [Prune(gates(), network="net"), RemoveClosedUnits()]
        with pytest.raises(ValueError, match=r"needs a PrunableModule.*until `Prune\.shrink` takes them out"):
            trainer(*(both if is_first else both[::-1])).fit(Somebody(), data())

    def test_a_training_without_an_end(self) -> None:
        with pytest.raises(ValueError, match="`max_epochs` or `max_steps` of the Trainer must be set"):
            trainer(Prune(gates(), network="net"), max_epochs=-1).fit(Somebody(), data())


class TestToolsOfLightning:
    def test_fast_dev_run(self, caplog: pytest.LogCaptureFixture) -> None:
        prune = Prune(gates(), network="net")
        trainer(prune, fast_dev_run=True).fit(Somebody(), data(), data())
        assert int(prune.method.total_steps) == 1
        prune.shrink()

    @pytest.mark.parametrize("as_callback", [True, False])
    def test_learning_rate_finder(self, as_callback: bool, tmp_path: Path) -> None:
        prune, module = Prune(gates(), network="net"), Somebody()
        find = {"min_lr": 1e-5, "max_lr": 1e-2}
        callbacks = [LearningRateFinder(num_training_steps=20, **find)] if as_callback else []  # type: ignore[arg-type]
        training = trainer(prune, *callbacks, default_root_dir=tmp_path)
        if not as_callback:
            Tuner(training).lr_find(module, data(), num_training=20, **find)  # type: ignore[arg-type]
        training.fit(module, data())
        assert module.learning_rate != 0.01
        assert int(prune.method.steps) == EPOCHS * BATCHES == int(prune.method.total_steps)
        check(prune, module)

    def test_batch_size_finder(self, tmp_path: Path) -> None:
        class Loaders(Somebody):
            val_dataloader = Somebody.train_dataloader

        prune, module = Prune(gates(), network="net"), Loaders(batch_size=4)
        training = trainer(prune, default_root_dir=tmp_path)
        Tuner(training).scale_batch_size(module, init_val=8, max_trials=2, steps_per_trial=1)
        assert module.batch_size == 16
        training.fit(module)
        assert int(prune.method.steps) == EPOCHS * BATCHES == int(prune.method.total_steps)
        check(prune, module)

    def test_predict(self) -> None:
        prune, module = Prune(gates(), network="net"), Somebody()
        training = trainer(prune)
        training.fit(module, data())
        small = prune.shrink().eval()
        found = torch.cat(training.predict(module, data()))  # type: ignore[arg-type]
        torch.testing.assert_close(found, small(dataset().tensors[0]), atol=1e-5, rtol=0)

    def test_several_validation_loaders(self) -> None:
        prune, module = Prune(gates(), network="net"), Somebody()
        training = trainer(prune)
        training.fit(module, data(), [data(), data()])
        figures = training.callback_metrics
        assert figures["val_loss"] == figures["val_loss/dataloader_idx_1"]  # gates are not random then
        check(prune, module)

    # what torch's compiler does to look at gates that were drawn, and at a function with a gradient of its own
    @pytest.mark.filterwarnings(
        "ignore:The .grad attribute of a Tensor that is not a leaf", "ignore:.*Function.* should not be instantiated"
    )
    def test_compiled(self) -> None:
        class Compiled(Somebody):
            def __init__(self) -> None:
                super().__init__()
                self.net = torch.compile(self.net, backend="eager")  # type: ignore[assignment]

        runs = []
        for kind in (Compiled, Somebody):
            prune, module = Prune(gates(), network="net"), kind()
            torch.manual_seed(3)
            trainer(prune, max_epochs=2, limit_train_batches=4).fit(module, data())
            check(prune, module)
            assert type(prune.shrink()) is Net
            runs.append({name.replace("_orig_mod.", ""): value for name, value in values(prune, module).items()})
        assert_same(*runs)

    def test_averages_of_weights(self, tmp_path: Path) -> None:
        """A checkpoint holds averaged weights with the gates as they are, and a training goes on from it."""

        def run(*callbacks: Callback, **options: Any) -> tuple[Prune, Somebody]:
            prune, module = Prune(gates(), dataset().tensors[0][:2], network="net"), Somebody()
            torch.manual_seed(3)
            trainer(prune, EMAWeightAveraging(decay=0.9), *callbacks).fit(module, data(), **options)
            check(prune, module)
            return prune, module

        prune, module = run(ModelCheckpoint(tmp_path, save_top_k=-1))
        paths = {batches_of(path): path for path in tmp_path.glob("*.ckpt")}
        assert_same(values(*run(ckpt_path=paths[2 * BATCHES])), values(prune, module))
        later, fresh = Prune(gates(), dataset().tensors[0][:2], network="net"), Somebody()
        last = paths[EPOCHS * BATCHES]
        found = trainer(later).test(fresh, data(), ckpt_path=last, verbose=False)
        assert found == trainer().test(module, data(), verbose=False)

    def test_stochastic_weight_averaging(self) -> None:
        prune, module = Prune(gates(), network="net"), Somebody()
        trainer(prune, StochasticWeightAveraging(0.01, swa_epoch_start=4)).fit(module, data(), data())
        check(prune, module)

    @pytest.mark.parametrize("average", [EMAWeightAveraging(), StochasticWeightAveraging(0.01)])
    def test_averages_that_bring_back_what_was_removed(self, average: Callback) -> None:
        with pytest.raises(ValueError, match="cannot be combined with GradualMagnitude"):
            trainer(Prune(GradualMagnitude(0.4), network="net"), average).fit(Somebody(), data())
