"""BiDAF: attention against a slow reference, padding, units and surgery."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from l0rnn import Budget, L0Gates
from l0rnn.gates.network import network_gates
from l0rnn.surgery.shrink import operate
from l0rnn.tracing import trace
from recipes.squad.attention import AttentionFlow
from recipes.squad.evaluate import best_spans
from recipes.squad.highway import WordFeatures, WordVectors, distinct
from recipes.squad.network import Bidaf, TwoWayLSTM, inputs_of, mirrored, span_loss, within
from recipes.squad.sizes import LSTMS, load_model, plain_network, save_model, sizes, widths

WORDS = 30


@dataclass
class Batch:
    context_words: Tensor
    context_characters: Tensor
    question_words: Tensor
    question_characters: Tensor
    context_lengths: Tensor
    question_lengths: Tensor
    starts: Tensor
    ends: Tensor
    numbers: Tensor


@dataclass
class Vocabulary:
    words: list[str]
    characters: list[str]


def batch_of(lengths=(7, 4, 9), asked=(3, 5, 2)):
    context, question = torch.tensor(lengths), torch.tensor(asked)
    spelled = torch.randint(1, 12, (WORDS, 6))
    spelled[0] = 0
    words = torch.randint(1, WORDS, (len(lengths), max(lengths))) * within(context, max(lengths))
    queried = torch.randint(1, WORDS, (len(asked), max(asked))) * within(question, max(asked))
    ends = context - 1
    return Batch(words, spelled[words], queried, spelled[queried], context, question, ends // 2, ends, ends)


def network_of(hidden=4, dtype=torch.float32):
    network = Bidaf(hidden, vectors=5, filters=3, characters=12)
    network.features.words.load_(torch.randn(WORDS, 5), torch.arange(WORDS) % 3 == 1)
    return network.to(dtype).eval()


def test_attention_is_that_of_the_equations():
    attention = AttentionFlow(4).double()
    h, u = torch.randn(2, 5, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    lengths = [(5, 2), (3, 3)]
    w = torch.cat((attention.context.weight[0], attention.question.weight[0], attention.product.weight))
    in_context, in_question = (
        within(torch.tensor(n), k) for n, k in zip(zip(*lengths, strict=True), (5, 3), strict=True)
    )
    question, context = attention(h, u, in_context, in_question)
    for b, (words, asked) in enumerate(lengths):
        similarity = torch.stack(
            [
                torch.stack([w @ torch.cat((h[b, t], u[b, j], h[b, t] * u[b, j])) for j in range(asked)])
                for t in range(words)
            ]
        )
        for t in range(words):
            torch.testing.assert_close(question[b, t], similarity[t].softmax(0) @ u[b, :asked])
        torch.testing.assert_close(context[b, 0], similarity.max(1).values.softmax(0) @ h[b, :words])


def test_two_way_lstm_is_the_packed_one_of_torch():
    ours, theirs = TwoWayLSTM(3, (4, 4)), nn.LSTM(3, 4, bidirectional=True, batch_first=True)
    for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        for layer, suffix in ((ours.forwards, ""), (ours.backwards, "_reverse")):
            getattr(theirs, f"{kind}_l0{suffix}").data.copy_(getattr(layer, f"{kind}_l0"))
    x, lengths = torch.randn(3, 6, 3), torch.tensor([6, 2, 4])
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    expected = nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)[0]
    mask = within(lengths, 6)
    torch.testing.assert_close(ours(x, lengths)[mask], expected[mask])


def test_mirrored_twice_is_the_identity():
    lengths = torch.tensor([4, 1, 3])
    positions = mirrored(lengths, 4)
    assert torch.equal(positions.gather(1, positions), torch.arange(4).expand(3, 4))


def test_padding_changes_nothing():
    network, batch = network_of(dtype=torch.float64), batch_of()
    together = network(*inputs_of(batch))
    for b, (words, asked) in enumerate(zip(batch.context_lengths, batch.question_lengths, strict=True)):
        alone = network(
            batch.context_words[b : b + 1, :words],
            batch.context_characters[b : b + 1, :words],
            batch.question_words[b : b + 1, :asked],
            batch.question_characters[b : b + 1, :asked],
            words[None],
            asked[None],
        )
        for whole, part in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[b, :words], part[0])
            assert bool(whole[b, words:].isneginf().all())


def test_features_of_like_words_are_computed_once_and_equal():
    features = WordFeatures(5, 3, characters=12).eval()
    features.words.load_(torch.randn(WORDS, 5), torch.zeros(WORDS, dtype=torch.bool))
    words, characters = torch.tensor([3, 3, 1, 1]), torch.randint(1, 20, (4, 6))  # ids from 12 on are unknown
    characters[1] = characters[0]
    got = features(words, characters)
    one_by_one = torch.cat([features(words[i : i + 1], characters[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(got, one_by_one)
    assert len(distinct(torch.cat((words[:, None], characters), 1))[0]) == 3


def test_only_vectors_without_a_pretrained_one_learn():
    words = WordVectors(2)
    words.load_(torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]), torch.tensor([True, True, False]))
    output = words(torch.tensor([0, 1, 2]))
    assert output.tolist() == [[0, 0], [1, 1], [2, 2]]
    output.sum().backward()
    assert words.learned.grad is not None
    assert words.learned.grad.tolist() == [[0, 0], [1, 1]]
    with pytest.raises(ValueError, match=r"`vectors` must be \(word, 2\), got \(4, 3\)"):
        words.load_(torch.zeros(4, 3), torch.zeros(4, dtype=torch.bool))


def test_loss_is_the_sum_of_both_ends():
    network, batch = network_of(), batch_of()
    start, end = (scores.detach() for scores in network(*inputs_of(batch)))
    expected = 0.0
    for b in range(3):
        for scores, place in ((start, batch.starts), (end, batch.ends)):
            words = int(batch.context_lengths[b])
            expected -= math.log(float(scores[b, :words].softmax(0)[place[b]])) / 3
    assert span_loss(network, batch).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gated_and_shrunken_networks_are_equal(dtype):
    network, inputs = network_of(dtype=dtype), inputs_of(batch_of())
    units = trace(network, inputs, fixed=("features",))
    L0Gates(Budget(density=0.9)).attach(network, units)
    gates = network_gates(network)
    assert gates is not None
    gates.log_alpha.data.uniform_(-4, 4)
    surgery = operate(network, units=units, example_inputs=inputs)
    found = {axis.removesuffix(".l0"): kept for axis, (kept, _) in surgery.widths.items()}
    assert found == {layer: widths(surgery.network)[name] for name, layer in LSTMS.items()}
    assert any(kept < 4 for kept in found.values())
    for gated, small in zip(network(*inputs), surgery.network(*inputs), strict=True):
        torch.testing.assert_close(gated, small, rtol=1e-5, atol=1e-5 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize("layer", LSTMS.values())
def test_each_direction_can_be_cut_alone(layer):
    network = network_of(dtype=torch.float64)
    gates = {f"{layer}.l0": torch.tensor([0.0, 0.5, 0.0, 1.0], dtype=torch.float64)}
    surgery = operate(network, gates, example_inputs=inputs_of(batch_of()))
    assert surgery.network.get_submodule(layer).hidden_size == 2
    assert surgery.max_abs_difference < 1e-10


def test_units_are_those_of_the_lstms_and_read_in_blocks():
    units = trace(network_of(), inputs_of(batch_of()), fixed=("features",))
    assert set(units.axes) == {f"{layer}.l0" for layer in LSTMS.values()}
    columns = units.weights["output.forwards.weight_ih_l0"].units[1]
    read = units.per_unit(columns)
    assert (read["contextual.forwards.l0"], read["modelling2.backwards.l0"]) == (4, 3)
    assert (len(columns), read[""]) == (4 * 14, 0)
    reads_all = ("attention.context.weight", "attention.question.weight", "attention.product.weight")
    assert all(units.per_unit(units.weights[name].units[-1])["contextual.backwards.l0"] == 1 for name in reads_all)


def test_best_span_is_the_best_of_all():
    start, end = torch.randn(2, 6), torch.randn(2, 6)
    start[1, 4:] = end[1, 4:] = -torch.inf
    first, last, probability = best_spans(start, end, 3)
    for b in range(2):
        p, q = start[b].softmax(0), end[b].softmax(0)
        spans = {(i, j): float(p[i] * q[j]) for i in range(6) for j in range(i, min(i + 3, 6))}
        best = max(spans, key=spans.__getitem__)
        assert (int(first[b]), int(last[b])) == best
        assert float(probability[b]) == pytest.approx(spans[best], rel=1e-5)


def test_saved_model_is_the_same_again(tmp_path):
    arguments = {"hidden": 4, "vectors": 5, "filters": 3, "characters": 12}
    network = plain_network(arguments, {name: 1 + place for place, name in enumerate(LSTMS)}).eval()
    network.features.words.load_(torch.randn(WORDS, 5), torch.arange(WORDS) % 3 == 1)
    save_model(network, tmp_path, arguments=arguments, vocabulary=Vocabulary(["a"], ["b"]), extra={"word_length": 6})
    again, config, listed = load_model(tmp_path)
    assert config["word_length"] == 6
    assert listed == {"words": ["a"], "characters": ["b"]}
    inputs = inputs_of(batch_of())
    for one, other in zip(network(*inputs), again(*inputs), strict=True):
        assert torch.equal(one, other)
    assert sizes(again)["widths"] == sizes(network)["widths"]


def test_sizes_of_the_paper():
    found = sizes(Bidaf(100))
    assert found["widths"] == dict.fromkeys(LSTMS, 100)
    per_direction = [4 * 100 * (inputs + 100 + 2) for inputs in (200, 800, 200, 1400)]
    assert found["recurrent_parameters"] == 2 * sum(per_direction)
    assert found["multiply_adds"] == 2_402_600  # as in the results


@pytest.mark.parametrize("broken", ["config.json", "weights.pt"])
def test_damaged_model(tmp_path, broken):
    with pytest.raises(ValueError, match=r"`--model` must be a folder written by recipes\.squad\.train"):
        load_model(tmp_path)
    arguments = {"hidden": 4, "vectors": 5, "filters": 3, "characters": 12}
    network = plain_network(arguments, dict.fromkeys(LSTMS, 2))
    save_model(network, tmp_path, arguments=arguments, vocabulary=Vocabulary([], []), extra={})
    (tmp_path / broken).write_bytes(b"{}")
    with pytest.raises(ValueError, match="is damaged"):
        load_model(tmp_path)
