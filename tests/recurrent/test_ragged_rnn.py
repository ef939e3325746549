"""The plain stack of unequal widths against torch's layers (equal widths) and a loop over time (any widths)."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

from l0rnn.recurrent.ragged_rnn import RaggedRNN, reverse_time
from l0rnn.recurrent.single_steps import onednn
from l0rnn.surgery.shrink import shrink
from l0rnn.wiring import OUTSIDE, Wiring, reads
from tests.gates.test_gated_rnn import FORMS, INPUT, dense_layer, packed, run, slow_recurrence, tensors
from tests.networks import CELLS, STACKS

TIME, BATCH = 5, 3
PRODUCT = list(itertools.product(CELLS, range(len(STACKS))))
MODES = ("LSTM", "GRU", "RNN_TANH", "RNN_RELU")


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


def inputs(form: str, *, batch_first: bool) -> Tensor:
    if form == "unbatched":
        return torch.randn(TIME, INPUT)
    return torch.randn(BATCH, TIME, INPUT) if batch_first else torch.randn(TIME, BATCH, INPUT)


def apart(state: Any) -> Any:
    """torch's state, one tensor per layer and direction: the form of a ragged stack."""
    return tuple(tuple(part) for part in state) if isinstance(state, tuple) else tuple(state)


@pytest.mark.parametrize(("cell", "stack"), PRODUCT)
def test_with_equal_widths_everything_is_as_in_torch(cell: str, stack: int) -> None:
    torch.manual_seed(stack)
    dense = dense_layer(cell, **STACKS[stack])
    ragged: Any = twin_of(dense)
    for number, form in enumerate(FORMS):
        data = inputs(form, batch_first=dense.batch_first)
        shaped = packed(data, form, batch_first=dense.batch_first)
        with onednn((number + stack) % 2 == 0):
            expected, expected_state = dense(shaped)
            output, state = ragged(shaped)
            torch.testing.assert_close(tensors(output), tensors(expected))
            torch.testing.assert_close(state, apart(expected_state))
            # and on from that state, with gradients
            dense_read, ragged_read = (lambda r: r), (lambda r: (r[0], *_stacked(r[1], dense.mode)))
            results, gradients = run(ragged, data, form, _detached(state), ragged_read)
            wanted_results, wanted = run(dense, data, form, _detached(expected_state), dense_read)
        torch.testing.assert_close(results, wanted_results)
        torch.testing.assert_close(gradients[0], wanted[0], atol=1e-5, rtol=1e-5)  # of the input
        states = len(tensors(expected_state))
        rows = [row for part in wanted[1 : 1 + states] for row in part]
        torch.testing.assert_close(gradients[1 : 1 + len(rows)], rows, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(gradients[1 + len(rows) :], wanted[1 + states :], atol=1e-5, rtol=1e-5)


def _stacked(state: Any, mode: str) -> tuple[Tensor, ...]:
    return tuple(torch.stack(part) for part in state) if mode == "LSTM" else (torch.stack(state),)


def _detached(state: Any) -> Any:
    return tuple(_detached(part) for part in state) if isinstance(state, tuple) else state.detach()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_torch_states_of_equal_widths_are_taken_too(mode: str, *, bidirectional: bool) -> None:
    torch.manual_seed(0)
    dense = dense_layer(mode, num_layers=2, bidirectional=bidirectional)
    ragged = twin_of(dense)
    data = torch.randn(TIME, BATCH, INPUT)
    _, state = dense(data)
    torch.testing.assert_close(ragged(data, state)[0], dense(data, state)[0])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", ["batched", "packed, sorted"])
def test_dropout_is_that_of_torch(mode: str, form: str) -> None:
    torch.manual_seed(0)
    dense = dense_layer(mode, num_layers=3, bidirectional=True, dropout=0.5)
    ragged = twin_of(dense)
    data = packed(inputs(form, batch_first=False), form, batch_first=False)
    torch.manual_seed(1)
    expected, _ = dense(data)
    torch.manual_seed(1)
    output, _ = ragged(data)
    torch.testing.assert_close(tensors(output), tensors(expected))
    torch.testing.assert_close(tensors(ragged.eval()(data)[0]), tensors(dense.eval()(data)[0]))
    assert not torch.equal(tensors(output)[0], tensors(ragged(data)[0])[0])


# ---------------------------------------------------------------------------------------------------------------------
# unequal widths

WIDTHS = [[[3], [5], [2]], [[1], [4]], [[3, 5], [4, 2]], [[2, 1], [1, 3], [5, 5]], [[4, 3]]]


def slow_ragged(ragged: Any, data: Tensor, state: Any) -> tuple[Tensor, Any]:
    """The loop over time on a batch `(time, batch, feature)`."""
    keys = [f"l{d}{'_reverse' if r else ''}" for d, row in enumerate(ragged.layers) for r in range(len(row))]
    layers = [layer for row in ragged.layers for layer in row]
    weights = {
        key: {name.removesuffix("_l0"): weight for name, weight in layer.named_parameters()}
        for key, layer in zip(keys, layers, strict=True)
    }
    if state is None:
        rows = [
            (data.new_zeros(data.size(1), layer.proj_size or layer.hidden_size), data.new_zeros(1, layer.hidden_size))
            for layer in layers
        ]
        rows = [(h, c.expand(data.size(1), -1)) for h, c in rows]
    else:
        rows = list(zip(*state, strict=True)) if ragged.mode == "LSTM" else [(h, h) for h in state]
    output, finals = slow_recurrence(ragged.mode, weights, data, rows, {})
    h, c = zip(*finals, strict=True)
    return output, (h, c) if ragged.mode == "LSTM" else h


def random_state(ragged: Any, batch: int) -> Any:
    layers = [layer for row in ragged.layers for layer in row]
    h = tuple(torch.randn(batch, layer.proj_size or layer.hidden_size) for layer in layers)
    return (h, tuple(torch.randn(batch, layer.hidden_size) for layer in layers)) if ragged.mode == "LSTM" else h


def row_of(state: Any, row: int) -> Any:
    """The state of one sequence of the batch, without its batch dimension."""
    return tuple(row_of(part, row) for part in state) if isinstance(state, tuple) else state[row]


@pytest.mark.parametrize("mode", [*MODES, "LSTM_projected"])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [False, True])
def test_with_unequal_widths_everything_is_as_in_a_loop_over_time(
    mode: str, widths: list[list[int]], *, bias: bool, batch_first: bool
) -> None:
    torch.manual_seed(len(widths))
    options: dict[str, Any] = {"bias": bias, "batch_first": batch_first}
    if mode == "LSTM_projected":
        ragged = RaggedRNN("LSTM", INPUT, [[w + 2 for w in row] for row in widths], proj_sizes=widths, **options)
    else:
        ragged = RaggedRNN(mode, INPUT, widths, **options)
    assert ragged.output_size == sum(widths[-1])
    state = random_state(ragged, BATCH)
    data = torch.randn(TIME, BATCH, INPUT)
    expected, expected_state = slow_ragged(ragged, data, state)
    fed = data.transpose(0, 1) if batch_first else data
    output, final = ragged(fed, state)
    torch.testing.assert_close(output.transpose(0, 1) if batch_first else output, expected)
    torch.testing.assert_close(final, expected_state)
    unstarted = slow_ragged(ragged, data, None)[0]
    torch.testing.assert_close(ragged(fed)[0], unstarted.transpose(0, 1) if batch_first else unstarted)
    # one sequence by itself
    output, final = ragged(data[:, 1], row_of(state, 1))
    torch.testing.assert_close(output, expected[:, 1])
    torch.testing.assert_close(final, row_of(expected_state, 1))
    _check_packed(ragged, data, state)


