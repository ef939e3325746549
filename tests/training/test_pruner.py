"""A plain loop around a Pruner: what it does, and what it says of a loop that forgets something."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from l0rnn import Budget, L0Gates, Pruner
from l0rnn.methods import BlockPruning, GradualMagnitude, GroupLasso, RandomUnits, StructuredMagnitude

STEPS = 30


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.GRU(3, 16, batch_first=True), nn.Linear(16, 2)

    def forward(self, x: Any) -> Tensor:
        return self.decoder(self.encoder(x)[1][-1])


def gates(density: float = 0.4, **options: Any) -> L0Gates:
    return L0Gates(Budget(density=density, start=0.0, ramp=0.3), **options)


def batch(step: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(16, 5, 3, generator=torch.Generator().manual_seed(step))
    return x, (x[..., 0].sum(1) > 0).long()


def train(
    network: Any, pruner: Pruner, optimizer: Any, steps: range = range(1, STEPS + 1), order: str = "lbops"
) -> None:
    """A loop: clear, loss and penalty, backward, optimiser, pruner; or some of it, in another order."""
    for step in steps:
        torch.manual_seed(step)
        x, y = batch(step)
        loss = nn.functional.cross_entropy(network(x), y)
        optimizer.zero_grad()
        (loss + pruner.penalty() if "l" in order else loss).backward()
        for letter in order:
            if letter == "o":
                optimizer.step()
            elif letter == "s":
                pruner.step()


@pytest.mark.parametrize("is_before", [True, False])
def test_the_optimiser_may_be_made_before_or_of_the_weights(*, is_before: bool) -> None:
    """Gates that nobody trained were closed by their random start, in silence."""
    network = Classifier()
    early = torch.optim.Adam(network.parameters(), lr=0.01)
    pruner = Pruner(network, gates(), torch.randn(2, 5, 3), steps=STEPS)
    start = pruner.method.own_gates.log_alpha.detach().clone()  # type: ignore[union-attr]
    assert len(list(network.parameters())) == 6
    train(network, pruner, early if is_before else torch.optim.Adam(pruner.network.parameters(), lr=0.01))
    assert float((pruner.method.own_gates.log_alpha - start).abs().max()) > 0.3  # type: ignore[union-attr]
    assert pruner.has_chosen
    assert 0.3 < pruner.figures()["density"] <= 0.4
    small: Any = pruner.shrink()
    assert small.encoder.hidden_size == int(pruner.trained_gates()["encoder.l0"].count_nonzero()) < 16
    torch.testing.assert_close(small.eval()(batch(0)[0]), network.eval()(batch(0)[0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("os", "nobody has asked for the penalty in 3 steps, without which L0Gates prunes nothing"),
    ],
)
def test_a_loop_that_forgets_something_is_told(order: str, message: str) -> None:
    network = Classifier()
    pruner = Pruner(network, gates(), torch.randn(2, 5, 3), steps=STEPS)
    with pytest.raises(RuntimeError, match=message):
        train(network, pruner, torch.optim.Adam(pruner.network.parameters()), order=order)


@pytest.mark.parametrize("method", [StructuredMagnitude(0.5), GradualMagnitude(0.5), BlockPruning(0.5, block=2)])
def test_a_method_without_a_penalty_does_without(method: Any) -> None:
    network = Classifier()
    pruner = Pruner(network, method, torch.randn(2, 5, 3), steps=STEPS)
    train(network, pruner, torch.optim.Adam(network.parameters()), order="os")
    assert pruner.has_chosen


def test_gates_in_two_optimisers_are_refused() -> None:
    network = Classifier()
    pruner = Pruner(network, gates(), torch.randn(2, 5, 3), steps=STEPS)
    everything = [*network.parameters(), *pruner.gates()]
    with pytest.raises(RuntimeError, match="another optimiser steps the gates too"):
        train(network, pruner, torch.optim.Adam(everything, lr=0.01))


def test_what_is_done_with_all_parameters_leaves_the_gates_alone() -> None:
    """Clipping by one norm, say: the gates' gradients took a part of what the weights might have moved."""
    network = Classifier()
    pruner = Pruner(network, gates(), torch.randn(2, 5, 3), steps=STEPS)
    log_alpha = pruner.gates()[0]
    (network(batch(1)[0]).square().sum() + 1e3 * log_alpha.sum()).backward()
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1e-3)
    assert float(norm) < 1e3
    assert float(log_alpha.grad.abs().min()) > 900  # type: ignore[union-attr]
    network.zero_grad()
    assert log_alpha.grad is not None
    network.requires_grad_(requires_grad=False)
    assert log_alpha.requires_grad
    assert "unit_gates.log_alpha" in network.state_dict()
    assert network.double().unit_gates.log_alpha.dtype == torch.float64  # type: ignore[union-attr]


