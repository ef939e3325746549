"""Gated and shrunken networks agree: the promise everything else rests on."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from l0rnn.blueprint import draw_blueprint
from l0rnn.gates import GatedRecurrence, Gates
from l0rnn.gates.network import gate_network_
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.recurrent.single_steps import onednn
from l0rnn.surgery.shrink import operate, shrink
from l0rnn.wiring import OUTSIDE, Wiring, reads
from tests.networks import (
    CELLS,
    STACKS,
    StateClassifier,
    TiedLanguageModel,
    TwoReaders,
    WordTagger,
    set_gates_at_random,
)

CONFIGURATIONS = list(itertools.product(CELLS, range(len(STACKS)), ("hidden", "both")))


def gated(network: nn.Module, *, units: str = "both", seed: int = 0) -> nn.Module:
    gate_network_(network, draw_blueprint(network, network.wiring), units=units)
    set_gates_at_random(network, torch.Generator().manual_seed(seed))
    return network.eval()


def has_gates(network: nn.Module) -> bool:
    hooks = any(module._forward_pre_hooks for module in network.modules())
    return hooks or any(isinstance(module, (Gates, GatedRecurrence)) for module in network.modules())


@pytest.mark.parametrize(("cell", "stack", "units"), CONFIGURATIONS)
def test_random_configurations(cell: str, stack: int, units: str) -> None:
    seed = CONFIGURATIONS.index((cell, stack, units))
    torch.manual_seed(seed)
    normalise = seed % 3 == 0
    network = gated(WordTagger(cell, normalise=normalise, **STACKS[stack]), units=units, seed=seed)
    words = torch.randint(11, (6, 3))
    surgery = operate(network, network.wiring, example_inputs=words, multiple_of=4 if seed % 5 == 0 else 1)
    assert not has_gates(surgery.network)
    with torch.no_grad():
        for use_onednn in (True, False):
            with onednn(use_onednn):
                expected, state = network(words)
                got, small_state = surgery.network(words)
                torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
                # and once more with the state carried over
                torch.testing.assert_close(
                    surgery.network(words, small_state)[0], network(words, state)[0], atol=1e-5, rtol=0
                )
    assert len(CONFIGURATIONS) >= 200


@pytest.mark.parametrize("seed", range(12))
def test_reading_the_last_state(seed: int) -> None:
    torch.manual_seed(seed)
    cell = ("LSTM", "GRU", "RNN_TANH")[seed % 3]
    network = gated(StateClassifier(cell, num_layers=1 + seed % 2, bidirectional=seed % 4 > 1), seed=seed)
    small = shrink(network, network.wiring, example_inputs=torch.randn(5, 2, 3))
    features = torch.randn(9, 4, 3)
    with torch.no_grad():
        torch.testing.assert_close(small(features), network(features), atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", range(8))
def test_tied_embedding_and_decoder(seed: int) -> None:
    torch.manual_seed(seed)
    network = gated(TiedLanguageModel(), seed=seed)
    words = torch.randint(11, (5, 2))
    small = shrink(network, network.wiring, example_inputs=words)
    assert small.decoder.weight is small.embedding.weight
    with torch.no_grad():
        torch.testing.assert_close(small(words)[0], network(words)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", range(8))
def test_several_readers_and_repeated_blocks(seed: int) -> None:
    torch.manual_seed(seed)
    network = gated(TwoReaders(), seed=seed)
    words = torch.randint(11, (5, 2))
    small = shrink(network, network.wiring, example_inputs=words)
    with torch.no_grad():
        torch.testing.assert_close(small(words), network(words), atol=1e-5, rtol=0)


def test_the_original_is_untouched() -> None:
    network = gated(WordTagger("LSTM")).train()
    before = copy.deepcopy(network.state_dict())
    shrink(network, network.wiring, example_inputs=torch.randint(11, (5, 2)))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training
    assert has_gates(network)


def test_equal_widths_give_a_torch_layer_and_unequal_ones_a_ragged_stack() -> None:
    words = torch.randint(11, (5, 2))
    network = WordTagger("LSTM", num_layers=2)
    gates = {"encoder.l0": torch.ones(7), "encoder.l1": torch.ones(7)}
    gates["encoder.l0"][:3] = 0
    ragged = shrink(network, network.wiring, gates, example_inputs=words).encoder
    assert isinstance(ragged, RaggedRNN)
    assert ragged.hidden_sizes == [[4], [7]]
    gates["encoder.l1"][4:] = 0
    equal = shrink(network, network.wiring, gates, example_inputs=words).encoder
    assert type(equal) is nn.LSTM
    assert (equal.hidden_size, equal.num_layers) == (4, 2)


@pytest.mark.parametrize("kept", [3, 6])
def test_a_layer_norm_without_weights(kept: int) -> None:
    class Normalised(nn.Module):
        wiring = Wiring({"encoder": reads(OUTSIDE), "norm": reads("encoder"), "head": reads("norm")})

        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = nn.GRU(3, 6), nn.Linear(6, 2)
            self.norm = nn.LayerNorm(6, elementwise_affine=False)

        def forward(self, features: Tensor) -> Tensor:
            return self.head(self.norm(self.encoder(features)[0]))

    network = Normalised()
    gates = gate_network_(network, draw_blueprint(network, network.wiring))
    gates["encoder.l0"].freeze_(torch.arange(6) < kept)
    surgery = operate(network, network.wiring, example_inputs=torch.randn(4, 2, 3))
    norm = surgery.network.get_submodule("norm")
    assert (type(norm), norm.normalized_shape) == (nn.LayerNorm, (kept,))
    assert not has_gates(surgery.network)
    assert surgery.max_abs_difference < 1e-6


def test_a_layer_may_have_any_name() -> None:
    class Named(nn.Module):
        wiring = Wiring(
            {
                "lstm_cell": reads(OUTSIDE),
                "word": reads("lstm_cell"),
                "word_cell": reads("lstm_cell"),
                "head": reads("word_cell", "word"),
            }
        )

        def __init__(self) -> None:
            super().__init__()
            self.lstm_cell, self.head = nn.LSTM(3, 6), nn.Linear(14, 2)
            self.word, self.word_cell = nn.Linear(6, 6), nn.Linear(6, 8)

        def forward(self, features: Tensor) -> Tensor:
            output, _ = self.lstm_cell(features)
            return self.head(torch.cat((self.word_cell(output), self.word(output)), -1))

    one = torch.arange(8) == 2
    gates = {"lstm_cell.l0": (torch.arange(6) < 3).float(), "word_cell": one.float()}
    surgery = operate(Named(), Named.wiring, gates, example_inputs=torch.randn(4, 2, 3))
    assert {axis: kept for axis, (kept, _) in surgery.widths.items()} == {"lstm_cell.l0": 3, "word": 6, "word_cell": 1}


def test_a_layer_under_two_names_is_gated_under_both() -> None:
    class Siamese(nn.Module):
        wiring = Wiring({"left": reads(OUTSIDE), "head": reads("left", "left")})

        def __init__(self) -> None:
            super().__init__()
            self.left = nn.GRU(3, 6)
            self.right, self.head = self.left, nn.Linear(12, 2)

        def forward(self, one: Tensor, other: Tensor) -> Tensor:
            return self.head(torch.cat((self.left(one)[0], self.right(other)[0]), -1))

    network = Siamese()
    gates = gate_network_(network, draw_blueprint(network, network.wiring))
    gates["left.l0"].freeze_(torch.arange(6) < 2)
    assert network.left is network.right
    surgery = operate(network, network.wiring, example_inputs=(torch.randn(4, 2, 3), torch.randn(4, 2, 3)))
    assert surgery.widths == {"left.l0": (2, 6)}
    assert surgery.max_abs_difference < 1e-6


@pytest.mark.parametrize("is_alone", [True, False])
def test_packed_sequences_and_flattened_parameters(*, is_alone: bool) -> None:
    class Packed(nn.Module):
        wiring = Wiring({"encoder": reads(OUTSIDE), "head": reads("encoder")})

        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = nn.GRU(3, 6, num_layers=2), nn.Linear(6, 2)

        def forward(self, sequences: PackedSequence) -> Tensor:
            self.encoder.flatten_parameters()
            return self.head(self.encoder(sequences)[1][-1])

    sequences = pack_sequence([torch.randn(length, 3) for length in (2, 5, 1)], enforce_sorted=False)
    gates = {"encoder.l0": (torch.arange(6) < 2).float()}
    surgery = operate(Packed(), Packed.wiring, gates, example_inputs=sequences if is_alone else (sequences,))
    assert isinstance(surgery.network.encoder, RaggedRNN)
    assert surgery.max_abs_difference < 1e-6
