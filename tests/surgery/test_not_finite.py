"""No comparison of the library is passed by what is not finite: weights, outputs, tolerances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from l0rnn import Budget, Dense, L0Gates, PrunableModule, shrink
from l0rnn.bench.runtimes import CannotRunError, _check_outputs
from l0rnn.export import save_dense
from l0rnn.export.check import check_export
from l0rnn.export.streaming import TorchStreamer
from l0rnn.language.language_model import LanguageModel
from l0rnn.models.generation import generate
from l0rnn.sparse import sparse_form
from l0rnn.surgery.proof import NotComparableError, compare
from tests.cases.situations import Net, make, segments, trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*no `val_dataloader`")

NOT_FINITE = [float("nan"), float("inf"), -float("inf")]


class TestWeights:
    @pytest.mark.parametrize("value", NOT_FINITE)
    @pytest.mark.parametrize("name", ["rnn.weight_hh_l0", "rnn.bias_ih_l0", "head.weight", "head.bias"])
    def test_shrink_names_the_parameter(self, name: str, value: float) -> None:
        network = Net()
        network.get_parameter(name).data.flatten()[-1] = value
        with pytest.raises(ValueError, match=f"finite weights, but '{name}' holds NaN or infinity"):
            shrink(network, {"rnn.l0": torch.ones(16)}, example_inputs=torch.randn(5, 2, 4))

    def test_a_training_whose_last_step_diverged(self) -> None:
        module = make(L0Gates(Budget(density=0.5)))
        trainer(max_epochs=1).fit(module, segments())
        module.network.rnn.weight_hh_l0.data[0, 0] = torch.nan
        with pytest.raises(ValueError, match="finite weights, but 'rnn.weight_hh_l0' holds NaN"):
            shrink(module)

    def test_an_infinite_mask_of_the_users_own_is_let_be(self) -> None:
        class Masked(Net):
            def __init__(self) -> None:
                super().__init__()
                self.mask = nn.Parameter(torch.tensor([0.0, -torch.inf]), requires_grad=False)

            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x) + self.mask

        small = shrink(Masked(), {"rnn.l0": (torch.arange(16) < 3).float()}, example_inputs=torch.randn(5, 2, 4))
        assert small.rnn.hidden_size == 3

    @pytest.mark.parametrize("value", NOT_FINITE)
    def test_they_are_not_saved(self, value: float, tmp_path: object) -> None:
        network = LanguageModel(7, 3, 3)
        network.decoder.bias.data[1] = value
        with pytest.raises(ValueError, match="holds 'decoder.bias' with NaN or infinite values"):
            save_dense(network, f"{tmp_path}/model")

    def test_a_model_that_gives_nan_does_not_write(self) -> None:
        network = LanguageModel(7, 3, 3)
        network.decoder.bias.data[1] = torch.nan
        with pytest.raises(ValueError, match="the model gives NaN or infinite logits"):
            list(generate(TorchStreamer(network), 3))


class TestTolerances:
    @pytest.mark.parametrize("tolerance", [float("nan"), float("inf"), -1.0, -float("inf")])
    def test_one_that_is_no_number_from_0_on(self, tolerance: float) -> None:
        options = {"gates": {"rnn.l0": torch.ones(16)}, "example_inputs": torch.randn(5, 2, 4), "tolerance": tolerance}
        with pytest.raises(ValueError, match="`tolerance` must be (a )?finite"):
            shrink(Net(), **options)

    def test_of_the_sparse_form(self) -> None:
        network = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50)).requires_grad_(False)
        network[1].weight[8:] = 0
        with pytest.raises(ValueError, match="`tolerance` must be (a )?finite"):
            sparse_form(network, layout="csr", example_inputs=torch.arange(50), tolerance=float("nan"))


class Filled(nn.Module):
    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = torch.tensor(values)

    def forward(self, x: Tensor) -> Tensor:
        return self.values


class TestOutputs:
    @pytest.mark.parametrize("values", [(torch.nan, torch.nan), (1.0, torch.nan)])
    def test_nan_is_equal_to_nothing(self, values: tuple[float, ...]) -> None:
        with pytest.raises(ValueError, match="`network` gives NaN on `example_inputs`"):
            compare(Filled(*values), Filled(*values), (torch.zeros(1),), 1.0)

    def test_infinite_outputs_alone_prove_nothing(self) -> None:
        with pytest.raises(ValueError, match="gives infinite outputs alone"):
            compare(Filled(torch.inf, -torch.inf), Filled(torch.inf, -torch.inf), (torch.zeros(1),), 1.0)

    def test_nor_is_one_that_the_smaller_network_gives(self) -> None:
        with pytest.raises(NotComparableError, match="the shrunken network is NaN"):
            compare(Filled(1.0, -torch.inf), Filled(1.0, torch.nan), (torch.zeros(1),))

    @pytest.mark.parametrize("other", [0.0, torch.inf])
    def test_an_infinite_one_allows_no_difference(self, other: float) -> None:
        difference, allowed = compare(Filled(1.0, -torch.inf), Filled(1.0, other), (torch.zeros(1),))
        assert not difference <= allowed

    def test_inputs_that_are_nan(self) -> None:
        inputs = torch.full((5, 2, 4), torch.nan)
        with pytest.raises(ValueError, match="gives NaN on `example_inputs`"):
            shrink(Net(), {"rnn.l0": torch.ones(16)}, example_inputs=inputs)

    @pytest.mark.parametrize("value", NOT_FINITE)
    def test_of_an_export(self, value: float) -> None:
        network = LanguageModel(7, 3, 3)
        network.decoder.bias.data[1] = value
        finite = LanguageModel(7, 3, 3)
        finite.load_state_dict({**network.state_dict(), "decoder.bias": torch.zeros(7)})
        for reference, exported in ((network, finite), (finite, network)):
            with pytest.raises(RuntimeError, match="differs from the network by"):
                check_export(TorchStreamer(reference), TorchStreamer(exported))

    @pytest.mark.parametrize("value", NOT_FINITE)
    def test_of_another_runtime(self, value: float) -> None:
        expected = torch.tensor([1.0, value])
        for got in ([1.0, 0.0], [2.0, value], [1.0, -value]):
            with pytest.raises(CannotRunError, match="differ from torch's"):
                _check_outputs([expected], [np.array(got)])


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    class Broken(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * torch.inf

    module = PrunableModule(Broken(), lambda net, batch: net(batch[0]).mean(), Dense())
    with pytest.raises(FloatingPointError, match="the loss became"):
        trainer(max_epochs=1).fit(module, segments())