def test_scaled_gradients_step_the_gates_as_others_do() -> None:
    results = []
    for scale in (1.0, 2.0**16):
        torch.manual_seed(0)
        network = Classifier()
        pruner = Pruner(network, gates(), torch.randn(2, 5, 3), steps=STEPS)
        for step in range(1, 4):
            torch.manual_seed(step)
            x, y = batch(step)
            (scale * nn.functional.cross_entropy(network(x), y)).backward()
            pruner.unscale_(scale)
            pruner.add_penalty_gradients_(loss_factor=scale)
            pruner.step()
        results.append(pruner.method.own_gates.log_alpha.detach())  # type: ignore[union-attr]
    torch.testing.assert_close(*results)


def test_a_gradient_that_overflowed_does_not_stay_in_the_gates() -> None:
    network = Classifier()
    pruner = Pruner(network, gates(), torch.randn(2, 5, 3), steps=STEPS)
    (network(batch(1)[0]).sum() * float("inf") + pruner.penalty()).backward()
    pruner.step()
    assert bool(torch.isfinite(pruner.method.own_gates.log_alpha).all())  # type: ignore[union-attr]


def test_a_training_goes_on_bit_for_bit_and_may_be_made_longer() -> None:
    def built() -> list[Any]:
        torch.manual_seed(0)
        network = Classifier()
        pruner = Pruner(network, gates(), torch.randn(2, 5, 3), steps=STEPS)
        return [network, pruner, torch.optim.Adam(pruner.network.parameters(), lr=0.01)]

    whole, resumed = built(), built()
    train(*whole, range(1, 12))
    saved = copy.deepcopy([part.state_dict() for part in whole])
    train(*whole, range(12, STEPS + 1))
    for part, state in zip(resumed, saved, strict=True):
        part.load_state_dict(state)
    train(*resumed, range(12, STEPS + 1))
    for name, value in whole[0].state_dict().items():
        assert torch.equal(value, resumed[0].state_dict()[name]), name
    with pytest.raises(RuntimeError, match="`begin` must come before the first step, but 30 have been made"):
        whole[1].begin(50)
    resumed[1].begin(50)
    train(*resumed, range(STEPS + 1, STEPS + 3))


def test_what_is_missing_is_named() -> None:
    network, x = Classifier(), torch.randn(2, 5, 3)
    with pytest.raises(ValueError, match="`example_inputs` must be given: the network is run on them once"):
        Pruner(network, gates(), None)
    with pytest.raises(ValueError, match="`gate_learning_rate` must be > 0, got 0"):
        Pruner(network, gates(), x, gate_learning_rate=0)
    with pytest.raises(TypeError, match="`steps` must be int or None, got 2.0"):
        Pruner(Classifier(), gates(), x, steps=2.0)  # type: ignore[arg-type]
    for steps in (0, -1):
        with pytest.raises(ValueError, match="`steps` must be a whole number of optimiser steps > 0, got"):
            Pruner(Classifier(), gates(), x, steps=steps)
    pruner = Pruner(network, gates(), x)
    with pytest.raises(RuntimeError, match="`steps` must be given before the first step"):
        pruner.step()
    with pytest.raises(RuntimeError, match="no step has been made, so no unit has been selected"):
        pruner.shrink()
    pruner.begin(STEPS)
    with pytest.raises(ValueError, match="`method` must be new, got a L0Gates that prunes a network already"):
        Pruner(Classifier(), pruner.method, x)
    with pytest.raises(ValueError, match="`network` must not have gates yet"):
        Pruner(network, gates(), x)
    with pytest.raises(ValueError, match="`network` fails on the `example_inputs`.*RuntimeError: "):
        Pruner(Classifier(), gates(), torch.randn(2, 5, 4))
    with pytest.raises(TypeError, match="`network` must not be compiled yet"):
        Pruner(torch.compile(Classifier(), backend="eager"), gates(), x)  # type: ignore[arg-type]


