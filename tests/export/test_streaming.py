"""One step API for every format, text from it, and what is measured of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l0rnn.export import TorchStreamer, export_onnx, open_streamer, perplexity, save_dense, text_columns
from l0rnn.export.interface import flat
from l0rnn.export.measure import sampled_text
from l0rnn.export.steps import LanguageModelSteps, steps_of
from l0rnn.export.streaming import column_major_
from l0rnn.export.vocabulary import decode, encode
from l0rnn.language.language_model import next_word_loss
from l0rnn.models import generate
from tests.export.models import WORDS, language_model


@pytest.mark.parametrize(("mode", "sizes"), [("LSTM", [5, 3]), ("LSTM", [6, 6]), ("GRU", [6, 6]), ("RNN_TANH", [5, 3])])
def test_steps_give_the_whole_sequence(mode: str, sizes: list[int]) -> None:
    network = language_model(mode, sizes)
    tokens = torch.randint(11, (8, 3))
    with torch.no_grad():
        whole, _ = network(tokens)
    streamer = TorchStreamer(network)
    state = streamer.initial_state(3)
    for time, token in enumerate(tokens):
        logits, state = streamer.step(token, state)
        torch.testing.assert_close(logits, whole[time], atol=1e-5, rtol=0)


def test_a_streamer_is_a_copy_in_evaluation_mode() -> None:
    network = language_model().train()
    streamer = TorchStreamer(network)
    with torch.no_grad():
        network.decoder.weight.zero_()
    assert streamer.step(torch.tensor([1]))[0].abs().max() > 0
    assert network.training


def test_batch_first_steps() -> None:
    layer = nn.LSTM(3, 4, batch_first=True)
    inputs = torch.randn(2, 5, 3)
    streamer = TorchStreamer(layer)
    state = None
    for time in range(5):
        output, state = streamer.step(inputs[:, time], state)
    torch.testing.assert_close(output, layer(inputs)[0][:, -1].detach(), atol=1e-6, rtol=0)


class OwnNetwork(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.LSTM(3, 5, 2, **options), nn.Linear(5, 4)

    def forward(self, inputs: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        output, state = self.encoder(inputs, state)
        return self.decoder(output), state


@pytest.mark.parametrize("batch_first", [False, True])
def test_steps_of_any_lstm_go_round_onednn_and_leave_its_switch_alone(
    *, batch_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = OwnNetwork(batch_first=batch_first)
    inputs = torch.randn(2, 6, 3) if batch_first else torch.randn(6, 2, 3)
    with torch.no_grad():
        whole, (h, c) = network(inputs)
    streamer = TorchStreamer(network, inputs)
    seen: list[tuple[int, ...]] = []
    lstm_cell = torch.lstm_cell
    monkeypatch.setattr(torch, "lstm_cell", lambda data, *rest: (seen.append(data.shape), lstm_cell(data, *rest))[1])
    monkeypatch.setattr(torch.backends.mkldnn, "set_flags", None)
    torch.testing.assert_close(streamer.run(inputs), (whole, (h, c)))
    assert seen == []  # a call of six steps is oneDNN's
    state, outputs = None, []
    for step in inputs.unbind(1 if batch_first else 0):
        output, state = streamer.step(step, state)
        outputs.append(output)
    torch.testing.assert_close((torch.stack(outputs, 1 if batch_first else 0), state), (whole, (h, c)))
    assert len(seen) == 12
    with pytest.raises(RuntimeError, match="hidden"):
        streamer.step(step, streamer.initial_state(3))


def test_every_kind_of_reader_lies_column_by_column_and_ties_stay_tied() -> None:
    network = language_model("LSTM", [6, 6], tied=True)
    values = {name: parameter.clone() for name, parameter in network.named_parameters()}
    column_major_(network)
    assert all(torch.equal(parameter, values[name]) for name, parameter in network.named_parameters())
    assert all(parameter.stride(0) == 1 for parameter in network.parameters())
    assert network.decoder.weight is network.embedding.weight


class TestStepsWithoutModules:
    @pytest.mark.parametrize("sizes", [[5, 3], [6, 6], [4]])
    @pytest.mark.parametrize("threads", [1, 11])  # 11 words: as many parts
    @pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 1), (2, 4)])
    def test_they_give_what_the_network_gives(self, sizes: list[int], threads: int, size: tuple[int, int]) -> None:
        network = language_model("LSTM", sizes)
        steps = steps_of(network, threads=threads)
        assert steps is not None
        assert (steps.parts is None) == (threads == 1)
        tokens = torch.randint(11, size)
        with torch.inference_mode():
            _, state = network(torch.randint(11, (3, size[1])))
            for given in (None, state):
                logits, final = network(tokens, given)
                found, found_state = steps(tokens, None if given is None else flat(given))
                torch.testing.assert_close(found, logits)
                torch.testing.assert_close(found_state, tuple(flat(final)))

    def test_other_networks_and_calls_are_left_to_themselves(self) -> None:
        for mode, sizes in (("GRU", [6, 6]), ("RNN_TANH", [5, 3])):
            assert steps_of(language_model(mode, sizes)) is None
        assert steps_of(nn.LSTM(3, 4)) is None
        assert steps_of(language_model().double()) is None
        assert steps_of(language_model().train()) is None
        hooked = language_model()
        hooked.decoder.register_forward_hook(lambda *_: None)
        assert steps_of(hooked) is None
        for size in ((3, 1), (1, 33), (0, 1)):
            assert not LanguageModelSteps.takes(torch.zeros(size, dtype=torch.int64))

    def test_a_state_of_another_size_is_an_error(self) -> None:
        streamer = TorchStreamer(language_model("LSTM", [5, 3]))
        with pytest.raises(RuntimeError, match="hidden"):
            streamer.step(torch.tensor([1]), streamer.initial_state(2))


class TestGeneration:
    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        return save_dense(language_model("LSTM", [5, 3]), tmp_path / "model", vocabulary=WORDS)

    def test_every_format_writes_the_same_text(self, model: Path, tmp_path: Path) -> None:
        pytest.importorskip("onnxruntime")
        network = open_streamer(model).network  # type: ignore[attr-defined]
        export_onnx(network, tmp_path / "onnx", vocabulary=WORDS)
        texts = [
            list(generate(open_streamer(place), 40, prompt=[1, 2], generator=torch.Generator().manual_seed(3)))
            for place in (model, tmp_path / "onnx")
        ]
        assert texts[0] == texts[1]
        assert len(set(texts[0])) > 3

    def test_words_come_as_often_as_they_are_likely(self) -> None:
        streamer = TorchStreamer(language_model())
        probabilities = streamer.step(torch.tensor([4]))[0][0].softmax(-1)
        generator = torch.Generator().manual_seed(0)
        first = [next(iter(generate(streamer, 1, prompt=[4], generator=generator))) for _ in range(2000)]
        shares = torch.bincount(torch.tensor(first), minlength=11) / len(first)
        torch.testing.assert_close(shares, probabilities, atol=0.05, rtol=0)

    def test_temperature_zero_takes_the_likeliest(self) -> None:
        streamer = TorchStreamer(language_model())
        token, state = torch.tensor([4]), None
        expected = []
        for _ in range(6):
            logits, state = streamer.step(token, state)
            token = logits.argmax(-1)
            expected.append(int(token))
        assert list(generate(streamer, 6, prompt=[4], temperature=0)) == expected

    def test_without_a_prompt_a_sentence_begins(self, model: Path) -> None:
        streamer = open_streamer(model)
        assert list(generate(streamer, 9, temperature=0)) == list(generate(streamer, 9, prompt=[0], temperature=0))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"words": 0}, "`words` must be > 0, got 0"),
            ({"temperature": -1.0}, "`temperature` must be ≥ 0, got -1.0"),
            ({"temperature": float("nan")}, "`temperature` must be finite, got nan"),
            ({"prompt": [11]}, r"`prompt` must hold word ids in \[0, 11\), got 11"),
        ],
    )
    def test_wrong_arguments(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            generate(TorchStreamer(language_model()), **{"words": 5, **options})

    def test_a_network_that_reads_no_words(self) -> None:
        with pytest.raises(ValueError, match="must read words and be run step by step"):
            generate(TorchStreamer(nn.LSTM(3, 4)), 5)


class TestText:
    def test_words_and_back(self) -> None:
        assert decode(WORDS, encode(WORDS, "the cat sat\nthe dog")) == "the cat sat\nthe dog"

    def test_a_vocabulary_without_ends_of_sentences(self) -> None:
        assert encode(("a", "b"), "a\nb") == [0, 1]

    def test_an_unknown_word(self) -> None:
        with pytest.raises(
            ValueError, match="'zebra', which is none of the 11 words that the model knows; write <unk> for it"
        ):
            encode(WORDS, "the zebra")
        with pytest.raises(ValueError, match="'c', which is none of the 2 words that the model knows$"):
            encode(("a", "b"), "a c")

    def test_columns(self) -> None:
        columns = text_columns(WORDS, "the cat sat on the mat\n" * 5, batch=4)
        assert columns.shape == (8, 4)
        assert columns.T.flatten().tolist() == encode(WORDS, "the cat sat on the mat\n" * 5)[:32]
        with pytest.raises(ValueError, match="`vocabulary` must be given with a text"):
            text_columns(None, "the cat")
        with pytest.raises(ValueError, match="at least 2 words, got 1"):
            text_columns(WORDS, "the")


class TestMeasures:
    def test_perplexity_is_that_of_the_training_recipe(self) -> None:
        network = language_model("LSTM", [5, 3])
        tokens = torch.randint(11, (50, 4))
        with torch.no_grad():
            loss, _ = next_word_loss(network, (tokens[:-1], tokens[1:]), None)
        assert perplexity(TorchStreamer(network), tokens) == pytest.approx(loss.exp().item(), rel=1e-5)
        assert perplexity(TorchStreamer(network), tokens, steps=7) == pytest.approx(loss.exp().item(), rel=1e-5)
        with pytest.raises(ValueError, match="at least 2 time steps, got 1"):
            perplexity(TorchStreamer(network), tokens[:1])

    def test_a_sampled_text_is_the_models_own(self) -> None:
        streamer = TorchStreamer(language_model("LSTM", [24, 24]))
        own = sampled_text(streamer, time=100, batch=20)
        assert own.shape == (100, 20)
        assert perplexity(streamer, own) < 0.9 * perplexity(streamer, torch.randint(11, (100, 20)))


@pytest.mark.parametrize("takes_state", ["no", "by keyword"])
def test_a_second_output_is_not_lost_in_silence(takes_state: str) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.start, self.end = nn.GRU(3, 4), nn.Linear(4, 1), nn.Linear(4, 1)

        def forward(self, features: Tensor) -> Any:
            output, _ = self.encoder(features)
            return self.start(output), self.end(output)

    class ByKeyword(Pair):
        def forward(self, features: Tensor, *, state: Any = None) -> Any:
            return self.encoder(features, state)

    network = (Pair if takes_state == "no" else ByKeyword)()
    with pytest.raises(ValueError, match=r"returns a pair, but is not called as network\(input, state\)"):
        TorchStreamer(network, torch.randn(5, 2, 3))
