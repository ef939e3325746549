"""Dropout drawn once for a whole pass: which units, weights and words it takes, in every way a stack is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import nn
from torch.utils._pytree import tree_leaves

from l0rnn import Budget, L0GatedGRU, L0GatedLSTM, shrink
from l0rnn.gates import GatedGRU, GatedLSTM, open_units
from l0rnn.gates import dropout as recurrent_dropout
from l0rnn.gates import recurrence as gated_recurrence
from l0rnn.gates.dropout import RecurrentDropout, run_layers
from l0rnn.language.language_model import LanguageModel
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.training.shrunken import ShrunkenLanguageModel
from tests.tiny_text import WORDS, TinyText

pytestmark = pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")

STEPS, BATCH = 6, 3
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]
STACKS = {
    "LSTM": lambda: nn.LSTM(4, 5, num_layers=2, dropout=0.5),
    "GRU": lambda: nn.GRU(4, 5, num_layers=2, dropout=0.5, bias=False),
    "ragged LSTM": lambda: RaggedRNN("LSTM", 4, [[5], [3]], dropout=0.5),
    "ragged GRU": lambda: RaggedRNN("GRU", 4, [[5], [3]], dropout=0.5),
}
GATED: dict[str, Any] = {"LSTM": GatedLSTM, "GRU": GatedGRU}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What the kernel of each layer reads."""
    found: list[torch.Tensor] = []
    original = recurrent_dropout.call_kernel

    def recorded(layer: Any, kernel: Any, data: torch.Tensor, *others: Any, **options: Any) -> Any:
        found.append(data.detach())
        return original(layer, kernel, data, *others, **options)

    for module in (recurrent_dropout, gated_recurrence, open_units):
        monkeypatch.setattr(module, "call_kernel", recorded)
    return found


def without_recurrence_(encoder: nn.Module) -> nn.Module:
    """Set the weights from hidden to hidden units to 0."""
    for name, weight in encoder.named_parameters():
        if "weight_hh" in name:
            nn.init.zeros_(weight)
    return encoder