def _check_packed(ragged: RaggedRNN, data: Tensor, state: Any) -> None:
    """Each sequence of a packed batch is what it is by itself."""
    for lengths in ([5, 3, 3], [2, 5, 1]):
        sequences = [data[:length, row] for row, length in enumerate(lengths)]
        output, final = ragged(pack_sequence(sequences, enforce_sorted=lengths[0] == 5), state)
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
    wiring = Wiring({"encoder": reads(OUTSIDE), "decoder": reads("encoder")})
    gates = {
        "encoder.l0": torch.tensor([0.0, 1.0, 0.5]),
        "encoder.l0_reverse": torch.tensor([1.0, 0.0, 0.0, 0.25, 0.0]),
        "encoder.l1": torch.tensor([0.0, 1.0, 0.0, 0.5]),
        "encoder.l1_reverse": torch.tensor([1.0, 0.0, 1.0, 1.0]),
    }
    ragged = shrink(Tagger(), wiring, gates, example_inputs=torch.randn(TIME, BATCH, INPUT))
    assert ragged.encoder.hidden_sizes == [[2, 2], [2, 3]]  # type: ignore[union-attr]
    gates = {"encoder.l1_reverse": torch.tensor([1.0, 0.0, 1.0])}
    equal = shrink(ragged, wiring, gates, example_inputs=torch.randn(TIME, BATCH, INPUT))
    assert isinstance(equal.encoder, nn.RNNBase)
    assert (equal.encoder.hidden_size, equal.encoder.num_layers, equal.encoder.bias) == (2, 2, False)


