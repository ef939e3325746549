"""What networks may contain, one test each: what is cut, what stays whole, and what is refused with which words."""

from __future__ import annotations

import copy
import pickle
import random
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from l0rnn.gates.network import gate_network_
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.surgery.build import build
from l0rnn.surgery.proof import compare
from l0rnn.surgery.shrink import NotEqualError, Surgery, operate, shrink
from l0rnn.surgery.trial import tried_units
from l0rnn.tracing import explain, trace

X = torch.linspace(-1, 1, 5 * 2 * 3).reshape(5, 2, 3)  # (time, batch, feature)
WORDS = torch.tensor([[1, 4], [3, 0], [7, 2], [5, 5], [10, 9]])
SOME = torch.tensor([1.0, 0.0, 0.5, 0.0, 0.3, 1.0])


class Tagger(nn.Module):
    """GRU → Linear, with a hook for tests in between."""

    def __init__(self, between: Any = None, **options: Any) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.GRU(3, 6, **options), nn.Linear(6, 4)
        self.between = between

    def forward(self, x: Tensor, state: Any = None) -> Any:
        output, state = self.encoder(x, state)
        return self.decoder(output if self.between is None else self.between(output)), state


def cut(network: nn.Module, inputs: Any, **gates: Any) -> Any:
    """Shrink with these gates for the axes named, with ``__`` for a dot."""
    return shrink(network, {name.replace("__", "."): g for name, g in gates.items()}, example_inputs=inputs)


# ---------------------------------------------------------------------------------------------------------------------
# what is cut


