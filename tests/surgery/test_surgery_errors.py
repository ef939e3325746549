"""Surgery refuses what it cannot prove, says what it left alone, and keeps to its word on widths, time and memory."""

from __future__ import annotations

import copy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l0rnn.axes import cut
from l0rnn.blueprint import draw_blueprint
from l0rnn.gates.network import gate_network_
from l0rnn.language.language_model import LanguageModel
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.surgery.proof import compare
from l0rnn.surgery.shrink import Surgery, build, operate, shrink
from l0rnn.wiring import OUTSIDE, Wiring, reads
from tests.networks import STACKS, TwoReaders, WordTagger, set_gates_at_random

FEATURES, HIDDEN = 3, 6
SOME_CLOSED = torch.tensor([1.0, 0.0, 0.0, 0.5, 1.0, 1.0])
OUTSIDE_WIRING = Wiring({"encoder": reads(OUTSIDE), "decoder": reads("encoder")})


class Tagger(nn.Module):
    """Recurrent layer and Linear; ``change`` is what the forward pass does in between, unknown to the wiring."""

    wiring = OUTSIDE_WIRING

    def __init__(self, change: Any = lambda output: output, **options: Any) -> None:
        super().__init__()
        self.encoder = nn.LSTM(FEATURES, HIDDEN, **options)
        self.decoder = nn.Linear(options.get("proj_size", HIDDEN), 4)
        self.change = change

    def forward(self, features: Tensor) -> Any:
        return self.decoder(self.change(self.encoder(features)[0]))


def features() -> Tensor:
    return torch.randn(5, 2, FEATURES)


def snapshot(network: nn.Module) -> Any:
    """All that surgery could change."""
    return (
        {name: value.clone() for name, value in network.state_dict().items()},
        {
            name: (type(module), module.training, len(module._forward_pre_hooks))
            for name, module in network.named_modules()
        },
        {name: (id(parameter), parameter.requires_grad) for name, parameter in network.named_parameters()},
    )


def assert_unchanged(network: nn.Module, before: Any) -> None:
    after = snapshot(network)
    assert after[0].keys() == before[0].keys()
    assert all(torch.equal(value, before[0][name]) for name, value in after[0].items())
    assert after[1:] == before[1:]


# ---------------------------------------------------------------------------------------------------------------------
# a wiring that does not match the forward pass


