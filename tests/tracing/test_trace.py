"""What a trace finds in a network, how it is asked for, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l0rnn.cost.cost import cost
from l0rnn.gates.network import gate_network_
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.tracing import Units, explain, trace
from tests.networks import CELLS, TiedLanguageModel, TwoReaders, WordTagger

WORDS = torch.arange(10).reshape(5, 2)


def sizes(units: Units) -> dict[str, int]:
    return {axis.name: axis.size for axis in units.axes.values()}


@pytest.mark.parametrize("cell", CELLS)
def test_a_stack_has_an_axis_for_each_layer_and_direction(cell: str) -> None:
    network: Any = WordTagger(cell, num_layers=2, bidirectional=True)
    units = trace(network, WORDS)
    width = network.encoder.proj_size or 7
    keys = ["l0", "l0_reverse", "l1", "l1_reverse"]
    expected = {"embedding": 6, **{f"encoder.{key}": width for key in keys}}
    if cell == "LSTM_projected":
        expected |= {f"encoder.{key}_cell": 7 for key in keys}
        assert [[len(part) for part in pair] for pair in units.projections] == [[4, 7]] * 4
    assert sizes(units) == expected
    assert {axis.kind for axis in units.axes.values()} == {"input", "hidden"}
    assert units.axes["embedding"].kind == "input"
    assert units.whole["decoder"] == "it is an output of the network"
    weight = units.weights["encoder.weight_ih_l1"]
    assert units.axes_of(weight.units[1]) == ["encoder.l0", "encoder.l0_reverse"]
    assert bool(weight.is_read[1].all())
    assert not bool(weight.is_read[0].any())


def test_several_readers_and_repeated_blocks() -> None:
    units = trace(TwoReaders(), WORDS)
    assert sizes(units) == {"embedding": 6, "left.l0": 5, "left.l0_reverse": 5, "right.l0": 4, "join": 8, "top.l0": 5}
    assert units.per_unit(units.weights["join.weight"].units[1]) == {
        "": 0,
        "left.l0": 2,
        "left.l0_reverse": 2,
        "right.l0": 1,
    }


def test_a_tied_embedding_has_the_units_that_its_decoder_reads() -> None:
    units = trace(TiedLanguageModel(num_layers=1), WORDS)
    weight = units.weights["embedding.weight"]
    assert weight.aliases == ("embedding.weight", "decoder.weight")
    assert (weight.is_lookup, weight.is_matrix) == (True, True)
    assert bool(units.weights["encoder.weight_ih_l0"].is_prescaled[1].all())
    assert sizes(units) == {"embedding": 6}


def test_units_from_outside_and_of_outputs_stay_whole() -> None:
    units = trace(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(5, 3))
    assert sizes(units) == {"0": 4}
    assert units.axes["0"].kind == "other"
    assert units.whole == {"2": "it is an output of the network"}


def test_a_ragged_stack_has_an_axis_for_every_width() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = RaggedRNN("GRU", 3, [[4, 5], [2, 3]]), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.decoder(self.encoder(x)[0])

    assert sorted(sizes(trace(Tagger(), torch.randn(5, 2, 3))).values()) == [2, 3, 4, 5]


def test_what_is_fixed_stays_and_what_is_tied_goes_together() -> None:
    network = TwoReaders()
    units = trace(network, WORDS, fixed=["right"], whole={"join": "a test says so"})
    assert not {"embedding", "right.l0", "join"} & units.axes.keys()  # a layer's input too
    assert units.whole["right.l0"] == "`fixed` names it"
    assert units.whole["join"] == "a test says so"
    assert "top.l0" not in trace(network, WORDS, fixed=["top.l0"]).axes
    tied = trace(network, WORDS, tied=[["left.l0", "top.l0"]])
    assert "top.l0" not in tied.axes
    assert tied.axes_of(tied.weights["top.weight_hh_l0"].units[1]) == ["left.l0"]


def test_only_some_kinds_and_kept_units_are_renumbered() -> None:
    units = trace(WordTagger("GRU"), WORDS)
    hidden = units.only(["hidden"], "not asked for")
    assert sizes(hidden) == {"encoder.l0": 7}
    assert hidden.whole["embedding"] == "not asked for"
    assert bool((hidden.weights["embedding.weight"].units[1] == -1).all())
    keep = torch.arange(13) % 2 == 0
    left = units.kept(keep)
    assert sizes(left) == {"embedding": 3, "encoder.l0": 4}
    assert left.weights["encoder.weight_ih_l0"].shape == (12, 3)
    vector = units.vector({"embedding": torch.arange(6.0)}, 1.0)
    assert vector.tolist() == [0, 1, 2, 3, 4, 5, *([1] * 7)]
    assert units.by_axis(vector)["encoder.l0"].tolist() == [1] * 7


def test_a_trace_leaves_the_network_and_the_random_numbers_alone() -> None:
    network: Any = WordTagger("LSTM").train()
    network.decoder.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(5)
    trace(network, WORDS)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)
    assert (network.encoder.training, network.decoder.training) == (True, False)
    assert not network.encoder._forward_hooks
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_an_explanation_reads_as_text() -> None:
    text = explain(WordTagger("GRU"), WORDS)
    assert text.startswith("13 units on 2 axes can be removed, and with them 100 % of the multiply-adds (308 a step).")
    assert "  embedding: 6 units, made by embedding.weight, read by encoder.weight_ih_l0\n" in text
    assert text.endswith("  decoder: it is an output of the network")


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (None, {}, "`example_inputs` must be given: the network is run on them once to find its units"),
        ((WORDS, None, 3), {}, "`network` fails on the `example_inputs`, which must be a tuple for several arguments"),
        (WORDS.float(), {}, "`network` fails on the `example_inputs`: RuntimeError"),
        (WORDS.to("meta"), {}, "`example_inputs` are on meta, the network on cpu; move them there"),
        (WORDS, {"fixed": ["nothing"]}, "names 'nothing', which is neither a layer nor one of embedding, encoder.l0"),
        (WORDS, {"tied": [["embedding", "encoder.l0"]]}, r"axes of one size, got embedding \(6\) and encoder.l0 \(7\)"),
    ],
)
def test_what_cannot_be_traced_is_refused(inputs: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trace(WordTagger("GRU"), inputs, **options)


@pytest.mark.parametrize("cell", CELLS)
def test_a_gated_network_is_traced_as_the_plain_one(cell: str) -> None:
    network = WordTagger(cell, num_layers=2, bidirectional=True)
    plain = trace(network, WORDS)
    gate_network_(network, plain)
    assert trace(network, WORDS).axes == plain.axes


def test_attention_counts_its_projections_scores_and_values() -> None:
    class Attended(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.attention(x, x, x)[0])

    per_step = cost(trace(Attended(), torch.randn(2, 5, 8))).multiply_adds
    assert per_step == 4 * 8 * 8 + 2 * 5 * 8 + 8 * 3  # four projections, scores and values of five keys, the head


def test_units_keep_the_name_of_their_axis_when_others_of_their_layer_have_to_stay() -> None:
    class Joined(nn.Module):  # the rows of `whole` are of two kinds: four go with `few`, eight with `many`
        def __init__(self) -> None:
            super().__init__()
            self.whole, self.few, self.many = nn.Linear(3, 12), nn.Linear(3, 4), nn.Linear(3, 8)
            self.head = nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.whole(x) + torch.cat((self.few(x), self.many(x)), -1))

    network, x = Joined(), torch.randn(5, 3)
    assert sizes(trace(network, x)) == {"whole": 4, "whole.2": 8}
    units = trace(network, x, whole={"whole": "a trial said so"})
    assert sizes(units) == {"whole.2": 8}
    assert units.whole["few"] == "a trial said so"
