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
