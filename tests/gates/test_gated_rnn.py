"""Gated recurrent layers against torch's own (gates open) and against a loop over time (gates at random)."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from l0rnn.blueprint import draw_blueprint
from l0rnn.gates import GatedGRU, GatedLSTM, GatedRecurrence, GatedRNN, Gates
from l0rnn.gates.hard_concrete import HardConcrete
from l0rnn.gates.network import network_gates
from l0rnn.gates.recurrence import gate_layer
from l0rnn.recurrent.single_steps import onednn
from l0rnn.surgery.shrink import operate
from l0rnn.wiring import Wiring, reads
from tests.networks import CELLS, STACKS, set_gates_at_random, skip_without_bfloat16

INPUT, HIDDEN, TIME, BATCH = 4, 6, 5, 3
GATED = {"LSTM": GatedLSTM, "LSTM_projected": GatedLSTM, "GRU": GatedGRU, "RNN_TANH": GatedRNN, "RNN_RELU": GatedRNN}
FORMS = ("batched", "unbatched", "packed, sorted", "packed, unsorted")
PRODUCT = list(itertools.product(CELLS, range(len(STACKS))))
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]


def dense_layer(cell: str, **options: Any) -> Any:
    layer: Any = CELLS[cell][0]
    return layer(INPUT, HIDDEN, **CELLS[cell][1], **options)


def gated_layer(cell: str, **options: Any) -> Any:
    return GATED[cell](INPUT, HIDDEN, **CELLS[cell][1], **options)


def open_copy(dense: Any) -> Any:
    """The same layer with every gate exactly 1, on copies of the weights."""
    return gate_layer(copy.deepcopy(dense), open_probability=1.0)


def inputs_of(dense: Any, form: str, generator: torch.Generator) -> Tensor:
    """Plain numbers in the shape of a form; for packed forms, the padded batch."""
    shape = (TIME, INPUT) if form == "unbatched" else (TIME, BATCH, INPUT)
    if dense.batch_first and form != "unbatched":
        shape = (BATCH, TIME, INPUT)
    return torch.randn(shape, generator=generator)


def packed(data: Tensor, form: str, *, batch_first: bool) -> Tensor | PackedSequence:
    if not form.startswith("packed"):
        return data
    lengths = torch.tensor([5, 4, 2] if form == "packed, sorted" else [2, 5, 4])
    return pack_padded_sequence(data, lengths, batch_first=batch_first, enforce_sorted=form == "packed, sorted")


def state_of(dense: Any, form: str, generator: torch.Generator) -> Any:
    rows = dense.num_layers * (2 if dense.bidirectional else 1)
    sizes = [dense.proj_size or HIDDEN] + ([HIDDEN] if dense.mode == "LSTM" else [])
    shapes = [(rows, size) if form == "unbatched" else (rows, BATCH, size) for size in sizes]
    state = tuple(torch.randn(shape, generator=generator) for shape in shapes)
    return state if dense.mode == "LSTM" else state[0]


def tensors(value: Any) -> list[Tensor]:
    """All tensors in a nest of tuples."""
    if isinstance(value, PackedSequence):
        return [value.data]
    if isinstance(value, Tensor):
        return [value]
    return [] if value is None else [tensor for part in value for tensor in tensors(part)]


def leaves(value: Any) -> Any:
    """A copy whose tensors take gradients."""
    if isinstance(value, tuple):
        return tuple(leaves(part) for part in value)
    return None if value is None else value.clone().requires_grad_()


def loss_of(results: Any) -> Tensor:
    """A number on which every entry of the results has its own weight."""
    return sum(  # type: ignore[return-value]
        (result.double() * torch.linspace(-1, 2, result.numel(), device=result.device).reshape(result.shape)).sum()
        for result in tensors(results)
    )


def run(layer: Any, data: Tensor, form: str, state: Any, read: Any = lambda results: results) -> tuple[Any, Any]:
    """What ``read`` takes of a layer's results, and the gradients of input, state and parameters."""
    data, state = leaves(data), leaves(state)
    results = tensors(read(layer(packed(data, form, batch_first=layer.batch_first), state)))
    wanted = [data, *tensors(state), *(parameter for _, parameter in layer.named_parameters())]
    gradients = torch.autograd.grad(loss_of(results), wanted, retain_graph=True, allow_unused=True)
    return results, [torch.zeros_like(of) if by is None else by for by, of in zip(gradients, wanted, strict=True)]


# ---------------------------------------------------------------------------------------------------------------------
# open gates: torch's own layers


@pytest.mark.parametrize(("cell", "stack"), PRODUCT)
def test_with_open_gates_everything_is_as_in_torch(cell: str, stack: int) -> None:
    torch.manual_seed(stack)
    generator = torch.Generator().manual_seed(stack)
    dense = dense_layer(cell, **STACKS[stack])
    gated = open_copy(dense)
    for number, (form, has_state) in enumerate(itertools.product(FORMS, (False, True))):
        data = inputs_of(dense, form, generator)
        state = state_of(dense, form, generator) if has_state else None
        with onednn((number + stack) % 2 == 0):
            results, gradients = run(gated, data, form, state)
            expected_results, expected_gradients = run(dense, data, form, state)
        torch.testing.assert_close(results, expected_results)
        own = len(expected_gradients)  # those after are of the gates, which 1 leaves no gradient
        torch.testing.assert_close(gradients[:own], expected_gradients)
        assert not any(bool(gradient.any()) for gradient in gradients[own:])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("use_onednn", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.filterwarnings("ignore:RNN module weights are not part of single")  # torch's own bfloat16 layers on CUDA
def test_with_open_gates_every_dtype_is_as_in_torch(
    cell: str, dtype: torch.dtype, device: str, *, use_onednn: bool
) -> None:
    torch.manual_seed(0)
    dense = dense_layer(cell, num_layers=2, bidirectional=True).to(device=device, dtype=dtype)
    gated = open_copy(dense)
    data = torch.randn(TIME, BATCH, INPUT, dtype=dtype, device=device)
    with onednn(use_onednn):
        output, state = gated(data)
        expected, expected_state = dense(data)
        again, _ = gated(data, state)
        expected_again, _ = dense(data, expected_state)
    assert output.dtype == dtype
    assert all(gates.log_alpha.dtype == dtype for gates in gated.gates.values())
    torch.testing.assert_close(tensors((output, state, again)), tensors((expected, expected_state, expected_again)))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("device", DEVICES)
def test_autocast_gives_what_it_gives_torch(cell: str, device: str) -> None:
    skip_without_bfloat16(cell, device)
    torch.manual_seed(0)
    dense = dense_layer(cell, num_layers=2, bidirectional=True).to(device)
    gated = open_copy(dense)
    data = torch.randn(TIME, BATCH, INPUT, device=device)
    with torch.autocast(device, torch.bfloat16):
        results, expected = gated(data), dense(data)
    torch.testing.assert_close(tensors(results), tensors(expected))
    assert [result.dtype for result in tensors(results)] == [result.dtype for result in tensors(expected)]
    soft = gated_layer(cell, num_layers=2, open_probability=0.5).to(device)
    with torch.autocast(device, torch.bfloat16):
        loss = loss_of(soft(data))
    loss.backward()
    for name, parameter in soft.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_dropout_is_that_of_torch(cell: str, form: str, *, bidirectional: bool) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    dense = dense_layer(cell, num_layers=3, bidirectional=bidirectional, dropout=0.5)
    gated = open_copy(dense)
    data = packed(inputs_of(dense, form, generator), form, batch_first=False)
    torch.manual_seed(1)
    results = gated(data)
    torch.manual_seed(1)
    for gates in gated.gates.values():  # drawing the gates takes random numbers too
        torch.rand(gates.units)
    expected = dense(data)
    torch.testing.assert_close(tensors(results), tensors(expected))
    assert not torch.equal(tensors(results)[0], tensors(gated(data))[0])
    gated.eval()
    torch.testing.assert_close(tensors(gated(data)), tensors(dense.eval()(data)))


# ---------------------------------------------------------------------------------------------------------------------
# gates at random: a loop over time, where a unit is multiplied by its gate before anything reads it


def slow_step(
    mode: str, weights: dict[str, Tensor], data: Tensor, h: Tensor, c: Tensor, own: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of one cell from the formulas in torch's documentation, given the gates of its units."""
    from_input = F.linear(data, weights["weight_ih"], weights.get("bias_ih"))
    from_hidden = F.linear(h * own, weights["weight_hh"], weights.get("bias_hh"))
    if mode == "LSTM":
        i, f, g, o = (from_input + from_hidden).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return (F.linear(h * cell, weights["weight_hr"]) if "weight_hr" in weights else h), c
    if mode == "GRU":
        r_input, z_input, n_input = from_input.chunk(3, -1)
        r_hidden, z_hidden, n_hidden = from_hidden.chunk(3, -1)
        z = torch.sigmoid(z_input + z_hidden)
        n = torch.tanh(n_input + torch.sigmoid(r_input + r_hidden) * n_hidden)
        return (1 - z) * n + z * h, c
    return (torch.tanh if mode == "RNN_TANH" else torch.relu)(from_input + from_hidden), c


def slow_recurrence(
    mode: str,
    weights: dict[str, dict[str, Tensor]],
    data: Tensor,
    state: list[tuple[Tensor, Tensor]],
    gates: dict[str, Tensor],
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """A stack of recurrent layers, step by step.

    ``weights`` and ``gates`` are by key (``l0``, ``l0_reverse``, …), ``data`` is `(time, batch, feature)`, and the
    state is (h, c) of each key in order.
    """
    one = torch.ones(())
    data = data * gates.get("input", one)
    finals: list[tuple[Tensor, Tensor]] = []
    for depth in range(len({key.split("_")[0] for key in weights})):
        outputs = []
        for key in [key for key in weights if key.split("_")[0] == f"l{depth}"]:
            h, c = state[len(finals)]
            own, cell = gates.get(key, one), gates.get(f"{key}_cell", one)
            times = range(len(data))
            steps: dict[int, Tensor] = {}
            for time in reversed(times) if key.endswith("reverse") else times:
                h, c = slow_step(mode, weights[key], data[time], h, c, own, cell)
                steps[time] = h * own
            outputs.append(torch.stack([steps[time] for time in times]))
            finals.append((h, c))
        data = torch.cat(outputs, -1)
    return data, finals


def weights_by_key(layer: Any) -> dict[str, dict[str, Tensor]]:
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    return {
        key: {kind: getattr(layer, f"{kind}_{key}") for kind in kinds if hasattr(layer, f"{kind}_{key}")}
        for key in layer.layer_keys()
    }


def slow_gated(layer: Any, data: Any, state: Any) -> tuple[Any, Any]:
    """What a gated layer should return on a batch or a PackedSequence, for the gates it drew last."""
    if isinstance(data, PackedSequence):
        return _slow_packed(layer, data, state)
    is_batched, is_swapped = data.dim() == 3, layer.batch_first and data.dim() == 3
    data = data.transpose(0, 1) if is_swapped else data
    data = data if is_batched else data.unsqueeze(1)
    sizes = [layer.proj_size or layer.hidden_size, layer.hidden_size]
    if state is None:
        rows = [tuple(data.new_zeros(data.size(1), size) for size in sizes) for _ in layer.layer_keys()]
    else:
        parts = state if layer.mode == "LSTM" else (state, state)
        rows = list(zip(*(part if is_batched else part.unsqueeze(1) for part in parts), strict=True))
    gates = {key: gates.value for key, gates in layer.gates.items()}
    output, finals = slow_recurrence(layer.mode, weights_by_key(layer), data, rows, gates)  # type: ignore[arg-type]
    h, c = (torch.stack(part) for part in zip(*finals, strict=True))
    if not is_batched:
        output, h, c = output.squeeze(1), h.squeeze(1), c.squeeze(1)
    return output.transpose(0, 1) if is_swapped else output, (h, c) if layer.mode == "LSTM" else h


def _slow_packed(layer: Any, data: PackedSequence, state: Any) -> tuple[Any, Any]:
    """Each sequence by itself, without its padding."""
    padded, lengths = pad_packed_sequence(data)
    outputs, states = [], []
    for row, length in enumerate(lengths.tolist()):
        own = None if state is None else [part[:, row] for part in tensors(state)]
        own = own if own is None or layer.mode == "LSTM" else own[0]
        is_swapped, layer.batch_first = layer.batch_first, False
        output, final = slow_gated(layer, padded[:length, row], own)
        layer.batch_first = is_swapped
        outputs.append(output)
        states.append(tensors(final))
    stacked = tuple(torch.stack(parts, 1) for parts in zip(*states, strict=True))
    output = nn.utils.rnn.pack_sequence(outputs, enforce_sorted=data.sorted_indices is None)
    return output, stacked if layer.mode == "LSTM" else stacked[0]


@pytest.mark.parametrize(("cell", "stack"), PRODUCT)
@pytest.mark.parametrize("units", ["input", "hidden", "both"])
def test_with_random_gates_everything_is_as_in_a_loop_over_time(cell: str, stack: int, units: str) -> None:
    seed = PRODUCT.index((cell, stack)) * 3 + len(units)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    layer = gated_layer(cell, gates=units, **STACKS[stack])
    set_gates_at_random(layer, generator)
    layer.skips_closed_units = False
    form, has_state, is_training = (int(torch.randint(n, (), generator=generator)) for n in (4, 2, 2))
    layer.train(bool(is_training))  # random draws in training, deterministic gates in evaluation
    data = inputs_of(layer, FORMS[form], generator)
    state = state_of(layer, FORMS[form], generator) if has_state else None
    results, gradients = run(layer, data, FORMS[form], state)
    expected_results, expected_gradients = run(_Slow(layer), data, FORMS[form], state)
    torch.testing.assert_close(results, expected_results, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients, expected_gradients, atol=5e-5, rtol=1e-4)
    assert ("input" in layer.gates) == (units != "hidden")
    assert bool(layer.gates.keys() - {"input"}) == (units != "input")


@pytest.mark.parametrize(("cell", "stack"), [pair for pair in PRODUCT if pair[0] != "LSTM_projected"])
def test_leaving_out_closed_units_changes_nothing_that_is_read(cell: str, stack: int) -> None:
    """Outputs, the state of open units and all gradients are those of the loop, which computes every unit."""
    seed = PRODUCT.index((cell, stack))
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    layer = gated_layer(cell, gates=("hidden", "both")[stack % 2], **STACKS[stack])
    for gates in layer.gates.values():  # half of the units closed, and now and then all of an axis
        closed = torch.rand(gates.units, generator=generator) < 0.5
        gates.log_alpha.data[closed] = -50.0
    layer.skips_closed_units = True
    form, has_state, is_training = (int(torch.randint(n, (), generator=generator)) for n in (4, 2, 2))
    layer.train(bool(is_training))
    data = inputs_of(layer, FORMS[form], generator)
    state = state_of(layer, FORMS[form], generator) if has_state else None

    def read(results: Any) -> Any:
        """The output, and the state of the open units alone."""
        output, final = results
        is_open = [(layer.gates[key].value != 0).float() for key in layer.layer_keys()]
        shaped = torch.stack(is_open) if FORMS[form] == "unbatched" else torch.stack(is_open)[:, None]
        return output, tuple(part * shaped for part in tensors(final))

    results, gradients = run(layer, data, FORMS[form], state, read)
    expected_results, expected_gradients = run(_Slow(layer), data, FORMS[form], state, read)
    torch.testing.assert_close(results, expected_results, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients, expected_gradients, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN_TANH"])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_leaving_out_closed_units_works_under_autocast_and_in_half_precision(
    cell: str, dtype: torch.dtype, device: str
) -> None:
    if dtype == torch.float32:
        skip_without_bfloat16(cell, device)
    torch.manual_seed(0)
    layer = gated_layer(cell, num_layers=2, bidirectional=True).to(device=device, dtype=dtype)
    for gates in layer.gates.values():
        gates.log_alpha.data[::2] = -50.0
    layer.skips_closed_units = True
    data = torch.randn(TIME, BATCH, INPUT, device=device, dtype=dtype)
    with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.float32):
        torch.manual_seed(1)
        output, state = layer(data)
        again, _ = layer(data, state)
        layer.skips_closed_units = False
        torch.manual_seed(1)
        expected, expected_state = layer(data)
    assert [part.dtype for part in tensors((output, state))] == [
        part.dtype for part in tensors((expected, expected_state))
    ]
    torch.testing.assert_close(output, expected, atol=2e-2, rtol=2e-2)
    loss_of((output, again)).backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in layer.parameters() if parameter.grad is not None)


def test_the_state_of_a_unit_left_out_stays_what_it_was() -> None:
    torch.manual_seed(0)
    layer: Any = GatedLSTM(INPUT, HIDDEN, open_probability=1.0)
    layer.gates["l0"].log_alpha.data[:3] = -50.0
    state = (torch.randn(1, BATCH, HIDDEN), torch.randn(1, BATCH, HIDDEN))
    _, final = layer(torch.randn(TIME, BATCH, INPUT), state)
    for before, after in zip(state, final, strict=True):
        assert torch.equal(after[..., :3], before[..., :3])
        assert not bool((after[..., 3:] == before[..., 3:]).any())


class _Slow:
    """Calls the loop where `run` wants a layer."""

    def __init__(self, layer: GatedRecurrence) -> None:
        self.layer = layer
        self.batch_first = layer.batch_first

    def __call__(self, data: Any, state: Any) -> Any:
        return slow_gated(self.layer, data, state)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.layer.named_parameters()


def test_the_loop_over_time_itself_is_right() -> None:
    """The reference without gates is torch's layer."""
    for cell, form in itertools.product(CELLS, FORMS):
        generator = torch.Generator().manual_seed(0)
        layer = gated_layer(cell, num_layers=2, bidirectional=True, open_probability=1.0)
        dense = dense_layer(cell, num_layers=2, bidirectional=True)
        dense.load_state_dict({name: value for name, value in layer.state_dict().items() if "gates" not in name})
        data, state = inputs_of(layer, form, generator), state_of(layer, form, generator)
        data = packed(data, form, batch_first=False)
        torch.testing.assert_close(tensors(slow_gated(layer, data, state)), tensors(dense(data, state)))


@pytest.mark.parametrize("cell", CELLS)
def test_the_state_is_carried_ungated(cell: str) -> None:
    """Two segments in a row give what one long sequence gives."""
    torch.manual_seed(0)
    layer = gated_layer(cell, num_layers=2).eval()
    set_gates_at_random(layer, torch.Generator().manual_seed(0))
    assert any(bool(((gates.value > 0) & (gates.value < 1)).any()) for gates in layer.gates.values())
    data = torch.randn(TIME, BATCH, INPUT)
    whole, final = layer(data)
    first, state = layer(data[:2])
    second, state = layer(data[2:], state)
    torch.testing.assert_close(torch.cat((first, second)), whole)
    torch.testing.assert_close(tensors(state), tensors(final))


# ---------------------------------------------------------------------------------------------------------------------
# draws


@pytest.mark.parametrize("cell", CELLS)
def test_one_draw_serves_all_time_steps_and_batch_rows(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = gated_layer(cell, num_layers=2, bidirectional=True, open_probability=0.5)
    drawn: list[int] = []
    sample = HardConcrete.sample

    def counted(self: HardConcrete, log_alpha: Tensor, **options: Any) -> Tensor:
        drawn.append(len(log_alpha))
        return sample(self, log_alpha, **options)

    monkeypatch.setattr(HardConcrete, "sample", counted)
    data = torch.randn(TIME, 1, INPUT).expand(TIME, BATCH, INPUT)
    output, _ = layer(data)
    assert drawn == [gates.units for gates in layer.gates.values()]
    torch.testing.assert_close(output, output[:, :1].expand_as(output))
    closed = torch.cat([layer.gates[key].value == 0 for key in layer.output_keys()])
    assert 0 < closed.sum() < len(closed)
    assert bool((output[..., closed] == 0).all())  # at every time step


@pytest.mark.parametrize("cell", CELLS)
def test_draws_differ_in_training_and_agree_in_evaluation(cell: str) -> None:
    torch.manual_seed(0)
    layer = gated_layer(cell, open_probability=0.5)
    data = torch.randn(TIME, BATCH, INPUT)
    assert not torch.equal(layer(data)[0], layer(data)[0])
    layer.eval()
    assert torch.equal(layer(data)[0], layer(data)[0])


def test_frozen_gates_are_neither_random_nor_trained() -> None:
    torch.manual_seed(0)
    layer: Any = GatedLSTM(INPUT, HIDDEN, open_probability=0.5)
    set_gates_at_random(layer, torch.Generator().manual_seed(0))
    data = torch.randn(TIME, BATCH, INPUT)
    for gates in layer.gates.values():
        assert not gates.is_frozen
        before = gates.keep()
        gates.freeze_()
        assert torch.equal(gates.keep(), before)
    assert layer.training
    torch.testing.assert_close(layer(data)[0], copy.deepcopy(layer).eval()(data)[0], atol=0, rtol=0)
    layer(data)[0].sum().backward()
    assert layer.weight_ih_l0.grad is not None
    assert all(gates.is_frozen and gates.log_alpha.grad is None for gates in layer.gates.values())


def test_frozen_gates_stay_frozen_through_a_state_dict() -> None:
    torch.manual_seed(0)
    frozen, free = (gated_layer("LSTM", open_probability=0.5) for _ in range(2))
    thawed = copy.deepcopy(free)
    for gates in frozen.gates.values():
        gates.freeze_()
    data = torch.randn(TIME, BATCH, INPUT)
    free(data)  # leaves gates drawn before
    free.load_state_dict(copy.deepcopy(frozen.state_dict()))
    assert all(gates.is_frozen and not gates.log_alpha.requires_grad for gates in free.gates.values())
    assert torch.equal(free(data)[0], frozen(data)[0])
    assert torch.equal(free(data)[0], free(data)[0])
    frozen.load_state_dict(thawed.state_dict())
    assert all(not gates.is_frozen and gates.log_alpha.requires_grad for gates in frozen.gates.values())
    assert not torch.equal(frozen(data)[0], frozen(data)[0])


# ---------------------------------------------------------------------------------------------------------------------
# parameters, copies and files


@pytest.mark.parametrize("cell", CELLS)
def test_from_dense_shares_the_parameters(cell: str) -> None:
    dense = dense_layer(cell, num_layers=2, bidirectional=True, batch_first=True, dropout=0.3).eval()
    gated = GATED[cell].from_dense(dense, gates="hidden", open_probability=0.4, distribution=HardConcrete(beta=0.5))
    for name, parameter in dense.named_parameters():
        assert gated.get_parameter(name) is parameter
    options = ("mode", "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
    assert all(getattr(gated, name) == getattr(dense, name) for name in (*options, "proj_size", "training"))
    assert "input" not in gated.gates
    assert all(gates.distribution == HardConcrete(beta=0.5) for gates in gated.gates.values())
    torch.testing.assert_close(gated.gates["l0"].open_probability()[0], torch.tensor(0.4))
    with torch.no_grad():
        dense.weight_hh_l1.zero_()
    assert bool((gated.weight_hh_l1 == 0).all())
    assert type(gate_layer(dense)) is GATED[cell]


def test_from_dense_keeps_a_dropout_that_torch_would_warn_about() -> None:
    dense = nn.LSTM(INPUT, HIDDEN)
    dense.dropout = 0.5  # acts only between layers, and there is one: torch warns in the constructor
    assert GatedLSTM.from_dense(dense).dropout == 0.5


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("units", ["input", "hidden", "both"])
def test_the_state_dict_is_that_of_torch_and_the_gates(cell: str, units: str) -> None:
    stack = {"num_layers": 2, "bidirectional": True}
    dense, gated = dense_layer(cell, **stack), gated_layer(cell, gates=units, **stack)
    own = [name for name in gated.state_dict() if not name.startswith("gates.")]
    assert own == list(dense.state_dict())
    keys = ["l0", "l0_reverse", "l1", "l1_reverse"]
    if cell == "LSTM_projected":
        keys = [name for key in keys for name in (key, f"{key}_cell")]
    keys = ([] if units == "hidden" else ["input"]) + ([] if units == "input" else keys)
    of_gates = [f"gates.{key}.{part}" for key in keys for part in ("log_alpha", "frozen", "fixed")]
    assert [name for name in gated.state_dict() if name.startswith("gates.")] == of_gates


@pytest.mark.parametrize("cell", CELLS)
def test_weights_of_torch_load(cell: str) -> None:
    torch.manual_seed(0)
    stack = {"num_layers": 2, "bidirectional": True}
    dense, gated = dense_layer(cell, **stack), gated_layer(cell, open_probability=1.0, **stack)
    missing, unexpected = gated.load_state_dict(dense.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("gates.") for name in missing)
    data = torch.randn(TIME, BATCH, INPUT)
    torch.testing.assert_close(gated(data)[0], dense(data)[0])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("is_used", [False, True])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_is_whole_and_independent(cell: str, duplicate: Any, *, is_used: bool) -> None:
    torch.manual_seed(0)
    layer = gated_layer(cell, num_layers=2, open_probability=0.5)
    data = torch.randn(TIME, BATCH, INPUT)
    if is_used:
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


@pytest.mark.parametrize("cell", CELLS)
def test_a_network_built_from_gated_layers_shrinks(cell: str) -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(9, INPUT)
            self.encoder = gated_layer(cell, num_layers=2)
            self.decoder = nn.Linear(CELLS[cell][1].get("proj_size", HIDDEN), 3)

        def forward(self, words: Tensor) -> Tensor:
            return self.decoder(self.encoder(self.embedding(words))[0])

    torch.manual_seed(0)
    wiring = Wiring({"encoder": reads("embedding"), "decoder": reads("encoder")})
    network = Tagger().eval()
    for gates in network_gates(network, draw_blueprint(network, wiring)).values():
        gates.log_alpha.data[::2] = -9.0
    words = torch.randint(9, (TIME, BATCH))
    surgery = operate(network, wiring, example_inputs=words)
    assert surgery.widths["embedding"] == (INPUT // 2, INPUT)
    assert not any(isinstance(module, (Gates, GatedRecurrence)) for module in surgery.network.modules())
    torch.testing.assert_close(surgery.network(words), network(words), atol=1e-5, rtol=0)


# ---------------------------------------------------------------------------------------------------------------------
# errors


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("units", ["input", "hidden", "both"])
@pytest.mark.parametrize("width", [1, INPUT - 1, INPUT + 1])
def test_a_wrong_input_width_is_refused_as_torch_does(cell: str, units: str, width: int) -> None:
    data = torch.randn(TIME, BATCH, width)
    layer = gated_layer(cell, gates=units)
    for shaped in (data, data[:, 0]):
        with pytest.raises(RuntimeError, match="must be equal to input_size") as expected:
            dense_layer(cell)(shaped)
        with pytest.raises(RuntimeError, match=f"Expected {INPUT}, got {width}") as got:
            layer(shaped)
        assert str(got.value) == str(expected.value)
    with pytest.raises(RuntimeError):  # torch has no check of its own here, so the message is that of the kernel
        layer(packed(data, "packed, sorted", batch_first=False))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("wrong", ["rows", "batch", "size"])
def test_a_state_of_the_wrong_size_is_refused_as_torch_does(cell: str, part: int, wrong: str) -> None:
    layer = gated_layer(cell, num_layers=2)
    state = list(tensors(state_of(layer, "batched", torch.Generator().manual_seed(0))))
    if part >= len(state):
        pytest.skip("only an LSTM has a second part")
    rows, batch, size = state[part].shape
    state[part] = torch.zeros(rows + (wrong == "rows"), batch + (wrong == "batch"), size + (wrong == "size"))
    hx = tuple(state) if layer.mode == "LSTM" else state[0]
    with pytest.raises(RuntimeError, match=r"Expected hidden(\[\d\])? size") as expected:
        dense_layer(cell, num_layers=2)(torch.randn(TIME, BATCH, INPUT), hx)
    with pytest.raises(RuntimeError, match=r"Expected hidden(\[\d\])? size") as got:
        layer(torch.randn(TIME, BATCH, INPUT), hx)
    assert str(got.value) == str(expected.value)


@pytest.mark.parametrize("cell", CELLS)
def test_wrong_dimensions_are_refused(cell: str) -> None:
    layer = gated_layer(cell)
    for shape in ((INPUT,), (2, TIME, BATCH, INPUT)):
        with pytest.raises(ValueError, match=f"`input` must have 2 dimensions .* or 3 .*, got {len(shape)}"):
            layer(torch.randn(shape))
    batched, unbatched = (state_of(layer, form, torch.Generator()) for form in ("batched", "unbatched"))
    with pytest.raises(RuntimeError, match="`hx` must have 3 dimensions for this input"):
        layer(torch.randn(TIME, BATCH, INPUT), unbatched)
    with pytest.raises(RuntimeError, match="`hx` must have 2 dimensions for this input"):
        layer(torch.randn(TIME, INPUT), batched)


@pytest.mark.parametrize("cell", CELLS)
def test_an_input_of_another_dtype_is_refused_as_torch_does(cell: str) -> None:
    data = torch.randn(TIME, BATCH, INPUT, dtype=torch.float64)
    with pytest.raises(ValueError, match="dtype") as expected:
        dense_layer(cell)(data)
    with pytest.raises(ValueError, match="dtype") as got:
        gated_layer(cell)(data)
    assert str(got.value) == str(expected.value)


@pytest.mark.parametrize("cell", CELLS)
def test_unknown_units_are_refused(cell: str) -> None:
    with pytest.raises(ValueError, match="`gates` must be 'input', 'hidden' or 'both', got 'output'"):
        gated_layer(cell, gates="output")


@pytest.mark.parametrize("open_probability", [-0.5, 1.01])
def test_an_open_probability_out_of_range_is_refused(open_probability: float) -> None:
    with pytest.raises(ValueError, match=r"`open_probability` must be in \[0, 1\]"):
        GatedGRU(INPUT, HIDDEN, open_probability=open_probability)


@pytest.mark.parametrize(("gated", "dense"), [(GatedLSTM, nn.GRU), (GatedGRU, nn.RNN), (GatedRNN, nn.LSTM)])
def test_from_dense_refuses_another_cell(gated: Any, dense: Any) -> None:
    message = f"`dense` must be a torch.nn.{gated.__bases__[1].__name__} for .*, got {dense.__name__}"
    with pytest.raises(TypeError, match=message):
        gated.from_dense(dense(INPUT, HIDDEN))


def test_gate_layer_refuses_what_is_not_a_plain_layer() -> None:
    with pytest.raises(TypeError, match="`dense` must be an nn.LSTM, nn.GRU or nn.RNN, got Linear"):
        gate_layer(nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got GatedGRU"):
        gate_layer(GatedGRU(2, 2))
