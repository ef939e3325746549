"""The loss over a vocabulary is torch's, and so is its gradient."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from l0rnn.language import cross_entropy as module
from l0rnn.language.cross_entropy import cross_entropy

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("cached", [1, 50, 10_000])  # a row at a time, some rows, all rows
@pytest.mark.parametrize("factor", [1.0, -2.5])
def test_loss_and_gradient_are_those_of_torch(
    dtype: torch.dtype, cached: int, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CACHED", cached)
    torch.manual_seed(0)
    values = (torch.randn(7, 20, dtype=torch.float64) * 4).to(dtype)
    targets = torch.randint(20, (7,))
    own, torchs = values.clone().requires_grad_(), values.double().requires_grad_()
    loss, expected = cross_entropy(own, targets), functional.cross_entropy(torchs, targets)
    (loss * factor).backward()
    (expected * factor).backward()
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=tolerance)
    assert own.grad is not None
    assert own.grad.dtype == dtype
    torch.testing.assert_close(own.grad.double(), torchs.grad, rtol=tolerance, atol=tolerance)


def test_the_gradient_can_be_asked_for_twice() -> None:
    logits, targets = torch.randn(3, 5, requires_grad=True), torch.tensor([0, 4, 2])
    loss = cross_entropy(logits, targets)
    (once,) = torch.autograd.grad(loss, logits, retain_graph=True)
    once = once.clone()
    torch.autograd.grad(loss * 3, logits, retain_graph=True)
    assert torch.equal(torch.autograd.grad(loss, logits)[0], once)


def test_elsewhere_it_is_torchs_own() -> None:
    logits, targets = torch.randn(3, 5, requires_grad=True), torch.tensor([0, -100, 2])
    padded = cross_entropy(logits, targets)
    assert torch.equal(padded, functional.cross_entropy(logits, targets))
    (gradient,) = torch.autograd.grad(padded, logits)
    assert not gradient[1].any()
    with torch.no_grad():
        assert cross_entropy(logits, targets.abs() % 5).grad_fn is None


class TestTargetsThatDoNotFit:
    """They were taken for a part of the batch: the loss of some rows was divided by the number of all."""

    @pytest.mark.parametrize("count", [0, 1, 6, 8])
    def test_another_number_than_rows(self, count: int) -> None:
        logits, targets = torch.randn(7, 5, requires_grad=True), torch.zeros(count, dtype=torch.int64)
        with pytest.raises(ValueError, match="to match target"):
            functional.cross_entropy(logits, targets)
        with pytest.raises(ValueError, match="to match target"):
            cross_entropy(logits, targets)

    @pytest.mark.parametrize(
        ("logits", "targets"),
        [
            (torch.randn(2, 5), torch.tensor([0, 5])),  # out of range
            (torch.randn(2, 5), torch.tensor([0, -1])),
            (torch.randn(2, 5), torch.tensor([0.0, 1.0])),
            (torch.randn(2, 5, 3), torch.tensor([0, 1])),
            (torch.randn(2, 5), torch.tensor([[0], [1]])),
        ],
    )
    def test_what_torch_refuses_is_refused(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        with pytest.raises((ValueError, RuntimeError, IndexError)) as torchs:
            functional.cross_entropy(logits, targets)
        with pytest.raises(torchs.type):
            cross_entropy(logits.clone().requires_grad_(), targets)

    @pytest.mark.parametrize(
        ("logits", "targets"),
        [
            (torch.randn(5), torch.tensor(2)),
            (torch.randn(2, 5, 3), torch.randint(5, (2, 3))),
            (torch.randn(2, 5), torch.randn(2, 5).softmax(1)),
            (torch.randn(0, 5), torch.zeros(0, dtype=torch.int64)),
            (torch.randn(2, 5), torch.tensor([0, 4], dtype=torch.uint8)),
        ],
    )
    def test_other_forms_are_torchs(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        own = cross_entropy(logits.clone().requires_grad_(), targets)
        torch.testing.assert_close(own.detach(), functional.cross_entropy(logits, targets), equal_nan=True)

    @pytest.mark.parametrize("targets", [torch.zeros(3, 2), torch.zeros(2, 5), torch.zeros(10)])
    def test_next_words_of_another_shape(self, targets: torch.Tensor) -> None:
        from l0rnn.language.distillation import DistilledLoss
        from l0rnn.language.language_model import LanguageModel, next_word_loss

        network, tokens = LanguageModel(7, 3, 3), torch.zeros(5, 2, dtype=torch.int64)
        for loss in (next_word_loss, DistilledLoss(LanguageModel(7, 3, 3))):
            with pytest.raises(ValueError, match=r"tokens and next tokens of one shape .* got \(5, 2\) and"):
                loss(network, (tokens, targets.long()), None)
