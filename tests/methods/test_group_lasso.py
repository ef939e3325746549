"""Group lasso on units: the penalty, what it does to weights, and when units close."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l0rnn.methods.group_lasso import GroupLasso
from l0rnn.surgery.shrink import operate
from tests.methods import loops
from tests.methods.test_group_norms import of_tagger, of_tied, slow_sums
from tests.networks import TiedLanguageModel, WordTagger


def attached(network: Any, method: GroupLasso, steps: int = 30) -> GroupLasso:
    return loops.attached(network, method, steps=steps)


def sums_of(network: Any, axis: str) -> Tensor:
    return slow_sums({axis: of_tagger(network)[axis]}).detach()


def is_open(method: GroupLasso, axis: str = "encoder.l0") -> Tensor:
    return method.open_units()[axis]


# ---------------------------------------------------------------------------------------------------------------------
# the penalty


@pytest.mark.parametrize("units", ["input", "hidden", "both"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}])
def test_the_penalty_is_the_sum_of_the_norms_of_all_groups(units: Any, options: Any) -> None:
    network: Any = WordTagger("GRU", **options).double()
    method = attached(network, GroupLasso(0.3, units=units))
    groups = of_tagger(network)
    chosen = {a: v for a, v in groups.items() if units == "both" or (a == "embedding") == (units == "input")}
    expected = 0.3 * (slow_sums(chosen) + 1e-8).sqrt().sum()
    penalty = method.penalty()
    torch.testing.assert_close(penalty, expected)
    parameters = [p for p in network.parameters() if p.requires_grad]
    gradients, slow = (torch.autograd.grad(v, parameters, allow_unused=True) for v in (penalty, expected))
    assert any(gradient is not None for gradient in gradients)
    torch.testing.assert_close(gradients, slow)


def test_norms_of_tied_networks_and_of_embeddings_and_by_the_size_of_their_groups() -> None:
    tied = TiedLanguageModel()
    expected = (slow_sums(of_tied(tied)) + 1e-8).sqrt().sum()
    torch.testing.assert_close(attached(tied, GroupLasso(1.0)).penalty(), expected)
    network: Any = WordTagger("LSTM")
    sums = slow_sums(of_tagger(network)) + torch.cat([network.embedding.weight.square().sum(0), torch.zeros(7)])
    expected = 0.3 * (sums + 1e-8).sqrt().sum()
    torch.testing.assert_close(attached(network, GroupLasso(0.3, embedding=True)).penalty(), expected)
    network = WordTagger("LSTM", num_layers=2)
    method = attached(network, GroupLasso(0.3, scale_by_size=True, units="hidden"))
    # rows of width input + 7 in four gates, 28 in the own column, then the readers: 28 above, 5 in the decoder
    sizes = {"encoder.l0": 4 * (6 + 7) + 28 + 28, "encoder.l1": 4 * (7 + 7) + 28 + 5}
    expected = 0.3 * sum((size * (sums_of(network, axis) + 1e-8)).sqrt().sum() for axis, size in sizes.items())
    torch.testing.assert_close(method.penalty().detach(), expected)


def test_empty_groups_have_a_gradient_of_zero() -> None:
    network = WordTagger("LSTM")
    for parameter in network.parameters():
        parameter.data.zero_()
    method = attached(network, GroupLasso(1.0))
    penalty = method.penalty()
    penalty.backward()
    assert penalty.item() == pytest.approx((6 + 7) * 1e-4)
    assert bool((network.encoder.weight_hh_l0.grad == 0).all())


def test_the_penalty_rises_along_the_ramp_and_stops_at_the_freeze() -> None:
    network = WordTagger("LSTM")
    method = attached(network, GroupLasso(0.5, ramp=0.4, freeze=0.8, threshold=0.0), steps=10)
    full = float((slow_sums(of_tagger(network)) + 1e-8).sqrt().sum().detach())
    for step, part in enumerate([0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 0, 0]):
        assert method.penalty().item() == pytest.approx(0.5 * part * full, rel=1e-5)
        assert method.figures()["price"] == pytest.approx(0.5 * part)
        assert method.penalty().requires_grad == (part > 0)
        method.after_step(step + 1)


# ---------------------------------------------------------------------------------------------------------------------
# small weights become 0


@pytest.mark.parametrize("embedding", [False, True])
def test_small_weights_of_groups_are_set_to_zero_and_no_others(*, embedding: bool) -> None:
    network: Any = WordTagger("LSTM", num_layers=2, normalise=True)
    method = attached(network, GroupLasso(0.1, threshold=0.1, embedding=embedding, freeze=0.5), steps=4)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    method.after_step(1)
    for name, parameter in network.named_parameters():
        is_group = parameter.dim() == 2 and (embedding or not name.startswith("embedding"))
        expected = torch.where(before[name].abs() <= 0.1, 0.0, before[name]) if is_group else before[name]
        assert is_group == (not torch.equal(expected, before[name]))
        assert torch.equal(parameter, expected), name
    method.after_step(2)
    network.decoder.weight.data.fill_(0.05)
    method.after_step(3)
    assert bool((network.decoder.weight == 0.05).all())  # the network that is left is tuned


def test_a_threshold_of_zero_changes_no_weight() -> None:
    network: Any = WordTagger("LSTM")
    method = attached(network, GroupLasso(0.1, threshold=0.0, density=0.5))
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for step in range(1, 31):
        method.after_step(step)
    assert all(torch.equal(network.get_parameter(name), value) for name, value in before.items())
    assert method.kept_cost().multiply_adds <= 0.5 * method.dense.multiply_adds


# ---------------------------------------------------------------------------------------------------------------------
# units close


def emptied(closed: Tensor) -> Any:
    """The LSTM tagger of one layer with all weights of some units below 1e-4, but not 0."""
    network: Any = WordTagger("LSTM")
    with torch.no_grad():
        rows = closed.repeat(4)
        network.encoder.weight_ih_l0[rows] = 5e-5
        network.encoder.weight_hh_l0[rows] = 5e-5
        network.encoder.weight_hh_l0[:, closed] = -5e-5
        network.decoder.weight[:, closed] = 5e-5
    return network


def test_a_unit_closes_once_all_its_weights_are_small() -> None:
    network = emptied(torch.arange(7) % 3 == 0)
    network.encoder.weight_hh_l0.data[1, 3] = 2e-4  # one weight from unit 3 to unit 1 keeps it open
    method = attached(network, GroupLasso(0.1, frequency=2))
    method.after_step(1)
    assert bool(is_open(method).all())  # not looked at yet
    method.after_step(2)
    assert (~is_open(method)).nonzero().flatten().tolist() == [0, 6]
    with torch.no_grad():
        network.encoder.weight_hh_l0[:, 0] = 1.0  # closed for good, so that its weights keep no other unit open
        network.encoder.weight_hh_l0[1, 3] = 0.0
    method.after_step(4)
    assert (~is_open(method)).nonzero().flatten().tolist() == [0, 3, 6]


@pytest.mark.parametrize("density", [None, 0.9])
def test_empty_units_close_at_the_freeze_whether_or_not_there_is_a_density(density: float | None) -> None:
    closed = torch.arange(7) > 2
    method = attached(emptied(closed), GroupLasso(0.1, density=density, freeze=0.5, frequency=100), steps=4)
    method.after_step(1)
    assert bool(is_open(method).all())
    method.after_step(2)
    assert torch.equal(is_open(method), ~closed)


def test_the_first_unit_stays_where_all_are_empty_and_what_is_no_number_closes_nothing() -> None:
    method = attached(emptied(torch.ones(7) > 0), GroupLasso(0.1, frequency=1, units="hidden"))
    for step in (1, 2):
        method.after_step(step)
        assert is_open(method).tolist() == [True] + 6 * [False]
    network: Any = WordTagger("LSTM")
    method = attached(network, GroupLasso(0.1, frequency=1))
    network.encoder.weight_hh_l0.data[0, 0] = torch.nan
    method.after_step(1)
    assert bool(is_open(method).all())


@pytest.mark.parametrize("weight", [5e-3, 1e-9])
def test_the_penalty_alone_empties_units_in_training_and_leaves_those_that_are_needed(weight: float) -> None:
    network: Any = WordTagger("LSTM", hidden=40, embedding=20, num_layers=2)
    method = attached(network, GroupLasso(weight, threshold=0.02, frequency=10, units="hidden"), steps=300)
    optimizer = torch.optim.SGD(network.parameters(), lr=5.0)
    for step in range(1, 301):  # tag each word with its remainder by 5
        words = torch.randint(11, (6, 8), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(words)[0].flatten(0, 1), (words % 5).flatten())
        (loss + method.penalty()).backward()
        optimizer.step()
        method.after_step(step)
    kept = {axis: int(units.sum()) for axis, units in method.open_units().items()}
    assert set(kept) == {"encoder.l0", "encoder.l1"}
    assert all(2 <= units < 20 for units in kept.values()) if weight > 1e-6 else kept == dict.fromkeys(kept, 40)
    words = torch.randint(11, (7, 20))
    small = operate(network.eval(), method.gates(), example_inputs=words, units=method.traced).network
    assert torch.equal(small(words)[0].argmax(-1), words % 5)


def test_the_smallest_root_mean_squares_close_at_the_freeze_without_those_of_closed_units() -> None:
    network: Any = WordTagger("LSTM", hidden=12)
    method = attached(network, GroupLasso(0.1, threshold=0.0, density=0.4, freeze=0.5, units="hidden"), steps=4)
    closed = torch.arange(12) == 3
    method.close_(~closed)
    w_hh = network.encoder.weight_hh_l0.detach()
    norms = sums_of(network, "encoder.l0") - w_hh[:, 3].square().unflatten(0, (4, 12)).sum(0)
    norms -= w_hh.unflatten(0, (4, 12))[:, 3].square().sum(0)
    w_hh[:, 3] = torch.randn(48) * 100
    method.after_step(1)
    assert torch.equal(is_open(method), ~closed)
    method.after_step(2)
    open = is_open(method)
    assert 0 < int(open.sum()) < 11
    assert norms[open].min() > norms[~open & ~closed].max()


def test_a_layer_of_small_weights_does_not_lose_all_its_units_at_the_freeze() -> None:
    network: Any = WordTagger("LSTM", hidden=12, num_layers=2)
    method = attached(network, GroupLasso(0.1, threshold=0.0, density=0.4, freeze=0.5, units="hidden"), steps=4)
    for name, parameter in network.encoder.named_parameters():
        if name.endswith("_l0") or name == "weight_ih_l1":
            parameter.data.mul_(0.01)
    method.after_step(2)
    assert all(3 <= int(units.sum()) < 12 for units in method.open_units().values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 0.0}, "`weight` must be > 0, got 0.0; use the method `Dense` for an unpruned run"),
        ({"weight": float("nan")}, "`weight` must be finite, got nan"),
        ({"threshold": -1e-4}, "`threshold` must be >= 0, got -0.0001"),
        ({"density": 1.5}, r"`density` must be in \(0, 1\], got 1.5"),
        ({"freeze": 0.0}, r"`freeze` must be a fraction of the training in \(0, 1\], got 0.0"),
        ({"freeze": 1.5}, r"`freeze` must be a fraction of the training in \(0, 1\], got 1.5"),
        ({"ramp": 0.7}, r"`ramp` must be a fraction of the training in \[0, `freeze`\] = \[0, 0.6\], got 0.7"),
        ({"ramp": -0.1}, r"`ramp` must be a fraction of the training in .*, got -0.1"),
        ({"frequency": 0}, "`frequency` must be a fraction of the training in .*, got 0"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GroupLasso(**{"weight": 0.1, **options})
