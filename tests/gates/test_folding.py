"""Folding gates into weights: values and gradients are those of a plain product."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from l0rnn.gates import folding
from l0rnn.gates.folding import as_one_block, fold, fold_into_one_block
from tests.strategies import holds_for


def cut_gates(columns: int, generator: torch.Generator) -> Tensor:
    """Numbers that have been cut off to [0, 1], as gates are, with the ones before the cut as the leaf."""
    return (torch.rand(columns, generator=generator, dtype=torch.float64) * 2 - 0.5).requires_grad_()


def gradients(result: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    weights = torch.linspace(0.5, 2, result.numel(), dtype=result.dtype).view_as(result)
    return list(torch.autograd.grad((result * weights).sum(), leaves, retain_graph=True))


@holds_for(st.lists(st.integers(1, 8), min_size=2, max_size=4), st.sampled_from([0.0, 0.5, 1.0]), few=30)
def test_fold_is_the_product_and_so_are_its_gradients(shape: list[int], few: float) -> None:
    generator = torch.Generator().manual_seed(sum(shape))
    weight = torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
    before = cut_gates(shape[-1], generator)
    gates = before.clamp(0, 1)
    with mock.patch.object(folding, "FEW", few):
        folded, product = fold(weight, gates), weight * gates
        torch.testing.assert_close(folded, product, rtol=0, atol=0)
        torch.testing.assert_close(gradients(folded, [weight, before]), gradients(product, [weight, before]))


def test_open_gates_leave_the_weight_as_it_is_and_all_its_gradient() -> None:
    weight, before = torch.randn(3, 4, requires_grad=True), torch.full((4,), 2.0, requires_grad=True)
    folded = fold(weight, before.clamp(0, 1))
    assert folded.data_ptr() == weight.data_ptr()  # nothing was computed
    of_weight, of_gates = torch.autograd.grad(folded.sum(), [weight, before])
    assert bool((of_weight == 1).all())
    assert not bool(of_gates.any())


def test_what_needs_no_gradient_gets_none() -> None:
    weight, gates = torch.randn(3, 4), torch.rand(4)
    assert not fold(weight, gates).requires_grad
    fold(weight.requires_grad_(), gates).sum().backward()
    assert gates.grad is None
    weight = weight.detach()
    fold(weight, gates.requires_grad_()).sum().backward()
    assert weight.grad is None
    torch.testing.assert_close(gates.grad, weight.sum(0))


@pytest.mark.parametrize("seed", range(3))
def test_one_block_holds_the_products_matrices_first(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(6, 3), (6, 2), (6,), (6,), (6, 2), (6, 2), (6,), (6,)]
    weights = [torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    leaves = [cut_gates(shape[-1], generator) if len(shape) == 2 and seed % 3 != i % 3 else None
              for i, shape in enumerate(shapes)]  # fmt: skip
    gates = [None if leaf is None else leaf.clamp(0, 1) for leaf in leaves]
    folded = fold_into_one_block(weights, gates)
    expected = [weight if gate is None else weight * gate for weight, gate in zip(weights, gates, strict=True)]
    assert [tuple(part.shape) for part in folded] == shapes
    torch.testing.assert_close(folded, expected, rtol=0, atol=0)
    assert len({part.untyped_storage().data_ptr() for part in folded}) == 1
    starts = [folded[place].storage_offset() for place in (0, 1, 4, 5, 2, 3, 6, 7)]
    assert starts == sorted(starts)
    assert starts[0] == 0
    inputs = [*weights, *(leaf for leaf in leaves if leaf is not None)]
    found, wanted = (torch.cat([part.flatten() for part in parts]) for parts in (folded, expected))
    torch.testing.assert_close(gradients(found, inputs), gradients(wanted, inputs))


def test_on_a_cpu_nothing_is_moved() -> None:
    weights = [torch.randn(2, 2), torch.randn(2)]
    assert as_one_block(weights) is weights


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kernel", [torch.lstm, torch.gru])
def test_cudnn_takes_the_block_as_it_is(kernel: object) -> None:
    """Warnings are errors here, and cuDNN warns when it has to copy."""
    rows = {torch.lstm: 12, torch.gru: 9}[kernel]  # type: ignore[index]
    weights = [torch.randn(rows, 3, device="cuda"), torch.randn(rows, 3, device="cuda")]
    weights += [torch.randn(rows, device="cuda") for _ in range(2)]
    data, h = torch.randn(4, 2, 3, device="cuda"), torch.randn(1, 2, 3, device="cuda")
    state = (h, h) if kernel is torch.lstm else h
    found = kernel(data, state, as_one_block(weights), True, 1, 0.0, True, False, False)[0]  # type: ignore[operator]
    on_cpu = [weight.cpu() for weight in weights]
    state = (h.cpu(), h.cpu()) if kernel is torch.lstm else h.cpu()
    expected = kernel(data.cpu(), state, on_cpu, True, 1, 0.0, True, False, False)[0]  # type: ignore[operator]
    torch.testing.assert_close(found.cpu(), expected, atol=2e-3, rtol=2e-3)  # TF32
