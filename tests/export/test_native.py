"""The native format: what is saved is what is loaded, and what cannot be saved is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from l0rnn import Budget, L0GatedLSTM, shrink
from l0rnn.export import load_dense, read_config, read_vocabulary, save_dense
from l0rnn.export.native import build_from
from l0rnn.gates.network import gate_network_
from l0rnn.language.language_model import LanguageModel
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.tracing import trace
from tests.export.models import WORDS, language_model
from tests.networks import CELLS, STACKS, TiedLanguageModel, TwoReaders, WordTagger, set_gates_at_random

# every cell, with layers, directions, bias and batch_first in turn
ARCHITECTURES = [
    (cell, STACKS[(5 * index + 7 * half) % len(STACKS)]) for index, cell in enumerate(CELLS) for half in (0, 1)
]


def gated(cell: str, seed: int, **arguments: Any) -> WordTagger:
    torch.manual_seed(seed)
    network = WordTagger(cell, **arguments).eval()
    gate_network_(network, trace(network, torch.randint(11, (6, 3))))
    set_gates_at_random(network, torch.Generator().manual_seed(seed))
    return network


@pytest.mark.parametrize("seed", range(len(ARCHITECTURES)))
def test_shrunken_networks_of_random_widths_come_back(seed: int, tmp_path: Path) -> None:
    cell, stack = ARCHITECTURES[seed]
    arguments = {"normalise": seed % 3 == 0, **stack}
    words = torch.randint(11, (6, 3))
    small: Any = shrink(gated(cell, seed, **arguments), example_inputs=words)
    save_dense(small, tmp_path / "model")
    loaded: Any = load_dense(tmp_path / "model", WordTagger(cell, **arguments))
    assert type(loaded.encoder) is type(small.encoder)
    output, state = small(words)
    loaded_output, loaded_state = loaded(words)
    assert torch.equal(output, loaded_output)
    assert torch.equal(small(words, state)[0], loaded(words, loaded_state)[0])
    assert not loaded.training


def test_there_were_unequal_widths_among_them() -> None:
    network = gated("LSTM", 2, num_layers=2, bidirectional=True)
    assert isinstance(shrink(network, example_inputs=torch.randint(11, (4, 2))).encoder, RaggedRNN)


@pytest.mark.parametrize("sizes", [[6, 6], [5, 3]])
@pytest.mark.parametrize("mode", ["LSTM", "GRU", "RNN_RELU"])
def test_a_language_model_needs_no_instance(mode: str, sizes: list[int], tmp_path: Path) -> None:
    network = language_model(mode, sizes)
    save_dense(network, tmp_path / "model")
    words = torch.randint(11, (4, 2))
    assert torch.equal(load_dense(tmp_path / "model")(words)[0], network(words)[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes(dtype: torch.dtype, tmp_path: Path) -> None:
    network = language_model().to(dtype)
    save_dense(network, tmp_path / "model")
    loaded = load_dense(tmp_path / "model")
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), loaded.parameters(), strict=True))


def test_tied_weights_are_saved_once_and_stay_tied(tmp_path: Path) -> None:
    from safetensors import safe_open

    network = TiedLanguageModel().eval()
    save_dense(network, tmp_path / "model")
    with safe_open(tmp_path / "model" / "model.safetensors", framework="pt") as file:
        names = list(file.keys())
    assert "embedding.weight" in names
    assert "decoder.weight" not in names
    loaded = load_dense(tmp_path / "model", TiedLanguageModel(3, 4))
    assert loaded.decoder.weight is loaded.embedding.weight
    words = torch.randint(11, (4, 2))
    assert torch.equal(loaded(words)[0], network(words)[0])


def test_the_given_instance_stays_as_it_is(tmp_path: Path) -> None:
    save_dense(TwoReaders().eval(), tmp_path / "model")
    instance = TwoReaders()
    before = [parameter.clone() for parameter in instance.parameters()]
    loaded = load_dense(tmp_path / "model", instance)
    assert all(torch.equal(a, b) for a, b in zip(before, instance.parameters(), strict=True))
    assert loaded is not instance


def test_the_config_says_it_all(tmp_path: Path) -> None:
    network = language_model("GRU", [5, 3])
    save_dense(network, tmp_path / "model", vocabulary=WORDS, figures={"valid perplexity": 120.5, "text": "PTB"})
    config = read_config(tmp_path / "model")
    assert config.widths == {"embedding": 3, "encoder.l0": 5, "encoder.l1": 3, "decoder": 11}
    assert config.layers["encoder"]["mode"] == "GRU"
    assert config.figures == {"valid perplexity": 120.5, "text": "PTB"}
    assert read_vocabulary(tmp_path / "model") == WORDS
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| encoder.l0 | 5 |" in card
    assert "| valid perplexity | 120.5 |" in card
    plain = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (plain["format"], plain["l0rnn"]) == (1, "0.2.0")


def test_a_network_can_be_built_from_the_config_alone(tmp_path: Path) -> None:
    save_dense(language_model("LSTM", [5, 3]), tmp_path / "model")
    network = build_from(read_config(tmp_path / "model"))
    assert network.encoder.hidden_sizes == [[5], [3]]
    assert network(torch.randint(11, (4, 2)))[0].shape == (4, 2, 11)


def hooked() -> nn.Module:
    network = nn.Sequential(nn.Linear(2, 2))
    network[0].register_forward_hook(lambda module, inputs, output: output + 1)
    return network


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (hooked(), r"0 \(a Linear with hooks\)"),
        (nn.Sequential(nn.Linear(2, 2, dtype=torch.complex64)), "0.weight has torch.complex64"),
        (nn.LSTM(2, 3), "wrap the single layer"),
        (gated("LSTM", 0), r"still has gates; shrink it first"),
        (L0GatedLSTM(11, 6, objective=Budget(density=0.5)), "still has gates"),
        (L0GatedLSTM(11, 6), "is a L0GatedLSTM, which trains a network; shrink it first"),
    ],
)
def test_what_cannot_be_saved_is_named_and_nothing_is_written(network: nn.Module, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        save_dense(network, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary": WORDS[:-1]}, "the 11 words that the model knows, got 10"),
        ({"vocabulary": (*WORDS[:-1], "cat")}, "each word once"),
        ({"vocabulary": (*WORDS[:-1], "two words")}, "without spaces"),
        ({"vocabulary": (*WORDS[:-1], "\x1b[2J")}, "control characters"),
        ({"vocabulary": (*WORDS[:-1], 7)}, r"must be Sequence\[str\] or None, got \('<eos>'"),
        ({"vocabulary": []}, "at least one word"),
        ({"vocabulary": "words"}, "must be Sequence.* got 'words'"),
        ({"figures": {"loss": float("nan")}}, "finite numbers or texts, got 'loss': nan"),
        ({"figures": {"loss": [1]}}, "must be Mapping.*, got {'loss'"),
        ({"figures": [1]}, r"must be Mapping.*, got \[1\]"),
    ],
)
def test_wrong_vocabulary_and_figures(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        save_dense(language_model(), tmp_path / "model", **options)
    assert list(tmp_path.iterdir()) == []


def test_another_class_needs_an_instance_of_its_own(tmp_path: Path) -> None:
    save_dense(WordTagger("LSTM"), tmp_path / "model")
    with pytest.raises(ValueError, match="`network` must be given for a 'WordTagger'"):
        load_dense(tmp_path / "model")
    with pytest.raises(ValueError, match="must describe the layers of a TwoReaders; they differ in 'encoder'"):
        load_dense(tmp_path / "model", TwoReaders())
    with pytest.raises(ValueError, match="has a LSTM for 'encoder' that cannot replace the network's GRU"):
        load_dense(tmp_path / "model", WordTagger("GRU"))
    with pytest.raises(ValueError, match="cannot replace the network's LSTM"):
        load_dense(tmp_path / "model", WordTagger("LSTM", batch_first=True))


def test_only_a_language_model_is_built_from_a_config(tmp_path: Path) -> None:
    save_dense(WordTagger("LSTM"), tmp_path / "model")
    with pytest.raises(ValueError, match="must be given for a 'WordTagger'"):
        build_from(read_config(tmp_path / "model"))


def test_a_dense_model_that_was_never_gated(tmp_path: Path) -> None:
    network = LanguageModel(11, 4, 4, num_layers=1, dropout=0.3)
    save_dense(network, tmp_path / "model")
    assert load_dense(tmp_path / "model").dropout.p == 0.3
