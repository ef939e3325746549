"""Devices that are not a CPU: one without float64, simulated, and the meta device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from l0rnn import Budget, GatedGRU, GatedLSTM, L0GatedLSTM, Penalty
from l0rnn.gates import Gates
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.surgery.proof import compare


class WithoutFloat64(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        return result


OBJECTIVES: list[Any] = [
    lambda: Budget(density=0.5),
    lambda: Budget(density=0.5, parameters=500),
    lambda: Penalty(0.1),
]


class TestWithoutFloat64:
    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_nothing_on_the_device_is_float64_unless_the_network_is(self, objective: Any) -> None:
        model = L0GatedLSTM(20, 8, 1, objective=objective(), dropout=0.0)
        tokens, failed = torch.randint(20, (5, 2)), {}
        model.on_validation_epoch_start()
        steps = {
            "module.to(device)": lambda: model._apply(torch.clone),
            "validation_step": lambda: model.validation_step((tokens, tokens), 0),
            "shrink's comparison": lambda: compare(model.network, model.network, (tokens,)),
        }
        for name, run in steps.items():
            try:
                with WithoutFloat64():
                    run()
            except TypeError as error:
                failed[name] = str(error)[:50]
        assert not failed, "nothing on the device is float64 unless the network is"
        assert not [name for name, tensor in model.state_dict().items() if tensor.dtype == torch.float64]

    def test_a_training_step_once_it_is_there(self) -> None:
        model = L0GatedLSTM(20, 8, 1, objective=Budget(density=0.5), dropout=0.0)
        method: Any = model.method
        method.expected_cost()  # the constants of the cost come from the CPU
        with WithoutFloat64():
            model._apply(torch.clone)
            method.begin(10)
            for step in range(1, 5):
                method.penalty().backward()
                method.after_step(step)
        assert method.objective.price.dtype == torch.float32

    def test_a_double_price_of_a_checkpoint_loads(self) -> None:
        saved = Budget(density=0.5)
        saved.price.fill_(0.25)
        model = Budget(density=0.5)
        with WithoutFloat64():
            model._apply(torch.clone)
        model.load_state_dict(saved.state_dict())
        assert (model.price.item(), model.price.dtype) == (0.25, torch.float32)


def test_differences_are_as_exact_as_the_network() -> None:
    class Fixed(nn.Module):
        def __init__(self, output: torch.Tensor) -> None:
            super().__init__()
            self.output = output

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.output

    for dtype, step in ((torch.float64, 1e-12), (torch.float32, 1e-6), (torch.float16, 1e-3)):
        a = torch.ones(3, dtype=dtype)
        difference, _ = compare(Fixed(a), Fixed(a + step), (torch.zeros(1),))
        assert difference == pytest.approx(step, rel=0.2)
    assert compare(Fixed(torch.tensor([2**60])), Fixed(torch.tensor([2**60 + 1])), (torch.zeros(1),))[0] == 1
    assert compare(Fixed(torch.tensor([True])), Fixed(torch.tensor([False])), (torch.zeros(1),))[0] == 1


class TestMeta:
    @pytest.mark.parametrize(
        "make",
        [
            lambda: Gates(5),
            lambda: GatedLSTM(3, 5),
            lambda: GatedGRU(3, 5, gates="hidden"),
            lambda: RaggedRNN("GRU", 3, [[4], [5]]),
        ],
    )
    def test_all_is_made_there(self, make: Any) -> None:
        with torch.device("meta"):
            module = make()
        assert {parameter.device.type for parameter in module.parameters()} == {"meta"}
        assert [parameter.shape for parameter in module.parameters()] == [p.shape for p in make().parameters()]

    def test_a_network_without_weights_is_told_that_its_units_cannot_be_found(self) -> None:
        with torch.device("meta"), pytest.raises(ValueError, match="`network` must have its weights, .* meta device"):
            L0GatedLSTM(20, 6, 1, objective=Budget(density=0.5))
        torch.set_default_device("meta")
        try:
            with pytest.raises(ValueError, match="make it on the CPU, or load its weights first"):
                L0GatedLSTM(20, 6, 1, objective=Budget(density=0.5))
        finally:
            torch.set_default_device(None)

    def test_gates_start_where_they_do_elsewhere(self) -> None:
        with torch.device("meta"):
            gates = Gates(5, open_probability=0.3)
        gates.to_empty(device="cpu").load_state_dict(Gates(5, open_probability=0.3).state_dict())
        assert gates.open_probability().detach() == pytest.approx(torch.full((5,), 0.3), abs=1e-6)