class TwoEncoders(nn.Module):
    """Joins right and left; the wiring may say left and right, of the same width."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.LSTM(FEATURES, HIDDEN), nn.LSTM(FEATURES, HIDDEN)
        self.decoder = nn.Linear(2 * HIDDEN, 4)

    def forward(self, data: Tensor) -> Tensor:
        return self.decoder(torch.cat((self.right(data)[0], self.left(data)[0]), -1))


@pytest.mark.parametrize("gated_by", [None, "truth", "lie"])
@pytest.mark.parametrize("closed", ["left", "right"])
def test_an_order_that_is_not_true_is_found_and_the_axis_named(closed: str, gated_by: str | None) -> None:
    network = TwoEncoders()
    declared = {"left": reads(OUTSIDE), "right": reads(OUTSIDE)}
    wirings = {
        "truth": Wiring({**declared, "decoder": reads("right", "left")}),
        "lie": Wiring({**declared, "decoder": reads("left", "right")}),
    }
    gates = {f"{closed}.l0": SOME_CLOSED} if gated_by is None else None
    if gated_by is not None:
        own = gate_network_(network, draw_blueprint(network, wirings[gated_by]), open_probability=1.0)
        own[f"{closed}.l0"].log_alpha.data[1:3] = -9.0
        network.eval()
    before = snapshot(network)
    with pytest.raises(ValueError, match=rf"differs from the original by .*, more than .*wiring of {closed}\.l0 does"):
        operate(network, wirings["lie"], gates, example_inputs=features())
    assert_unchanged(network, before)
    if gated_by != "lie":
        operate(network, wirings["truth"], gates, example_inputs=features())
        assert_unchanged(network, before)


def test_a_lie_about_a_projected_layer_is_found_and_the_axis_named() -> None:
    """Cut by itself, an axis of cells may be narrower than torch allows beside the whole projection."""
    network = Tagger(lambda output: output.flip(-1), proj_size=5)
    gates = {"encoder.l0": torch.tensor([1.0, 0.0, 0.0, 0.5, 0.0]), "encoder.l0_cell": torch.tensor([1.0] + 5 * [0.0])}
    with pytest.raises(ValueError, match=r"wiring of .*encoder\.l0 .*does not match the forward pass"):
        operate(network, OUTSIDE_WIRING, gates, example_inputs=features())


def test_a_reader_that_the_wiring_does_not_know_is_found() -> None:
    class Residual(nn.Module):
        wiring = Wiring({"encoder": reads(OUTSIDE), "second": reads("encoder"), "decoder": reads("second")})

        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.second = nn.LSTM(FEATURES, HIDDEN), nn.LSTM(HIDDEN, HIDDEN)
            self.decoder = nn.Linear(HIDDEN, 4)

        def forward(self, data: Tensor) -> Tensor:
            output = self.encoder(data)[0]
            return self.decoder(self.second(output)[0] + output)

    network = Residual()
    before = snapshot(network)
    with pytest.raises(
        ValueError, match="the shrunken network does not run: .*a reader that the wiring does not declare"
    ):
        operate(network, network.wiring, {"encoder.l0": SOME_CLOSED}, example_inputs=features())
    # of equal width both run, and differ
    gates = {"encoder.l0": SOME_CLOSED, "second.l0": SOME_CLOSED.flip(0)}
    with pytest.raises(ValueError, match=r"the shrunken network differs from the original by .*encoder\.l0"):
        operate(network, network.wiring, gates, example_inputs=features())
    assert_unchanged(network, before)


@pytest.mark.parametrize(
    "change",
    [
        lambda output: output.reshape(-1, 2, HIDDEN),
        lambda output: output * torch.ones(HIDDEN),
        lambda output: output[..., [0, 1, 2, 3, 4, 5]],
    ],
)
def test_a_size_written_out_in_the_forward_pass_is_found(change: Any) -> None:
    network = Tagger(change)
    before = snapshot(network)
    with pytest.raises(ValueError, match="the shrunken network does not run: .*a size written out in the forward pass"):
        operate(network, OUTSIDE_WIRING, {"encoder.l0": SOME_CLOSED}, example_inputs=features())
    assert_unchanged(network, before)


def test_an_output_of_another_width_is_found() -> None:
    class TwoOutputs(Tagger):
        def forward(self, features: Tensor) -> Any:
            output = self.encoder(features)[0]
            return output, self.decoder(output)

    with pytest.raises(ValueError, match=r"output has shape \(5, 2, 4\), the original's \(5, 2, 6\): put .* in `fi"):
        operate(TwoOutputs(), OUTSIDE_WIRING, {"encoder.l0": SOME_CLOSED}, example_inputs=features())


# ---------------------------------------------------------------------------------------------------------------------
# outputs on which a careless comparison would see nothing


@pytest.mark.parametrize(
    "last",
    [
        lambda logits: logits.masked_fill(torch.arange(4) == 0, -torch.inf),
        lambda logits: (logits > 0, logits),
        lambda logits: ((100 * logits).long(), logits),
        lambda logits: {"tags": logits.argmax(-1), "logits": logits},
        lambda logits: nn.utils.rnn.pack_padded_sequence(logits, torch.tensor([5, 4])),
        lambda logits: ([logits],),
    ],
    ids=["-inf", "bool first", "int first", "dict", "packed", "nested"],
)
def test_the_outputs_that_matter_are_compared(last: Any) -> None:
    class WithOutput(Tagger):
        def forward(self, features: Tensor) -> Any:
            return last(super().forward(features))

    gates = {"encoder.l0": SOME_CLOSED}
    assert operate(WithOutput(), OUTSIDE_WIRING, gates, example_inputs=features()).max_abs_difference < 1e-6
    lie = WithOutput(lambda output: output.flip(-1))
    with pytest.raises(ValueError, match="the shrunken network differs from the original"):
        operate(lie, OUTSIDE_WIRING, gates, example_inputs=features())


@pytest.mark.parametrize(
    ("weights", "output", "lowest", "highest"),
    [
        (torch.float32, torch.float64, 1e-6, 1e-4),
        (torch.bfloat16, torch.float32, 1e-3, 1e-1),
        (torch.float64, torch.float64, 0.0, 1e-9),
    ],
)
def test_the_tolerance_is_that_of_the_weights(
    weights: torch.dtype, output: torch.dtype, lowest: float, highest: float
) -> None:
    """Casting the logits, as is usual before a loss, makes them no more exact."""

    class Cast(Tagger):
        def forward(self, features: Tensor) -> Any:
            return super().forward(features).to(output)

    reference = Cast().to(weights)
    small = copy.deepcopy(reference)
    difference, allowed = compare(reference, small, (features().to(weights),))
    assert difference == 0.0
    assert lowest < allowed < highest


def test_whole_numbers_alone_are_compared_too() -> None:
    class Decided(Tagger):
        def forward(self, features: Tensor) -> Any:
            return (1000 * super().forward(features)).round().long()

    lie = Decided(lambda output: output.flip(-1))
    with pytest.raises(ValueError, match="the shrunken network differs from the original"):
        operate(lie, OUTSIDE_WIRING, {"encoder.l0": SOME_CLOSED}, example_inputs=features())


def test_no_output_at_all_is_refused() -> None:
    class Silent(Tagger):
        def forward(self, features: Tensor) -> Any:
            super().forward(features)

    with pytest.raises(ValueError, match="output"):
        operate(Silent(), OUTSIDE_WIRING, {"encoder.l0": SOME_CLOSED}, example_inputs=features())


def test_a_nan_in_the_shrunken_network_alone_is_a_difference() -> None:
    reference, small = nn.Linear(3, 2), nn.Linear(3, 2)
    small.weight.data.fill_(torch.nan)
    difference, allowed = compare(reference, small, (torch.randn(4, 3),))
    assert difference == torch.inf
    assert allowed < 1e-3


def test_outputs_after_a_state_are_compared_with_their_own_kind() -> None:
    """A ragged stack has more tensors in its state than torch's layer, so later outputs are further back."""

    class WithState(nn.Module):
        wiring = OUTSIDE_WIRING

        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.GRU(FEATURES, HIDDEN, 2), nn.Linear(HIDDEN, 4)

        def forward(self, data: Tensor) -> Any:
            output, state = self.encoder(data)
            return self.decoder(output), state, torch.ones(2, HIDDEN)  # as wide as one layer of the state

    surgery = operate(WithState(), OUTSIDE_WIRING, {"encoder.l0": SOME_CLOSED}, example_inputs=features())
    assert isinstance(surgery.network.encoder, RaggedRNN)
    assert surgery.max_abs_difference < 1e-6


