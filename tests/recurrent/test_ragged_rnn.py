"""The plain stack of unequal widths against torch's layers (equal widths) and a loop over time (any widths)."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

from l0rnn.recurrent.ragged_rnn import RaggedRNN, reverse_time
from l0rnn.recurrent.single_steps import onednn
from l0rnn.surgery.shrink import shrink
from tests.loop_over_time import BATCH, FORMS, LENGTHS, TIME, input_of, packed, recurrence, run, state_of, tensors
from tests.strategies import CELLS, holds_for

INPUT = 4
MODES = ("LSTM", "GRU", "RNN_TANH", "RNN_RELU")
OPTIONS = st.fixed_dictionaries(dict.fromkeys(("bias", "batch_first"), st.booleans()))


def twin_of(dense: Any) -> RaggedRNN:
    """A ragged stack of equal widths on copies of the weights of a torch layer."""
    directions = 2 if dense.bidirectional else 1
    ragged = RaggedRNN(
        dense.mode,
        dense.input_size,
        dense.num_layers * [directions * [dense.hidden_size]],
        proj_sizes=dense.num_layers * [directions * [dense.proj_size]] if dense.proj_size else None,
        bias=dense.bias,
        batch_first=dense.batch_first,
        dropout=dense.dropout,
    )
    with torch.no_grad():
        for name, weight in dense.named_parameters():
            kind, _, key = name.rpartition("_l")
            depth, _, reverse = key.partition("_")
            getattr(ragged.layers[int(depth)][int(bool(reverse))], f"{kind}_l0").copy_(weight)  # type: ignore[index]
    return ragged


def each(change: Any, state: Any) -> Any:
    """A state with each of its parts, those of h and of c, changed."""
    return tuple(change(part) for part in state) if isinstance(state, tuple) else change(state)


@holds_for(
    st.sampled_from(sorted(CELLS)),
    st.integers(1, 3),
    st.booleans(),
    OPTIONS,
    st.sampled_from(FORMS),
    st.booleans(),
    st.booleans(),
    few=40,
)
def test_with_equal_widths_everything_is_as_in_torch(
    cell: str, layers: int, both: bool, options: Any, form: str, has_state: bool, uses_onednn: bool
) -> None:
    kind: Any = CELLS[cell][0]
    dense = kind(INPUT, 6, num_layers=layers, bidirectional=both, **CELLS[cell][1], **options)
    ragged: Any = twin_of(dense)
    data, state = input_of(dense, form), state_of(dense, form) if has_state else None

    def stacked(results: Any) -> Any:  # the ragged stack returns rows
        output, final = results
        return output, [torch.stack(part) for part in (final if dense.mode == "LSTM" else [final])]

    with onednn(uses_onednn):
        results, gradients = run(ragged, data, form, state, stacked)  # which takes torch's states too
        expected, wanted = run(dense, data, form, state)
        if state is not None:  # and its own
            rows = each(tuple, state) if dense.mode == "LSTM" else tuple(state)
            again = ragged(packed(data, form, batch_first=dense.batch_first), rows)
            torch.testing.assert_close(tensors(stacked(again)), expected)
    torch.testing.assert_close(results, expected)
    torch.testing.assert_close(gradients, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", ["batched", "packed, sorted"])
def test_dropout_is_that_of_torch(mode: str, form: str) -> None:
    dense: Any = CELLS[mode][0](INPUT, 6, num_layers=3, bidirectional=True, dropout=0.5, **CELLS[mode][1])
    ragged = twin_of(dense)
    data = packed(input_of(dense, form), form, batch_first=False)
    torch.manual_seed(1)
    expected, _ = dense(data)
    torch.manual_seed(1)
    output, _ = ragged(data)
    torch.testing.assert_close(tensors(output), tensors(expected))
    torch.testing.assert_close(tensors(ragged.eval()(data)[0]), tensors(dense.eval()(data)[0]))


def loop(ragged: Any, data: Tensor, state: Any) -> tuple[Tensor, Any]:
    """The loop over time on a batch `(time, batch, feature)`."""
    keys = [f"l{d}{'_reverse' if r else ''}" for d, row in enumerate(ragged.layers) for r in range(len(row))]
    layers = [layer for row in ragged.layers for layer in row]
    weights = {
        key: {name.removesuffix("_l0"): weight for name, weight in layer.named_parameters()}
        for key, layer in zip(keys, layers, strict=True)
    }
    rows = list(zip(*state, strict=True)) if ragged.mode == "LSTM" else [(h, h) for h in state]
    output, finals = recurrence(ragged.mode, weights, data, rows, {})
    h, c = zip(*finals, strict=True)
    return output, (h, c) if ragged.mode == "LSTM" else h


def random_state(ragged: Any) -> Any:
    layers = [layer for row in ragged.layers for layer in row]
    h = tuple(torch.randn(BATCH, layer.proj_size or layer.hidden_size) for layer in layers)
    return (h, tuple(torch.randn(BATCH, layer.hidden_size) for layer in layers)) if ragged.mode == "LSTM" else h


def row_of(state: Any, row: int) -> Any:
    """The state of one sequence of the batch, without its batch dimension."""
    return tuple(row_of(part, row) for part in state) if isinstance(state, tuple) else state[row]


@st.composite
def widths(draw: st.DrawFn) -> list[list[int]]:
    directions = draw(st.integers(1, 2))
    return draw(st.lists(st.lists(st.integers(1, 5), min_size=directions, max_size=directions), min_size=1, max_size=3))


@holds_for(st.sampled_from([*MODES, "LSTM_projected"]), widths(), OPTIONS, few=40)
def test_with_unequal_widths_everything_is_as_in_a_loop_over_time(
    mode: str, sizes: list[list[int]], options: Any
) -> None:
    if mode == "LSTM_projected":
        ragged = RaggedRNN("LSTM", INPUT, [[w + 2 for w in row] for row in sizes], proj_sizes=sizes, **options)
    else:
        ragged = RaggedRNN(mode, INPUT, sizes, **options)
    assert ragged.output_size == sum(sizes[-1])
    state, data = random_state(ragged), torch.randn(TIME, BATCH, INPUT)
    expected, expected_state = loop(ragged, data, state)
    fed = data.transpose(0, 1) if ragged.batch_first else data
    output, final = ragged(fed, state)
    torch.testing.assert_close(output.transpose(0, 1) if ragged.batch_first else output, expected)
    torch.testing.assert_close(final, expected_state)
    zeros = (
        tuple(map(torch.zeros_like, state))
        if isinstance(state[0], Tensor)
        else each(lambda part: tuple(map(torch.zeros_like, part)), state)
    )
    torch.testing.assert_close(ragged(fed)[0], ragged(fed, zeros)[0])
    output, final = ragged(data[:, 1], row_of(state, 1))  # one sequence by itself
    torch.testing.assert_close(output, expected[:, 1])
    torch.testing.assert_close(final, row_of(expected_state, 1))
    for lengths in LENGTHS.values():  # each sequence of a packed batch is what it is by itself
        sequences = [data[:length, row] for row, length in enumerate(lengths)]
        output, final = ragged(pack_sequence(sequences, enforce_sorted=lengths[0] == TIME), state)
        padded, _ = pad_packed_sequence(output)
        for row, sequence in enumerate(sequences):
            own, own_final = ragged(sequence, row_of(state, row))
            torch.testing.assert_close(padded[: len(sequence), row], own)
            torch.testing.assert_close(row_of(final, row), own_final)


@pytest.mark.parametrize("mode", MODES)
def test_two_segments_in_a_row_are_one_sequence(mode: str) -> None:
    torch.manual_seed(0)
    ragged = RaggedRNN(mode, INPUT, [[3], [5]])
    data = torch.randn(TIME, BATCH, INPUT)
    whole, final = ragged(data)
    first, state = ragged(data[:2])
    second, state = ragged(data[2:], state)
    torch.testing.assert_close(torch.cat((first, second)), whole)
    torch.testing.assert_close(state, final)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_is_whole(duplicate: Any) -> None:
    torch.manual_seed(0)
    ragged = RaggedRNN("LSTM", INPUT, [[3, 5], [4, 2]], dtype=torch.float64)
    data = torch.randn(TIME, BATCH, INPUT, dtype=torch.float64)
    torch.testing.assert_close(duplicate(ragged)(data), ragged(data))
    assert repr(ragged).startswith("RaggedRNN(\n  LSTM, 4, [[3, 5], [4, 2]]")


@pytest.mark.parametrize("mode", MODES)
def test_a_ragged_stack_can_be_shrunk_again(mode: str) -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = RaggedRNN(mode, INPUT, [[3, 5], [4, 4]], bias=False)
            self.decoder = nn.Linear(8, 2)

        def forward(self, features: Tensor) -> Tensor:
            return self.decoder(self.encoder(features)[0])

    torch.manual_seed(0)
    values = ([0.0, 1.0, 0.5], [1.0, 0.0, 0.0, 0.25, 0.0], [0.0, 1.0, 0.0, 0.5], [1.0, 0.0, 1.0, 1.0])
    places = ("0.0", "0.1", "1.0", "1.1")
    gates = {f"encoder.layers.{at}.l0": torch.tensor(own) for at, own in zip(places, values, strict=True)}
    ragged: Any = shrink(Tagger(), gates, example_inputs=torch.randn(TIME, BATCH, INPUT))
    assert ragged.encoder.hidden_sizes == [[2, 2], [2, 3]]
    gates = {"encoder.layers.1.1.l0": torch.tensor([1.0, 0.0, 1.0])}
    again: Any = shrink(ragged, gates, example_inputs=torch.randn(TIME, BATCH, INPUT))
    assert (again.encoder.hidden_sizes, again.encoder.output_size) == ([[2, 2], [2, 2]], 4)


@holds_for(st.lists(st.integers(1, TIME), min_size=1, max_size=5), few=20)
def test_reversing_time_twice_is_the_identity(each: list[int]) -> None:
    data, lengths = torch.randn(TIME, len(each), 2), torch.tensor(each)
    assert torch.equal(reverse_time(data), data.flip(0))
    assert torch.equal(reverse_time(reverse_time(data)), data)
    packed_data = pack_padded_sequence(data, lengths, enforce_sorted=False)
    mirrored = reverse_time(packed_data)
    assert isinstance(mirrored, PackedSequence)
    padded, same_lengths = pad_packed_sequence(mirrored)
    assert torch.equal(same_lengths, lengths)
    for row, length in enumerate(lengths.tolist()):
        assert torch.equal(padded[:length, row], data[:length, row].flip(0))
    assert torch.equal(reverse_time(mirrored).data, packed_data.data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("CNN", 4, [[3]]), "`mode` must be one of LSTM, GRU, RNN_TANH, RNN_RELU, got 'CNN'"),
        (("LSTM", 4, []), "`hidden_sizes` must list 1 or 2 directions"),
        (("LSTM", 4, [[3, 3], [3]]), r"the same number for every layer, got \[\[3, 3\], \[3\]\]"),
        (("LSTM", 4, [[3, 3, 3]]), "`hidden_sizes` must list 1 or 2 directions"),
        (("LSTM", 4, [[]]), "`hidden_sizes` must list 1 or 2 directions"),
        (("LSTM", 4, [[0]]), "`hidden_sizes` must be > 0"),
        (("GRU", 4, [[3], [-1]]), "`hidden_sizes` must be > 0"),
        (("GRU", 0, [[3]]), "`input_size` must be > 0"),
    ],
)
def test_sizes_that_make_no_stack_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RaggedRNN(*arguments)


@pytest.mark.parametrize("proj_sizes", [[[2]], [[2], [2], [2]], [[2], [2, 2]]], ids=str)
def test_projections_of_another_form_than_the_hidden_sizes_are_refused(proj_sizes: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="`proj_sizes` must"):
        RaggedRNN("LSTM", INPUT, [[4], [5]], proj_sizes=proj_sizes)


@pytest.mark.parametrize("width", [1, INPUT - 1, INPUT + 1])
def test_a_wrong_input_width_is_refused(width: int) -> None:
    ragged, data = RaggedRNN("LSTM", INPUT, [[3], [2]]), torch.randn(TIME, BATCH, width)
    for shaped in (data, data[:, 0], packed(data, "packed, sorted", batch_first=False)):
        with pytest.raises(ValueError, match=f"`input` must have {INPUT} units in its last dimension, got {width}"):
            ragged(shaped)


def test_wrong_dimensions_are_refused() -> None:
    for shape in ((INPUT,), (2, TIME, BATCH, INPUT)):
        with pytest.raises((ValueError, RuntimeError)):
            RaggedRNN("GRU", INPUT, [[3], [2]])(torch.randn(shape))


def test_a_state_of_another_stack_is_refused() -> None:
    ragged = RaggedRNN("GRU", INPUT, [[3], [2]])
    data = torch.randn(TIME, BATCH, INPUT)
    with pytest.raises(ValueError, match="`hx` must hold one state for each of the 2 layers and directions, got 1"):
        ragged(data, (torch.zeros(BATCH, 3),))
    lstm = RaggedRNN("LSTM", INPUT, [[3, 3]])
    with pytest.raises(ValueError, match="each of the 2 layers and directions, got 3"):
        lstm(data, (3 * (torch.zeros(BATCH, 3),), 3 * (torch.zeros(BATCH, 3),)))
    with pytest.raises(RuntimeError, match="Expected hidden size"):  # torch's own check of each layer
        ragged(data, (torch.zeros(BATCH, 3), torch.zeros(BATCH, 5)))
    with pytest.raises(RuntimeError, match="Expected hidden size"):
        ragged(data, (torch.zeros(BATCH + 1, 3), torch.zeros(BATCH, 2)))
