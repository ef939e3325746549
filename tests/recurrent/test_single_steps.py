"""The way round oneDNN gives the same outputs, is taken only where nobody can notice, and yields to who asks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from l0rnn.extras import quiet_exporters
from l0rnn.language.language_model import LanguageModel
from l0rnn.recurrent import ragged_rnn
from l0rnn.recurrent import single_steps as module
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.recurrent.single_steps import (
    MOST_SEQUENCES,
    MOST_STEPS,
    is_for_cells,
    is_plain,
    onednn,
    run_recurrent,
)
from tests.networks import WordTagger

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
def test_networks_take_the_way_and_stream_to_the_same_outputs(
    name: str, cells: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, inputs = networks()[name]
    network.eval()
    time = 1 if name.endswith("batch first") else 0
    with torch.no_grad():
        with monkeypatch.context() as patch:
            patch.setattr(module, "MOST_STEPS", 0)
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