class Doubled(nn.Linear):
    """A Linear of somebody's own."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Words(nn.Module):
    wiring = Wiring({"encoder": reads("embedding"), "decoder": reads("encoder")})

    def __init__(self, decoder: type[nn.Linear] = nn.Linear, **options: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 4, **options)
        self.encoder, self.decoder = nn.LSTM(4, HIDDEN), decoder(HIDDEN, 4)

    def forward(self, words: Tensor) -> Tensor:
        return self.decoder(self.encoder(self.embedding(words))[0])


def hooked() -> Words:
    def double(module: nn.Module, inputs: Any, output: Any) -> Any:
        return 2 * output

    network = Words()
    network.decoder.register_forward_hook(double)
    return network


@pytest.mark.parametrize("is_gated", [False, True])
@pytest.mark.parametrize(
    "make",
    [Words, lambda: Words(padding_idx=0), lambda: Words(max_norm=0.5), lambda: Words(Doubled), hooked],
    ids=["plain", "padding", "max_norm", "subclass", "hook"],
)
def test_what_a_fresh_layer_does_not_have_is_kept_or_refused(make: Any, *, is_gated: bool) -> None:
    """With every unit kept and every gate 1, the result is the network itself, or there is no result."""
    network = make()
    if network.embedding.max_norm is not None:
        with pytest.raises(ValueError, match="'embedding' has `max_norm`, .*put it in `fixed`"):
            draw_blueprint(network, network.wiring)
        return
    gates = None if is_gated else {"encoder.l0": torch.ones(HIDDEN)}
    words = torch.randint(9, (5, 2))
    expected = copy.deepcopy(network).eval()(words)
    try:
        if is_gated:
            gate_network_(network, draw_blueprint(network, network.wiring), open_probability=1.0)
        small = shrink(network, network.wiring, gates, example_inputs=words)
    except ValueError:
        assert make not in (Words,)
        return
    torch.testing.assert_close(small(words), expected, atol=1e-5, rtol=0)


def test_a_parametrized_layer_is_refused_by_name() -> None:
    network = Words()
    nn.utils.parametrizations.weight_norm(network.decoder)
    with pytest.raises((ValueError, TypeError), match="decoder"):
        operate(network, network.wiring, {"encoder.l0": SOME_CLOSED}, example_inputs=torch.randint(9, (5, 2)))


@pytest.mark.parametrize("between", [nn.ReLU(), nn.Dropout(), nn.Tanh(), nn.Sigmoid(), nn.LayerNorm(6)], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_a_tied_embedding_is_read_through_any_layer(between: nn.Module, seed: int) -> None:
    """Where the gates of a tied decoder cannot go into the shared weight, its units must not be gated."""

    class Tied(nn.Module):
        wiring = Wiring({"between": reads("embedding"), "encoder": reads("between"), "decoder": reads("encoder")})

        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.between = nn.Embedding(9, 6), between
            self.encoder, self.decoder = nn.LSTM(6, 6, 2), nn.Linear(6, 9)
            self.decoder.weight = self.embedding.weight

        def forward(self, words: Tensor) -> Tensor:
            return self.decoder(self.encoder(self.between(self.embedding(words)))[0])

    torch.manual_seed(seed)
    network = Tied()
    gate_network_(network, draw_blueprint(network, network.wiring))
    set_gates_at_random(network, torch.Generator().manual_seed(seed))
    network.eval()
    words = torch.randint(9, (5, 2))
    small: Any = shrink(network, network.wiring, example_inputs=words)
    assert small.decoder.weight is small.embedding.weight
    torch.testing.assert_close(small(words), network(words), atol=1e-5, rtol=0)


# ---------------------------------------------------------------------------------------------------------------------
# arguments


def test_example_inputs_must_be_given() -> None:
    with pytest.raises(ValueError, match="`example_inputs` must be given: the shrunken network is run against"):
        shrink(Tagger(), OUTSIDE_WIRING, {"encoder.l0": SOME_CLOSED})


def test_a_plain_network_needs_a_wiring() -> None:
    with pytest.raises(ValueError, match="`wiring` must be given with a Tagger; only a PrunableModule carries its own"):
        shrink(nn.Sequential(Tagger())[0], gates={"encoder.l0": SOME_CLOSED}, example_inputs=features())


def test_a_plain_network_needs_gates() -> None:
    with pytest.raises(ValueError, match="`gates` must be given: the network has none of its own"):
        shrink(Tagger(), OUTSIDE_WIRING, example_inputs=features())


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        ({"encoder": SOME_CLOSED}, r"`gates` names 'encoder', which is none of the prunable axes encoder\.l0"),
        ({"encoder.l0": SOME_CLOSED[:5]}, r"`gates` must have shape \(6,\) for 'encoder\.l0', got \(5,\)"),
        ({"encoder.l0": SOME_CLOSED[None]}, r"`gates` must have shape \(6,\) for 'encoder\.l0', got \(1, 6\)"),
        ({"encoder.l0": SOME_CLOSED * 2}, r"`gates` must be in \[0, 1\] for 'encoder\.l0', got 0 to 2"),
        ({"encoder.l0": SOME_CLOSED - 1}, r"`gates` must be in \[0, 1\] for 'encoder\.l0', got -1 to 0"),
        ({"encoder.l0": torch.full((6,), torch.nan)}, r"`gates` must be in \[0, 1\] for 'encoder\.l0', got nan to nan"),
        ({"decoder": torch.zeros(4)}, "`gates` must be 1 for 'decoder', which cannot be pruned: nothing in the wiring"),
        (
            {f"{OUTSIDE}→encoder": torch.tensor([1.0, 0.5, 1.0])},
            "`gates` must be 1 for 'outside→encoder', which cannot be pruned: its units come from outside",
        ),
    ],
)
def test_gates_that_do_not_fit_are_refused(gates: dict[str, Tensor], message: str) -> None:
    network = Tagger()
    before = snapshot(network)
    with pytest.raises(ValueError, match=message):
        shrink(network, OUTSIDE_WIRING, gates, example_inputs=features())
    assert_unchanged(network, before)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float64, torch.bfloat16])
def test_gates_of_any_dtype_will_do(dtype: torch.dtype) -> None:
    gates = {"encoder.l0": (SOME_CLOSED > 0).to(dtype), "decoder": torch.ones(4)}
    small: Any = shrink(Tagger(), OUTSIDE_WIRING, gates, example_inputs=features())
    assert small.encoder.hidden_size == 4
    assert small.encoder.weight_hh_l0.dtype == torch.float32


@pytest.mark.parametrize("multiple_of", [0, -8])
def test_a_multiple_below_one_is_refused(multiple_of: int) -> None:
    with pytest.raises(ValueError, match=f"`multiple_of` must be at least 1, got {multiple_of}"):
        shrink(Tagger(), OUTSIDE_WIRING, {}, example_inputs=features(), multiple_of=multiple_of)


def test_a_single_layer_is_no_network() -> None:
    with pytest.raises(ValueError, match="`network` must hold its layers as submodules; wrap the single layer"):
        shrink(
            nn.LSTM(FEATURES, HIDDEN, 2), Wiring({"": reads(OUTSIDE)}), {".l0": SOME_CLOSED}, example_inputs=features()
        )


def test_a_weight_of_the_wrong_shape_is_never_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that do not look at shapes would read past its end."""
    monkeypatch.setattr(f"{build.__module__}.cut", lambda *args, **options: cut(*args, **options)[:-1])
    with pytest.raises(ValueError, match=r"'encoder\.weight_ih_l0' was cut to .*, but its layer needs .*, 3\)"):
        shrink(Tagger(), OUTSIDE_WIRING, {"encoder.l0": SOME_CLOSED}, example_inputs=features())


