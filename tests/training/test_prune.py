"""`Prune` on somebody's LightningModule: every way in which Lightning trains one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    ModelCheckpoint,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from l0rnn import Budget, L0Gates, PrunableModule, Prune
from l0rnn.methods import GradualMagnitude, GroupLasso, StructuredMagnitude

pytestmark = pytest.mark.filterwarnings(
    "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning", "ignore:Be aware that when using `ckpt_path`"
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
        self.save_hyperparameters()
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


def gates(density: float = 0.4) -> L0Gates:
    return L0Gates(Budget(density=density, start=0.0, ramp=0.3))


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
        encoder = small.net.encoder if network is None else small.encoder
        assert encoder.hidden_size < 16
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