class Tied(nn.Module):
    """A tied embedding, joined with other units behind a Dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.low, self.drop = nn.Embedding(11, 6), nn.LSTM(6, 5), nn.Dropout(0.1)
        self.top, self.decoder = nn.LSTM(11, 6), nn.Linear(6, 11)
        self.decoder.weight = self.embedding.weight

    def forward(self, words: Tensor) -> Tensor:
        vectors = self.embedding(words)
        return self.decoder(self.top(self.drop(torch.cat((self.low(vectors)[0], vectors), -1)))[0])


def test_a_tied_embedding_joined_with_other_units_keeps_its_shared_weight_and_all_gates() -> None:
    network = Tied().eval()
    small = cut(network, WORDS, embedding=SOME, low__l0=torch.full((5,), 0.5))
    assert small.decoder.weight is small.embedding.weight
    assert small.embedding.weight.shape == (11, 4)
    with torch.no_grad():  # scaled by hand
        network.low.weight_hh_l0.mul_(0.5)
        network.top.weight_ih_l0[:, :5].mul_(0.5)
        network.top.weight_hh_l0.mul_(SOME)
        network.embedding.weight.mul_(SOME)
        network.low.weight_ih_l0.mul_(SOME != 0)
    torch.testing.assert_close(small(WORDS), network(WORDS), atol=1e-5, rtol=1e-5)


def test_a_weight_that_other_code_multiplies_by_is_read_with_its_gates() -> None:
    class Direct(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.encoder = nn.Embedding(11, 6), nn.GRU(6, 6)

        def forward(self, words: Tensor) -> Tensor:
            return nn.functional.linear(self.encoder(self.embedding(words))[0], self.embedding.weight)

    assert cut(Direct(), WORDS, embedding=SOME).encoder.hidden_size == 4


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_a_norm_counts_the_open_units_alone_and_the_first_of_a_closed_axis(norm: Any) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm, self.decoder = nn.Linear(3, 4), nn.Linear(3, 6), norm(10), nn.Linear(10, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.decoder(self.norm(torch.cat((self.a(x), self.b(x)), -1)))

    assert cut(Two(), X, b=SOME).norm.normalized_shape == (8,)
    assert cut(Two(), X, a=torch.zeros(4), b=SOME).norm.normalized_shape == (5,)


def test_an_unbatched_sequence_whose_final_state_is_read_trains_and_shrinks() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = nn.GRU(3, 6, 2), nn.Linear(6, 2)

        def forward(self, x: Tensor, state: Any = None) -> Any:
            state = self.encoder(x, state)[1]
            return self.head(state[-1]), state

    network, inputs = Last(), (X[:, 0], torch.ones(2, 6))
    gates = gate_network_(network, trace(network, inputs), open_probability=0.6)
    network(*inputs)[0].sum().backward()
    assert bool(gates.log_alpha.grad.any())  # type: ignore[union-attr]
    small = cut(Last(), inputs, encoder__l0=SOME, encoder__l1=(SOME > 0.4).float())
    assert isinstance(small.encoder, RaggedRNN)
    assert [tuple(row.shape) for row in small(X[:, 0])[1]] == [(4,), (3,)]


def test_states_go_in_and_come_out_cut() -> None:
    state = torch.linspace(-1, 1, 12).reshape(1, 2, 6)
    small = cut(Tagger(), (X, state), encoder__l0=SOME)
    output, after = small(X, state[..., SOME > 0])
    assert (output.shape, after.shape) == ((5, 2, 4), (1, 2, 4))

    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTMCell(3, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> Any:
            state = self.cell(x, state)
            return self.head(state[0]), state

    states = (torch.ones(2, 6), torch.ones(2, 6))
    output, (h, c) = cut(Cell(), (X[0], states), cell=SOME)(X[0], (states[0][:, :4], states[1][:, :4]))
    assert h.shape == c.shape == (2, 4)


@dataclass
class Result:
    scores: Tensor
    parts: dict[str, Tensor]


def test_keyword_inputs_and_outputs_in_dicts_and_dataclasses() -> None:
    class Named(Tagger):
        def forward(self, *, features: Tensor) -> Result:  # type: ignore[override]
            scores = super().forward(features)[0]
            return Result(scores, {"twice": 2 * scores})

    small = cut(Named(), {"features": X}, encoder__l0=SOME)
    assert small(features=X).parts["twice"].shape == (5, 2, 4)


def test_a_network_that_draws_random_numbers_is_compared_from_the_same_ones() -> None:
    noisy = Tagger()
    noisy.decoder = nn.Sequential(noisy.decoder, Noise())
    assert cut(noisy, X, encoder__l0=SOME).encoder.hidden_size == 4


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


def test_numbers_of_the_users_follow_the_widths() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.sizes = 6, (6, 5)
            self.encoder = nn.LSTM(3, 6, 2, bidirectional=True)
            self.cell, self.head = nn.GRUCell(12, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            output = self.encoder(x)[0]
            ends = torch.cat((output[-1, :, : self.hidden], output[0, :, self.hidden :]), -1)
            return self.head(self.cell(ends, torch.zeros(2, self.sizes[1])))

    gates = {"encoder.l0": SOME, "encoder.l1": (SOME > 0.4).float(), "encoder.l1_reverse": (SOME > 0.4).float()}
    gates["cell"] = torch.tensor([1.0, 0, 1, 0, 0])
    network = Halves()
    units = trace(network, X)
    surgery = operate(network, {n: g for n, g in gates.items() if n in units.axes}, example_inputs=X)
    assert "hidden 6 → 3" in surgery.followed
    assert surgery.network.sizes[1] == 2  # type: ignore[index]
    assert (network.hidden, network.sizes) == (6, (6, 5))


def test_hooks_shared_modules_modes_and_frozen_parameters_are_taken_over() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.encoder, self.head = nn.Linear(3, 6), nn.GRU(6, 6, 2), nn.Linear(6, 2)
            self.again = self.encoder

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.again(self.first(x))[0] + self.encoder(self.first(x).flip(0))[0])

    network, calls = Shared(), []
    network.encoder.register_forward_hook(lambda *_: calls.append(1))
    network.encoder.weight_hh_l0.requires_grad_(False)
    network.head.eval()
    before = copy.deepcopy(network.state_dict())
    gates = {"first": SOME, "encoder.l0": SOME}
    small = shrink(network, gates, example_inputs=X)
    calls.clear()
    small(X)
    assert len(calls) == 2
    assert isinstance(small.encoder, RaggedRNN)
    assert small.again is small.encoder
    assert (small.training, small.head.training) == (True, False)
    assert [p.shape for p in small.parameters() if not p.requires_grad] == [(12, 4)]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert type(network.encoder) is nn.GRU


def test_a_state_that_a_module_keeps_does_not_stop_the_copy() -> None:
    network = Tagger()
    network.kept = network(X)[1]  # with a graph
    assert cut(network, X, encoder__l0=SOME).encoder.hidden_size == 4


# ---------------------------------------------------------------------------------------------------------------------
# widths


def test_stacks_keep_one_width_where_asked_for() -> None:
    gates = {"encoder.l0": SOME, "encoder.l1": (SOME > 0.4).float()}
    small: Any = shrink(Tagger(num_layers=2), gates, example_inputs=X, uniform_stacks=True)
    assert small.encoder.hidden_size == 4
    normal = Tagger(nn.LayerNorm(6), num_layers=2)
    with pytest.raises(
        ValueError, match="`uniform_stacks` would fill up encoder.l1 with closed units, which 'between'"
    ):
        shrink(normal, gates, example_inputs=X, uniform_stacks=True)


def test_widths_are_multiples_as_far_as_there_are_units() -> None:
    for multiple_of, width in ((1, 4), (3, 6), (5, 5), (8, 6)):
        small: Any = shrink(Tagger(), {"encoder.l0": SOME}, example_inputs=X, multiple_of=multiple_of)
        assert small.encoder.hidden_size == width
    with pytest.raises(ValueError, match="`multiple_of` must be at least 1, got 0"):
        shrink(Tagger(), {}, example_inputs=X, multiple_of=0)


def test_more_cells_than_projected_units_stay_also_where_those_are_whole() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.LSTM(3, 6, proj_size=4)

        def forward(self, x: Tensor) -> Tensor:
            return self.encoder(x)[0]

    small = cut(Whole(), X, encoder__l0_cell=torch.tensor([1.0, 0, 0, 0, 0, 1]))
    assert (small.encoder.proj_size, small.encoder.hidden_size) == (4, 5)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-12), (torch.bfloat16, 3e-2)])
def test_other_dtypes(dtype: torch.dtype, most: float) -> None:
    surgery = operate(Tagger().to(dtype), {"encoder.l0": SOME}, example_inputs=X.to(dtype))
    assert surgery.max_abs_difference < most
    assert all(parameter.dtype == dtype for parameter in surgery.network.parameters())


def test_on_the_meta_device_a_network_is_traced_gated_and_built() -> None:
    network = Tagger().to("meta")
    units = trace(network, X.to("meta"))
    small: Any = build(network, units, SOME, SOME > 0)
    assert small.encoder.weight_hh_l0.shape == (12, 4)
    assert gate_network_(network, units).log_alpha.device.type == "meta"


# ---------------------------------------------------------------------------------------------------------------------
# gated networks


class Deep(nn.Module):
    """A loop of cells, a norm and a stack, the part in the middle recomputed for the gradient where asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.linear, self.norm, self.top = nn.LSTMCell(3, 6), nn.Linear(6, 5), nn.LayerNorm(5), nn.GRU(5, 4)
        self.decoder = nn.Linear(4, 2)
        self.recomputes = False

    def body(self, x: Tensor) -> Tensor:
        state, outputs = None, []
        for step in x:
            state = self.cell(step, state)
            outputs.append(state[0])
        return self.top(self.norm(self.linear(torch.stack(outputs))))[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(checkpoint(self.body, x, use_reentrant=False) if self.recomputes else self.body(x))


def gated(**options: Any) -> Any:
    network = Deep()
    gate_network_(network, trace(network, X), **options)
    return network


def test_what_is_recomputed_sees_the_same_draw() -> None:
    network = gated(open_probability=0.6)
    gradients = []
    for network.recomputes in (False, True):
        torch.manual_seed(1)
        network.zero_grad()
        network(X).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
    torch.testing.assert_close(*gradients)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when it loads
def test_gradients_by_torch_func() -> None:
    from torch.func import functional_call, grad, jvp

    network = gated(open_probability=0.6).eval()
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
    found = grad(lambda w: functional_call(network, w, (X,)).square().sum())(weights)
    network(X).square().sum().backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)
    output, tangent = jvp(network, (X,), (torch.ones_like(X),))
    step = (network(X + 1e-3) - network(X - 1e-3)) / 2e-3
    torch.testing.assert_close(tangent, step, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_copies_of_gated_networks_are_whole_and_independent(duplicate: Any) -> None:
    network = gated(open_probability=0.6)
    network(X).sum().backward()
    twin = duplicate(network)
    results = []
    for one in (network, twin):
        torch.manual_seed(3)
        results.append(one(X))
    torch.testing.assert_close(*results)
    torch.nn.init.zeros_(twin.unit_gates.log_alpha)
    assert not torch.equal(twin.unit_gates.log_alpha, network.unit_gates.log_alpha)
    assert type(shrink(twin.eval(), example_inputs=X).cell) is nn.LSTMCell


def test_gates_are_picked_once_per_draw() -> None:
    network = gated(open_probability=0.6)
    network(X)
    assert network.unit_gates.draws == 1
    assert network.linear.input_gates.value is network.linear.input_gates.value
    assert network.cell.weight_hh is network.cell.weight_hh
    assert network.state_dict()["cell.weight_hh"].data_ptr() == network.cell._parameters["weight_hh"].data_ptr()
    before = network.cell.weight_hh
    network(X)
    assert network.cell.weight_hh is not before


def test_a_network_shrinks_after_a_step_that_its_last_pass_did_not_see() -> None:
    network = gated(open_probability=1.0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network(X).square().sum().backward()
    optimizer.step()  # folded weights of that pass are views of parameters that have changed
    assert shrink(network.eval(), example_inputs=X).cell.hidden_size == 6


def test_a_network_is_gated_once() -> None:
    with pytest.raises(ValueError, match="`network` must not have gates yet; build it anew"):
        gate_network_(network := gated(), trace(network, X))


# ---------------------------------------------------------------------------------------------------------------------
# what stays whole


def whole(network: nn.Module, inputs: Any = X) -> dict[str, str]:
    return tried_units(network, inputs).whole


def test_a_second_output_made_of_units_stays_whole() -> None:
    class Autoencoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder, self.out = nn.LSTM(3, 6), nn.LSTM(6, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Any:
            code = self.encoder(x)[1][0][-1]
            return self.out(self.decoder(code.expand(5, -1, -1))[0]), code

    assert whole(Autoencoder())["encoder.l0"] == "it is an output of the network"


class OwnLSTM(nn.LSTM):
    pass


class OwnNorm(nn.LayerNorm):
    pass


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.entr(x.sigmoid())


class Heads(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(5, 2, 2, 3).flatten(2)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda n: setattr(n, "encoder", OwnLSTM(3, 6)), "'encoder' is a OwnLSTM, whose own code gates would go round"),
        (lambda n: setattr(n, "between", OwnNorm(6)), "it is normalised over in 'between', which is no LayerNorm of"),
        (
            lambda n: setattr(n, "between", Unknown()),
            "entr` in 'between' has no rule; `l0rnn.tracing.rule` gives it one",
        ),
        (lambda n: setattr(n, "between", Heads()), "a trial cut of it failed: the shrunken network does not run"),
    ],
    ids=["LSTM", "norm", "operation", "width"],
)
def test_what_gates_cannot_follow_stays_whole_with_the_reason(change: Any, why: str) -> None:
    network = Tagger()
    change(network)
    assert why in whole(network)["encoder.l0"]


def test_a_norm_that_is_used_for_other_units_too_keeps_them_whole() -> None:
    norm = nn.LayerNorm(6, elementwise_affine=False)
    why = "'1' normalises over it, and over other units elsewhere"
    network = nn.Sequential(nn.Linear(3, 6), norm, nn.Linear(6, 6), norm, nn.Linear(6, 2))
    assert whole(network)["0"] == whole(network)["2"] == why
    raw = nn.LayerNorm(3, elementwise_affine=False)  # of what comes from outside
    assert whole(nn.Sequential(raw, nn.Linear(3, 3), raw, nn.Linear(3, 2)))["1"] == why.replace("'1'", "'0'")


def test_a_network_without_units_is_copied() -> None:
    assert type(shrink(nn.Linear(3, 2), {}, example_inputs=X)) is nn.Linear


# ---------------------------------------------------------------------------------------------------------------------
# what is refused


def with_nan() -> nn.Module:
    network = Tagger()
    nn.init.constant_(network.decoder.weight, torch.nan)
    return network


class Restless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * random.random()


@pytest.mark.parametrize(
    ("network", "gates", "options", "message"),
    [
        (Tagger(), {"encoder.l0": SOME}, {"example_inputs": None}, "`example_inputs` must be given: the shrunken"),
        (Tagger(), None, {}, "`gates` must be given for a network without gates"),
        (Tagger(), {"encoder": SOME}, {}, "`gates` names 'encoder', which is none of the axes encoder.l0"),
        (Tagger(), {"decoder": SOME}, {}, "`gates` names 'decoder', which cannot be pruned: it is an output"),
        (Tagger(), {"encoder.l0": SOME[:5]}, {}, r"`gates` must have shape \(6,\) for 'encoder.l0', got \(5,\)"),
        (Tagger(), {"encoder.l0": 2 * SOME}, {}, r"`gates` must be in \[0, 1\] for 'encoder.l0', got 0 to 2"),
        (Tagger(), {"encoder.l0": SOME}, {"tolerance": -1.0}, "`tolerance` must be a finite number >= 0"),
        (with_nan(), {"encoder.l0": SOME}, {}, "finite weights, but 'decoder.weight' holds NaN or infinity"),
        (Tagger(Restless()), {"encoder.l0": SOME}, {}, "`network` differs from itself by .* when it is run twice"),
        (Tagger(lambda x: x / (x - x)), {"encoder.l0": SOME}, {}, "`network` gives NaN on `example_inputs`"),
        (
            Tagger(Heads()),
            {"encoder.l0": SOME[:3]},
            {},
            "at fault: encoder.l0. The forward pass uses their width in a way",
        ),
        (
            Tagger(),
            {},
            {"example_inputs": (X, None, 1)},
            "`network` fails on the `example_inputs`, which must be a tuple",
        ),
    ],
)
def test_what_cannot_be_proved_is_refused(network: Any, gates: Any, options: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        shrink(network, gates, **({"example_inputs": X} | options))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_and_scripted_networks_are_refused() -> None:
    with pytest.raises(TypeError, match="`network` must not be compiled yet; pass the module itself"):
        explain(torch.compile(Tagger()), X)  # type: ignore[arg-type]
    scripted = torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
    with pytest.raises(TypeError, match="`network` must be a module in Python, got a scripted one"):
        explain(scripted, X)


def test_a_refusal_leaves_a_gated_network_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["l0rnn.surgery.shrink"], "compare", lambda *_: (1.0, 0.5))
    network = gated(open_probability=0.6)
    network.register_forward_hook(lambda module, inputs, output: output + len(list(module.parameters())))
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(NotEqualError, match="differs from the original by 1, more than 0.5; at fault: "):
        shrink(network, example_inputs=X)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.unit_gates.is_frozen


class Returns(nn.Module):
    def __init__(self, result: Any) -> None:
        super().__init__()
        self.weight, self.result = nn.Parameter(torch.ones(1)), result

    def forward(self, x: Tensor) -> Any:
        return self.result(x)


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (
            lambda x: x,
            lambda x: x[:2],
            r"an output of the shrunken network has shape \(2, 2, 3\), the original's \(5, ",
        ),
        (lambda x: (x, x), lambda x: (x,), "returns a tuple of 1 where the original returns a tuple of 2"),
        (lambda x: x, lambda x: x / 0 * 0, "an output of the shrunken network is NaN where the original's is none"),
        (lambda x: None, lambda x: None, "the networks have no output tensors to compare"),
    ],
)
def test_outputs_of_another_form_are_no_equals(one: Any, other: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(Returns(one), Returns(other), X)


def test_each_output_is_measured_by_its_own_size() -> None:
    """A large output beside it does not hide what is wrong with a small one; whole numbers count where they are all."""
    difference, allowed = compare(Returns(lambda x: (1e6 * x, x)), Returns(lambda x: (1e6 * x, x + 1e-3)), X)
    assert difference > allowed
    difference, allowed = compare(Returns(lambda x: x > 0), Returns(lambda x: x > 0.5), X)
    assert difference > allowed
    difference, allowed = compare(Returns(lambda x: (x, x / 0)), Returns(lambda x: (x, x / 0)), X[:1])
    assert difference <= allowed
    difference, allowed = compare(Returns(lambda x: (x, x / 0)), Returns(lambda x: (x, -x / 0)), X[:1])
    assert not difference <= allowed


def test_the_report_reads_as_text(caplog: pytest.LogCaptureFixture) -> None:
    surgery = Surgery(nn.Identity(), {"encoder.l0": (2, 6)}, {"decoder": "it is an output"}, 1.23e-7)
    assert str(surgery) == (
        "shrunk, outputs differ by at most 1.2e-07\n  encoder.l0: 2 of 6 units\nnot pruned:\n  decoder: it is an output"
    )
    with caplog.at_level("INFO", logger="l0rnn.surgery"):
        small = cut(Tagger(), X, encoder__l0=SOME)
    assert "  encoder.l0: 4 of 6 units\nnot pruned:\n  decoder: it is an output" in caplog.text
    assert small.surgery_report in caplog.text
