"""Torch's own table of inputs for LSTM, GRU and RNN, with the checks of its module tests, on our layers."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l0rnn import GatedGRU, GatedLSTM, GatedRNN, RaggedRNN

pytest.importorskip("expecttest", reason="torch's table of modules imports it")
common_modules = pytest.importorskip("torch.testing._internal.common_modules")
# importing it forbids to set the flags of backends, for all tests that come after
torch.backends.flags_frozen.__globals__["__allow_nonbracketed_mutation_flag"] = True

GATED: dict[Any, Any] = {nn.LSTM: GatedLSTM, nn.GRU: GatedGRU, nn.RNN: GatedRNN}
Call = tuple[Callable[..., nn.Module], tuple[Any, ...], dict[str, Any]]


def ragged(kind: type, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> RaggedRNN:
    directions = 2 if options.pop("bidirectional", False) else 1
    projection, nonlinearity = options.pop("proj_size", 0), options.pop("nonlinearity", "tanh")
    mode = f"RNN_{nonlinearity.upper()}" if kind is nn.RNN else kind.__name__
    sizes = [[projection] * directions] * num_layers if projection else None
    return RaggedRNN(mode, input_size, [[hidden_size] * directions] * num_layers, proj_sizes=sizes, **options)


def calls(kind: type, is_ragged: bool) -> Iterator[Call]:
    info = next(info for info in common_modules.module_db if info.module_cls is kind)
    for training in (True, False):
        for given in info.module_inputs_func(
            info, device="cpu", dtype=torch.float64, requires_grad=True, training=training
        ):
            positional, named = given.constructor_input.args, dict(given.constructor_input.kwargs)
            named.pop("device", None), named.pop("dtype", None)

            def make(
                args: Any = positional, options: Any = named, is_training: bool = training, **place: Any
            ) -> nn.Module:
                options = {**options, **place}
                made = ragged(kind, *args, **options) if is_ragged else GATED[kind](*args, **options)
                return made.train(is_training)

            inputs = given.forward_input.args
            if is_ragged and len(inputs) > 1 and inputs[1] is not None:  # its state is a tuple, layer by layer
                state = inputs[1]
                inputs = (inputs[0], tuple(map(tuple, state)) if isinstance(state, tuple) else tuple(state))
            yield make, inputs, given.forward_input.kwargs


def flat(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [part for item in value for part in flat(item)]


def outputs(layer: nn.Module, inputs: Any, named: dict[str, Any]) -> list[Tensor]:
    torch.manual_seed(0)
    return flat(layer(*inputs, **named))


@pytest.fixture(params=[(kind, form) for kind in GATED for form in ("gated", "ragged")], ids=str)
def every_call(request: pytest.FixtureRequest) -> list[Call]:
    kind, form = request.param
    found = list(calls(kind, form == "ragged"))
    assert len(found) > 20
    return found


@pytest.mark.filterwarnings("ignore:dropout option adds dropout")
class TestEveryInputOfTorch:
    def test_made_on_no_device_and_filled_afterwards(self, every_call: list[Call]) -> None:
        for make, inputs, named in every_call:
            layer = make(dtype=torch.float64)
            expected = outputs(layer, inputs, named)
            for other in (make(dtype=torch.float64, device="meta"), make(dtype=torch.float64, device="meta")):
                assert all(tensor.is_meta for tensor in (*other.parameters(), *other.buffers()))
            other.load_state_dict(layer.state_dict(), assign=True)
            empty = make(dtype=torch.float64, device="meta").to_empty(device="cpu")
            empty.load_state_dict(layer.state_dict())
            for filled in (other, empty, pickle.loads(pickle.dumps(layer))):
                assert all(map(torch.equal, outputs(filled, inputs, named), expected))

    def test_under_a_device_context_of_no_device(self, every_call: list[Call]) -> None:
        for make, _, _ in every_call:
            with torch.device("meta"):
                layer = make()
            assert all(tensor.is_meta for tensor in (*layer.parameters(), *layer.buffers()))

    def test_gradients_by_functional_calls(self, every_call: list[Call]) -> None:
        for make, inputs, named in every_call:
            layer = make(dtype=torch.float64)
            sum(part.sum() for part in outputs(layer, inputs, named)).backward()

            def loss(weights: Any, layer: Any = layer, inputs: Any = inputs, named: Any = named) -> Any:
                torch.manual_seed(0)
                state = (weights, dict(layer.named_buffers()))
                return sum(part.sum() for part in flat(torch.func.functional_call(layer, state, inputs, named)))

            gradients = torch.func.grad(loss)({name: weight.detach() for name, weight in layer.named_parameters()})
            for name, weight in layer.named_parameters():
                if weight.grad is not None:
                    torch.testing.assert_close(gradients[name], weight.grad)
