"""Units removed from a live network: which, what optimisers and carried states keep, and clear refusals."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l0rnn.gates.network import gate_network_
from l0rnn.language.distillation import TEACHERS
from l0rnn.surgery.removal import remove_units_, resize_, resized_shapes
from l0rnn.surgery.states import check_optimizer_state
from l0rnn.tracing import trace
from l0rnn.tracing.units import Units
from l0rnn.training.removal import check_kind_of_optimizer
from tests.networks import TiedLanguageModel, TwoReaders, WordTagger

WORDS = torch.arange(15).remainder(11).reshape(5, 3)


def half_closed(network: Any, dtype: torch.dtype = torch.float64) -> tuple[Any, Units, Tensor]:
    """A gated network with frozen gates, some closed and some half; its units and which to keep."""
    network = network.to(dtype)
    units = trace(network, WORDS)
    keep = torch.rand(units.count) < 0.4
    for axis in units.axes.values():
        keep[axis.start + 1] = True
    gates = gate_network_(network, units)
    gates.freeze_(keep)
    gates.fixed.mul_(torch.rand(units.count).to(dtype) / 2 + 0.5)
    return network, units, keep


def output(network: nn.Module) -> Tensor:
    result = network(WORDS)
    return result[0] if isinstance(result, tuple) else result


@pytest.mark.parametrize(
    "make",
    [
        TiedLanguageModel,
        TwoReaders,
        *(functools.partial(WordTagger, c, num_layers=2) for c in ("GRU", "LSTM_projected")),
    ],
)
def test_every_entry_and_its_momentum_stay_in_place(make: Any) -> None:
    network, units, keep = half_closed(make())
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01, amsgrad=True)
    output(network).square().sum().backward()
    optimizer.step()
    whole, positions = copy.deepcopy(network), copy.deepcopy(network)
    for parameter in positions.parameters():  # each entry holds its position, to see which are left
        parameter.data = torch.arange(parameter.numel(), dtype=torch.float64).reshape(parameter.shape)
    old = {name: dict(optimizer.state[p]) for name, p in network.named_parameters()}
    remove_units_(network, units, keep, optimizers=[optimizer])
    remove_units_(positions, units, keep)
    torch.testing.assert_close(output(network), output(whole), atol=1e-10, rtol=0)
    for name, parameter in network.named_parameters():
        left = positions.get_parameter(name).long().flatten()
        assert torch.equal(parameter.data.flatten(), whole.get_parameter(name).data.flatten()[left])
        for key, value in optimizer.state[parameter].items():
            wanted = old[name][key] if value.dim() == 0 else old[name][key].flatten()[left].reshape(value.shape)
            assert torch.equal(value, wanted), (name, key)


def test_one_stack_of_torch_keeps_one_width() -> None:
    network: Any = WordTagger("LSTM", num_layers=2, bidirectional=True, hidden=9)
    units = trace(network, WORDS)
    gates = gate_network_(network, units)
    left = {"embedding": 2, "encoder.l0": 4, "encoder.l0_reverse": 1, "encoder.l1": 3, "encoder.l1_reverse": 1}
    keep = units.vector({n: torch.arange(a.size) >= a.size - left[n] for n, a in units.axes.items()}, True)
    gates.freeze_(keep)
    after, _ = remove_units_(network, units, keep)
    assert (network.encoder.input_size, network.encoder.hidden_size) == (2, 4)
    assert (network.embedding.embedding_dim, network.decoder.in_features) == (2, 8)
    assert gates.keep()[after.axes["encoder.l0_reverse"].units].tolist() == [False] * 3 + [True]  # three fill up


def test_gates_that_learn_go_on_with_theirs() -> None:
    network: Any = WordTagger("LSTM", hidden=5)
    units = trace(network, WORDS).only(["hidden"], "the test leaves it out")
    gates = gate_network_(network, units)
    gates.log_alpha.data = torch.tensor([2.0, -9.0, 1.0, -8.0, 3.0])
    log_alpha, drawn = gates.log_alpha, gates.draw()
    remove_units_(network, units, gates.keep())
    assert gates.log_alpha is log_alpha
    assert log_alpha.tolist() == [2.0, 1.0, 3.0]
    assert (drawn.shape, gates.value.shape, gates.units) == ((5,), (3,), 3)
    output(network).sum().backward()
    assert log_alpha.grad is not None
    assert log_alpha.grad.shape == (3,)


@pytest.mark.parametrize("make", [TiedLanguageModel, TwoReaders])
def test_a_resized_network_loads_the_weights_of_another_width(make: Any) -> None:
    network, units, keep = half_closed(make())
    whole = copy.deepcopy(network)
    left, _ = remove_units_(network, units, keep)
    widths = {name: axis.size for name, axis in left.axes.items()}
    assert resized_shapes(whole, units, widths) == {key: value.shape for key, value in network.state_dict().items()}
    resize_(whole, units, widths)
    whole.load_state_dict(network.state_dict())
    assert torch.equal(output(whole), output(network))


class TestCarriedState:
    def test_the_next_segment_goes_on_as_it_would_have(self) -> None:
        network, units, keep = half_closed(WordTagger("LSTM", num_layers=2, bidirectional=True))
        _, state = network.eval()(WORDS)
        expected, _ = network(WORDS, state)
        _, state = remove_units_(network, units, keep, state=state)
        torch.testing.assert_close(network(WORDS, state)[0], expected, atol=1e-10, rtol=0)

    def test_that_of_a_cell_too(self) -> None:
        network: Any = nn.Sequential(nn.GRUCell(3, 4), nn.Linear(4, 2))
        units = trace(network, torch.randn(2, 3))
        keep = torch.arange(4) < 2
        gate_network_(network, units).freeze_(keep)
        _, (batched, alone) = remove_units_(network, units, keep, state=(torch.randn(7, 4), torch.randn(4)))
        assert (batched.shape, alone.shape) == ((7, 2), (2,))

    def test_of_two_layers_alike_it_must_be_said_whose_it_is(self) -> None:
        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.left, self.right, self.decoder = nn.GRU(3, 4), nn.GRU(3, 4), nn.Linear(8, 2)

            def forward(self, x: Tensor) -> Tensor:
                return self.decoder(torch.cat((self.left(x)[0], self.right(x)[0]), -1))

        network = Two()
        units = trace(network, torch.randn(5, 2, 3))
        keep = units.vector({"left.l0": torch.arange(4) < 2}, True)
        gate_network_(network, units).freeze_(keep)
        state = [torch.zeros(1, 3, 4), torch.ones(1, 3, 4)]
        before = copy.deepcopy(network.state_dict())
        with pytest.raises(ValueError, match="may be that of 'left' and 'right'; carry it in a dict"):
            remove_units_(network, units, keep, state=state)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        named = {"left": state[0], "right": state[1], "note": None, TEACHERS: state}
        _, cut = remove_units_(network, units, keep, state=named)
        assert (cut["left"].shape, cut["right"].shape, cut["note"]) == ((1, 3, 2), (1, 3, 4), None)
        assert cut[TEACHERS][0].shape == (1, 3, 4)  # the states of teachers stay whole


class TestRefusals:
    @pytest.mark.parametrize(
        ("keep", "message"),
        [
            (torch.ones(15), r"`keep` must be bool \(16,\), got torch.float32 \(15,\)"),
            (torch.zeros(16) > 0, "`keep` must keep at least one unit of 'embedding', got none"),
            (torch.arange(16) % 15 == 0, "leaves out 5 units of 'embedding' whose gate is open; only closed units"),
        ],
    )
    def test_what_may_be_removed(self, keep: Tensor, message: str) -> None:
        network: Any = WordTagger("GRU", hidden=10)
        units = trace(network, WORDS)
        gate_network_(network, units, open_probability=1.0)
        before = copy.deepcopy(network.state_dict())
        with pytest.raises(ValueError, match=message):
            remove_units_(network, units, keep)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

    def test_without_gates(self) -> None:
        network = WordTagger("GRU")
        with pytest.raises(ValueError, match="`network` must have gates; a method that closes units puts them there"):
            remove_units_(network, trace(network, WORDS), torch.ones(13, dtype=torch.bool))

    def test_widths(self) -> None:
        network, units, _ = half_closed(WordTagger("LSTM", num_layers=2))
        with pytest.raises(ValueError, match="`widths` names 'decoder', which is none of the axes embedding"):
            resize_(network, units, {"decoder": 3})
        with pytest.raises(ValueError, match="`widths` must be from 1 to 6 for 'embedding', got 7"):
            resize_(network, units, {"embedding": 7})
        with pytest.raises(ValueError, match="the same in all layers of a stack of torch, got {'encoder.l0': 3}"):
            resized_shapes(network, units, {"encoder.l0": 3})

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda p: torch.optim.Adafactor(p), r"the state 'row_var' of Adafactor, of shape \(2, 1\)"),
            (lambda p: torch.optim.LBFGS(p), "the state '.*' of LBFGS"),
        ],
    )
    def test_optimizers(self, make: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            check_kind_of_optimizer(make, {torch.optim.Adafactor, torch.optim.LBFGS})
        network, units, keep = half_closed(WordTagger("GRU"), torch.float32)
        optimizer = make(list(network.parameters()))

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = output(network).square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        before, remembered = copy.deepcopy(network.state_dict()), str(optimizer.state_dict())
        with pytest.raises(ValueError, match="cannot be cut when units are removed; use an optimiser whose state"):
            remove_units_(network, units, keep, optimizers=[optimizer])
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert remembered == str(optimizer.state_dict())

    @pytest.mark.parametrize("name", ["SGD", "AdamW", "ASGD", "NAdam", "RMSprop", "Rprop"])
    def test_optimizers_that_can_be_cut(self, name: str) -> None:
        kind: Any = getattr(torch.optim, name)
        check_kind_of_optimizer(functools.partial(kind, lr=0.1), {kind})

    def test_single_numbers_are_no_obstacle(self) -> None:
        parameter = nn.Parameter(torch.ones(2, 3))
        optimizer = torch.optim.SGD([parameter], lr=1.0)
        optimizer.state[parameter] = {"a": None, "b": 3, "c": torch.ones(1), "d": True}
        check_optimizer_state(optimizer)
        optimizer.state[parameter]["e"] = "text"
        with pytest.raises(ValueError, match="the state 'e' of SGD, of type str for a parameter of shape"):
            check_optimizer_state(optimizer)
        optimizer.state.clear()
        optimizer.state["norms"] = torch.ones(3)  # of no parameter
        with pytest.raises(ValueError, match="the state 'norms' of SGD, of shape .3,. for a parameter of shape None"):
            check_optimizer_state(optimizer)