def is_locked(data: torch.Tensor) -> bool:
    """Whether the same units, some but not all, are 0 at every step."""
    zeros = data == 0
    assert 0 < int(zeros.sum()) < zeros.numel()
    return bool((zeros == zeros[:1]).all())


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("has_state", [False, True])
def test_layers_run_one_by_one_are_the_stack(name: str, has_state: bool) -> None:
    encoder, data = STACKS[name](), torch.randn(STEPS, BATCH, 4)
    encoder.dropout = 0.0
    with torch.no_grad():
        state = encoder(torch.randn(2, BATCH, 4))[1] if has_state else None
    wanted = encoder(data, state)
    got = run_layers(encoder, RecurrentDropout(is_locked=True), data, state)
    assert type(got[1]) is type(wanted[1])
    for one, other in zip(tree_leaves(got), tree_leaves(wanted), strict=True):
        torch.testing.assert_close(one, other)
    gradients = [torch.autograd.grad(out[0].square().sum(), list(encoder.parameters())) for out in (got, wanted)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("device", DEVICES)
def test_recurrent_weights_are_dropped(name: str, device: str) -> None:
    encoder, data = STACKS[name]().to(device), torch.randn(STEPS, BATCH, 4, device=device)
    encoder.dropout = 0.0
    output, _ = run_layers(encoder, RecurrentDropout(weights=1.0), data)
    torch.testing.assert_close(output, without_recurrence_(encoder)(data)[0])


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("device", DEVICES)
def test_units_are_dropped_over_all_steps(name: str, device: str, read: list[torch.Tensor]) -> None:
    encoder, data = STACKS[name]().to(device), torch.randn(STEPS, BATCH, 4, device=device)
    torch.manual_seed(0)
    run_layers(encoder, RecurrentDropout(is_locked=True), data)
    run_layers(encoder, RecurrentDropout(weights=0.5), data)
    assert [is_locked(read[1]), is_locked(read[3])] == [True, False]


@pytest.mark.parametrize("cell", GATED)
@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize("device", DEVICES)
def test_gated_layers_drop_alike(cell: str, skips: bool, device: str, read: list[torch.Tensor]) -> None:
    layer = GATED[cell](4, 8, num_layers=2, dropout=0.5).to(device)
    data = torch.randn(STEPS, BATCH, 4, device=device)
    for gates in layer.gates.values():
        gates.freeze_(torch.arange(gates.units, device=device) % 2 == 0)
    layer.skips_closed_units = skips
    layer.recurrent_dropout = RecurrentDropout(is_locked=True)
    torch.manual_seed(0)
    layer(data)
    open_ones = read[1] if skips else read[1][..., ::2]
    assert open_ones.size(-1) == 4
    assert is_locked(open_ones)

    layer.dropout, layer.recurrent_dropout = 0.0, RecurrentDropout(weights=1.0)
    dropped, _ = layer(data)
    layer.recurrent_dropout = RecurrentDropout()
    whole, _ = layer(data)
    torch.testing.assert_close(dropped, without_recurrence_(layer)(data)[0])
    assert not torch.allclose(dropped, whole)


@pytest.mark.parametrize("hidden_size", [6, [5, 6]])
def test_the_network_drops_what_it_is_told(hidden_size: int | list[int]) -> None:
    torch.manual_seed(1)
    network = LanguageModel(20, 6, hidden_size, dropout=0.5, locked_dropout=True, weight_dropout=0.4, word_dropout=0.5)
    seen: dict[str, torch.Tensor] = {}
    network.decoder.register_forward_pre_hook(lambda _, inputs: seen.update(output=inputs[0].detach()))
    network.encoder.register_forward_pre_hook(lambda _, inputs: seen.update(words=inputs[0].detach()))
    tokens = torch.arange(20).repeat(4)[:, None]  # each word four times
    network(tokens)
    assert is_locked(seen["output"])

    network.locked_dropout, network.weight_dropout = False, 0.0  # now the encoder is called as torch has it
    network(tokens)
    assert not is_locked(seen["output"])
    network.dropout.p = 0.0
    network(tokens)
    is_read = (seen["words"].reshape(4, 20, 6) != 0).all(-1)
    assert (is_read == is_read[:1]).all()
    assert 0 < int(is_read[0].sum()) < 20
    words = network.embedding.weight.detach()[is_read[0]]
    torch.testing.assert_close(seen["words"].reshape(4, 20, 6)[0, is_read[0]], words / 0.5)


def test_nothing_is_dropped_in_evaluation() -> None:
    network = LanguageModel(20, 6, 6, dropout=0.5, locked_dropout=True, weight_dropout=0.5, word_dropout=0.5).eval()
    plain = LanguageModel(20, 6, 6).eval()
    plain.load_state_dict(network.state_dict())
    tokens = torch.randint(20, (STEPS, BATCH))
    assert torch.equal(network(tokens)[0], plain(tokens)[0])


@pytest.mark.parametrize("kind", [L0GatedLSTM, L0GatedGRU])
def test_a_gated_model_trains_with_it_and_its_small_network_goes_on(kind: Any, tmp_path: Path) -> None:
    options = {"dropout": 0.3, "locked_dropout": True, "weight_dropout": 0.2, "word_dropout": 0.1}

    def fit(model: Any) -> Any:
        quiet = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
        settings: Any = dict.fromkeys(quiet, False)
        trainer = Trainer(max_epochs=2, accelerator="cpu", default_root_dir=tmp_path, **settings)
        trainer.fit(model, TinyText())
        return model.eval()

    torch.manual_seed(2)
    model = fit(kind(WORDS, 12, objective=Budget(density=0.4, ramp=0.5), gate_learning_rate=0.5, **options))
    tokens = torch.randint(WORDS, (STEPS, BATCH))
    with torch.no_grad():
        wanted = model.network(tokens)[0]
        small: Any = shrink(model)
        torch.testing.assert_close(small(tokens)[0], wanted, rtol=1e-4, atol=1e-5)
    again = fit(ShrunkenLanguageModel(small, **options))
    assert (small.locked_dropout, small.weight_dropout, small.word_dropout) == (True, 0.2, 0.1)
    for trained in (model, again):
        assert {name: trained.hparams[name] for name in options} == options


def test_a_small_network_forgets_how_it_was_trained() -> None:
    small = LanguageModel(20, 6, [5, 4], locked_dropout=True, weight_dropout=0.5, word_dropout=0.5)
    ShrunkenLanguageModel(small)
    assert (small.locked_dropout, small.weight_dropout, small.word_dropout) == (False, 0.0, 0.0)


@pytest.mark.parametrize(
    "encoder",
    [
        nn.LSTM(4, 5, bidirectional=True),
        nn.GRU(4, 5, batch_first=True),
        nn.LSTM(4, 5, proj_size=2),
        RaggedRNN("LSTM", 4, [[5, 3]]),
        RaggedRNN("LSTM", 4, [[5]], proj_sizes=[[2]]),
        nn.RNN(4, 5),
    ],
)
def test_other_encoders_are_refused(encoder: nn.Module) -> None:
    with pytest.raises(ValueError, match="`locked_dropout` and `weight_dropout` must be for LSTM or GRU layers"):
        run_layers(encoder, RecurrentDropout(weights=0.5), torch.randn(STEPS, BATCH, 4))


def test_a_wrong_state_is_refused() -> None:
    states = torch.zeros(2, BATCH, 5), torch.zeros(2, BATCH + 1, 5)
    with pytest.raises(ValueError, match=r"`state` must have parts of \[\(3, 5\), \(3, 5\)\] for these layers, got"):
        run_layers(STACKS["LSTM"](), RecurrentDropout(weights=0.5), torch.randn(STEPS, BATCH, 4), states)


@pytest.mark.parametrize("name", ["dropout", "weight_dropout", "word_dropout"])
@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_rates_out_of_range_are_refused(name: str, rate: float) -> None:
    options: dict[str, Any] = {name: rate}
    with pytest.raises(ValueError, match=rf"`{name}` must be in \[0, 1\), got {rate}"):
        LanguageModel(20, 6, 6, **options)
    with pytest.raises(ValueError, match=rf"`{name}` must be in \[0, 1\), got {rate}"):
        L0GatedLSTM(20, 6, **options)
    with pytest.raises(ValueError, match=rf"`{name}` must be in \[0, 1\), got {rate}"):
        ShrunkenLanguageModel(LanguageModel(20, 6, 6), **options)
