"""The optimiser of weights and gates is a whole one: groups, closures, states, modes, copies."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import BaseFinetuning
from torch import nn
from torch.optim import LBFGS, SGD, Adam
from torch.optim.lr_scheduler import LambdaLR

from l0rnn import Budget, L0Gates
from l0rnn.training.optimizer import WeightsAndGates
from tests.cases.situations import make, segments, trainer


class Thaw(BaseFinetuning):
    """Trains the head from the second epoch on."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.network.head)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.network.head, optimizer, lr=0.01)


def trainable(parameters: Any) -> Adam:
    return Adam([parameter for parameter in parameters if parameter.requires_grad], lr=0.01)


class TestThawing:
    def test_a_layer_that_is_thawed_moves(self) -> None:
        moved, data = {}, segments()
        for method in (None, L0Gates(Budget(density=0.5))):
            module = make(method, optimizer=trainable)
            before = module.network.head.weight.clone()
            trainer(max_epochs=4, callbacks=[Thaw()]).fit(module, data)
            moved[type(method).__name__] = round((module.network.head.weight - before).abs().max().item(), 4)
        assert moved["L0Gates"] > 0, "WeightsAndGates.add_param_group hands the group on to the user's optimiser"

    @pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
    def test_a_training_that_goes_on_with_it(self, tmp_path: Any) -> None:
        data = segments()
        module, first = (
            make(L0Gates(Budget(density=0.5)), optimizer=trainable),
            trainer(max_epochs=3, callbacks=[Thaw()]),
        )
        first.fit(module, data)
        first.save_checkpoint(tmp_path / "last.ckpt")
        again = make(L0Gates(Budget(density=0.5)), optimizer=trainable)
        second = trainer(max_epochs=5, callbacks=[Thaw()])
        second.fit(again, data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
        (joint,) = second.optimizers
        sizes = [len(group["params"]) for group in joint.param_groups]
        assert sizes == [4, 2]  # recurrent weights, head
        assert {id(p) for p in joint.weights.param_groups[1]["params"]} == {
            id(p) for p in again.network.head.parameters()
        }
        assert joint.weights.state[again.network.head.weight]["step"] > 0


def both(weights: Any = None) -> tuple[nn.Parameter, nn.Parameter, WeightsAndGates]:
    weight, gate = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    made = weights([weight]) if weights else SGD([weight], lr=1.0, momentum=0.9)
    return weight, gate, WeightsAndGates(made, Adam([gate], lr=0.03))


class TestGroups:
    def test_one_that_is_added_comes_last_and_is_stepped(self) -> None:
        weight, gate, joint = both()
        late = nn.Parameter(torch.ones(2))
        joint.add_param_group({"params": [late], "lr": 0.5})
        assert [group["lr"] for group in joint.param_groups] == [1.0, 0.5]
        for parameter in (weight, gate, late):
            parameter.grad = torch.ones(2)
        joint.step()
        assert late.tolist() == [0.5, 0.5]
        joint.zero_grad()
        assert late.grad is None

    def test_schedulers_count_as_before(self) -> None:
        _, _, joint = both()
        scheduler = LambdaLR(joint, lambda epoch: 0.5**epoch)
        joint.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 0.25, "initial_lr": 0.25})
        joint.step()
        assert joint.weights.param_groups[0]["lr"] == 1.0
        scheduler.base_lrs.append(0.25)
        scheduler.lr_lambdas.append(lambda epoch: 1.0)
        scheduler.step()
        assert [group["lr"] for group in joint.param_groups] == [0.5, 0.25]

    def test_they_can_be_set_as_a_whole(self) -> None:
        weight, gate, joint = both()
        late = nn.Parameter(torch.zeros(1))
        joint.param_groups = [
            {**joint.param_groups[0], "params": [weight]},
            {**joint.param_groups[0], "params": [late], "lr": 0.1},
        ]
        assert [group["lr"] for group in joint.weights.param_groups] == [1.0, 0.1]
        assert joint.gates.param_groups[0]["params"] == [gate]


class TestClosures:
    def test_one_that_is_needed_several_times(self) -> None:
        weight, gate, joint = both(lambda parameters: LBFGS(parameters, line_search_fn="strong_wolfe"))
        calls = []

        def closure() -> Any:
            joint.zero_grad()
            loss = ((weight - 3).square() + (gate - 2).square()).sum()
            loss.backward()
            calls.append(loss.item())
            return loss

        joint.step(closure)
        assert len(calls) > 1
        assert weight.detach() == pytest.approx(torch.tensor([3.0, 3.0]), abs=1e-3)
        assert (gate > 1).all()

    def test_an_optimiser_that_takes_none(self) -> None:
        class Plain(SGD):
            def step(self) -> None:  # type: ignore[override]
                super().step()

        weight, _, joint = both(lambda parameters: Plain(parameters, lr=1.0))
        with torch.no_grad():
            loss = joint.step(lambda: backwards(weight))
        assert loss is not None
        assert weight.tolist() == [-1.0, -1.0]

    def test_in_a_training(self) -> None:
        module = make(L0Gates(Budget(density=0.5)), optimizer=lambda parameters: LBFGS(parameters, max_iter=2))
        before = module.network.head.weight.clone()
        trainer(max_steps=2).fit(module, segments())
        assert not torch.equal(module.network.head.weight, before)


def backwards(weight: nn.Parameter) -> Any:
    weight.grad = None
    loss = weight.square().sum()
    loss.backward()
    return loss


class TestStates:
    def test_both_are_one_mapping(self) -> None:
        weight, gate, joint = both()
        weight.grad = gate.grad = torch.ones(2)
        joint.step()
        assert set(joint.state) == {weight, gate}
        joint.state[gate] = {"step": torch.tensor(5.0)}
        assert joint.gates.state[gate] == {"step": torch.tensor(5.0)}
        assert gate not in joint.weights.state
        del joint.state[weight]
        assert len(joint.state) == 1

    def test_loading_keeps_groups_and_says_what_is_missing(self) -> None:
        weight, _, joint = both()
        joint.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 0.5})
        weight.grad = torch.ones(2)
        joint.step()
        saved = copy.deepcopy(joint.state_dict())
        _, _, other = both()
        with pytest.raises(ValueError, match=r"state is of groups of \[1, 1\] parameters, but .* of \[1\]; add"):
            other.load_state_dict(saved)
        other.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 0.1})
        other.load_state_dict(saved)
        assert [group["lr"] for group in other.param_groups] == [1.0, 0.5]
        assert "momentum_buffer" in next(iter(other.weights.state.values()))

    def test_a_copy(self) -> None:
        _, _, joint = both()
        other = copy.deepcopy(joint)
        assert [group["lr"] for group in other.param_groups] == [1.0]
        assert other.weights is not joint.weights
        other.step()


def test_a_schedule_free_optimiser_is_told_of_the_mode() -> None:
    class ScheduleFree(SGD):
        told = "nothing"

        def train(self) -> None:
            self.told = "train"

        def eval(self) -> None:
            self.told = "eval"

    _, _, joint = both(lambda parameters: ScheduleFree(parameters, lr=1.0))
    joint.eval()
    assert joint.weights.told == "eval"
    joint.train()
    assert joint.weights.told == "train"
    _, _, plain = both()
    plain.train()
    plain.eval()
