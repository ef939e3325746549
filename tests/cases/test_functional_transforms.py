"""Gradients by torch.func and forward-mode differentiation, which torch's own recurrent layers allow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jvp, vmap

from l0rnn.gates.folding import fold, fold_into_one_block
from l0rnn.gates.network import gate_network_
from l0rnn.language.cross_entropy import cross_entropy
from l0rnn.language.distillation import DistilledLoss
from l0rnn.language.language_model import LanguageModel
from l0rnn.methods.group_norms import _square_sums
from l0rnn.recurrent.single_steps import onednn
from l0rnn.tracing import trace

# torch's own, when it first differentiates forwards
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")


def network(kind: str, layer: Any = nn.GRU) -> Any:
    net = nn.ModuleDict({"rnn": layer(3, 5), "head": nn.Linear(5, 2)})
    net.forward = lambda x: net["head"](net["rnn"](x)[0])  # type: ignore[method-assign]
    if kind == "gated":
        gate_network_(net, trace(net, torch.randn(6, 4, 3)))
    return net.eval()


@pytest.mark.parametrize("kind", ["torch", "gated"])
@pytest.mark.parametrize("layer", [nn.GRU, nn.LSTM, nn.RNN])
class TestLayers:
    def test_grad(self, kind: str, layer: Any) -> None:
        net, x = network(kind, layer), torch.randn(6, 4, 3)
        weights = {name: weight.detach() for name, weight in net.named_parameters()}
        found = grad(lambda w: functional_call(net, w, (x,)).square().mean())(weights)
        net(x).square().mean().backward()
        for name, weight in net.named_parameters():
            if weight.grad is not None:
                torch.testing.assert_close(found[name], weight.grad)

    def test_jvp(self, kind: str, layer: Any) -> None:
        net, x = network(kind, layer), torch.randn(6, 4, 3)
        with onednn(False):  # whose LSTM torch cannot differentiate forwards
            jvp(net, (x,), (x,))

    def test_forward_mode(self, kind: str, layer: Any) -> None:
        net, x = network(kind, layer), torch.randn(6, 4, 3)
        with onednn(False):
            with forward_ad.dual_level():
                tangent = forward_ad.unpack_dual(net(forward_ad.make_dual(x, x))).tangent
            expected = jvp(net, (x,), (x,))[1]
        torch.testing.assert_close(tangent, expected)

    def test_what_is_drawn_does_not_outlive_the_transform(self, kind: str, layer: Any) -> None:
        net, x = network(kind, layer), torch.randn(6, 4, 3)
        before = net(x)
        weights = {name: weight.detach() for name, weight in net.named_parameters()}
        grad(lambda w: functional_call(net, w, (x,)).square().mean())(weights)
        torch.testing.assert_close(net(x), before)


class TestFunctions:
    def test_fold(self) -> None:
        weight, gates = torch.randn(4, 3), torch.tensor([0.3, 0.6, 0.9])
        found = grad(lambda w: fold(w, gates).square().sum())(weight)
        torch.testing.assert_close(found, 2 * weight * gates.square())
        assert vmap(lambda g: fold(weight, g))(torch.rand(7, 3)).shape == (7, 4, 3)
        (block,) = vmap(lambda g: tuple(fold_into_one_block([weight], [g])))(torch.rand(7, 3))
        assert block.shape == (7, 4, 3)
        assert hessian(lambda g: fold(weight, g).square().sum())(gates).diagonal() == pytest.approx(
            2 * weight.square().sum(0)
        )

    def test_cross_entropy(self) -> None:
        logits, targets = torch.randn(6, 5), torch.randint(5, (6,))
        expected = grad(lambda x: nn.functional.cross_entropy(x, targets))(logits)
        torch.testing.assert_close(grad(lambda x: cross_entropy(x, targets))(logits), expected)
        each = vmap(lambda x, y: cross_entropy(x[None], y[None]))(logits, targets)
        torch.testing.assert_close(each, nn.functional.cross_entropy(logits, targets, reduction="none"))

    @pytest.mark.parametrize("teachers", [1, 2])
    def test_distillation(self, teachers: int) -> None:
        student, tokens = LanguageModel(7, 3, 3), torch.randint(7, (5, 2))
        loss = DistilledLoss([LanguageModel(7, 4, 4) for _ in range(teachers)], 0.4)
        weights = {name: weight.detach() for name, weight in student.named_parameters()}

        def call(w: Any) -> Any:
            return functional_call(
                Called(student, loss), {f"student.{name}": part for name, part in w.items()}, (tokens,)
            )

        found = grad(call)(weights)
        loss(student, (tokens, tokens))[0].backward()
        for name, weight in student.named_parameters():
            torch.testing.assert_close(found[name], weight.grad)

    def test_square_sums(self) -> None:
        matrix = torch.randn(4, 3)
        found = grad(lambda m: sum(part.sum() for part in _square_sums(m, (0, 1))))(matrix)
        torch.testing.assert_close(found, 4 * matrix)


class Called(nn.Module):
    def __init__(self, student: nn.Module, loss: Any) -> None:
        super().__init__()
        self.student, self.loss = student, loss

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.loss(self.student, (tokens, tokens))[0]
