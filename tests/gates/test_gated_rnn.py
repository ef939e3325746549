"""Gated recurrent layers against torch's own (gates open) and against a loop over time (gates at random)."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from l0rnn.gates import GatedGRU, GatedLSTM, GatedRecurrence, GatedRNN
from l0rnn.gates.hard_concrete import HardConcrete
from l0rnn.gates.recurrence import gate_layer
from l0rnn.recurrent.single_steps import onednn
from l0rnn.surgery.shrink import operate
from l0rnn.tracing import trace
from tests.loop_over_time import BATCH, FORMS, TIME, input_of, loss_of, packed, recurrence, run, state_of, tensors
from tests.networks import set_gates_at_random, skip_without_bfloat16
from tests.strategies import CELLS, holds_for

INPUT, HIDDEN = 4, 6
GATED = {"LSTM": GatedLSTM, "LSTM_projected": GatedLSTM, "GRU": GatedGRU, "RNN_TANH": GatedRNN, "RNN_RELU": GatedRNN}
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]
SEEDS = st.integers(0, 2**16)
STACKS = st.fixed_dictionaries(
    {"num_layers": st.integers(1, 3), **dict.fromkeys(("bidirectional", "bias", "batch_first"), st.booleans())}
)
CALLS = st.tuples(st.sampled_from(FORMS), st.booleans())  # the form of the input, and whether a state is handed in


def dense_layer(cell: str, **options: Any) -> Any:
    layer: Any = CELLS[cell][0]
    return layer(INPUT, HIDDEN, **CELLS[cell][1], **options)


def gated_layer(cell: str, **options: Any) -> Any:
    return GATED[cell](INPUT, HIDDEN, **CELLS[cell][1], **options)


def open_copy(dense: Any) -> Any:
    """The same layer with every gate exactly 1, on copies of the weights."""
    return gate_layer(copy.deepcopy(dense), open_probability=1.0)


class Loop:
    """What a gated layer should return, for the gates it drew last; in place of the layer."""

    def __init__(self, layer: GatedRecurrence) -> None:
        self.layer: Any = layer
        self.batch_first = layer.batch_first
        self.named_parameters = layer.named_parameters

    def __call__(self, data: Any, state: Any) -> tuple[Any, Any]:
        if isinstance(data, PackedSequence):
            return self._packed(data, state)
        if data.dim() == 2:
            h = None if state is None else tuple(part[:, None] for part in tensors(state))
            output, final = self._batch(data[:, None], h)
            return output[:, 0], self._form([part[:, 0] for part in final])
        swapped = data.transpose(0, 1) if self.batch_first else data
        output, final = self._batch(swapped, None if state is None else tensors(state))
        return output.transpose(0, 1) if self.batch_first else output, self._form(final)

    def _form(self, parts: Any) -> Any:
        return tuple(parts) if self.layer.mode == "LSTM" else parts[0]

    def _batch(self, data: Tensor, state: Any) -> tuple[Tensor, list[Tensor]]:
        layer, kinds = self.layer, ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        weights = {
            key: {kind: getattr(layer, f"{kind}_{key}") for kind in kinds if hasattr(layer, f"{kind}_{key}")}
            for key in layer.layer_keys()
        }
        if state is None:
            sizes = (layer.proj_size or layer.hidden_size, layer.hidden_size)
            state = [data.new_zeros(len(weights), data.size(1), size) for size in sizes]
        rows = list(zip(state[0], state[-1], strict=True))
        gates = {key: gates.value for key, gates in layer.gates.items()}
        output, finals = recurrence(layer.mode, weights, data, rows, gates)
        return output, [torch.stack(part) for part in zip(*finals, strict=True)]

    def _packed(self, data: PackedSequence, state: Any) -> tuple[Any, Any]:
        """Each sequence by itself, without its padding."""
        padded, lengths = pad_packed_sequence(data)
        outputs, finals = [], []
        for row, length in enumerate(lengths.tolist()):
            own = None if state is None else [part[:, row : row + 1] for part in tensors(state)]
            output, final = self._batch(padded[:length, row : row + 1], own)
            outputs.append(output[:, 0])
            finals.append(final)
        final = [torch.cat(parts, 1) for parts in zip(*finals, strict=True)]
        return nn.utils.rnn.pack_sequence(outputs, enforce_sorted=data.sorted_indices is None), self._form(final)


@holds_for(st.sampled_from(sorted(CELLS)), STACKS, CALLS, SEEDS, st.booleans(), few=40)
def test_with_open_gates_everything_is_as_in_torch(
    cell: str, stack: dict[str, Any], call: tuple[str, bool], seed: int, uses_onednn: bool
) -> None:
    torch.manual_seed(seed)
    dense = dense_layer(cell, **stack)
    gated = open_copy(dense)
    form, has_state = call
    data, state = input_of(dense, form), state_of(dense, form) if has_state else None
    with onednn(uses_onednn):
        results, gradients = run(gated, data, form, state)
        expected_results, expected_gradients = run(dense, data, form, state)
    torch.testing.assert_close(results, expected_results)
    own = len(expected_gradients)  # those after are of the gates, which 1 leaves no gradient
    torch.testing.assert_close(gradients[:own], expected_gradients)
    assert not any(bool(gradient.any()) for gradient in gradients[own:])


@holds_for(
    st.sampled_from(sorted(CELLS)),
    STACKS,
    CALLS,
    SEEDS,
    st.sampled_from(["input", "hidden", "both"]),
    st.booleans(),
    st.booleans(),
    few=60,
)
def test_with_random_gates_everything_is_as_in_a_loop_over_time(
    cell: str, stack: dict[str, Any], call: tuple[str, bool], seed: int, units: str, is_training: bool, skips: bool
) -> None:
    """Outputs, states and all gradients; leaving out closed units changes nothing but the state of those units."""
    torch.manual_seed(seed)
    layer = gated_layer(cell, gates=units, **stack).train(is_training)
    set_gates_at_random(layer, torch.Generator().manual_seed(seed))
    if skips:
        for gates in layer.gates.values():
            gates.log_alpha.data[torch.rand(gates.units) < 0.5] = -50.0
    layer.skips_closed_units = skips
    form, has_state = call
    data, state = input_of(layer, form), state_of(layer, form) if has_state else None

    def read(results: Any) -> Any:
        output, final = results
        if not skips or units == "input" or layer.proj_size:
            return results
        is_open = torch.stack([(layer.gates[key].value != 0).float() for key in layer.layer_keys()])
        return output, [part * (is_open if form == "unbatched" else is_open[:, None]) for part in tensors(final)]

    results, gradients = run(layer, data, form, state, read)
    expected_results, expected_gradients = run(Loop(layer), data, form, state, read)
    torch.testing.assert_close(results, expected_results, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients, expected_gradients, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.filterwarnings("ignore:RNN module weights are not part of single")  # torch's own bfloat16 layers on CUDA
def test_with_open_gates_every_dtype_is_as_in_torch(cell: str, dtype: torch.dtype, device: str) -> None:
    dense = dense_layer(cell, num_layers=2, bidirectional=True).to(device=device, dtype=dtype)
    gated = open_copy(dense)
    data = torch.randn(TIME, BATCH, INPUT, dtype=dtype, device=device)
    torch.testing.assert_close(tensors(gated(data)), tensors(dense(data)))
    assert all(gates.log_alpha.dtype == dtype for gates in gated.gates.values())


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("skips", [False, True])
def test_autocast_gives_what_it_gives_torch(cell: str, device: str, skips: bool) -> None:
    skip_without_bfloat16(cell, device)
    dense = dense_layer(cell, num_layers=2, bidirectional=True).to(device)
    gated, soft = open_copy(dense), gated_layer(cell, num_layers=2, open_probability=0.5).to(device)
    data = torch.randn(TIME, BATCH, INPUT, device=device)
    soft.skips_closed_units = skips
    with torch.autocast(device, torch.bfloat16):
        results, expected = gated(data), dense(data)
        loss = loss_of(soft(data))
    torch.testing.assert_close(tensors(results), tensors(expected))
    assert [result.dtype for result in tensors(results)] == [result.dtype for result in tensors(expected)]
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in soft.parameters())


@pytest.mark.parametrize("cell", CELLS)
def test_dropout_is_that_of_torch(cell: str) -> None:
    dense = dense_layer(cell, num_layers=3, bidirectional=True, dropout=0.5)
    gated = open_copy(dense)
    for form in FORMS:
        data = packed(input_of(dense, form), form, batch_first=False)
        torch.manual_seed(1)
        results = gated(data)
        torch.manual_seed(1)
        for gates in gated.gates.values():  # drawing the gates takes random numbers too
            torch.rand(gates.units)
        torch.testing.assert_close(tensors(results), tensors(dense(data)))
        assert not torch.equal(tensors(results)[0], tensors(gated(data))[0])


@pytest.mark.parametrize("cell", CELLS)
def test_the_state_is_carried_ungated(cell: str) -> None:
    """Two segments in a row give what one long sequence gives."""
    layer = gated_layer(cell, num_layers=2).eval()
    set_gates_at_random(layer, torch.Generator().manual_seed(0))
    data = torch.randn(TIME, BATCH, INPUT)
    whole, final = layer(data)
    first, state = layer(data[:2])
    second, state = layer(data[2:], state)
    torch.testing.assert_close(torch.cat((first, second)), whole)
    torch.testing.assert_close(tensors(state), tensors(final))


def test_the_state_of_a_unit_left_out_stays_and_goes_on_when_it_opens() -> None:
    layer: Any = GatedLSTM(INPUT, HIDDEN, open_probability=1.0)
    layer.gates["l0"].log_alpha.data[:3] = -50.0
    state = (torch.randn(1, BATCH, HIDDEN), torch.randn(1, BATCH, HIDDEN))
    _, final = layer(torch.randn(TIME, BATCH, INPUT), state)
    for before, after in zip(state, final, strict=True):
        assert torch.equal(after[..., :3], before[..., :3])
        assert not bool((after[..., 3:] == before[..., 3:]).any())
    layer.gates["l0"].log_alpha.data[1] = 50.0
    data = torch.randn(TIME, BATCH, INPUT)
    skipped, _ = layer(data, final)
    layer.skips_closed_units = False
    torch.testing.assert_close(skipped, layer(data, final)[0])


def test_fewer_units_are_fewer_operations() -> None:
    """The kernel is called on matrices of the open units: seen in the work that torch counts."""
    from torch.utils.flop_counter import FlopCounterMode

    counts = []
    for share in (1.0, 0.25):
        layer = GatedLSTM(64, 64, gates="hidden").eval()
        layer.gates["l0"].log_alpha.data = torch.where(torch.arange(64) < 64 * share, 50.0, -50.0)
        with FlopCounterMode(display=False) as counter, onednn(False):
            layer(torch.randn(3, 2, 64))
        counts.append(counter.get_total_flops())
    assert counts[1] == counts[0] * (0.25 * 64 + 0.25 * 16) / (64 + 64)


@pytest.mark.parametrize("cell", CELLS)
def test_one_draw_serves_all_time_steps_and_batch_rows(cell: str) -> None:
    layer = gated_layer(cell, num_layers=2, bidirectional=True, open_probability=0.5)
    data = torch.randn(TIME, 1, INPUT).expand(TIME, BATCH, INPUT)
    output, _ = layer(data)
    assert [gates.draws for gates in layer.gates.values()] == [1] * len(layer.gates)
    torch.testing.assert_close(output, output[:, :1].expand_as(output))
    closed = torch.cat([layer.gates[key].value == 0 for key in layer.output_keys()])
    assert 0 < closed.sum() < len(closed)
    assert bool((output[..., closed] == 0).all())  # at every time step
    assert not torch.equal(output, layer(data)[0])
    layer.eval()
    assert torch.equal(layer(data)[0], layer(data)[0])


def test_frozen_gates_are_neither_random_nor_trained_and_stay_so_through_a_state_dict() -> None:
    frozen, free = (gated_layer("LSTM", open_probability=0.5) for _ in range(2))
    thawed = copy.deepcopy(free)
    set_gates_at_random(frozen, torch.Generator().manual_seed(0))
    for gates in frozen.gates.values():
        before = gates.keep()
        gates.freeze_()
        assert torch.equal(gates.keep(), before)
    data = torch.randn(TIME, BATCH, INPUT)
    assert torch.equal(frozen(data)[0], copy.deepcopy(frozen).eval()(data)[0])
    frozen(data)[0].sum().backward()
    assert frozen.weight_ih_l0.grad is not None
    assert all(gates.log_alpha.grad is None for gates in frozen.gates.values())
    free(data)  # leaves gates drawn before
    free.load_state_dict(copy.deepcopy(frozen.state_dict()))
    assert all(gates.is_frozen and not gates.log_alpha.requires_grad for gates in free.gates.values())
    assert torch.equal(free(data)[0], frozen(data)[0])
    frozen.load_state_dict(thawed.state_dict())
    assert all(not gates.is_frozen and gates.log_alpha.requires_grad for gates in frozen.gates.values())
    assert not torch.equal(frozen(data)[0], frozen(data)[0])


@pytest.mark.parametrize("cell", CELLS)
def test_from_dense_shares_the_parameters(cell: str) -> None:
    dense = dense_layer(cell, num_layers=2, bidirectional=True, batch_first=True, dropout=0.3).eval()
    gated = GATED[cell].from_dense(dense, gates="hidden", open_probability=0.4, distribution=HardConcrete(beta=0.5))
    assert all(gated.get_parameter(name) is parameter for name, parameter in dense.named_parameters())
    options = ("mode", "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
    assert all(getattr(gated, name) == getattr(dense, name) for name in (*options, "proj_size", "training"))
    assert "input" not in gated.gates
    assert all(gates.distribution == HardConcrete(beta=0.5) for gates in gated.gates.values())
    torch.testing.assert_close(gated.gates["l0"].open_probability()[0], torch.tensor(0.4))
    missing, unexpected = gated.load_state_dict(dense.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("gates.") for name in missing)
    assert type(gate_layer(dense)) is GATED[cell]


def test_from_dense_keeps_a_dropout_that_torch_would_warn_about() -> None:
    dense = nn.LSTM(INPUT, HIDDEN)
    dense.dropout = 0.5  # acts only between layers, and there is one: torch warns in the constructor
    assert GatedLSTM.from_dense(dense).dropout == 0.5


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_is_whole_and_independent(duplicate: Any) -> None:
    layer = gated_layer("LSTM_projected", num_layers=2, open_probability=0.5)
    data = torch.randn(TIME, BATCH, INPUT)
    layer(data)  # leaves values drawn on an autograd graph
    twin = duplicate(layer)
    torch.manual_seed(1)
    expected = layer(data)[0]
    torch.manual_seed(1)
    torch.testing.assert_close(twin(data)[0], expected)
    with torch.no_grad():
        twin.gates["l0"].log_alpha.fill_(9.0)
        twin.weight_hh_l0.zero_()
    assert not bool((layer.gates["l0"].log_alpha == 9).any())
    assert bool(layer.weight_hh_l0.any())


class Tagger(nn.Module):
    def __init__(self, cell: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, INPUT)
        self.encoder = gated_layer(cell, num_layers=2)
        self.decoder = nn.Linear(CELLS[cell][1].get("proj_size", HIDDEN), 3)

    def forward(self, words: Tensor) -> Tensor:
        return self.decoder(self.encoder(self.embedding(words))[0])


@pytest.mark.parametrize("cell", CELLS)
def test_a_network_built_from_gated_layers_shrinks(cell: str) -> None:
    network = Tagger(cell).eval()
    for gates in network.encoder.gates.values():
        gates.log_alpha.data[::2] = -9.0
    words = torch.randint(9, (TIME, BATCH))
    surgery = operate(network, example_inputs=words)
    assert surgery.widths["embedding"] == (INPUT // 2, INPUT)
    assert not any(isinstance(module, GatedRecurrence) for module in surgery.network.modules())
    torch.testing.assert_close(surgery.network(words), network(words), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="`gates` must be left out for a network whose layers were built with gates"):
        operate(network, {"embedding": torch.ones(INPUT)}, example_inputs=words)


def test_gates_on_units_that_stay_are_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = GatedGRU(INPUT, HIDDEN, gates="hidden").eval()

        def forward(self, x: Tensor) -> Tensor:
            return self.encoder(x)[0]

    network, x = Twice(), torch.randn(TIME, BATCH, INPUT)
    assert not trace(network, x).axes
    with pytest.raises(ValueError, match="'encoder' has gates 'l0' on units that stay"):
        operate(network, example_inputs=x)


@pytest.mark.parametrize("cell", CELLS)
def test_what_torch_refuses_is_refused_with_its_words(cell: str) -> None:
    dense, gated = dense_layer(cell, num_layers=2), gated_layer(cell, num_layers=2)
    fitting, wrong_rows = torch.randn(TIME, BATCH, INPUT), torch.zeros(3, BATCH, 1)
    state = (wrong_rows, wrong_rows) if dense.mode == "LSTM" else wrong_rows
    calls: list[tuple[Any, ...]] = [
        (torch.randn(TIME, BATCH, INPUT - 1),),
        (torch.randn(TIME, INPUT + 1),),
        (fitting.double(),),
        (fitting, state),
    ]
    for call in calls:
        with pytest.raises((RuntimeError, ValueError)) as expected:
            dense(*call)
        with pytest.raises((RuntimeError, ValueError)) as got:
            gated(*call)
        assert str(got.value) == str(expected.value)
    with pytest.raises(ValueError, match="`input` must have 2 dimensions .* or 3 .*, got 1"):
        gated(torch.randn(INPUT))
    with pytest.raises(RuntimeError, match="`hx` must have 3 dimensions for this input"):
        gated(fitting, state_of(gated, "unbatched"))
    with pytest.raises(RuntimeError):  # torch has no check of its own here, so the message is that of the kernel
        gated(packed(torch.randn(TIME, BATCH, INPUT + 1), "packed, sorted", batch_first=False))


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="`gates` must be 'input', 'hidden' or 'both', got 'output'"):
        gated_layer("GRU", gates="output")
    with pytest.raises(ValueError, match=r"`open_probability` must be in \[0, 1\], got 1.01"):
        GatedGRU(INPUT, HIDDEN, open_probability=1.01)
    with pytest.raises(TypeError, match="`dense` must be a torch.nn.LSTM for .*, got GRU"):
        GatedLSTM.from_dense(nn.GRU(INPUT, HIDDEN))
    with pytest.raises(TypeError, match="`dense` must be LSTM, GRU or RNN, got Linear"):
        gate_layer(nn.Linear(2, 2))  # type: ignore[arg-type]
