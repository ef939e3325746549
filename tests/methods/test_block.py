"""Pruning of blocks: tiles with edges against loops, thresholds of blocks, group lasso, masks that stay."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from l0rnn.cost.schedule import cubic_density
from l0rnn.export import save_dense
from l0rnn.language.language_model import LanguageModel
from l0rnn.methods.block import (
    BlockGroupLasso,
    BlockPruning,
    block_magnitudes,
    block_norms,
    block_sizes,
    expand_blocks,
)
from l0rnn.methods.magnitude import GradualMagnitude
from l0rnn.methods.masks import MaskMethod
from l0rnn.sparse.matrix import beta_warnings_ignored
from l0rnn.training.settings import from_settings, settings_of
from tests.methods.loops import traced
from tests.networks import CELLS, TiedLanguageModel, WordTagger

METHODS: dict[str, type] = {"BlockPruning": BlockPruning, "BlockGroupLasso": BlockGroupLasso}


def blocks_of(shape: tuple[int, ...], block: tuple[int, int]) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Block → the places of its weights, by a loop over all weights."""
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for row, column in itertools.product(range(shape[0]), range(shape[1])):
        found.setdefault((row // block[0], column // block[1]), []).append((row, column))
    return found


def pair(block: Any) -> tuple[int, int]:
    return (block, block) if isinstance(block, int) else tuple(block)


# ---------------------------------------------------------------------------------------------------------------------
# the functions

SHAPES = [((8, 8), (4, 4)), ((9, 7), (4, 4)), ((5, 6), (1, 4)), ((7, 3), (7, 2)), ((6, 11), (5, 11)), ((3, 4), (1, 1))]


@pytest.mark.parametrize(("shape", "block"), SHAPES)
def test_blocks_against_a_loop(shape: tuple[int, int], block: tuple[int, int]) -> None:
    weight = torch.randn(shape, dtype=torch.float64)
    blocks = blocks_of(shape, block)
    rows, columns = 1 + max(row for row, _ in blocks), 1 + max(column for _, column in blocks)
    largest, norms, sizes = (
        block_magnitudes(weight, block),
        block_norms(weight, block, 0.01),
        block_sizes(weight, block),
    )
    assert largest.shape == norms.shape == sizes.shape == (rows, columns)
    for place, weights in blocks.items():
        values = [float(weight[inside]) for inside in weights]
        assert float(largest[place]) == max(abs(value) for value in values)
        assert float(norms[place]) == pytest.approx(math.sqrt(sum(value**2 for value in values) + 0.01), rel=1e-12)
        assert int(sizes[place]) == len(values)
    mask = torch.rand(rows, columns) < 0.5
    wide = expand_blocks(mask, shape, block)
    assert wide.shape == shape
    assert all(bool(wide[inside]) == bool(mask[place]) for place, weights in blocks.items() for inside in weights)


def test_blocks_are_those_of_bsr() -> None:
    weight = torch.zeros(8, 12)
    mask = torch.tensor([[True, False, True], [False, True, False]])
    weight[expand_blocks(mask, (8, 12), (4, 4))] = 1.0
    with beta_warnings_ignored():  # torch says once per process that its sparse layouts are in beta
        sparse = weight.to_sparse_bsr((4, 4))
    assert sparse.values().shape == (3, 4, 4)
    assert sparse.col_indices().tolist() == [0, 2, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_gradient_of_a_norm_is_finite_at_zero(dtype: torch.dtype) -> None:
    weight = torch.zeros(5, 7, dtype=dtype)
    weight[0, 0] = 3.0
    weight.requires_grad_()
    norms = block_norms(weight, (2, 2))
    (slope,) = torch.autograd.grad(norms.sum(), weight)
    assert float(norms.detach()[0, 0]) == pytest.approx(3.0)
    assert float(slope[0, 0]) == pytest.approx(1.0)
    assert float(slope.abs().sum()) == pytest.approx(1.0)
    assert norms.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


# ---------------------------------------------------------------------------------------------------------------------
# block pruning


def attached(method: Any, network: Any) -> Any:
    method.attach(network, traced(network))
    return method


def set_weights_at_random(method: MaskMethod) -> None:
    for parameter in method.targets().values():
        parameter.data.copy_(torch.randn_like(parameter))


def masks_of(method: MaskMethod) -> dict[str, Tensor]:
    return {name: mask.clone() for name, mask in method.masks().items()}


def whole_blocks(mask: Tensor, block: tuple[int, int]) -> dict[tuple[int, int], int]:
    """Kept block → number of its weights; every block is kept or pruned as a whole."""
    kept = {}
    for place, weights in blocks_of(tuple(mask.shape), block).items():
        (is_kept,) = {bool(mask[inside]) for inside in weights}
        if is_kept:
            kept[place] = len(weights)
    return kept


@pytest.mark.parametrize(("block", "factor"), [(1, 1.0), (4, 2.0), (16, 4.0), ((2, 8), 2.0), ((1, 16), 2.0)])
def test_the_threshold_of_a_block_is_that_of_a_weight_times_the_fourth_root_of_its_size(
    block: Any, factor: float
) -> None:
    options: dict[str, Any] = {"schedule": "two_slope", "q": {"weight_hh": 0.1, "weight": 0.3}}
    options |= {"start": 0.1, "ramp": 0.2, "end": 0.4, "ramp_slope": 1.7}
    single = attached(GradualMagnitude(**options), LanguageModel(50, 16, 16))
    method = attached(BlockPruning(block=block, **options), LanguageModel(50, 16, 16))
    single.begin(1000)
    method.begin(1000)
    for progress in (0.15, 0.3, 0.4, 0.9):
        expected = {name: pytest.approx(factor * value) for name, value in single.thresholds(progress).items()}
        assert method.thresholds(progress) == expected
        assert len(expected) == 3


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("block", [(3, 2), 4])
def test_two_slopes_prune_the_blocks_below_the_threshold(cell: str, block: Any) -> None:
    network = WordTagger(cell, num_layers=2, bidirectional=True)
    method = attached(BlockPruning(block=block, schedule="two_slope", q=0.9, frequency=3, start=0.1), network)
    method.begin(30)
    expected = masks_of(method)
    for step in range(1, 31):
        set_weights_at_random(method)
        if step in (3, 6, 9, 12):  # from 0.1 to 0.4 of the training
            thresholds = method.thresholds(step / 30)
            for name, weight in method.targets().items():
                for weights in blocks_of(tuple(weight.shape), pair(block)).values():
                    if max(abs(float(weight[inside].detach())) for inside in weights) < thresholds[name]:
                        for inside in weights:
                            expected[name][inside] = False
        method.after_step(step)
        assert all(torch.equal(mask, expected[name]) for name, mask in method.masks().items())
    assert 0 < method.kept_fraction() < 1


@pytest.mark.parametrize("network", [lambda: LanguageModel(50, 16, 16), lambda: LanguageModel(50, 16, 16, tied=True)])
@pytest.mark.parametrize("block", [5, (4, 8), 1])
@pytest.mark.parametrize("scope", ["matrix", "network"])
def test_the_density_is_reached_within_a_block_and_blocks_only_go(network: Any, block: Any, scope: Any) -> None:
    method = attached(BlockPruning(0.3, block=block, start=0.0, end=0.8, frequency=2, scope=scope), network())
    method.begin(10)
    before = masks_of(method)
    for step in range(1, 11):
        set_weights_at_random(method)
        scores = {name: block_magnitudes(w.detach(), pair(block)).clone() for name, w in method.targets().items()}
        method.after_step(step)
        masks = masks_of(method)
        assert not any(bool((masks[name] & ~before[name]).any()) for name in masks)
        kept = {name: whole_blocks(mask, pair(block)) for name, mask in masks.items()}
        for names in [list(masks)] if scope == "network" else [[name] for name in masks]:
            gone = [
                float(scores[name][place])
                for name in names
                for place in whole_blocks(before[name], pair(block))
                if place not in kept[name]
            ]
            stays = min(float(scores[name][place]) for name in names for place in kept[name])
            assert stays >= max(gone, default=0.0)
            weights = sum(sum(kept[name].values()) for name in names)
            limit = sum(masks[name].numel() for name in names) * cubic_density(step / 10, 0.0, 0.8, 0.3)
            if step in (1, 3, 5, 7, 8, 10):  # 8 is the end
                assert limit - pair(block)[0] * pair(block)[1] < weights <= limit + 1e-6
        before = masks
    assert all(bool((method.targets()[name][~mask] == 0).all()) for name, mask in method.masks().items())
    assert 0.2 < method.kept_fraction() <= 0.3


def test_at_least_one_block_of_each_matrix_stays() -> None:
    method = attached(BlockPruning(1e-6, start=0.0, end=0.0), LanguageModel(50, 16, 16))
    method.begin(1)
    method.after_step(1)
    assert [len(whole_blocks(mask, (16, 16))) for mask in method.masks().values()] == [1] * 5


def test_thresholds_of_blocks_from_a_dense_model(tmp_path: Path) -> None:
    dense = LanguageModel(50, 16, 16, tied=True)
    path = str(save_dense(dense, tmp_path / "dense"))
    arguments: dict[str, Any] = {"density": 0.1, "schedule": "two_slope", "dense": path, "end": 1.0}
    method = attached(BlockPruning(block=4, **arguments), LanguageModel(50, 16, 16, tied=True))
    single = attached(GradualMagnitude(**arguments), LanguageModel(50, 16, 16, tied=True))
    assert method.q == single.q
    assert method.thresholds(1.0)["embedding.weight"] == pytest.approx(2 * method.q["embedding.weight"])
    assert settings_of(method)["dense"] is None


# ---------------------------------------------------------------------------------------------------------------------
# group lasso


def slow_lasso(method: MaskMethod, block: tuple[int, int]) -> float:
    norms = 0.0
    for weight in method.targets().values():
        for weights in blocks_of(tuple(weight.shape), block).values():
            norms += math.sqrt(sum(float(weight[inside].detach()) ** 2 for inside in weights) + 1e-8)
    return norms


@pytest.mark.parametrize("block", [4, (5, 3)])
@pytest.mark.parametrize("network", [lambda: WordTagger("GRU", bidirectional=True), TiedLanguageModel])
def test_the_penalty_is_the_sum_of_the_norms_of_all_blocks(block: Any, network: Any) -> None:
    pruning = attached(BlockPruning(0.5, block=block, group_lasso=0.01), network())
    lasso = attached(BlockGroupLasso(0.02, block=block, density=0.5), network())
    assert pruning.penalty().item() == pytest.approx(0.01 * slow_lasso(pruning, pair(block)), rel=1e-5)
    assert lasso.penalty().item() == pytest.approx(0.02 * slow_lasso(lasso, pair(block)), rel=1e-5)


def test_the_penalty_pulls_at_weights_and_not_at_zeros() -> None:
    network = LanguageModel(50, 16, 16)
    method = attached(BlockGroupLasso(0.5, block=8, threshold=0.1), network)
    with torch.no_grad():
        network.decoder.weight.zero_()
        network.decoder.weight[3, 3] = -2.0
    method.penalty().backward()
    assert all(bool(torch.isfinite(weight.grad).all()) for weight in method.targets().values())
    expected = torch.zeros(50, 16)
    expected[3, 3] = -0.5
    torch.testing.assert_close(network.decoder.weight.grad, expected)
    assert network.embedding.weight.grad is None
    assert network.decoder.bias.grad is None


def test_the_penalty_is_dropped_once_pruning_has_ended() -> None:
    options: dict[str, Any] = {"block": 4, "end": 0.5}
    pruning = attached(BlockPruning(0.5, group_lasso=0.01, **options), LanguageModel(50, 16, 16))
    lasso = attached(BlockGroupLasso(0.01, density=0.5, **options), LanguageModel(50, 16, 16))
    for method in (pruning, lasso):
        method.begin(10)
        for step in range(1, 11):
            assert (float(method.penalty().detach()) > 0) == (step <= 5)
            method.after_step(step)
    assert not attached(BlockPruning(0.5), LanguageModel(50, 16, 16)).penalty().requires_grad


@pytest.mark.parametrize("scope", ["matrix", "network"])
def test_the_blocks_of_least_norm_go_at_the_end(scope: Any) -> None:
    method = attached(BlockGroupLasso(0.01, block=(5, 4), density=0.4, scope=scope, end=0.6), LanguageModel(50, 16, 16))
    method.begin(10)
    for step in range(1, 6):
        set_weights_at_random(method)
        method.after_step(step)
        assert method.kept_fraction() == 1.0
    set_weights_at_random(method)
    norms = {name: block_norms(w.detach(), (5, 4)) for name, w in method.targets().items()}
    method.after_step(6)
    masks = masks_of(method)
    kept = {name: whole_blocks(mask, (5, 4)) for name, mask in masks.items()}
    for names in [list(masks)] if scope == "network" else [[name] for name in masks]:
        stay = [float(norms[name][place]) for name in names for place in kept[name]]
        go = [
            float(norms[name][place])
            for name in names
            for place in blocks_of(tuple(masks[name].shape), (5, 4))
            if place not in kept[name]
        ]
        assert min(stay) >= max(go)
        weights, total = (
            sum(sum(kept[name].values()) for name in names),
            sum(masks[name].numel() for name in names),
        )
        assert 0.4 * total - 20 < weights <= 0.4 * total
    for step in range(7, 11):
        set_weights_at_random(method)
        method.after_step(step)
    assert all(torch.equal(mask, masks[name]) for name, mask in method.masks().items())
    assert all(bool((method.targets()[name][~mask] == 0).all()) for name, mask in masks.items())


def test_the_blocks_below_a_threshold_go_at_the_end() -> None:
    method = attached(BlockGroupLasso(0.01, block=4, threshold=0.58, end=1.0), LanguageModel(50, 16, 16))
    method.begin(3)
    weights = {name: weight.detach().clone() for name, weight in method.targets().items()}
    for step in range(1, 4):
        assert method.kept_fraction() == 1.0
        method.after_step(step)
    counts = [0, 0]
    for name, mask in method.masks().items():
        kept = whole_blocks(mask, (4, 4))
        for place, inside in blocks_of(tuple(mask.shape), (4, 4)).items():
            is_large = math.sqrt(sum(float(weights[name][weight]) ** 2 for weight in inside)) >= 0.58
            counts[is_large] += 1
            assert (place in kept) == is_large
    assert min(counts) > 10


# ---------------------------------------------------------------------------------------------------------------------
# both


@pytest.mark.parametrize(
    "arguments",
    [
        {"class": "BlockPruning", "density": 0.1, "block": [4, 2], "group_lasso": 0.1, "scope": "network"},
        {"class": "BlockPruning", "schedule": "two_slope", "q": {"weight_hh": 0.1}, "block": [3, 3], "embedding": True},
        {"class": "BlockGroupLasso", "weight": 0.1, "density": 0.1, "block": [4, 4], "end": 0.3, "scope": "network"},
        {"class": "BlockGroupLasso", "weight": 0.1, "threshold": 0.2, "block": [1, 8], "embedding": True},
    ],
)
def test_settings_round_trip(arguments: dict[str, Any]) -> None:
    settings = settings_of(from_settings(arguments, METHODS))
    assert settings.items() >= arguments.items()
    assert settings_of(from_settings(settings, METHODS)) == settings
    method = attached(from_settings(settings, METHODS), LanguageModel(50, 16, 16))
    assert settings_of(method) == settings


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BlockPruning(0.5, block=0), "`block` must be a whole number > 0, or two .*, got 0"),
        (lambda: BlockPruning(0.5, block=(4, -4)), r"`block` must be a whole number > 0, or two .*, got \(4, -4\)"),
        (lambda: BlockPruning(0.5, block=(4, 4, 4)), r"`block` must be a whole number.*\(4, 4, 4\)"),  # type: ignore
        (lambda: BlockPruning(0.5, block=(4, 2.5)), r"`block` must be int or Sequence\[int\], got \(4, 2.5\)"),  # type: ignore
        (lambda: BlockPruning(0.5, group_lasso=-1.0), "`group_lasso` must be >= 0, got -1.0"),
        (lambda: BlockPruning(0.0), r"`density` must be in \(0, 1\].*got 0.0"),
        (lambda: BlockPruning(), "`density` must be given for the schedule 'cubic'"),
        (lambda: BlockGroupLasso(0.0, density=0.5), "`weight` must be > 0, got 0.0; use `BlockPruning`"),
        (lambda: BlockGroupLasso(0.1, density=0.5, end=0.0), r"`end` must be .* in \(0, 1\], got 0.0"),
        (lambda: BlockGroupLasso(0.1, density=0.5, end=1.5), r"`end` must be .* in \(0, 1\], got 1.5"),
        (lambda: BlockGroupLasso(0.1), "exactly one of `threshold` and `density` .* got None and None"),
        (lambda: BlockGroupLasso(0.1, density=0.5, threshold=0.1), "exactly one of .* got 0.1 and 0.5"),
        (lambda: BlockGroupLasso(0.1, threshold=0.0), "`threshold` must be > 0, a norm of a block, got 0.0"),
        (lambda: BlockGroupLasso(0.1, density=1.1), r"`density` must be in \(0, 1\].*got 1.1"),
        (lambda: BlockGroupLasso(0.1, density=0.5, scope="all"), "`scope` must be .*got 'all'"),  # type: ignore
        (lambda: BlockGroupLasso(0.1, density=0.5, block=-1), "`block` must be a whole number > 0.*got -1"),
    ],
)
def test_wrong_arguments(make: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()


@pytest.mark.parametrize(
    "make", [lambda **b: BlockPruning(0.5, **b), lambda **b: BlockGroupLasso(0.1, density=0.5, **b)]
)
@pytest.mark.parametrize(("block", "matrix"), [((17, 4), "weight_ih_l0"), ((4, 17), "weight_ih_l0"), (6, "decoder")])
def test_a_block_that_is_larger_than_a_matrix(make: Any, block: Any, matrix: str) -> None:
    network = WordTagger("RNN_TANH", hidden=16, embedding=16)  # the decoder is 5 x 16
    method = make(block=block)
    state = method.state_dict().keys()
    with pytest.raises(ValueError, match=rf"`block` must fit into every matrix, but \({pair(block)[0]}, .*{matrix}"):
        method.attach(network, traced(network))
    assert method.state_dict().keys() == state
    assert method.targets() == {}
