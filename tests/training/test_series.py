"""Networks of many sizes from one training."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l0rnn.cost.cost import cost
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.training import shrink_series
from tests.methods.loops import KINDS, output, traced
from tests.networks import WordTagger

WORDS = torch.randint(11, (6, 3), generator=torch.Generator().manual_seed(0))


def nothing(network: nn.Module, density: float) -> None:
    """Tune nothing."""


def tagger() -> Any:
    torch.manual_seed(1)
    return WordTagger("LSTM", num_layers=2, hidden=24, embedding=12)


@pytest.mark.parametrize("kind", KINDS)
def test_every_size_is_within_its_density_and_the_network_stays_as_it_is(kind: str) -> None:
    torch.manual_seed(0)
    network, inputs = KINDS[kind].make(), KINDS[kind].inputs()
    before, whole = copy.deepcopy(network.state_dict()), cost(traced(network, inputs)).multiply_adds
    seen: list[float] = []

    def tune(small: nn.Module, density: float) -> None:
        seen.append(density)
        optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
        output(small, inputs).square().mean().backward()
        optimizer.step()

    sizes = list(shrink_series(network, [0.25, 0.6, 0.4], inputs, tune=tune))
    assert [size.density for size in sizes] == seen == [0.6, 0.4, 0.25]
    for size in sizes:
        exact = cost(traced(size.network, inputs))
        assert exact == size.cost
        assert 0.6 * size.density < exact.multiply_adds / whole <= size.density
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.state_dict().keys() == before.keys()


def test_each_is_cut_out_of_the_one_before_as_it_was_tuned() -> None:
    marks: list[float] = []

    def tune(small: Any, density: float) -> None:
        marks.append(float(small.decoder.bias.detach()[0]))
        with torch.no_grad():
            small.decoder.bias[0] = 100 * density

    for _ in shrink_series(tagger(), [0.5, 0.3, 0.1], WORDS, tune=tune):
        pass
    assert abs(marks[0]) < 5
    assert marks[1:] == pytest.approx([50, 30], abs=5), "but for what the repair adds"


def test_what_is_left_is_repaired_on_the_batches() -> None:
    network = tagger()
    batches = [torch.randint(11, (6, 3)) for _ in range(10)]

    def distance(small: Any) -> float:
        with torch.no_grad():
            return float((network.eval()(WORDS)[0] - small.eval()(WORDS)[0]).square().mean())

    (repaired,) = shrink_series(network, [0.4], WORDS, tune=nothing, batches=batches)
    (on_nothing,) = shrink_series(network, [0.4], WORDS, tune=nothing, batches=[torch.zeros_like(WORDS)])
    assert isinstance(repaired.network.encoder, (nn.LSTM, RaggedRNN))
    assert distance(repaired.network) < 0.5 * distance(on_nothing.network)


def test_sizes_come_as_they_are_ready() -> None:
    tuned: list[float] = []
    sizes = shrink_series(tagger(), [0.5, 0.2], WORDS, tune=lambda _, density: tuned.append(density))
    assert tuned == []
    assert next(sizes).density == 0.5
    assert tuned == [0.5]


def test_layers_that_are_fixed_stay_whole() -> None:
    for size in shrink_series(tagger(), [0.8, 0.7], WORDS, tune=nothing, fixed=["embedding"]):
        assert size.network.get_parameter("embedding.weight").size(1) == 12


@pytest.mark.parametrize(
    ("densities", "message"),
    [
        ([], "`densities` must name at least one density, got none"),
        ([0.5, 0.0], r"`density` must be in \(0, 1\], got 0.0"),
        ([0.5, 0.001], r"`density` = 0.001 asks for .* but one unit per layer already costs"),
    ],
)
def test_what_cannot_be_had_is_refused_before_anything_is_tuned(densities: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shrink_series(tagger(), densities, WORDS, tune=nothing)


def test_networks_and_inputs_that_do_not_go_are_refused() -> None:
    state: tuple[Tensor, Tensor] = (torch.zeros(2, 3, 24), torch.zeros(2, 3, 24))
    with pytest.raises(ValueError, match="`example_inputs` must not hold a state, whose width would change"):
        shrink_series(tagger(), [0.5], (WORDS, state), tune=nothing)
    with pytest.raises(ValueError, match="`network` has no units that can be removed"):
        shrink_series(nn.Linear(3, 2), [0.5], torch.ones(1, 3), tune=nothing)
