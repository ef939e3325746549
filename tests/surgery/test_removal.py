"""Units removed from a live network: the same outputs and gradients, the optimiser's memory, and clear refusals."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l0rnn.blueprint import draw_blueprint
from l0rnn.cost.cost import cost
from l0rnn.gates import Gates
from l0rnn.gates.network import gate_network_, network_gates
from l0rnn.language.distillation import TEACHERS
from l0rnn.surgery.removal import buildable, remove_units_, resize_, resized_shapes
from l0rnn.surgery.shrink import operate
from l0rnn.surgery.states import check_optimizer_state
from l0rnn.training.removal import check_kind_of_optimizer
from l0rnn.wiring import Wiring, reads
from tests.networks import StateClassifier, TiedLanguageModel, TwoReaders, WordTagger

words = functools.partial(torch.randint, 11, (5, 3))
NETWORKS: dict[str, Callable[[], Any]] = {
    f"{cell} {layers} {bidirectional} {normalise}": functools.partial(
        WordTagger, cell, num_layers=layers, bidirectional=bidirectional, normalise=normalise, hidden=9
    )
    for cell in ("LSTM", "GRU", "RNN_TANH", "LSTM_projected")
    for layers, bidirectional, normalise in ((1, False, False), (2, True, False), (2, False, True), (1, True, True))
}
NETWORKS |= {
    "tied": TiedLanguageModel,
    "two readers": TwoReaders,
    "state": functools.partial(StateClassifier, "GRU", num_layers=2, bidirectional=True),
}


def example(network: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(5, 3, 3, dtype=dtype) if isinstance(network, StateClassifier) else words()


def output(network: nn.Module, inputs: Tensor) -> Tensor:
    result = network(inputs)
    return result[0] if isinstance(result, tuple) else result


def half_closed(name: str, dtype: torch.dtype = torch.float64) -> tuple[Any, dict[str, Gates]]:
    """A gated network with frozen gates, about 40 % of each axis open, some of them half."""
    network = NETWORKS[name]().to(dtype)
    gates = gate_network_(network, draw_blueprint(network, network.wiring))
    for own in gates.values():
        own.freeze_(torch.rand(own.units) < 0.4)
        own.fixed.mul_(torch.rand(own.units).to(dtype) / 2 + 0.5)
    return network, gates


def numbered(network: nn.Module) -> nn.Module:
    """A copy in which each parameter holds the positions of its entries, to see which are left after a removal."""
    copied = copy.deepcopy(network)
    for parameter in copied.parameters():
        parameter.data = torch.arange(parameter.numel(), dtype=torch.float64).reshape(parameter.shape)
    return copied


def remove(network: Any, gates: dict[str, Gates], **options: Any) -> dict[str, Tensor]:
    blueprint = draw_blueprint(network, network.wiring)
    wanted = {axis: own.keep().index_fill(0, own.fixed.argmax(), True) for axis, own in gates.items()}
    keep = buildable(network, blueprint, wanted)
    remove_units_(network, blueprint, wanted, **options)
    return keep


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_gradients_and_the_optimizers_memory_stay(name: str) -> None:
    network, gates = half_closed(name)
    inputs = example(network, torch.float64)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01, amsgrad=True)
    output(network, inputs).square().sum().backward()
    optimizer.step()
    whole, positions = copy.deepcopy(network), numbered(network)
    memory = {
        name: {key: value.clone() for key, value in optimizer.state[parameter].items()}
        for name, parameter in network.named_parameters()
        if parameter in optimizer.state
    }
    live = output(network, inputs).square().sum()  # a graph that is alive while its parameters are cut
    keep = remove(network, gates, optimizers=[optimizer])
    remove(positions, network_gates(positions, draw_blueprint(positions, network.wiring)))
    assert any(not bool(units.all()) for units in keep.values())
    draw_blueprint(network, network.wiring)  # checks every width
    for training in (True, False):
        network.train(training), whole.train(training)
        network.zero_grad(), whole.zero_grad()
        after, before = output(network, inputs), output(whole, inputs)
        torch.testing.assert_close(after, before, atol=1e-12, rtol=0)
        after.square().sum().backward(), before.square().sum().backward()
        for parameter_name, parameter in network.named_parameters():
            if not parameter.requires_grad:
                continue
            left = positions.get_parameter(parameter_name).long().flatten()
            old = whole.get_parameter(parameter_name)
            assert torch.equal(parameter.data.flatten(), old.data.flatten()[left]), parameter_name
            torch.testing.assert_close(parameter.grad.flatten(), old.grad.flatten()[left], atol=1e-10, rtol=0)
            gone = old.grad.flatten().index_fill(0, left, 0.0)
            assert bool((gone == 0).all()), f"{parameter_name} lost entries that had a gradient"
            for key, value in optimizer.state[parameter].items():
                old_value = memory[parameter_name][key]
                wanted = old_value if value.dim() == 0 else old_value.flatten()[left].reshape(value.shape)
                assert torch.equal(value, wanted), (parameter_name, key)
    assert live.requires_grad
    optimizer.step()


@pytest.mark.parametrize("name", ["tied", "LSTM 2 True False", "LSTM_projected 1 False False", "two readers"])
def test_what_is_left_can_be_shrunk_and_costs_what_it_should(name: str) -> None:
    network, gates = half_closed(name, torch.float32)
    inputs = example(network)
    before = operate(network.eval(), network.wiring, example_inputs=inputs)
    keep = remove(network, gates)
    blueprint = draw_blueprint(network, network.wiring)
    after = operate(network, network.wiring, example_inputs=inputs)
    assert {axis: kept for axis, (kept, _) in after.widths.items()} == {a: k for a, (k, _) in before.widths.items()}
    assert sum(p.numel() for p in after.network.parameters()) == sum(p.numel() for p in before.network.parameters())
    assert all(blueprint.axes[axis].size == int(units.sum()) for axis, units in keep.items())
    plain = [p for n, p in network.named_parameters() if not n.endswith("log_alpha")]
    assert cost(blueprint).parameters == sum(p.numel() for p in plain)


def test_one_torch_stack_keeps_one_width_and_the_embedding_its_own() -> None:
    network, gates = half_closed("LSTM 2 True False")
    for axis, left in {"embedding": 2, "encoder.l0": 4, "encoder.l0_reverse": 1, "encoder.l1": 3}.items():
        gates[axis].freeze_(torch.arange(gates[axis].units) >= gates[axis].units - left)
    gates["encoder.l1_reverse"].freeze_(torch.zeros(9, dtype=torch.bool))
    remove(network, gates)
    assert (network.encoder.input_size, network.encoder.hidden_size) == (2, 4)
    assert network.embedding.weight.shape == (11, 2)
    assert network.embedding.embedding_dim == 2
    assert (network.decoder.in_features, network.decoder.out_features) == (8, 5)
    assert gates["encoder.l0"].keep().tolist() == [True] * 4
    assert gates["encoder.l0_reverse"].keep().tolist() == [False] * 3 + [True]  # three closed ones fill up
    assert network.encoder.weight_ih_l1.shape == (16, 8)


def test_an_axis_that_must_stay_holds_back_its_stack_alone() -> None:
    network: Any = nn.Sequential()
    network.embedding, network.encoder = nn.Embedding(11, 6), nn.LSTM(6, 4, num_layers=2)
    network.wiring = Wiring({"encoder": reads("embedding")})  # nothing reads the last layer: it is the output
    gates = gate_network_(network, draw_blueprint(network, network.wiring))
    assert sorted(gates) == ["embedding", "encoder.l0"]
    gates["embedding"].freeze_(torch.arange(6) < 3)
    gates["encoder.l0"].freeze_(torch.arange(4) < 3)
    remove(network, gates)
    assert (network.encoder.input_size, network.encoder.hidden_size, network.embedding.embedding_dim) == (3, 4, 3)


def test_gates_that_learn_go_on_with_theirs() -> None:
    network: Any = WordTagger("LSTM", hidden=5)
    gates = gate_network_(network, draw_blueprint(network, network.wiring))
    own = gates["encoder.l0"]
    own.log_alpha.data = torch.tensor([2.0, -9.0, 1.0, -8.0, 3.0])
    log_alpha, drawn = own.log_alpha, own.draw()
    remove_units_(network, draw_blueprint(network, network.wiring), {"encoder.l0": own.keep()})
    assert own.log_alpha is log_alpha
    assert log_alpha.tolist() == [2.0, 1.0, 3.0]
    assert (drawn.shape, own.value.shape) == ((5,), (3,))
    assert (own.units, own.fixed.shape) == (3, (3,))
    output(network, words()).sum().backward()
    assert log_alpha.grad is not None
    assert log_alpha.grad.shape == (3,)


@pytest.mark.parametrize("name", ["tied", "two readers", "LSTM_projected 2 True False", "GRU 2 False True"])
def test_a_resized_network_loads_the_weights_of_another_width(name: str) -> None:
    network, gates = half_closed(name, torch.float32)
    whole = copy.deepcopy(network)
    remove(network, gates)
    blueprint = draw_blueprint(network, network.wiring)
    widths = {axis: blueprint.axes[axis].size for axis in gates}
    shapes = resized_shapes(whole, draw_blueprint(whole, whole.wiring), widths)
    assert shapes == {key: tensor.shape for key, tensor in network.state_dict().items()}
    inputs = example(network)
    resized = copy.deepcopy(whole)
    resize_(resized, draw_blueprint(resized, resized.wiring), widths)
    resized.load_state_dict(network.state_dict())
    assert torch.equal(output(resized.eval(), inputs), output(network.eval(), inputs))
    sizes = {axis: draw_blueprint(whole, whole.wiring).axes[axis].size for axis in gates}
    resize_(resized, draw_blueprint(resized, resized.wiring), sizes)  # and back again
    resized.load_state_dict(whole.state_dict())
    assert torch.equal(output(resized, inputs), output(whole.eval(), inputs))


class TestCarriedState:
    def test_each_row_loses_its_own_units(self) -> None:
        network, gates = half_closed("LSTM_projected 2 True False")
        for own in gates.values():
            own.freeze_(torch.rand(own.units) < 0.5)
        h, c = torch.arange(4 * 3 * 4.0).reshape(4, 3, 4), torch.arange(4 * 3 * 9.0).reshape(4, 3, 9)
        blueprint = draw_blueprint(network, network.wiring)
        wanted = {axis: own.keep().index_fill(0, own.fixed.argmax(), True) for axis, own in gates.items()}
        keep = buildable(network, blueprint, wanted)
        cut_h, cut_c = remove_units_(network, blueprint, wanted, state=(h, c))
        for row, key in enumerate(network.encoder.layer_keys()):
            assert torch.equal(cut_h[row], h[row][:, keep[f"encoder.{key}"]])
            assert torch.equal(cut_c[row], c[row][:, keep[f"encoder.{key}_cell"]])
        network(words(), (cut_h.double(), cut_c.double()))  # torch checks the sizes

    def test_the_next_segment_goes_on_as_it_would_have(self) -> None:
        network, gates = half_closed("LSTM 2 True False")
        _, state = network.eval()(words())
        more = words()
        expected, _ = network(more, state)
        blueprint = draw_blueprint(network, network.wiring)
        keep = {axis: own.keep().index_fill(0, own.fixed.argmax(), True) for axis, own in gates.items()}
        state = remove_units_(network, blueprint, keep, state=state)
        torch.testing.assert_close(network(more, state)[0], expected, atol=1e-12, rtol=0)

    def test_of_two_layers_alike_it_must_be_said_whose_it_is(self) -> None:
        network: Any = nn.Module()
        network.left, network.right = nn.GRU(3, 4), nn.GRU(3, 4)
        network.decoder = nn.Linear(8, 2)
        wiring = Wiring({"left": ["outside"], "right": ["outside"], "decoder": reads("left", "right")})
        gates = gate_network_(network, draw_blueprint(network, wiring))
        keep = torch.arange(4) < 2
        gates["left.l0"].freeze_(keep)
        state = [torch.zeros(1, 3, 4), torch.ones(1, 3, 4)]
        before = copy.deepcopy(network.state_dict())
        with pytest.raises(ValueError, match="may be that of 'left' and 'right'; carry it in a dict"):
            remove_units_(network, draw_blueprint(network, wiring), {"left.l0": keep}, state=state)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        named = {"left": state[0], "right": state[1], "count": torch.tensor(3), "note": None}
        cut = remove_units_(network, draw_blueprint(network, wiring), {"left.l0": keep}, state=named)
        assert (cut["left"].shape, cut["right"].shape, int(cut["count"])) == ((1, 3, 2), (1, 3, 4), 3)


class TestRefusals:
    @pytest.fixture
    def network(self) -> Any:
        network = half_closed("GRU 1 False False", torch.float32)[0]
        network.encoder.gates["l0"].freeze_(torch.arange(9) < 4)
        return network

    @pytest.mark.parametrize(
        ("keep", "message"),
        [
            ({"decoder": torch.ones(5) < 0}, "names 'decoder', which has no gates; there are gates on embedding, enc"),
            ({"encoder.l0": torch.ones(8) > 0}, r"must be bool \(9,\) for 'encoder.l0', got torch.bool \(8,\)"),
            ({"encoder.l0": torch.ones(9)}, r"must be bool \(9,\) for 'encoder.l0', got torch.float32"),
            ({"encoder.l0": torch.zeros(9) > 0}, "at least one unit of 'encoder.l0', got none"),
            ({"encoder.l0": torch.arange(9) < 2}, "leaves out 2 units of 'encoder.l0' whose gate is open"),
        ],
    )
    def test_what_may_be_removed(self, network: Any, keep: dict[str, Tensor], message: str) -> None:
        before = copy.deepcopy(network.state_dict())
        with pytest.raises(ValueError, match=message):
            remove_units_(network, draw_blueprint(network, network.wiring), keep)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

    def test_widths(self) -> None:
        network, _ = half_closed("LSTM 2 False True", torch.float32)
        blueprint = draw_blueprint(network, network.wiring)
        with pytest.raises(ValueError, match="`widths` names 'decoder', which has no gates"):
            resize_(network, blueprint, {"decoder": 3})
        with pytest.raises(ValueError, match="the same in all of 'encoder', a torch stack, got .*l0': 3.*l1': 9"):
            resized_shapes(network, blueprint, {"encoder.l0": 3})

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda p: torch.optim.Adafactor(p), r"the state 'row_var' of Adafactor, of shape \(2, 1\)"),
            (lambda p: torch.optim.LBFGS(p), "the state '.*' of LBFGS"),
        ],
    )
    def test_optimizers(self, network: Any, make: Callable[..., Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            check_kind_of_optimizer(make, {torch.optim.Adafactor, torch.optim.LBFGS})
        optimizer = make(list(network.parameters()))

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = output(network, torch.ones(5, 3, dtype=torch.int64)).square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        gates, optimized = copy.deepcopy(network.state_dict()), copy.deepcopy(optimizer.state_dict())
        keep = {"encoder.l0": torch.arange(9) < 4}
        with pytest.raises(ValueError, match="cannot be cut when units are removed; use an optimiser whose state"):
            remove_units_(network, draw_blueprint(network, network.wiring), keep, optimizers=[optimizer])
        assert all(torch.equal(value, gates[name]) for name, value in network.state_dict().items())
        assert str(optimized) == str(optimizer.state_dict())
        assert network.encoder.hidden_size == 9

    @pytest.mark.parametrize(
        "make",
        [
            functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9),
            functools.partial(torch.optim.AdamW, lr=0.1, amsgrad=True),
            functools.partial(torch.optim.ASGD, lr=0.1),
            torch.optim.NAdam,
            torch.optim.RMSprop,
            torch.optim.Rprop,
        ],
    )
    def test_optimizers_that_can_be_cut(self, make: Any) -> None:
        check_kind_of_optimizer(make, {make.func if isinstance(make, functools.partial) else make})

    def test_an_optimizer_of_other_parameters_is_not_tried(self) -> None:
        captured = nn.Parameter(torch.ones(2))
        captured.grad = torch.ones(2)
        check_kind_of_optimizer(lambda _: torch.optim.SGD([captured], lr=1.0), {torch.optim.SGD})
        assert captured.tolist() == [1.0, 1.0]

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

    def test_a_weight_that_two_readers_of_different_units_share(self) -> None:
        network: Any = nn.Module()
        network.left, network.right = nn.GRU(3, 4), nn.GRU(3, 4)
        network.a, network.b = nn.Linear(4, 2), nn.Linear(4, 2)
        network.b.weight = network.a.weight
        wiring = Wiring({"left": ["outside"], "right": ["outside"], "a": reads("left"), "b": reads("right")})
        gates = gate_network_(network, draw_blueprint(network, wiring))
        gates["right.l0"].freeze_(torch.arange(4) < 2)
        with pytest.raises(ValueError, match=r"'a.weight' and 'b.weight' share a parameter but do not lie on the same"):
            remove_units_(network, draw_blueprint(network, wiring), {"right.l0": torch.arange(4) < 2})


class Sharing(nn.Module):
    """A second reader of the encoder's weights, or of the tied embedding's, that the wiring does not describe."""

    def __init__(self, *, is_tied: bool) -> None:
        super().__init__()
        self.embedding, self.encoder, self.decoder = nn.Embedding(11, 6), nn.LSTM(6, 6), nn.Linear(6, 11)
        self.aside = nn.ModuleList([self.decoder if is_tied else self.encoder])
        if is_tied:
            self.decoder.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.decoder(self.encoder(self.embedding(tokens))[0])


@pytest.mark.parametrize(
    ("wiring", "is_tied", "axis", "why"),
    [
        (
            Wiring({"encoder": reads("embedding"), "decoder": reads("encoder")}, fixed=["aside"]),
            False,
            "encoder.l0",
            "'aside.0', whose weights stay as they are, shares 'encoder.weight_ih_l0'",
        ),
        (
            Wiring({"encoder": reads("embedding"), "decoder": reads("encoder")}, fixed=["decoder"]),
            True,
            "embedding",
            "'decoder', whose weights stay as they are, shares 'embedding.weight'",
        ),
        (
            Wiring({"encoder": reads("embedding")}, fixed=["decoder", "aside"]),
            True,
            "embedding",
            "'decoder', whose weights stay as they are, shares 'embedding.weight'",
        ),
    ],
    ids=["a layer", "declared and tied", "tied"],
)
def test_weights_that_others_share_stay_whole(wiring: Wiring, is_tied: bool, axis: str, why: str) -> None:
    network = Sharing(is_tied=is_tied)
    blueprint = draw_blueprint(network, wiring)
    assert blueprint.axes[axis].fixed == why
    assert axis not in [axis.name for axis in blueprint.prunable()]
    assert cost(blueprint).parameters == sum(parameter.numel() for parameter in network.parameters())
    gates = {name.name: (torch.arange(name.size) < 2).float() for name in blueprint.prunable()}
    surgery = operate(network, wiring, gates, example_inputs=words())
    assert surgery.max_abs_difference < 1e-6
    assert surgery.untouched[axis] == why


def test_the_states_of_teachers_stay_whole() -> None:
    network, gates = half_closed("two readers")
    blueprint = draw_blueprint(network, network.wiring)
    keep = torch.tensor([True, False, False, True])
    gates["right.l0"].freeze_(keep)
    state = {"student": torch.zeros(1, 2, 4), TEACHERS: [torch.zeros(1, 2, 4)]}
    state = remove_units_(network, blueprint, {"right.l0": keep}, state=state)
    assert (state["student"].shape, state[TEACHERS][0].shape) == ((1, 2, 2), (1, 2, 4))
