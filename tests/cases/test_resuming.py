"""Going on from a checkpoint: the order of the batches, the device of the state, states of a class of one's own."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from l0rnn import Budget, L0GatedGRU, L0GatedLSTM, L0Gates, PrunableModule
from l0rnn.methods import GradualMagnitude
from l0rnn.training.batches import detached
from l0rnn.training.resuming import state_to_save
from tests.cases.situations import make, segments, trainer

pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`", "ignore:The dirpath has changed")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0])


X = torch.randn(20, 5, 4, generator=torch.Generator().manual_seed(1))


def fit(loader: dict[str, Any], method: Any, path: Any = None, **options: Any) -> tuple[dict[str, Any], list[Any]]:
    torch.manual_seed(0)
    order: list = []

    def loss(net: Any, batch: Any) -> Any:
        if net.training:
            order.extend(batch[1].tolist())
        return net.head(net.rnn(batch[0])[0]).square().mean()

    module = PrunableModule(
        Net(),
        loss,
        method(),
        optimizer=lambda p: torch.optim.Adam(p, lr=0.01),
        example_inputs=X[:2],
    )
    data = DataLoader(TensorDataset(X, torch.arange(20)), batch_size=5, **loader)
    options = {"max_epochs": 3} | options
    trainer(**options).fit(module, data, *([data] if options.pop("validates", False) else []), ckpt_path=path)
    return module.state_dict(), order


@pytest.mark.parametrize("method", [lambda: L0Gates(Budget(density=0.5)), lambda: GradualMagnitude(density=0.5)])
@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("loader", [{"generator": torch.Generator()}, {}, {"shuffle": True}])
def test_from_the_end_of_an_epoch_as_in_one_go(loader: Any, epoch: int, method: Any, tmp_path: Any) -> None:
    keep = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
    whole, order = fit(loader, method, callbacks=[keep], enable_checkpointing=True)
    resumed, rest = fit(loader, method, tmp_path / f"epoch={epoch}.ckpt")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole), (
        "bit for bit, at the end of an epoch at least"
    )
    assert order[20 * (epoch + 1) :] == rest


class TestDevice:
    @pytest.mark.parametrize("kind", [L0GatedLSTM, L0GatedGRU])
    def test_the_carried_state_follows_the_module(self, kind: Any, tmp_path: Any) -> None:
        """The meta device stands for a GPU; Lightning loads checkpoints on the CPU."""
        tokens = torch.randint(20, (8, 6, 3))
        keep = ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1, filename="{step}")
        training = trainer(max_epochs=1, callbacks=[keep], enable_checkpointing=True)
        training.fit(kind(20, 8, 1, dropout=0.0), DataLoader(TensorDataset(tokens, tokens), batch_size=None))
        model = kind(20, 8, 1, dropout=0.0).to("meta")  # before the checkpoint is restored, as Lightning does
        model.trainer, training.state.fn = training, "fit"
        model.on_load_checkpoint(training.strategy.load_checkpoint(tmp_path / "step=4.ckpt", weights_only=True))
        batch = (tokens[4].to("meta"), tokens[4].to("meta"))
        assert model._loss(batch, None)[0].device.type == "meta"
        assert model._loss(batch, model._carried)[0].device.type == "meta"


@dataclasses.dataclass(frozen=True)
class OwnState:
    h: torch.Tensor
    step: int = 0


class NamedState(NamedTuple):
    h: torch.Tensor


class TestStates:
    @pytest.mark.parametrize("kind", [OwnState, NamedState, lambda h: [{"h": (h, None)}]])
    def test_all_kinds_are_cut_off_from_their_graph(self, kind: Any) -> None:
        h = torch.ones(1, requires_grad=True) * 2
        state = detached(kind(h))
        found = state[0]["h"][0] if isinstance(state, list) else state.h
        assert not found.requires_grad
        assert type(state) is type(kind(h))

    @pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
    def test_a_class_of_ones_own_is_not_pickled_into_the_checkpoint(self, tmp_path: Any) -> None:
        def loss(net: Any, batch: Any, state: Any) -> Any:
            start = None if state is None else state.h
            output, h = net.rnn(batch[0], start)
            return net.head(output).square().mean(), OwnState(h)

        data = segments()
        module, training = make(loss=loss, carries_state=True), trainer(max_steps=4, max_epochs=2)
        training.fit(module, data)
        with pytest.warns(UserWarning, match="carried state, a OwnState, is not made of plain tuples"):
            training.save_checkpoint(tmp_path / "middle.ckpt")
        content = torch.load(tmp_path / "middle.ckpt", weights_only=True)
        assert content["l0rnn"]["carried"] is None
        again = make(loss=loss, carries_state=True)
        trainer(max_steps=8, max_epochs=2).fit(again, data, ckpt_path=tmp_path / "middle.ckpt", weights_only=True)

    def test_plain_ones_are_kept(self) -> None:
        state = ({"h": [torch.zeros(1)]}, None, 3)
        assert state_to_save(state) is state
