"""Axes and weights of networks, what stays whole and why, and every way in which a wiring can be wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l0rnn.axes import GATES_PER_CELL
from l0rnn.blueprint import Blueprint, draw_blueprint
from l0rnn.gates.network import gate_network_
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.wiring import OUTSIDE, Wiring, reads
from tests.networks import CELLS, STACKS, StateClassifier, TiedLanguageModel, TwoReaders, WordTagger

OUTPUT = "nothing in the wiring reads it, so it is an output of the network"


def blueprint_of(network: Any) -> Blueprint:
    return draw_blueprint(network, network.wiring)


def prunable(blueprint: Blueprint) -> dict[str, int]:
    return {axis.name: axis.size for axis in blueprint.prunable()}


def fixed(blueprint: Blueprint) -> dict[str, str]:
    return {axis.name: axis.fixed for axis in blueprint.axes.values() if axis.fixed is not None}


def network(**layers: nn.Module) -> nn.Module:
    """Layers under names; what the forward pass would do does not matter to a blueprint."""
    module = nn.Module()
    for name, layer in layers.items():
        module.add_module(name, layer)
    return module


# ---------------------------------------------------------------------------------------------------------------------
# axes and weights


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("stack", range(len(STACKS)))
@pytest.mark.parametrize("is_gated", [False, True])
def test_axes_and_weights_of_a_tagger(cell: str, stack: int, *, is_gated: bool) -> None:
    tagger: Any = WordTagger(cell, normalise=stack % 2 == 1, **STACKS[stack])
    plain = blueprint_of(tagger)
    if is_gated:
        gate_network_(tagger, plain)
    blueprint = blueprint_of(tagger)
    directions = ("", "_reverse") if STACKS[stack]["bidirectional"] else ("",)
    keys = [f"encoder.l{depth}{suffix}" for depth in range(STACKS[stack]["num_layers"]) for suffix in directions]
    expected = {"embedding": 6}
    for key in keys:
        expected |= {key: 4, f"{key}_cell": 7} if cell == "LSTM_projected" else {key: 7}
    assert prunable(blueprint) == expected
    assert set(fixed(blueprint)) == {"embedding.words", "decoder"}
    assert fixed(blueprint)["decoder"] == OUTPUT
    assert fixed(blueprint)["embedding.words"] == "its units are the vocabulary"
    # every parameter lies on axes that make up its shape
    parameters = dict(tagger.named_parameters())
    assert {weight.name for weight in blueprint.weights} == {name for name in parameters if "log_alpha" not in name}
    gates = GATES_PER_CELL[tagger.encoder.mode]
    for weight in blueprint.weights:
        sizes = [sum(blueprint.axes[axis].size for axis in axes) for axes in weight.axes.values()]
        assert weight.gates == (gates if weight.layer == "encoder" and weight.kind != "weight_hr" else 1)
        sizes[0] *= weight.gates
        assert tuple(sizes) == parameters[weight.name].shape, weight.name
    output = tuple(keys[-len(directions) :])
    assert blueprint.inputs["encoder"] == ("embedding",)
    assert blueprint.inputs["decoder"] == blueprint.outputs["norm"] == blueprint.outputs["encoder"] == output
    assert blueprint.normalised == (set(output) if stack % 2 else set())
    assert blueprint.other_parameters == 0
    assert not blueprint.undescribed
    assert blueprint == plain


def test_which_units_each_recurrent_weight_reads() -> None:
    blueprint = blueprint_of(WordTagger("LSTM", num_layers=2, bidirectional=True))
    axes = {weight.parameter: weight.axes for weight in blueprint.weights_of("encoder")}
    both = ("encoder.l0", "encoder.l0_reverse")
    assert axes["weight_ih_l0_reverse"] == {"unit": ("encoder.l0_reverse",), "feature": ("embedding",)}
    assert axes["weight_hh_l0_reverse"] == {"unit": ("encoder.l0_reverse",), "previous": ("encoder.l0_reverse",)}
    assert axes["weight_ih_l1"] == {"unit": ("encoder.l1",), "feature": both}
    assert axes["bias_hh_l1_reverse"] == {"unit": ("encoder.l1_reverse",)}
    projected = blueprint_of(WordTagger("LSTM_projected"))
    axes = {weight.parameter: weight.axes for weight in projected.weights_of("encoder")}
    assert axes["weight_ih_l0"] == {"cell": ("encoder.l0_cell",), "feature": ("embedding",)}
    assert axes["weight_hh_l0"] == {"cell": ("encoder.l0_cell",), "previous": ("encoder.l0",)}
    assert axes["weight_hr_l0"] == {"unit": ("encoder.l0",), "cell": ("encoder.l0_cell",)}


def test_units_from_outside_stay_whole() -> None:
    blueprint = blueprint_of(StateClassifier("GRU", bidirectional=True))
    assert prunable(blueprint) == {"encoder.l0": 6, "encoder.l0_reverse": 6}
    assert fixed(blueprint) == {
        f"{OUTSIDE}→encoder": "its units come from outside the network",
        "classifier": OUTPUT,
    }
    assert blueprint.axes[f"{OUTSIDE}→encoder"].size == 3


def test_several_readers_and_repeated_blocks() -> None:
    blueprint = blueprint_of(TwoReaders())
    left = ("left.l0", "left.l0_reverse")
    assert blueprint.inputs["join"] == (*left, "right.l0", *left)
    assert prunable(blueprint) == {
        "embedding": 6,
        "left.l0": 5,
        "left.l0_reverse": 5,
        "right.l0": 4,
        "join": 8,
        "top.l0": 5,
    }


def test_a_tied_embedding_has_the_units_that_its_decoder_reads() -> None:
    blueprint = blueprint_of(TiedLanguageModel())
    assert blueprint.tied == {"embedding": "decoder"}
    assert blueprint.outputs["embedding"] == blueprint.inputs["encoder"] == ("encoder.l1",)
    assert blueprint.prescaled["encoder"] == (True,)
    assert blueprint.prescaled["decoder"] == (False,)
    assert prunable(blueprint) == {"encoder.l0": 6, "encoder.l1": 6}
    names = [weight.name for weight in blueprint.weights]
    assert "decoder.weight" in names
    assert "embedding.weight" not in names
    assert blueprint.other_parameters == 0
    apart = TiedLanguageModel()
    apart.decoder.weight = nn.Parameter(apart.embedding.weight.detach().clone())  # equal, but not the same
    assert not blueprint_of(apart).tied


def test_elementwise_layers_hand_units_on() -> None:
    layers = network(
        embedding=nn.Embedding(9, 4), drop=nn.Dropout(), encoder=nn.GRU(4, 3), relu=nn.ReLU(), decoder=nn.Linear(3, 2)
    )
    declared = Wiring(
        {
            "drop": reads("embedding"),
            "encoder": reads("drop"),
            "relu": reads("encoder"),
            "decoder": reads("relu"),
        }
    )
    left_out = Wiring({"encoder": reads("embedding"), "decoder": "encoder"})
    assert draw_blueprint(layers, declared).inputs["decoder"] == draw_blueprint(layers, left_out).inputs["decoder"]
    assert prunable(draw_blueprint(layers, declared)) == prunable(draw_blueprint(layers, left_out))


def test_a_ragged_stack_has_an_axis_for_every_width() -> None:
    layers = network(encoder=RaggedRNN("LSTM", 3, [[4, 5], [2, 6]], proj_sizes=[[2, 3], [1, 4]], bias=False))
    layers.add_module("decoder", nn.Linear(5, 2))
    blueprint = draw_blueprint(layers, Wiring({"encoder": reads(OUTSIDE), "decoder": reads("encoder")}))
    widths = {"l0": 2, "l0_cell": 4, "l0_reverse": 3, "l0_reverse_cell": 5}
    widths |= {"l1": 1, "l1_cell": 2, "l1_reverse": 4, "l1_reverse_cell": 6}
    assert prunable(blueprint) == {f"encoder.{key}": width for key, width in widths.items()}
    assert {weight.name for weight in blueprint.weights} == {name for name, _ in layers.named_parameters()}


# ---------------------------------------------------------------------------------------------------------------------
# what is left alone


def test_what_a_fixed_layer_reads_stays_whole() -> None:
    layers = network(embedding=nn.Embedding(9, 4), encoder=nn.LSTM(4, 3, 2), decoder=nn.Linear(3, 2))
    blueprint = draw_blueprint(
        layers, Wiring({"encoder": reads("embedding"), "decoder": reads("encoder")}, fixed="decoder")
    )
    assert prunable(blueprint) == {"embedding": 4, "encoder.l0": 3}
    assert fixed(blueprint)["encoder.l1"] == "'decoder', which the wiring fixes, reads it"
    assert blueprint.undescribed == {"decoder": "the wiring fixes it"}
    assert blueprint.other_parameters == 3 * 2 + 2
    assert not blueprint.weights_of("decoder")


def test_what_a_fixed_layer_produces_stays_whole() -> None:
    layers = network(
        embedding=nn.Embedding(9, 4), first=nn.LSTM(4, 3), second=nn.GRU(4 + 3, 5), decoder=nn.Linear(5, 2)
    )
    wiring = Wiring(
        {"first": reads("embedding"), "second": reads("embedding", "first"), "decoder": reads("second")},
        fixed=("embedding",),
    )
    blueprint = draw_blueprint(layers, wiring)
    assert prunable(blueprint) == {"first.l0": 3, "second.l0": 5}
    assert blueprint.inputs["second"] == ("embedding→second", "first.l0")
    assert blueprint.axes["embedding→second"].size == 4
    assert fixed(blueprint)["embedding→second"] == "the wiring fixes 'embedding'"


def test_fixing_a_submodule_fixes_all_that_is_inside() -> None:
    layers = network(encoder=nn.LSTM(3, 4), head=nn.Sequential(nn.Linear(4, 4), nn.Conv1d(4, 4, 1), nn.Linear(4, 2)))
    wiring = Wiring({"encoder": reads(OUTSIDE), "head": reads("encoder")}, fixed=["head"])
    assert wiring.is_fixed("head")
    assert wiring.is_fixed("head.2")
    assert not wiring.is_fixed("header")
    blueprint = draw_blueprint(layers, wiring)
    assert not prunable(blueprint)
    assert set(blueprint.undescribed) == {"head.0", "head.1", "head.2"}


def test_a_layer_that_surgery_does_not_know_is_listed_with_its_reason() -> None:
    layers = network(encoder=nn.LSTM(3, 4), decoder=nn.Linear(4, 2), convolution=nn.Conv1d(3, 3, 1))
    layers.temperature = nn.Parameter(torch.ones(1))
    blueprint = draw_blueprint(layers, Wiring({"encoder": reads(OUTSIDE), "decoder": reads("encoder")}))
    assert blueprint.undescribed["convolution"] == "surgery does not know a Conv1d"
    assert set(blueprint.undescribed) == {"convolution", "network"}  # the parameter of the network itself
    assert blueprint.other_parameters == 3 * 3 + 3 + 1
    assert prunable(blueprint) == {"encoder.l0": 4}


def test_the_output_of_the_network_stays_whole_and_its_inner_layers_do_not() -> None:
    layers = network(encoder=nn.LSTM(3, 6, 3, bidirectional=True, proj_size=2))
    blueprint = draw_blueprint(layers, Wiring({"encoder": reads(OUTSIDE)}))
    assert {name for name, why in fixed(blueprint).items() if why == OUTPUT} == {"encoder.l2", "encoder.l2_reverse"}
    inner = [f"encoder.l{depth}{suffix}" for depth in range(2) for suffix in ("", "_reverse")]
    cells = [f"encoder.l{depth}{suffix}_cell" for depth in range(3) for suffix in ("", "_reverse")]
    assert set(prunable(blueprint)) == {*inner, *cells}


# ---------------------------------------------------------------------------------------------------------------------
# errors


def tagger() -> nn.Module:
    return network(embedding=nn.Embedding(9, 4), encoder=nn.LSTM(4, 3), decoder=nn.Linear(3, 2))


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (
            {"encodre": reads("embedding"), "decoder": reads("encoder")},
            "`wiring` names 'encodre', which the network does not have; it has: embedding, encoder, decoder",
        ),
        (
            {"encoder": reads("embeding"), "decoder": reads("encoder")},
            "`wiring` names 'embeding', which the network does not have",
        ),
        ({"encoder": reads("embedding")}, "`wiring` leaves out 'decoder' \\(Linear\\); declare what it reads"),
        ({"decoder": reads("encoder")}, "`wiring` leaves out '(encoder|embedding)' \\("),
        (
            {"encoder": reads(OUTSIDE), "decoder": reads("encoder")},
            r"`wiring` leaves out 'embedding' \(Embedding\); .*\(or, for an Embedding, who reads it\)",
        ),
        (
            {"encoder": reads("embedding"), "decoder": reads("embedding")},
            r"`wiring` gives 'decoder' 4 units to read, embedding \(4\), but it reads 3",
        ),
        (
            {"encoder": reads("embedding"), "decoder": reads("encoder", "encoder")},
            r"gives 'decoder' 6 units to read, encoder.l0 \(3\) \+ encoder.l0 \(3\), but it reads 3",
        ),
        (
            {"encoder": reads("embedding"), "decoder": reads("encoder", OUTSIDE)},
            "`wiring` gives 'decoder' more units to read than its 3",
        ),
        (
            {"encoder": reads("embedding"), "decoder": reads(OUTSIDE, OUTSIDE)},
            "`wiring` cannot tell how wide 'outside' is where 'decoder' reads it; only one source",
        ),
    ],
)
def test_a_wiring_that_does_not_fit_is_refused(declared: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_blueprint(tagger(), Wiring(declared))


def test_an_unknown_fixed_layer_is_refused() -> None:
    wiring = Wiring({"encoder": reads("embedding"), "decoder": reads("encoder")}, fixed=["head"])
    with pytest.raises(ValueError, match="`wiring.fixed` names 'head', which the network does not have; it has: emb"):
        draw_blueprint(tagger(), wiring)


@pytest.mark.parametrize("sources", [(OUTSIDE, "convolution"), ("convolution", "convolution")])
def test_two_sources_of_unknown_width_are_refused(sources: tuple[str, ...]) -> None:
    layers = network(convolution=nn.Conv1d(2, 2, 1), encoder=nn.LSTM(4, 3), decoder=nn.Linear(3, 2))
    wiring = Wiring({"encoder": reads(*sources), "decoder": reads("encoder")}, fixed=["convolution"])
    with pytest.raises(ValueError, match="cannot tell how wide '(outside|convolution)' is where 'encoder' reads it"):
        draw_blueprint(layers, wiring)


def test_an_elementwise_layer_cannot_read_units_of_unknown_width() -> None:
    layers = network(drop=nn.Dropout(), encoder=nn.LSTM(4, 3), decoder=nn.Linear(3, 2))
    wiring = Wiring({"drop": reads(OUTSIDE), "encoder": reads("drop"), "decoder": reads("encoder")})
    with pytest.raises(ValueError, match="cannot tell how wide 'outside' is where 'drop' reads it"):
        draw_blueprint(layers, wiring)


@pytest.mark.parametrize("layer", [nn.Conv1d(3, 3, 1), nn.Bilinear(3, 3, 3), nn.LSTMCell(3, 3), nn.Softmax(-1)])
def test_a_layer_of_an_unknown_type_is_refused(layer: nn.Module) -> None:
    layers = network(encoder=nn.LSTM(4, 3), odd=layer, decoder=nn.Linear(3, 2))
    wiring = Wiring({"encoder": reads(OUTSIDE), "odd": reads("encoder"), "decoder": reads("odd")})
    message = rf"`wiring` declares 'odd' \({type(layer).__name__}\), which surgery does not know .*put it in `fixed`"
    with pytest.raises(TypeError, match=message):
        draw_blueprint(layers, wiring)


@pytest.mark.parametrize(("first", "second"), [("relu", "tanh"), ("tanh", "relu")])
def test_a_circle_is_refused(first: str, second: str) -> None:
    layers = network(encoder=nn.LSTM(4, 3), relu=nn.ReLU(), tanh=nn.Tanh(), decoder=nn.Linear(3, 2))
    wiring = Wiring(
        {"encoder": reads(OUTSIDE), first: reads(second), second: reads(first), "decoder": reads("encoder")}
    )
    with pytest.raises(ValueError, match="`wiring` reads in a circle: (relu → tanh → relu|tanh → relu → tanh);"):
        draw_blueprint(layers, wiring)


def test_a_layer_norm_that_reads_itself_is_refused() -> None:
    layers = network(encoder=nn.LSTM(4, 3), norm=nn.LayerNorm(3), decoder=nn.Linear(3, 2))
    wiring = Wiring({"encoder": reads(OUTSIDE), "norm": reads("norm"), "decoder": reads("norm")})
    with pytest.raises(ValueError, match="`wiring` reads in a circle: norm → norm"):
        draw_blueprint(layers, wiring)


def test_a_layer_that_hands_units_on_must_say_whose() -> None:
    layers = network(encoder=nn.LSTM(4, 3), relu=nn.ReLU(), decoder=nn.Linear(3, 2))
    with pytest.raises(ValueError, match="`wiring` must say what 'relu' reads, since another layer reads"):
        draw_blueprint(layers, Wiring({"encoder": reads(OUTSIDE), "decoder": reads("relu")}))


def test_a_layer_norm_over_several_dimensions_is_refused() -> None:
    layers = network(encoder=nn.LSTM(4, 3), norm=nn.LayerNorm([5, 3]), decoder=nn.Linear(3, 2))
    wiring = Wiring({"encoder": reads(OUTSIDE), "norm": reads("encoder"), "decoder": reads("norm")})
    with pytest.raises(ValueError, match=r"a LayerNorm must normalise the last dimension alone, got \(5, 3\)"):
        draw_blueprint(layers, wiring)


def test_reading_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`reads` must name at least one layer for 'encoder', got none; use reads\(O"):
        Wiring({"encoder": reads()})


def test_the_order_declared_is_kept_where_equal_widths_would_hide_it() -> None:
    """A blueprint cannot see the right order; surgery proves it later."""

    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.decoder = nn.GRU(2, 3), nn.GRU(2, 3), nn.Linear(6, 1)

        def forward(self, features: Tensor) -> Tensor:
            return self.decoder(torch.cat((self.a(features)[0], self.b(features)[0]), -1))

    declared = {"a": reads(OUTSIDE), "b": reads(OUTSIDE)}
    for order in (("a", "b"), ("b", "a")):
        blueprint = draw_blueprint(Joined(), Wiring({**declared, "decoder": reads(*order)}))
        assert blueprint.inputs["decoder"] == tuple(f"{name}.l0" for name in order)
