"""What an evaluation's mean is over, and a batch that cannot go on from the one before it."""

from __future__ import annotations

import resource
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from l0rnn import L0GatedGRU, L0GatedLSTM, PrunableModule
from l0rnn.training.evaluation import Evaluation, MeanLoss
from tests.cases.situations import make, segments, trainer


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.rnn(x)[0]).flatten(0, 1)


def padded() -> tuple[Tagger, list[Any], float]:
    """A network, batches padded with -100, and the mean loss over all targets."""
    torch.manual_seed(0)
    easy, hard = torch.zeros(4, 9, dtype=torch.long), torch.full((4, 9), -100)
    hard[0], hard[1:, 0] = 2, 2  # one whole sequence and three of one word
    batches = [(torch.randn(4, 9, 4), easy), (torch.randn(4, 9, 4), hard)]
    net = Tagger()
    net.head.bias.data.copy_(torch.tensor([2.0, 0.0, -2.0]))
    outputs, targets = (torch.cat(parts) for parts in ([net(x) for x, _ in batches], [y.flatten() for _, y in batches]))
    return net, batches, nn.functional.cross_entropy(outputs, targets).item()


def validated(net: nn.Module, batches: list[Any], loss: Any) -> float:
    data = DataLoader(batches, batch_size=None)
    return trainer().validate(PrunableModule(net, loss), data, verbose=False)[0]["valid/loss"]


def cross_entropy(net: nn.Module, batch: Any) -> Any:
    return nn.functional.cross_entropy(net(batch[0]), batch[1].flatten())


class TestPadding:
    def test_targets_that_are_left_out_do_not_count(self) -> None:
        net, batches, true = padded()
        assert abs(validated(net, batches, cross_entropy) - true) < 1e-5, "batches count by what their loss is over"

    def test_a_batch_of_nothing_but_padding(self) -> None:
        net, batches, true = padded()
        batches.append((batches[0][0], torch.full((4, 9), -100)))
        assert abs(validated(net, batches, cross_entropy) - true) < 1e-5

    @pytest.mark.parametrize("as_tensor", [True, False])
    def test_a_mask_in_a_third_tensor(self, as_tensor: bool) -> None:
        net, batches, true = padded()
        masked = [(x, y.clamp(min=0), y != -100) for x, y in batches]

        def loss(net: nn.Module, batch: Any) -> Any:
            x, y, mask = batch
            each = nn.functional.cross_entropy(net(x), y.flatten(), reduction="none")
            count = mask.sum()
            return (each * mask.flatten()).sum() / count, count if as_tensor else int(count)

        assert abs(validated(net, masked, loss) - true) < 1e-5

    def test_a_dict(self) -> None:
        net, batches, true = padded()

        def loss(net: nn.Module, batch: Any) -> Any:
            return cross_entropy(net, (batch["x"], batch["y"])), (batch["y"] != -100).sum()

        assert abs(validated(net, [{"x": x, "y": y} for x, y in batches], loss) - true) < 1e-5

    def test_a_count_beside_a_state(self) -> None:
        def loss(net: Any, batch: Any, state: Any) -> Any:
            return net(batch[0]).square().mean(), None, 7

        module = make(loss=loss, carries_state=True)
        data = segments()
        trainer(max_steps=1).fit(module, data, data)

    def test_numbers_that_are_no_ids_all_count(self) -> None:
        network = Tagger()
        batches = [(torch.randn(4, 9, 4), torch.full((36, 3), -100.0)), (torch.randn(4, 9, 4), torch.zeros(36, 3))]

        def loss(net: nn.Module, batch: Any) -> Any:
            return (net(batch[0]) - batch[1]).square().mean()

        with torch.no_grad():
            expected = sum(float(loss(network, batch)) for batch in batches) / 2
        assert validated(network, batches, loss) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("carries_state", "returned", "message"),
    [
        (False, "text", "must return a mean loss, .* got str"),
        (False, torch.zeros(3), r"first a Tensor of shape \(3,\)"),
        (False, (torch.zeros(()), 1, 2), "got tuple of 3"),
        (True, torch.zeros(()), r"must return \(mean loss, state\)"),
        (True, (1.0, None), "first a float"),
    ],
)
def test_a_loss_that_returns_something_else(carries_state: bool, returned: Any, message: str) -> None:
    module = make(loss=lambda *_: returned, carries_state=carries_state)
    with pytest.raises(ValueError, match=message):
        trainer(max_steps=1).fit(module, segments())


class TestLastBatch:
    @pytest.mark.parametrize("model", [L0GatedLSTM, L0GatedGRU])
    def test_a_smaller_one(self, model: Any) -> None:
        batches = [(torch.randint(20, (6, n)), torch.randint(20, (6, n))) for n in (4, 4, 3)]
        with pytest.raises(ValueError, match=r"state is of 4 sequences and the batch of 3.*drop_last.*carries_state"):
            trainer(max_epochs=1).fit(model(20, 8, 1, dropout=0.0), DataLoader(batches, batch_size=None))

    def test_in_an_evaluation(self) -> None:
        batches = [(torch.randint(20, (6, n)), torch.randint(20, (6, n))) for n in (4, 3)]
        with pytest.raises(ValueError, match="state is of 4 sequences and the batch of 3"):
            trainer().validate(L0GatedLSTM(20, 8, 1, dropout=0.0), DataLoader(batches, batch_size=None))

    def test_one_that_is_shorter_goes_on(self) -> None:
        batches = [(torch.randint(20, (n, 4)), torch.randint(20, (n, 4))) for n in (6, 6, 2)]
        data = DataLoader(batches, batch_size=None)
        trainer(max_epochs=2).fit(L0GatedLSTM(20, 8, 1, dropout=0.0), data, data)

    def test_another_error_of_the_loss_is_its_own(self) -> None:
        def loss(net: Any, batch: Any, state: Any) -> Any:
            if state is not None:
                raise RuntimeError("something else")
            return net(batch[0]).square().mean(), torch.zeros(1)

        with pytest.raises(RuntimeError, match="something else"):
            trainer(max_steps=2).fit(make(loss=loss, carries_state=True), segments())


class TestMeanLoss:
    def test_a_long_evaluation_is_as_exact_as_in_double_precision(self) -> None:
        torch.manual_seed(0)
        losses = torch.rand(20_000) * 10
        mean = MeanLoss()
        for loss in losses:
            mean.add(loss, 700)
        assert mean.value().item() == pytest.approx(losses.double().mean().item(), rel=1e-7)

    def test_nothing_is_nan(self) -> None:
        assert MeanLoss().value().isnan()
        assert Evaluation().means() == {}

    def test_a_nan_among_the_losses_is_seen(self) -> None:
        mean = MeanLoss()
        for loss in (1.0, float("nan"), 2.0):
            mean.add(torch.tensor(loss), 1)
        assert mean.value().isnan()

    def test_memory_does_not_grow_with_the_batches(self) -> None:
        """Logits of 64 MB, of which an allocator kept one batch per small tensor that lay behind it."""

        def loss(net: Any, batch: Any) -> Any:
            logits = torch.randn(16 * 2**20)
            return logits.square().mean() + 0 * net.head.bias.sum()

        module = make(loss=loss)
        data = DataLoader([torch.zeros(1)] * 40, batch_size=None)
        trainer(limit_val_batches=5).validate(module, data, verbose=False)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        trainer().validate(module, data, verbose=False)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB
