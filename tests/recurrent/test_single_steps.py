"""The way round oneDNN gives the same outputs, is taken only where nobody can notice, and yields to who asks."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from l0rnn import Budget, L0GatedLSTM, shrink
from l0rnn.blueprint import draw_blueprint
from l0rnn.extras import quiet_exporters
from l0rnn.language.language_model import LanguageModel
from l0rnn.recurrent import ragged_rnn
from l0rnn.recurrent import single_steps as module
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.recurrent.single_steps import (
    MOST_SEQUENCES,
    MOST_STEPS,
    chooses_path,
    column_major_,
    is_for_cells,
    is_plain,
    onednn,
    row_major_,
    run_recurrent,
)
from l0rnn.surgery.removal import resize_
from tests.networks import CELLS, TwoReaders, WordTagger

SIZES = [(1, 1), (3, 1), (MOST_SEQUENCES, 1), (1, MOST_STEPS), (5, MOST_STEPS)]


@pytest.fixture
def cells(monkeypatch) -> list[tuple[int, ...]]:
    """Shapes of the inputs that ran as cells."""
    shapes: list[tuple[int, ...]] = []
    run_cells = module.run_cells

    def note(layers: Any, data: Any, states: Any) -> Any:
        shapes.append(tuple(data.shape))
        return run_cells(layers, data, states)

    monkeypatch.setattr(module, "run_cells", note)
    monkeypatch.setattr(ragged_rnn, "run_cells", note)
    return shapes


def runs_as_cells(layer: Any, data: Any) -> bool:
    return is_for_cells(data) and is_plain(layer)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("batch", "steps"), SIZES)
def test_cells_give_what_the_layer_gives(layers: int, bias: bool, batch: int, steps: int, cells: list[Any]) -> None:
    layer = nn.LSTM(4, 5, layers, bias=bias).eval()
    data, state = torch.randn(steps, batch, 4), (torch.randn(layers, batch, 5), torch.randn(layers, batch, 5))
    with torch.no_grad():
        for given in (None, state):
            torch.testing.assert_close(run_recurrent(layer, data, given), layer(data, given))
    assert len(cells) == 2


def of(layer: nn.Module, *shape: int, **options: Any) -> tuple[Any, Any, Any]:
    return layer.eval(), torch.randn(*(shape or (1, 2, 4)), **options), None


def training() -> Any:
    return nn.LSTM(4, 5), torch.randn(1, 2, 4), None


def many_steps() -> Any:
    return of(nn.LSTM(4, 5), MOST_STEPS + 1, 2, 4)


def many_sequences() -> Any:
    return of(nn.LSTM(4, 5), 1, MOST_SEQUENCES + 1, 4)


def one_sequence() -> Any:
    return of(nn.LSTM(4, 5), 1, 4)


def batch_first() -> Any:
    return of(nn.LSTM(4, 5, batch_first=True))


def bidirectional() -> Any:
    return of(nn.LSTM(4, 5, bidirectional=True))


def projected() -> Any:
    return of(nn.LSTM(4, 5, proj_size=3))


def other_cell() -> Any:
    return of(nn.GRU(4, 5))


def float64() -> Any:
    return of(nn.LSTM(4, 5, dtype=torch.float64), 1, 2, 4, dtype=torch.float64)


def packed() -> Any:
    layer, data, _ = of(nn.LSTM(4, 5))
    return layer, nn.utils.rnn.pack_padded_sequence(data, torch.tensor([1, 1])), None


def forward_hook() -> Any:
    layer, data, _ = of(nn.LSTM(4, 5))
    layer.register_forward_hook(lambda *_: None)
    return layer, data, None


def forward_pre_hook() -> Any:
    layer, data, _ = of(nn.LSTM(4, 5))
    layer.register_forward_pre_hook(lambda *_: None)
    return layer, data, None


def subclass() -> Any:
    return of(type("Own", (nn.LSTM,), {})(4, 5))


OTHERS = [
    training,
    many_steps,
    many_sequences,
    one_sequence,
    batch_first,
    bidirectional,
    projected,
    other_cell,
    float64,
    packed,
    forward_hook,
    forward_pre_hook,
    subclass,
]


@pytest.mark.parametrize("change", OTHERS)
def test_everything_else_is_called_as_it_is(change: Callable[[], Any], cells: list[Any]) -> None:
    layer, data, state = change()
    with torch.no_grad():
        torch.testing.assert_close(run_recurrent(layer, data, state), layer(data, state))
    assert cells == []


def test_with_gradients_autocast_and_tracing_too(cells: list[Any]) -> None:
    layer, data, _ = of(nn.LSTM(4, 5))
    run_recurrent(layer, data)[0].sum().backward()
    assert layer.weight_hh_l0.grad is not None
    with torch.no_grad(), torch.autocast("cpu"):
        assert not is_for_cells(data)
    ragged = RaggedRNN("LSTM", 4, [[5], [3]]).eval()
    with torch.no_grad(), quiet_exporters():
        program = torch.export.export(ragged, (data,), strict=False)
    assert "lstm_cell" not in str(program.graph)
    assert cells == []


@pytest.mark.parametrize("state", [torch.zeros(1, 2, 5), (torch.zeros(1, 2, 4), torch.zeros(1, 2, 5)), (None, None)])
def test_a_state_that_does_not_fit_is_refused_by_the_layer_itself(state: Any, cells: list[Any]) -> None:
    layer, data, _ = of(nn.LSTM(4, 5))
    with torch.no_grad():
        with pytest.raises((RuntimeError, TypeError, AttributeError, IndexError)) as expected:
            layer(data, state)
        with pytest.raises(type(expected.value)) as found:
            run_recurrent(layer, data, state)
    assert str(found.value) == str(expected.value)
    assert cells == []


@pytest.mark.parametrize("enabled", [True, False, None])
def test_who_asks_for_onednn_gets_it(enabled: bool | None, cells: list[Any]) -> None:
    layer, data, _ = of(nn.LSTM(4, 5))
    with torch.no_grad(), onednn(enabled):
        assert runs_as_cells(layer, data) == (enabled is not True)
        if torch.backends.mkldnn.is_available():
            assert torch.backends.mkldnn.enabled == (enabled is not False)
        with onednn(None):  # the innermost counts
            assert runs_as_cells(layer, data)
    with torch.no_grad():
        assert runs_as_cells(layer, data)


def test_the_switch_is_put_back_after_an_error_and_never_touched_by_a_forward_pass() -> None:
    before = torch.backends.mkldnn.enabled
    with pytest.raises(KeyError), onednn(not before):
        raise KeyError
    assert torch.backends.mkldnn.enabled == before
    layer, data, _ = of(nn.LSTM(4, 5))
    with torch.no_grad():
        assert runs_as_cells(layer, data)
        with onednn(False):
            run_recurrent(layer, data)
            assert not torch.backends.mkldnn.enabled
        with pytest.raises(RuntimeError):
            run_recurrent(layer, torch.randn(1, 2, 3))
    assert torch.backends.mkldnn.enabled == before


def test_what_one_thread_asks_for_does_not_bind_another() -> None:
    layer, data, _ = of(nn.LSTM(4, 5))
    found: list[bool] = []

    def look() -> None:
        with torch.no_grad():
            found.append(runs_as_cells(layer, data))

    with torch.no_grad(), onednn(True):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        look()
    assert found == [True, False]


def networks() -> dict[str, tuple[nn.Module, Any]]:
    words = torch.randint(11, (MOST_STEPS, 3))
    return {
        "equal widths": (LanguageModel(11, 4, 5), words),
        "unequal widths": (LanguageModel(11, 4, [5, 3]), words),
        "tied": (LanguageModel(11, 4, 4, tied=True), words),
        "GRU": (LanguageModel(11, 4, [5, 3], cell="GRU"), words),
        "ragged, bidirectional": (RaggedRNN("LSTM", 4, [[5, 2], [3, 4]]), torch.randn(MOST_STEPS, 3, 4)),
        "ragged, batch first": (RaggedRNN("LSTM", 4, [[5], [3]], batch_first=True), torch.randn(3, MOST_STEPS, 4)),
    }


@pytest.mark.parametrize("name", networks())
def test_networks_take_the_way_and_stream_to_the_same_outputs(name: str, cells: list[Any]) -> None:
    network, inputs = networks()[name]
    network.eval()
    time = 1 if name.endswith("batch first") else 0
    with torch.no_grad():
        with onednn(True):
            expected, expected_state = network(inputs)
            assert cells == []
        torch.testing.assert_close(network(inputs), (expected, expected_state))
        state, outputs = None, []
        for step in inputs.split(1, time):
            output, state = network(step, state)
            outputs.append(output)
    if "bidirectional" not in name:
        torch.testing.assert_close((torch.cat(outputs, time), state), (expected, expected_state))
    assert bool(cells) == (name not in ("GRU", "ragged, bidirectional"))
    assert chooses_path(network, MOST_STEPS)
    assert not chooses_path(network, MOST_STEPS + 1)


def test_a_ragged_stack_takes_the_way_only_if_every_layer_can(cells: list[Any]) -> None:
    data = torch.randn(1, 2, 4)
    plain = RaggedRNN("LSTM", 4, [[5], [3]]).eval()
    hooked, projected, training = (
        copy.deepcopy(plain),
        RaggedRNN("LSTM", 4, [[5]], proj_sizes=[[3]]),
        copy.deepcopy(plain),
    )
    shapes: list[Any] = []
    hooked.layers[1][0].register_forward_hook(lambda layer, inputs, output: shapes.append(output[0].shape))
    training.layers[1][0].train()
    with torch.no_grad():
        expected = plain(data)
        assert len(cells) == 1
        torch.testing.assert_close(hooked(data), expected)
        assert shapes == [(1, 2, 3)]
        torch.testing.assert_close(training(data), expected)
        projected.eval()(data)
        one, (h, c) = plain(data[:, 0])
        assert [tuple(part.shape) for part in (one, *h, *c)] == [(1, 3), (5,), (3,), (5,), (3,)]
        torch.testing.assert_close(one, expected[0][:, 0])
        torch.testing.assert_close(
            plain(data[:, 0], (h, c))[0], plain(data[:, :1], [[p[None] for p in s] for s in (h, c)])[0][:, 0]
        )
        wrong = tuple(tuple(part[:, :-1] for part in parts) for parts in expected[1])
        with pytest.raises(RuntimeError, match="Expected hidden"):
            plain(data, wrong)
    assert len(cells) == 3


def test_networks_of_ones_own_are_left_alone(cells: list[Any]) -> None:
    network = WordTagger("LSTM").eval()
    with torch.no_grad():
        network(torch.zeros(1, 1, dtype=torch.int64))
    assert cells == []
    assert not chooses_path(network, 1)


# ---------------------------------------------------------------------------------------------------------------------
# weights column by column


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("use_onednn", [True, False])
def test_the_order_in_memory_changes_no_output(cell: str, *, use_onednn: bool) -> None:
    layer, extra = CELLS[cell]
    plain = layer(3, 5, 2, bidirectional=True, **extra).eval()
    turned = column_major_(copy.deepcopy(plain))
    assert turned.weight_ih_l0.stride() == (1, len(plain.weight_ih_l0))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), turned.parameters(), strict=True))
    with torch.no_grad(), onednn(use_onednn):
        for steps, batch in ((1, 1), (7, 2)):
            data = torch.randn(steps, batch, 3)
            torch.testing.assert_close(turned(data), plain(data))


def test_parameters_stay_the_same_objects_and_ties_stay_tied() -> None:
    network = LanguageModel(11, 4, 4, tied=True)
    before = dict(network.named_parameters())
    values = {name: parameter.clone() for name, parameter in before.items()}
    assert column_major_(network) is network
    after = dict(network.named_parameters())
    assert all(after[name] is before[name] and torch.equal(after[name], values[name]) for name in before)
    assert network.decoder.weight is network.embedding.weight
    again = LanguageModel(11, 4, 4, tied=True)
    again.load_state_dict(network.state_dict())
    words = torch.randint(11, (5, 2))
    torch.testing.assert_close(again.eval()(words), network.eval()(words))


def test_every_kind_of_reader_is_stored_so() -> None:
    network = column_major_(TwoReaders())
    matrices = {name: weight for name, weight in network.named_parameters() if weight.dim() == 2}
    turned = {name for name, weight in matrices.items() if weight.stride(0) == 1}
    assert turned == {name for name in matrices if not name.startswith("embedding")}


def test_row_major_takes_it_back_and_keeps_ties() -> None:
    network = row_major_(column_major_(LanguageModel(11, 4, 4, tied=True)))
    assert all(parameter.is_contiguous() for parameter in network.parameters())
    assert network.decoder.weight is network.embedding.weight


class TestTheDecoderOfALanguageModel:
    def test_lies_column_by_column_and_is_handed_out_row_by_row(self) -> None:
        network = LanguageModel(11, 4, 6)
        assert network.decoder.weight.stride() == (1, 11)
        wrapped = nn.Sequential(network)
        assert all(value.is_contiguous() for value in wrapped.state_dict().values())
        assert wrapped.state_dict(keep_vars=True)["0.decoder.weight"] is network.decoder.weight
        again = LanguageModel(11, 4, 6)
        again.load_state_dict(network.state_dict())
        assert torch.equal(again.decoder.weight, network.decoder.weight)
        assert again.decoder.weight.stride() == (1, 11)

    def test_a_tied_one_is_the_embedding_and_lies_as_that_does(self) -> None:
        assert LanguageModel(11, 4, 4, tied=True).decoder.weight.is_contiguous()

    def test_gradients_and_optimiser_state_lie_as_the_weight_does(self) -> None:
        network = LanguageModel(11, 4, 6)
        optimizer = torch.optim.Adam(network.parameters())
        network(torch.randint(11, (5, 2)))[0].sum().backward()
        optimizer.step()
        weight = network.decoder.weight
        assert weight.grad.stride() == optimizer.state[weight]["exp_avg"].stride() == weight.stride()

    def test_surgery_and_live_removal_keep_the_order(self) -> None:
        network = LanguageModel(11, 4, 6, num_layers=1)
        gates = {"encoder.l0": torch.tensor([1.0, 0.0, 0.5, 1.0, 0.0, 1.0])}
        small = shrink(network, network.wiring, gates, example_inputs=torch.randint(11, (5, 2)))
        assert small.decoder.weight.shape == (11, 4)
        assert small.decoder.weight.stride() == (1, 11)
        gated = L0GatedLSTM(11, 6, 1, objective=Budget(density=0.5))
        blueprint = draw_blueprint(gated.network, gated.wiring)
        resize_(gated.network, blueprint, {"encoder.l0": 3})
        assert gated.network.decoder.weight.stride() == (1, 11)


def test_blocks_of_threads_that_overlap_leave_the_switch_as_it_was() -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN")
    seen: dict[str, bool] = {}
    is_in, may_leave, has_left = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with onednn(False):
            is_in.set()
            may_leave.wait(10)
        has_left.set()

    before = torch.backends.mkldnn.enabled
    thread = threading.Thread(target=first)
    thread.start()
    is_in.wait(10)
    with onednn(False):
        may_leave.set()
        has_left.wait(10)
        seen["inside"] = torch.backends.mkldnn.enabled
    thread.join()
    assert (before, seen["inside"], torch.backends.mkldnn.enabled) == (True, False, True)