def test_a_tolerance_of_ones_own_is_used() -> None:
    network, gates = Tagger(lambda output: output.flip(-1)), {"encoder.l0": SOME_CLOSED}
    surgery = operate(network, OUTSIDE_WIRING, gates, example_inputs=features(), tolerance=10.0)
    assert 1e-3 < surgery.max_abs_difference < 10
    with pytest.raises(ValueError, match="more than 1e-12"):
        operate(network, OUTSIDE_WIRING, gates, example_inputs=features(), tolerance=1e-12)


# ---------------------------------------------------------------------------------------------------------------------
# widths


@pytest.mark.parametrize("units", [1, 2, 4, 5])
@pytest.mark.parametrize("cells", [1, 3, 6])
@pytest.mark.parametrize("multiple_of", [1, 4])
def test_more_cells_than_projected_units_stay(units: int, cells: int, multiple_of: int) -> None:
    """torch refuses proj_size >= hidden_size, so closed cells are kept where they must."""
    network = Tagger(proj_size=5)
    gates = {
        "encoder.l0": (torch.randperm(5) < units) * torch.linspace(0.5, 1, 5),
        "encoder.l0_cell": (torch.randperm(6) < cells) * torch.linspace(0.5, 1, 6),
    }
    surgery = operate(network, OUTSIDE_WIRING, gates, example_inputs=features(), multiple_of=multiple_of)
    encoder: Any = surgery.network.encoder
    width = min(5, -(-units // multiple_of) * multiple_of)
    assert encoder.proj_size == width
    assert encoder.hidden_size == max(width + 1, min(6, -(-cells // multiple_of) * multiple_of))
    data = features()
    folded: Any = shrink(network, OUTSIDE_WIRING, gates, example_inputs=data)
    torch.testing.assert_close(surgery.network(data), folded(data), atol=1e-6, rtol=0)


@pytest.mark.parametrize("multiple_of", [1, 2, 3, 4, 7, 8, 100])
@pytest.mark.parametrize("seed", range(3))
def test_widths_are_multiples_as_far_as_there_are_units(multiple_of: int, seed: int) -> None:
    torch.manual_seed(seed)
    network = WordTagger("GRU", normalise=seed == 2, hidden=17, embedding=19, **STACKS[12])
    gate_network_(network, draw_blueprint(network, network.wiring))
    set_gates_at_random(network, torch.Generator().manual_seed(seed))
    network.eval()
    words = torch.randint(11, (5, 2))
    exact = operate(network, network.wiring, example_inputs=words)
    rounded = operate(network, network.wiring, example_inputs=words, multiple_of=multiple_of)
    normalised = draw_blueprint(network, network.wiring).normalised
    assert bool(normalised) == (seed == 2)
    for axis, (width, full) in rounded.widths.items():
        wanted = exact.widths[axis][0]
        if axis not in normalised:  # there closed units would count in the mean
            wanted = min(full, -(-wanted // multiple_of) * multiple_of)
        assert width == wanted
    torch.testing.assert_close(rounded.network(words)[0], network(words)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("stack", range(0, len(STACKS), 5))
def test_at_least_one_unit_stays_on_every_axis(stack: int) -> None:
    network = WordTagger("LSTM_projected" if stack % 2 else "LSTM", **STACKS[stack])
    own = gate_network_(network, draw_blueprint(network, network.wiring))
    for gates in own.values():
        gates.log_alpha.data.fill_(-9.0)
    network.eval()
    words = torch.randint(11, (5, 2))
    surgery = operate(network, network.wiring, example_inputs=words)
    for axis, (width, _) in surgery.widths.items():
        assert width == (2 if axis.endswith("_cell") else 1)
    expected = network(words)[0]
    torch.testing.assert_close(surgery.network(words)[0], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(expected, network.decoder.bias.expand_as(expected))  # nothing else is left


# ---------------------------------------------------------------------------------------------------------------------
# report


def test_the_report_lists_what_was_kept_and_what_was_not_pruned_and_why() -> None:
    network: Any = TwoReaders()
    network.convolution = nn.Conv1d(2, 2, 1)
    network.eval()
    gates = {"right.l0": torch.tensor([1.0, 0.0, 0.5, 0.0])}
    surgery = operate(network, network.wiring, gates, example_inputs=torch.randint(11, (5, 2)))
    small: Any = surgery.network
    assert surgery.widths["right.l0"] == (2, 4)
    assert {axis: width for axis, width in surgery.widths.items() if axis != "right.l0"} == {
        "embedding": (6, 6),
        "left.l0": (5, 5),
        "left.l0_reverse": (5, 5),
        "join": (8, 8),
        "top.l0": (5, 5),
    }
    assert surgery.untouched == {
        "embedding.words": "its units are the vocabulary",
        "decoder": "nothing in the wiring reads it, so it is an output of the network",
        "convolution": "surgery does not know a Conv1d",
        **dict.fromkeys(("embedding", "left.l0", "left.l0_reverse", "join", "top.l0"), "it has no gates"),
    }
    assert torch.equal(small.convolution.weight, network.convolution.weight)
    assert small.convolution is not network.convolution


def test_the_report_names_what_the_wiring_fixes() -> None:
    network = Tagger()
    fixed = Wiring({"encoder": reads(OUTSIDE), "decoder": reads("encoder")}, fixed=["decoder"])
    surgery = operate(network, fixed, {}, example_inputs=features())
    assert surgery.untouched["encoder.l0"] == "'decoder', which the wiring fixes, reads it"
    assert surgery.untouched["decoder"] == "the wiring fixes it"
    assert not surgery.widths


def test_the_report_reads_as_text() -> None:
    surgery = Surgery(nn.Identity(), {"encoder.l0": (2, 6)}, {"decoder": "it is an output"}, 1.23e-7)
    assert str(surgery) == (
        "shrunk, outputs differ by at most 1.2e-07\n  encoder.l0: 2 of 6 units\nnot pruned:\n  decoder: it is an output"
    )
    assert str(Surgery(nn.Identity(), {}, {}, 0.0)) == "shrunk, outputs differ by at most 0.0e+00"


def test_shrinking_says_what_it_did(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="l0rnn.surgery"):
        shrink(Tagger(), OUTSIDE_WIRING, {"encoder.l0": SOME_CLOSED}, example_inputs=features())
    assert "  encoder.l0: 4 of 6 units\nnot pruned:\n  decoder: nothing in the wiring reads it" in caplog.text


# ---------------------------------------------------------------------------------------------------------------------
# what stays as it was


@pytest.mark.parametrize("is_training", [False, True])
def test_modes_and_frozen_parameters_are_taken_over(*, is_training: bool) -> None:
    network = WordTagger("LSTM", num_layers=2).train(is_training)
    network.decoder.train(not is_training)
    network.encoder.weight_hh_l0.requires_grad_(False)
    before = snapshot(network)
    small: Any = shrink(network, network.wiring, {"embedding": SOME_CLOSED}, example_inputs=torch.randint(11, (5, 2)))
    assert_unchanged(network, before)
    assert small.training == small.encoder.training == is_training
    assert small.decoder.training != is_training
    assert [name for name, p in small.named_parameters() if not p.requires_grad] == ["encoder.weight_hh_l0"]
    shared = {p.data_ptr() for p in network.parameters()} & {p.data_ptr() for p in small.parameters()}
    assert not shared


def test_a_gated_network_in_training_stays_as_it_is_after_an_error() -> None:
    network = WordTagger("LSTM")
    gate_network_(network, draw_blueprint(network, network.wiring), open_probability=0.5)
    network(torch.randint(11, (5, 2)))
    before = snapshot(network)
    with pytest.raises(ValueError, match="more than -1"):
        shrink(network, network.wiring, example_inputs=torch.randint(11, (5, 2)), tolerance=-1.0)
    assert_unchanged(network, before)
    assert network.training
    assert "skips_closed_units" not in vars(network.encoder)


# ---------------------------------------------------------------------------------------------------------------------
# time and memory


def test_a_large_language_model_shrinks_in_seconds() -> None:
    network = LanguageModel(10_000, 1500, 1500)
    gates = gate_network_(network, draw_blueprint(network, network.wiring))
    generator = torch.Generator().manual_seed(0)
    for gate in gates.values():  # a quarter open
        gate.log_alpha.data.normal_(generator=generator).add_(gate.distribution.closing_log_alpha - 0.67)
    network.eval()
    words = torch.randint(10_000, (5, 2))
    seconds = []
    for _ in range(3):  # the least of three: what the machine does besides is not ours
        start = time.perf_counter()
        surgery = operate(network, network.wiring, example_inputs=words)
        seconds.append(time.perf_counter() - start)
    print(f"2 x 1500 units, 10,000 words: {min(seconds):.2f} s")
    assert all(0.2 < width / full < 0.3 for width, full in surgery.widths.values())
    assert min(seconds) < 2


MEASURE = """
import torch
from l0rnn.blueprint import draw_blueprint
from l0rnn.language.language_model import LanguageModel
from l0rnn.gates.network import gate_network_
from l0rnn.surgery.shrink import operate


def peak():
    # of this process alone; getrusage would start from the peak of the one that started it
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def gated(*sizes):
    network = LanguageModel(*sizes)
    for gate in gate_network_(network, draw_blueprint(network, network.wiring)).values():
        gate.log_alpha.data.normal_().add_(gate.distribution.closing_log_alpha - 0.67)
    return network.eval()


def shrink(network):
    return operate(network, network.wiring, example_inputs=torch.randint(10, (5, 2)))


torch.set_num_threads(1)
shrink(gated(10, 15, 15))  # what torch loads on first use, some 70 MB, is no copy
network = gated(10_000, 1500, 1500)
size = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
before = peak()
surgery = shrink(network)
print((peak() - before) / size)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak of one process")
def test_shrinking_takes_no_more_memory_than_one_more_copy() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], cwd=root, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    copies = float(done.stdout)
    print(f"peak memory: {copies:.2f} copies of the network")
    assert 0.1 < copies < 1  # the kept quarter, a layer's folded weights, and what oneDNN packs


class Scaled(nn.LayerNorm):
    """A LayerNorm of somebody's own."""

    def forward(self, input: Tensor) -> Tensor:
        return input * self.weight


class Vectors(nn.Embedding):
    """An Embedding of somebody's own."""


def observed() -> nn.Module:
    network = Words()
    network.encoder.register_forward_pre_hook(lambda module, inputs: None)
    return network


def with_norm() -> nn.Module:
    network = WordTagger("GRU", normalise=True)
    network.norm = Scaled(7)
    return network


def with_vectors() -> nn.Module:
    network = Words()
    network.embedding = Vectors(9, 4)
    return network


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Words(Doubled), "'decoder' is a Doubled, but only torch's own LSTM, GRU"),
        (with_norm, "'norm' is a Scaled, but only"),
        (with_vectors, "'embedding' is a Vectors, but only"),
        (observed, "'encoder' has hooks, which the gated layer in its place would not have"),
    ],
    ids=["linear", "norm", "embedding", "hook"],
)
def test_code_that_gates_would_replace_is_refused_before_anything_is_changed(make: Any, message: str) -> None:
    network = make()
    before = snapshot(network)
    with pytest.raises(ValueError, match=message):
        gate_network_(network, draw_blueprint(network, network.wiring))
    assert snapshot(network)[1:] == before[1:]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("layer", "weight"), [("decoder", "weight"), ("encoder", "weight_hh_l0")])
def test_weights_that_are_computed_are_refused(layer: str, weight: str) -> None:
    network = Words()
    nn.utils.weight_norm(network.get_submodule(layer), weight)
    with pytest.raises(ValueError, match=f"'{layer}' computes its '{weight}', as .* remove the norm first"):
        draw_blueprint(network, network.wiring)


def test_inputs_that_do_not_fit_the_original_are_named() -> None:
    class TwoInputs(Tagger):
        def forward(self, features: Tensor, mask: Tensor) -> Any:
            return super().forward(features * mask)

    with pytest.raises(ValueError, match=r"`example_inputs` do not fit the network's forward: .*mask.*as a tuple"):
        shrink(TwoInputs(), TwoInputs.wiring, {"encoder.l0": SOME_CLOSED}, example_inputs=features())