# ---------------------------------------------------------------------------------------------------------------------
# reversing time


@pytest.mark.parametrize("seed", range(5))
def test_reversing_time_twice_is_the_identity(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(TIME, BATCH, 2, generator=generator)
    assert torch.equal(reverse_time(data), data.flip(0))
    assert torch.equal(reverse_time(reverse_time(data)), data)
    lengths = torch.randint(1, TIME + 1, (BATCH,), generator=generator)
    packed_data = pack_padded_sequence(data, lengths, enforce_sorted=False)
    mirrored = reverse_time(packed_data)
    assert isinstance(mirrored, PackedSequence)
    padded, same_lengths = pad_packed_sequence(mirrored)
    assert torch.equal(same_lengths, lengths)
    for row, length in enumerate(lengths.tolist()):
        assert torch.equal(padded[:length, row], data[:length, row].flip(0))
    assert torch.equal(reverse_time(mirrored).data, packed_data.data)


# ---------------------------------------------------------------------------------------------------------------------
# errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("CNN", 4, [[3]]), "`mode` must be one of LSTM, GRU, RNN_TANH, RNN_RELU, got 'CNN'"),
        (("LSTM", 4, []), "`hidden_sizes` must list 1 or 2 directions"),
        (("LSTM", 4, [[3, 3], [3]]), r"the same number for every layer, got \[\[3, 3\], \[3\]\]"),
        (("LSTM", 4, [[3, 3, 3]]), "`hidden_sizes` must list 1 or 2 directions"),
        (("LSTM", 4, [[]]), "`hidden_sizes` must list 1 or 2 directions"),
        (("LSTM", 4, [[0]]), "hidden_size must be greater than zero"),
        (("GRU", 4, [[3], [-1]]), "hidden_size must be greater than zero"),
        (("GRU", 0, [[3]]), "input_size must be greater than zero"),
    ],
)
def test_sizes_that_make_no_stack_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RaggedRNN(*arguments)


@pytest.mark.parametrize("proj_sizes", [[[2]], [[2], [2], [2]], [[2], [2, 2]]], ids=str)
def test_projections_of_another_form_than_the_hidden_sizes_are_refused(proj_sizes: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="`proj_sizes` must"):
        RaggedRNN("LSTM", INPUT, [[4], [5]], proj_sizes=proj_sizes)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("width", [1, INPUT - 1, INPUT + 1])
def test_a_wrong_input_width_is_refused(mode: str, width: int) -> None:
    ragged = RaggedRNN(mode, INPUT, [[3], [2]])
    data = torch.randn(TIME, BATCH, width)
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
