"""Neuron selection: which units get gates, when they freeze, and where a budget settles them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from l0rnn.blueprint import draw_blueprint
from l0rnn.cost.budget import Budget
from l0rnn.cost.cost import Cost, cost
from l0rnn.cost.objective import Objective, Penalty
from l0rnn.gates import GatedLSTM, GatedRecurrence, Gates
from l0rnn.gates.hard_concrete import HardConcrete
from l0rnn.gates.network import gate_network_, network_gates
from l0rnn.methods import L0Gates
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.surgery.shrink import operate
from l0rnn.wiring import OUTSIDE, Wiring, reads
from tests.networks import CELLS, StateClassifier, TiedLanguageModel, TwoReaders, WordTagger, set_gates_at_random


def attached(network: Any, objective: Objective | None = None, **options: Any) -> L0Gates:
    method = L0Gates(objective or Penalty(0.1), **options)
    method.attach(network, network.wiring)
    return method


def price(method: L0Gates) -> float:
    return float(method.objective.state_dict()["price"])


# ---------------------------------------------------------------------------------------------------------------------
# attaching

EMBEDDED = {"embedding": 6}
HIDDEN = {"encoder.l0": 7, "encoder.l0_reverse": 7, "encoder.l1": 7, "encoder.l1_reverse": 7}
JOINED = {"left.l0": 5, "left.l0_reverse": 5, "right.l0": 4, "top.l0": 5}


@pytest.mark.parametrize(
    ("network", "units", "axes"),
    [
        (lambda: WordTagger("GRU", num_layers=2, bidirectional=True), "input", EMBEDDED),
        (lambda: WordTagger("GRU", num_layers=2, bidirectional=True), "hidden", HIDDEN),
        (lambda: WordTagger("GRU", num_layers=2, bidirectional=True), "both", {**EMBEDDED, **HIDDEN}),
        (lambda: WordTagger("LSTM_projected"), "hidden", {"encoder.l0": 4, "encoder.l0_cell": 7}),
        (TwoReaders, "input", {"embedding": 6, "join": 8}),  # both are read by recurrent layers
        (TwoReaders, "hidden", JOINED),
        (TwoReaders, "both", {"embedding": 6, "join": 8, **JOINED}),
        (StateClassifier, "both", {"encoder.l0": 6}),  # its input comes from outside
        (TiedLanguageModel, "both", {"encoder.l0": 6, "encoder.l1": 6}),
    ],
)
def test_gates_are_on_the_axes_asked_for(network: Any, units: Any, axes: dict[str, int]) -> None:
    net = network()
    before = dict(net.named_parameters())
    method = attached(net, units=units)
    assert {axis: len(gate) for axis, gate in method.gates().items()} == axes
    assert {axis: gates.units for axis, gates in network_gates(net, draw_blueprint(net, net.wiring)).items()} == axes
    after = {name: p for name, p in net.named_parameters() if not name.endswith("log_alpha")}
    assert after.keys() == before.keys()
    assert all(after[name] is parameter for name, parameter in before.items())
    gates = [name for name, _ in net.named_parameters() if name.endswith("log_alpha")]
    assert len(gates) == len(axes)
    assert [id(p) for p in method.gate_parameters()] == [id(module.log_alpha) for module in method._gates.values()]
    recurrent = [module for module in net.modules() if isinstance(module, nn.RNNBase)]
    assert all(isinstance(module, GatedRecurrence) and module.is_wired for module in recurrent)


def test_gates_start_at_the_open_probability_with_the_spread() -> None:
    network = WordTagger("LSTM", hidden=4000, embedding=2)
    method = attached(network, open_probability=0.8, spread=0.1, distribution=HardConcrete(beta=0.5))
    locations = method._gates["encoder.l0"].log_alpha.detach()
    middle = HardConcrete(beta=0.5).log_alpha(torch.tensor(0.8)).item()
    assert locations.mean().item() == pytest.approx(middle, abs=0.01)
    assert locations.std().item() == pytest.approx(0.1, abs=0.01)
    alike = attached(WordTagger("LSTM"), open_probability=0.8, spread=0.0)._gates["encoder.l0"]
    torch.testing.assert_close(alike.open_probability(), torch.full((7,), 0.8))


def slow_tagger(network: Any, words: Tensor, gates: dict[str, Tensor]) -> Tensor:
    """A gated tagger written out: each unit multiplied by its gate where it is read, with plain layers."""
    plain: Any = WordTagger("LSTM", num_layers=2)
    plain.load_state_dict({name: v for name, v in network.state_dict().items() if "gates" not in name})
    with torch.no_grad():
        plain.encoder.weight_hh_l0.mul_(gates["encoder.l0"])
        plain.encoder.weight_hh_l1.mul_(gates["encoder.l1"])
        plain.encoder.weight_ih_l1.mul_(gates["encoder.l0"])
        output, _ = plain.encoder(plain.embedding(words) * gates["embedding"])
        return plain.decoder(output * gates["encoder.l1"])


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("is_sparse", [False, True])
def test_a_gated_network_multiplies_each_unit_where_it_is_read(*, is_training: bool, is_sparse: bool) -> None:
    network = WordTagger("LSTM", num_layers=2)
    method = attached(network)
    for gates in method._gates.values():
        gates.log_alpha.data.uniform_(-6, 3) if is_sparse else gates.log_alpha.data.uniform_(-1, 3)
    network.train(is_training)
    words = torch.randint(11, (5, 3))
    output, _ = network(words)
    values = {axis: gates.value for axis, gates in method._gates.items()}
    torch.testing.assert_close(output, slow_tagger(network, words, values))
    if is_training:
        assert any(not torch.equal(values[axis], gate) for axis, gate in method.gates().items())
        network(words)
        assert any(not torch.equal(values[axis], gates.value) for axis, gates in method._gates.items())
    else:
        assert all(torch.equal(values[axis], gate) for axis, gate in method.gates().items())


@pytest.mark.parametrize("cell", CELLS)
def test_packed_sequences_run_through_a_gated_network(cell: str) -> None:
    class Stacked(nn.Module):
        wiring = Wiring({"encoder": reads("embedding"), "second": reads("encoder"), "decoder": reads("second")})

        def __init__(self) -> None:
            super().__init__()
            layer: Any = CELLS[cell][0]
            extra = CELLS[cell][1]
            self.embedding = nn.Embedding(9, 4)
            self.encoder = layer(4, 6, bidirectional=True, **extra)
            width = 2 * extra.get("proj_size", 6)
            self.second = nn.GRU(width, 5)
            self.decoder = nn.Linear(5, 3)

        def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
            packed = pack_padded_sequence(self.embedding(words), lengths, enforce_sorted=False)
            output, _ = self.second(self.encoder(packed)[0])
            return self.decoder(pad_packed_sequence(output)[0])

    network = Stacked()
    attached(network)
    network.eval()
    set_gates_at_random(network, torch.Generator().manual_seed(0))
    words, lengths = torch.randint(9, (5, 3)), torch.tensor([2, 5, 3])
    surgery = operate(network, network.wiring, example_inputs=(words, lengths))
    expected = network(words, lengths)
    torch.testing.assert_close(surgery.network(words, lengths), expected, atol=1e-5, rtol=0)
    for row, length in enumerate(lengths.tolist()):
        alone = network(words[:length, row : row + 1], torch.tensor([length]))
        torch.testing.assert_close(expected[:length, row], alone[:, 0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("duplicate_after_a_pass", [False, True])
def test_a_copy_of_a_gated_network_draws_its_own_gates(*, duplicate_after_a_pass: bool) -> None:
    network = WordTagger("LSTM", normalise=True)
    attached(network, open_probability=0.5)
    words = torch.randint(11, (5, 3))
    if duplicate_after_a_pass:
        network(words)
    twin = copy.deepcopy(network)
    torch.manual_seed(1)
    expected = network(words)[0]
    torch.manual_seed(1)
    torch.testing.assert_close(twin(words)[0], expected)
    for module in twin.modules():
        if isinstance(module, Gates):
            module.log_alpha.data.fill_(-9.0)
    torch.manual_seed(1)
    torch.testing.assert_close(network(words)[0], expected)
    assert not torch.allclose(twin(words)[0], expected)


class Reader(nn.Module):
    """Calls one layer of a gated network by itself, with an input of the wrong width."""

    wiring = Wiring({"encoder": reads(OUTSIDE), "norm": reads("encoder"), "decoder": reads("encoder")})

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.norm, self.decoder = nn.LSTM(3, 6), nn.LayerNorm(6), nn.Linear(6, 2)

    def forward(self, layer: str, data: Tensor) -> Tensor:
        result = getattr(self, layer)(data)
        return result[0] if isinstance(result, tuple) else result


@pytest.mark.parametrize("layer", ["norm", "decoder"])
@pytest.mark.parametrize("width", [1, 5, 7])
@pytest.mark.parametrize("is_sparse", [False, True])
def test_a_gated_reader_refuses_an_input_of_another_width(layer: str, width: int, *, is_sparse: bool) -> None:
    """Neither broadcasting (width 1) nor picking the open units (width 7) may hide a mistake."""
    network = Reader()
    with pytest.raises(RuntimeError):
        network(layer, torch.randn(4, 2, width))
    method = attached(network)
    network.eval()
    if is_sparse:
        method._gates["encoder.l0"].log_alpha.data[2:] = -50.0
    assert network(layer, torch.randn(4, 2, 6)).shape[:2] == (4, 2)
    with pytest.raises((RuntimeError, ValueError)):
        network(layer, torch.randn(4, 2, width))


def test_gated_layers_take_their_input_by_name_as_torch_layers_do() -> None:
    class ByName(nn.Module):
        wiring = Wiring({"encoder": reads(OUTSIDE), "second": reads("encoder"), "decoder": reads("second")})

        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.second, self.decoder = nn.LSTM(3, 6), nn.GRU(6, 6), nn.Linear(6, 2)

        def forward(self, features: Tensor) -> Tensor:
            output = self.encoder(input=features)[0]
            return self.decoder(input=self.second(input=output, hx=None)[0])

    network = ByName()
    attached(network)
    set_gates_at_random(network, torch.Generator().manual_seed(0))
    network.eval()
    features = torch.randn(5, 2, 3)
    surgery = operate(network, network.wiring, example_inputs=features)
    torch.testing.assert_close(surgery.network(features), network(features), atol=1e-5, rtol=0)


@pytest.mark.parametrize("is_training", [False, True])
def test_gates_take_over_the_mode_of_their_layers(*, is_training: bool) -> None:
    network = WordTagger("LSTM", normalise=True).train(is_training)
    attached(network)
    assert all(module.training == is_training for module in network.modules())


# ---------------------------------------------------------------------------------------------------------------------
# refusing to attach


def test_units_of_no_known_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="`units` must be 'input', 'hidden' or 'both', got 'output'"):
        attached(WordTagger("LSTM"), units="output")


@pytest.mark.parametrize("objective", [Penalty(0.1), Budget(density=0.5)])
def test_nothing_to_gate_is_refused(objective: Objective) -> None:
    with pytest.raises(ValueError, match="`units='input'` leaves nothing to gate"):
        attached(StateClassifier(), objective, units="input")


def test_gating_twice_is_refused() -> None:
    network = WordTagger("LSTM")
    attached(network)
    with pytest.raises(ValueError, match="`network` must not have gates yet; build it from plain torch layers"):
        attached(network)


def test_a_ragged_stack_is_not_gated() -> None:
    network = nn.Sequential(RaggedRNN("GRU", 3, [[4], [5]]))
    with pytest.raises(ValueError, match="'0' is a RaggedRNN, but only torch's own LSTM, GRU, RNN"):
        gate_network_(network, draw_blueprint(network, Wiring({"0": reads(OUTSIDE)})))


def test_a_single_layer_as_a_network_is_refused() -> None:
    network = nn.LSTM(3, 4, 2)
    with pytest.raises(ValueError, match="submodule"):
        gate_network_(network, draw_blueprint(network, Wiring({"": reads(OUTSIDE)})))


def test_input_gates_that_other_readers_do_not_share_are_refused() -> None:
    network = nn.Module()
    network.embedding, network.gated, network.plain = nn.Embedding(5, 3), GatedLSTM(3, 4), nn.GRU(3, 4)
    wiring = Wiring({"gated": reads("embedding"), "plain": reads("embedding")})
    with pytest.raises(ValueError, match=r"'gated' has gates on its input, .* read by others too \(\['plain'\]\)"):
        network_gates(network, draw_blueprint(network, wiring))


@pytest.mark.parametrize("density", [0.001, 0.01])
def test_a_budget_below_one_unit_per_layer_is_refused_before_anything_is_changed(density: float) -> None:
    network = WordTagger("LSTM", num_layers=2)
    with pytest.raises(ValueError, match=f"`density` = {density} asks for .* but one unit per layer already costs"):
        attached(network, Budget(density=density))
    assert type(network.encoder) is nn.LSTM


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("units", ["input", "hidden", "both"])
def test_the_least_budget_accepted_is_the_cost_of_the_smallest_network(cell: str, units: Any) -> None:
    network = WordTagger(cell, num_layers=2)
    method = attached(network, Budget(density=0.99), units=units)
    for gates in method._gates.values():
        gates.log_alpha.data.fill_(-9.0)
    words = torch.randint(11, (5, 2))
    small: Any = operate(network.eval(), network.wiring, example_inputs=words).network
    least = cost(draw_blueprint(small, network.wiring)).multiply_adds
    attached(WordTagger(cell, num_layers=2), Budget(multiply_adds=least), units=units)
    with pytest.raises(ValueError, match=f"but one unit per layer already costs {least}"):
        attached(WordTagger(cell, num_layers=2), Budget(multiply_adds=least - 1), units=units)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"open_probability": 0.0}, r"`open_probability` must be in \(0, 1\) for gates that learn, got 0.0"),
        ({"open_probability": 1.0}, r"`open_probability` must be in \(0, 1\)"),
        ({"freeze": 0.0}, r"`freeze` must be a fraction of the training in \(0, 1\], got 0.0"),
        ({"freeze": 1.2}, r"`freeze` must be a fraction of the training in \(0, 1\], got 1.2"),
        ({"freeze": 0.1}, "`freeze` must be after the `start` of the objective, 0.1, got 0.1"),
        ({"spread": -0.1}, "`spread` must be >= 0, got -0.1"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        L0Gates(Budget(density=0.5), **options)


# ---------------------------------------------------------------------------------------------------------------------
# training


def test_the_penalty_is_the_objective_on_the_expected_cost() -> None:
    network = WordTagger("GRU", num_layers=2)
    method = attached(network, Penalty(0.5, ramp=0.0))
    method.begin(10)
    assert method.penalty().item() == 0.0  # the price starts at 0
    method.after_step(1)
    set_gates_at_random(network, torch.Generator().manual_seed(0))
    blueprint = draw_blueprint(network, network.wiring)
    probabilities = {axis: gates.open_probability() for axis, gates in method._gates.items()}
    expected = cost(blueprint, probabilities)
    assert torch.equal(method.expected_cost().multiply_adds, expected.multiply_adds)
    share = expected.multiply_adds / cost(blueprint).multiply_adds
    assert method.penalty().item() == pytest.approx(0.5 * share.item(), rel=1e-5)
    method.penalty().backward()
    for log_alpha in method.gate_parameters():  # a step downhill closes every gate
        assert log_alpha.grad is not None
        assert bool((log_alpha.grad > 0).all())


@pytest.mark.parametrize(
    ("freeze", "total", "step"),
    [(0.6, 10, 6), (0.5, 7, 4), (1.0, 5, 5), (0.01, 10, 1), (0.34, 3, 2)],
)
def test_gates_freeze_at_the_step_asked_for(freeze: float, total: int, step: int) -> None:
    network = WordTagger("LSTM")
    method = attached(network, Budget(density=0.6, start=0.0, ramp=0.0), freeze=freeze)
    method.begin(total)
    for now in range(1, total + 1):
        is_frozen = now > step
        assert method.is_frozen == is_frozen
        assert all(gates.is_frozen == is_frozen for gates in method._gates.values())
        if now > 1:
            assert (method.penalty().item() == 0.0) == is_frozen
        method.after_step(now)
        assert int(method.steps) == now
        assert method.progress == pytest.approx(now / total)
    before, locations = price(method), [p.detach().clone() for p in method.gate_parameters()]
    method.after_step(total + 1)
    assert method.is_frozen
    assert method.penalty().requires_grad is False
    assert method.progress == 1.0
    assert price(method) == before
    assert all(torch.equal(p, was) for p, was in zip(method.gate_parameters(), locations, strict=True))
    assert all(not p.requires_grad for p in method.gate_parameters())


def test_the_price_follows_the_expected_cost() -> None:
    """All gates are closed as they stand, and yet often open when they are drawn: the budget is not met."""
    network = WordTagger("LSTM")
    method = attached(network, Budget(density=0.05, start=0.0, ramp=0.0, rate=1.0), freeze=1.0)
    for gates in method._gates.values():
        gates.log_alpha.data.fill_(method.distribution.closing_log_alpha - 0.01)
    kept = method.kept_cost().multiply_adds / method.dense.multiply_adds
    method.begin(10)
    method.after_step(1)
    share = method.expected_cost().multiply_adds.item() / method.dense.multiply_adds
    assert share > kept + 0.05
    assert price(method) == pytest.approx(share - 0.05, rel=1e-5)


def test_without_a_number_of_steps_nothing_freezes() -> None:
    method = attached(WordTagger("LSTM"), freeze=0.11)
    for step in range(1, 5):
        method.after_step(step)
    assert method.progress == 0.0
    assert not method.is_frozen


@pytest.mark.parametrize("set_to_none", [True, False])
def test_an_optimizer_with_momentum_leaves_frozen_gates_where_they_are(*, set_to_none: bool) -> None:
    network = WordTagger("LSTM")
    method = attached(network, Budget(density=0.6, start=0.0, ramp=0.0), freeze=0.5)
    method.begin(6)
    optimizer = torch.optim.Adam(method.gate_parameters(), lr=0.1)
    frozen: list[Tensor] = []
    for step in range(1, 7):
        optimizer.zero_grad(set_to_none)
        loss = network(torch.randint(11, (5, 2)))[0].sum() + method.penalty()
        loss.backward()
        optimizer.step()
        if method.is_frozen:
            assert all(torch.equal(p, was) for p, was in zip(method.gate_parameters(), frozen, strict=True))
        method.after_step(step)
        if method.is_frozen and not frozen:
            frozen = [p.detach().clone() for p in method.gate_parameters()]
    assert frozen


def test_price_progress_and_gates_are_in_the_checkpoint() -> None:
    network = WordTagger("LSTM")
    method = attached(network, Budget(density=0.3, start=0.0, ramp=0.0), freeze=0.5)
    method.begin(10)
    for step in range(1, 4):
        method.after_step(step)
    assert set(method.state_dict()) == {"total_steps", "steps", "chosen", "objective.price", "objective.target"}
    assert price(method) > 0
    torch.manual_seed(1)
    other = WordTagger("LSTM")
    resumed = attached(other, Budget(density=0.3, start=0.0, ramp=0.0), freeze=0.5)
    other.load_state_dict(network.state_dict())
    resumed.load_state_dict(method.state_dict())
    for step in range(4, 7):
        for one in (method, resumed):
            one.after_step(step)
        assert price(resumed) == price(method)
        assert resumed.is_frozen == method.is_frozen == (step >= 5)
    assert all(torch.equal(gate, resumed.gates()[axis]) for axis, gate in method.gates().items())
    # a checkpoint of frozen gates freezes those it is loaded into
    third = WordTagger("LSTM")
    late = attached(third, Budget(density=0.3, start=0.0, ramp=0.0))
    third.load_state_dict(network.state_dict())
    assert late.is_frozen
    assert late.penalty().item() == 0.0


def test_figures_tell_density_price_and_units() -> None:
    network = WordTagger("LSTM")
    method = attached(network, Budget(density=0.3))
    set_gates_at_random(network, torch.Generator().manual_seed(1))
    figures = method.figures()
    keep = {axis: gate > 0 for axis, gate in method.gates().items()}
    assert all(bool(units.any()) for units in keep.values())
    exact = cost(draw_blueprint(network, network.wiring), keep)
    assert figures["density"] == exact.multiply_adds / method.dense.multiply_adds
    assert figures["parameters"] == exact.parameters
    assert figures["price"] == 0.0
    assert {f"kept/{axis}": float(units.sum()) for axis, units in keep.items()}.items() <= figures.items()


# ---------------------------------------------------------------------------------------------------------------------
# settling on a budget


def keeping(method: L0Gates, locations: dict[str, Tensor], units: int) -> dict[str, Tensor]:
    """The slow way to keep a number of units: those with the largest log_alpha anywhere, and one per axis."""
    ranked = sorted(((float(v), axis, i) for axis, row in locations.items() for i, v in enumerate(row)), reverse=True)
    keep = {axis: torch.zeros(len(row), dtype=torch.bool) for axis, row in locations.items()}
    for _, axis, unit in ranked[:units]:
        keep[axis][unit] = True
    for axis, row in locations.items():
        if not bool(keep[axis].any()):
            keep[axis][row.argmax()] = True
    return keep


def kept_by(method: L0Gates) -> dict[str, Tensor]:
    keep = {axis: gate > 0 for axis, gate in method.gates().items()}
    for axis, gates in method._gates.items():
        if not bool(keep[axis].any()):
            keep[axis][gates.log_alpha.argmax()] = True
    return keep


BUDGETS = [
    {"density": 0.1},
    {"density": 0.35},
    {"density": 0.8},
    {"parameters": 320},
    {"multiply_adds": 150},
    {"density": 0.25, "parameters": 320},  # which of the two stops it depends on the network and the seed
]


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize("seed", range(6))
def test_settling_lands_just_within_the_limit(budget: dict[str, Any], seed: int) -> None:
    torch.manual_seed(seed)
    network: Any = TwoReaders() if seed % 2 else WordTagger("LSTM", num_layers=2)
    method = attached(network, Budget(**budget))
    generator = torch.Generator().manual_seed(seed)
    shift = (-8.0, 0.0, 8.0)[seed % 3]  # almost all closed, a mixture, almost all open
    for gates in method._gates.values():
        gates.log_alpha.data.normal_(generator=generator).mul_(2).add_(shift)
    before = {axis: gates.log_alpha.detach().clone() for axis, gates in method._gates.items()}
    method.settle_()
    limits = method.objective.limits(method.dense)
    assert limits.keys() == {"parameters" if name == "parameters" else "multiply_adds" for name in budget}

    def is_within(keep: dict[str, Tensor]) -> bool:
        return all(cost(method.blueprint, keep)[kind] <= limit for kind, limit in limits.items())

    assert all(torch.equal(gates.log_alpha, before[axis]) for axis, gates in method._gates.items())
    # the largest number of units that the limit allows, found by trying them all
    units = sum(len(locations) for locations in before.values())
    most = max(n for n in range(1, units + 1) if is_within(keeping(method, before, n)))
    slow, fast = keeping(method, before, most), kept_by(method)
    assert all(torch.equal(slow[axis], fast[axis]) for axis in slow)
    assert is_within(fast)
    assert all(method.kept_cost()[kind] <= limit for kind, limit in limits.items())
    if most < units:
        assert not is_within(keeping(method, before, most + 1))  # one more unit would be too much


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("seed", range(3))
def test_the_shrunken_network_costs_what_was_settled(cell: str, seed: int) -> None:
    torch.manual_seed(seed)
    network = WordTagger(cell, num_layers=2)
    method = attached(network, Budget(density=0.3))
    set_gates_at_random(network, torch.Generator().manual_seed(seed))
    method.settle_()
    words = torch.randint(11, (5, 2))
    small: Any = operate(network.eval(), network.wiring, example_inputs=words).network
    shrunken = cost(draw_blueprint(small, network.wiring))
    assert shrunken.multiply_adds == method.kept_cost().multiply_adds
    assert shrunken.multiply_adds <= 0.3 * method.dense.multiply_adds


def test_settled_gates_are_the_mean_of_their_samples_while_open() -> None:
    network = WordTagger("LSTM")
    method = attached(network, Budget(density=0.5))
    set_gates_at_random(network, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    samples = {}
    for axis, gates in method._gates.items():
        many = gates.log_alpha.detach().expand(40_000, -1)
        samples[axis] = gates.distribution.sample(many, generator=generator)
    method.settle_()
    for axis, fixed in method.gates().items():
        is_kept = fixed > 0
        drawn = samples[axis]
        while_open = drawn.sum(0) / (drawn != 0).sum(0)
        torch.testing.assert_close(fixed[is_kept], while_open[is_kept], atol=0.02, rtol=0)
        if is_kept.any() and not is_kept.all():  # the order of log_alpha decides
            locations = method._gates[axis].log_alpha
            assert locations[is_kept].min() >= locations[~is_kept].max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gates_that_are_all_alike_settle_close_to_the_budget(dtype: torch.dtype) -> None:
    """Nothing tells them apart, yet a budget of one half must not end near nothing."""
    network = WordTagger("LSTM", num_layers=2, hidden=40).to(dtype)
    method = attached(network, Budget(density=0.5), spread=0.0)
    method.settle_()
    share = method.kept_cost().multiply_adds / method.dense.multiply_adds
    assert 0.45 <= share <= 0.5


def test_a_penalty_settles_on_the_gates_that_are_open() -> None:
    network = WordTagger("LSTM")
    method = attached(network, Penalty(0.1))
    set_gates_at_random(network, torch.Generator().manual_seed(0))
    before = {axis: gate > 0 for axis, gate in method.gates().items()}
    method.settle_()
    assert all(torch.equal(gate > 0, before[axis]) for axis, gate in method.gates().items())
    assert method.is_frozen


def test_kept_cost_counts_at_least_one_unit_per_axis() -> None:
    network = WordTagger("LSTM")
    method = attached(network)
    for gates in method._gates.values():
        gates.log_alpha.data.fill_(-9.0)
    one = {axis: torch.arange(gates.units) == 0 for axis, gates in method._gates.items()}
    assert method.kept_cost() == cost(draw_blueprint(network, network.wiring), one)
    assert isinstance(method.kept_cost(), Cost)


def test_a_loss_that_calls_parts_of_the_network_draws_once_per_penalty() -> None:
    torch.manual_seed(0)
    network: Any = WordTagger("LSTM")
    method = L0Gates(Budget(density=0.5))
    method.attach(network, network.wiring)
    network.train()
    draws = []
    for _ in range(2):
        output, _ = network.encoder(network.embedding(torch.randint(11, (4, 2))))
        draws.append(network.encoder.gates["l0"].value.detach())
        (network.decoder(output).square().mean() + method.penalty()).backward()  # a second time through one draw fails
    assert not torch.equal(*draws)