def test_a_network_with_nothing_to_prune_is_told_every_reason() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).softmax(-1))

    with pytest.raises(ValueError, match=r"no units of the kind `units='all'`.*first: .*softmax.*second: it is an out"):
        Pruner(Attention(), RandomUnits(0.5), torch.randn(2, 3))
    with pytest.raises(ValueError, match="must have a matrix that something is multiplied by, and not `fixed`"):
        Pruner(Attention(), GradualMagnitude(0.5), torch.randn(2, 3), fixed=["first", "second"])
    pruner = Pruner(Attention(), None, torch.randn(2, 3), steps=1)  # the dense run of a comparison
    pruner.step()
    assert str(pruner.shrink()) == str(Attention())


@pytest.mark.parametrize("form", ["tuple", "dict", "packed", "list", "named"])
def test_inputs_of_every_form(form: str) -> None:
    class Network(Classifier):
        def forward(self, x: Any = None, *, y: Any = None) -> Tensor:
            x = y if x is None else x
            return super().forward(x["z"] if isinstance(x, dict) else x[0] if isinstance(x, list) else x)

    x, packed = torch.randn(2, 5, 3), pack_sequence([torch.randn(5, 3), torch.randn(2, 3)])
    example: Any = {"tuple": (x,), "dict": {"z": x}, "packed": packed, "list": [x], "named": {"y": packed}}[form]
    network = Network()
    pruner = Pruner(network, RandomUnits(0.5), example, steps=1)
    pruner.step()
    small: Any = pruner.shrink()
    argument = example[0] if form == "tuple" else packed if form == "named" else example
    torch.testing.assert_close(small.eval()(argument), network.eval()(argument))
    assert isinstance(packed, PackedSequence)


def test_sampled_softmax_is_noticed_where_the_loss_is_given() -> None:
    """A loss that takes rows of the decoder's weight goes round the gates."""

    def sampled(network: Any) -> Tensor:
        states = network.encoder(batch(1)[0])[1][-1]
        return (states @ network.decoder.weight[torch.tensor([1, 0])].T).square().mean()

    network = Classifier()
    pruner = Pruner(network, gates(), torch.randn(2, 5, 3), steps=STEPS)
    train(network, pruner, torch.optim.Adam(pruner.network.parameters(), lr=0.01))
    with pytest.raises(ValueError, match="the training loss is .* though their outputs are equal; it reads weights"):
        pruner.shrink(loss=sampled)
    pruner.shrink(loss=lambda network: nn.functional.cross_entropy(network(batch(1)[0]), batch(1)[1]))
    pruner.shrink()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", [lambda: gates(), lambda: GradualMagnitude(0.5), lambda: GroupLasso(1e-3)])
def test_the_method_follows_a_network_that_moves(method: Any) -> None:
    network = Classifier()
    pruner = Pruner(network, method(), torch.randn(2, 5, 3), steps=2)
    network.cuda()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        (network(torch.randn(4, 5, 3).cuda()).square().mean() + pruner.penalty()).backward()
        optimizer.step()
        pruner.step()
    assert pruner.shrink()(torch.randn(2, 5, 3).cuda()).shape == (2, 2)


def test_the_method_follows_a_network_of_another_device() -> None:
    network = Classifier()
    pruner = Pruner(network, GradualMagnitude(0.5, start=0.0, end=0.0), torch.randn(2, 5, 3), steps=2)
    network.to("meta")
    assert pruner.penalty().device.type == "meta"
    assert {mask.device.type for mask in pruner.method.masks().values()} == {"meta"}
