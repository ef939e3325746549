"""Group lasso on units: the penalty, what it does to weights, and when units close."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l0rnn.methods.group_lasso import GroupLasso
from l0rnn.surgery.shrink import operate
from tests.methods.test_group_norms import slow_tagger, slow_tied
from tests.methods.test_structured_magnitude import STEPS, train, wide
from tests.networks import StateClassifier, TiedLanguageModel, WordTagger


def attached(network: Any, method: GroupLasso, steps: int = STEPS) -> GroupLasso:
    method.attach(network, network.wiring)
    method.begin(steps)
    return method


def matrices(network: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that belong to groups: all matrices of recurrent layers and those that read them."""
    return {n: p for n, p in network.named_parameters() if p.dim() == 2 and not n.startswith("embedding")}


# ---------------------------------------------------------------------------------------------------------------------
# the penalty


@pytest.mark.parametrize("units", ["input", "hidden", "both"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_penalty_is_the_sum_of_the_norms_of_all_groups(units: Any, options: Any, dtype: torch.dtype) -> None:
    network: Any = WordTagger("GRU", **options).to(dtype)
    method = attached(network, GroupLasso(0.3, units=units))
    chosen = [
        v for axis, v in slow_tagger(network).items() if units == "both" or (axis == "embedding") == (units == "input")
    ]
    expected = 0.3 * sum((values + 1e-8).sqrt().sum() for values in chosen)
    penalty = method.penalty()
    assert penalty.dtype == dtype
    torch.testing.assert_close(penalty, expected)
    parameters = list(matrices(network).values())
    gradients = torch.autograd.grad(penalty, parameters, allow_unused=True)
    slow = torch.autograd.grad(expected, parameters, allow_unused=True)  # type: ignore[arg-type]
    assert any(gradient is not None for gradient in gradients)
    for gradient, slow_gradient in zip(gradients, slow, strict=True):
        assert (gradient is None) == (slow_gradient is None)
        torch.testing.assert_close(gradient, slow_gradient)


def test_the_penalty_of_a_tied_network_counts_the_shared_weight_once() -> None:
    network: Any = TiedLanguageModel()
    expected = sum((values + 1e-8).sqrt().sum() for values in slow_tied(network).values())
    torch.testing.assert_close(attached(network, GroupLasso(1.0)).penalty(), expected)


def test_norms_can_be_scaled_by_the_size_of_their_groups() -> None:
    network: Any = WordTagger("LSTM", num_layers=2)
    method = attached(network, GroupLasso(0.3, scale_by_size=True))
    # rows of width input + 7 in four gates, 28 in the own column, then the readers: 28 above, 5 in the decoder
    sizes = {"encoder.l0": 4 * (6 + 7) + 28 + 28, "encoder.l1": 4 * (7 + 7) + 28 + 5}
    sums = slow_tagger(network)
    expected = 0.3 * sum((size * (sums[axis] + 1e-8)).sqrt().sum() for axis, size in sizes.items())
    torch.testing.assert_close(method.penalty(), expected)


def test_an_embedding_is_penalised_when_asked_for() -> None:
    network: Any = WordTagger("LSTM")
    method = attached(network, GroupLasso(0.3, units="both", embedding=True))
    slow = slow_tagger(network)
    slow["embedding"] = slow["embedding"] + network.embedding.weight.square().sum(0)
    torch.testing.assert_close(method.penalty(), 0.3 * sum((v + 1e-8).sqrt().sum() for v in slow.values()))


def test_empty_groups_have_a_gradient_of_zero() -> None:
    network = WordTagger("LSTM")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    method = attached(network, GroupLasso(1.0))
    penalty = method.penalty()
    penalty.backward()
    assert penalty.item() == pytest.approx(7 * 1e-4)
    for parameter in matrices(network).values():
        assert parameter.grad is not None
        assert bool((parameter.grad == 0).all())


def test_the_penalty_rises_along_the_ramp_and_stops_at_the_freeze() -> None:
    network = WordTagger("LSTM")
    method = attached(network, GroupLasso(0.5, ramp=0.4, freeze=0.8, threshold=0.0), steps=10)
    full = float(slow_tagger(network)["encoder.l0"].detach().add(1e-8).sqrt().sum())
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
    method = attached(network, GroupLasso(0.1, threshold=0.1, units="both", embedding=embedding))
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    method.after_step(1)
    for name, parameter in network.named_parameters():
        if parameter.dim() == 2 and (embedding or not name.startswith("embedding")):
            expected = torch.where(before[name].abs() <= 0.1, 0.0, before[name])
            assert not torch.equal(expected, before[name])
        else:
            expected = before[name]
        assert torch.equal(parameter, expected), name


def test_a_threshold_of_zero_changes_no_weight() -> None:
    network: Any = WordTagger("LSTM")
    method = attached(network, GroupLasso(0.1, threshold=0.0, density=0.5))
    before = {name: p.detach().clone() for name, p in network.named_parameters() if "log_alpha" not in name}
    for step in range(1, STEPS + 1):
        method.after_step(step)
    assert all(torch.equal(dict(network.named_parameters())[name], value) for name, value in before.items())
    assert method.kept_cost().multiply_adds <= 0.5 * method.dense.multiply_adds


def test_after_the_freeze_small_weights_stay() -> None:
    network: Any = WordTagger("LSTM")
    method = attached(network, GroupLasso(0.1, threshold=0.1, freeze=0.5), steps=4)
    method.after_step(1)
    method.after_step(2)
    with torch.no_grad():
        network.decoder.weight.fill_(0.05)
    method.after_step(3)
    assert bool((network.decoder.weight == 0.05).all())


# ---------------------------------------------------------------------------------------------------------------------
# units close


def emptied(network: Any, closed: Tensor) -> Any:
    """The LSTM tagger of one layer with all weights of some units below 1e-4, but not 0."""
    with torch.no_grad():
        rows = closed.repeat(4)
        network.encoder.weight_ih_l0[rows] = 5e-5
        network.encoder.weight_hh_l0[rows] = 5e-5
        network.encoder.weight_hh_l0[:, closed] = -5e-5
        network.decoder.weight[:, closed] = 5e-5
    return network


def test_a_unit_closes_once_all_its_weights_are_small() -> None:
    closed = torch.arange(7) % 3 == 0
    network = emptied(WordTagger("LSTM"), closed)
    with torch.no_grad():
        network.encoder.weight_hh_l0[1, 3] = 2e-4  # one weight from unit 3 to unit 1 keeps it open
    method = attached(network, GroupLasso(0.1, frequency=2))
    method.after_step(1)
    assert bool(method.open_units()["encoder.l0"].all())  # not looked at yet
    method.after_step(2)
    assert (~method.open_units()["encoder.l0"]).nonzero().flatten().tolist() == [0, 6]
    with torch.no_grad():
        network.encoder.weight_hh_l0[:, 0] = 1.0  # closed for good, so that its weights keep no other unit open
        network.encoder.weight_hh_l0[1, 3] = 0.0
    method.after_step(4)
    assert (~method.open_units()["encoder.l0"]).nonzero().flatten().tolist() == [0, 3, 6]


@pytest.mark.parametrize("density", [None, 0.9])
def test_empty_units_close_at_the_freeze_whether_or_not_there_is_a_density(density: float | None) -> None:
    closed = torch.arange(7) > 2
    network = emptied(WordTagger("LSTM"), closed)
    method = attached(network, GroupLasso(0.1, density=density, freeze=0.5), steps=4)
    method.after_step(1)
    assert bool(method.open_units()["encoder.l0"].all())
    method.after_step(2)
    assert torch.equal(method.open_units()["encoder.l0"], ~closed)


def test_the_first_unit_stays_where_all_are_empty() -> None:
    network = emptied(WordTagger("LSTM"), torch.ones(7, dtype=torch.bool))
    method = attached(network, GroupLasso(0.1, frequency=1))
    method.after_step(1)
    assert method.open_units()["encoder.l0"].tolist() == [True] + 6 * [False]
    method.after_step(2)
    assert method.open_units()["encoder.l0"].tolist() == [True] + 6 * [False]


def test_weights_that_are_not_numbers_close_nothing() -> None:
    network: Any = WordTagger("LSTM")
    method = attached(network, GroupLasso(0.1, frequency=1))
    with torch.no_grad():
        network.encoder.weight_hh_l0[0, 0] = torch.nan
    method.after_step(1)
    assert bool(method.open_units()["encoder.l0"].all())


@pytest.mark.parametrize("weight", [5e-3, 1e-9])
def test_the_penalty_alone_empties_units_in_training_and_leaves_those_that_are_needed(weight: float) -> None:
    network = wide()
    method = attached(network, GroupLasso(weight, threshold=0.02, frequency=10), steps=300)
    train(network, method, range(1, 301), optimizer=torch.optim.SGD(network.parameters(), lr=5.0))
    kept = {axis: int(units.sum()) for axis, units in method.open_units().items()}
    assert set(kept) == {"encoder.l0", "encoder.l1"}
    assert all(2 <= units < 20 for units in kept.values()) if weight > 1e-6 else kept == dict.fromkeys(kept, 40)
    words = torch.randint(11, (7, 20))
    small: Any = operate(network.eval(), network.wiring, method.gates(), example_inputs=words).network
    torch.testing.assert_close(small(words)[0], network(words)[0], atol=1e-5, rtol=0)
    assert torch.equal(small(words)[0].argmax(-1), words % 5)


def test_the_smallest_root_mean_squares_close_at_the_freeze() -> None:
    network: Any = WordTagger("LSTM", hidden=12)
    method = attached(network, GroupLasso(0.1, threshold=0.0, density=0.4, freeze=0.5), steps=4)
    norms = slow_tagger(network)["encoder.l0"].detach()
    method.after_step(1)
    assert bool(method.open_units()["encoder.l0"].all())
    method.after_step(2)
    open = method.open_units()["encoder.l0"]
    assert 0 < int(open.sum()) < 12
    assert norms[open].min() > norms[~open].max()


def test_a_layer_of_small_weights_does_not_lose_all_its_units_at_the_freeze() -> None:
    network: Any = WordTagger("LSTM", hidden=12, num_layers=2)
    method = attached(network, GroupLasso(0.1, threshold=0.0, density=0.4, freeze=0.5), steps=4)
    with torch.no_grad():
        for name, parameter in network.encoder.named_parameters():
            if name.endswith("_l0") or name == "weight_ih_l1":
                parameter.mul_(0.01)
    method.after_step(2)
    kept = [int(units.sum()) for units in method.open_units().values()]
    assert len(kept) == 2
    assert all(3 <= units < 12 for units in kept)


def test_weights_from_closed_units_do_not_count_at_the_freeze() -> None:
    network: Any = WordTagger("LSTM", hidden=12)
    method = attached(network, GroupLasso(0.1, threshold=0.0, density=0.4, freeze=0.5), steps=4)
    closed = torch.arange(12) == 3
    method.close_({"encoder.l0": ~closed})
    norms = slow_tagger(network)["encoder.l0"].detach()
    from_closed = network.encoder.weight_hh_l0.detach()[:, 3].square().unflatten(0, (4, 12)).sum(0)
    to_closed = network.encoder.weight_hh_l0.detach().unflatten(0, (4, 12))[:, 3].square().sum(0)
    norms -= from_closed + to_closed
    with torch.no_grad():
        network.encoder.weight_hh_l0[:, 3] = torch.randn(48) * 100
    method.after_step(2)
    open = method.open_units()["encoder.l0"]
    assert 0 < int(open.sum()) < 11
    assert norms[open].min() > norms[~open & ~closed].max()


# ---------------------------------------------------------------------------------------------------------------------
# refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 0.0}, "`weight` must be > 0, got 0.0; use the method `Dense` for an unpruned run"),
        ({"weight": -1.0}, "`weight` must be > 0, got -1.0"),
        ({"weight": float("nan")}, "`weight` must be > 0, got nan"),
        ({"threshold": -1e-4}, "`threshold` must be >= 0, got -0.0001"),
        ({"density": 1.5}, r"`density` must be in \(0, 1\], got 1.5"),
        ({"freeze": 0.0}, r"`freeze` must be a fraction of the training in \(0, 1\], got 0.0"),
        ({"freeze": 1.5}, r"`freeze` must be a fraction of the training in \(0, 1\], got 1.5"),
        ({"ramp": 0.7}, r"`ramp` must be a fraction of the training in \[0, `freeze`\] = \[0, 0.6\], got 0.7"),
        ({"ramp": -0.1}, r"`ramp` must be a fraction of the training in .*, got -0.1"),
        ({"frequency": 0}, "`frequency` must be at least 1 optimiser step, got 0"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GroupLasso(**{"weight": 0.1, **options})


def test_nothing_to_prune_is_refused() -> None:
    network = StateClassifier()
    with pytest.raises(ValueError, match="`units='input'` leaves nothing to gate"):
        attached(network, GroupLasso(0.1, units="input"))
    assert type(network.encoder) is nn.LSTM
