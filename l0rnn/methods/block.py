"""Pruning of blocks: rectangles of a weight matrix that are set to zero as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l0rnn.arguments import checked
from l0rnn.methods.magnitude import GradualMagnitude, Schedule
from l0rnn.methods.masks import MaskMethod
from l0rnn.methods.thresholds import Scope, check_density, largest_within, step_of

Block = tuple[int, int]


def block_magnitudes(weight: Tensor, block: Block) -> Tensor:
    """The largest absolute value of each block, by which a block is judged.

    Args:
        weight: `(row, column)`; the rows of a recurrent weight are `(gate unit)`, as torch stores them.
        block: height and width. The tiling starts in the top left corner, as block sparse rows (BSR) do; the blocks at
            the right and lower edge hold what is left.

    Returns:
        `(block row, block column)`.

    Example:
        >>> block_magnitudes(torch.tensor([[1.0, -2.0, 3.0], [0.0, 1.0, -4.0], [5.0, 0.0, 0.5]]), (2, 2))
        tensor([[2.0000, 4.0000],
                [5.0000, 0.5000]])

    Reference:
        Narang, Undersander, Diamos, Block-Sparse Recurrent Neural Networks (2017), arXiv 1711.02782.
    """
    return _tiles(weight, block).abs().amax(3).amax(1)


def block_norms(weight: Tensor, block: Block, eps: float = 1e-8) -> Tensor:
    """The norm of each block, ``sqrt(sum of squares + eps)``, `(block row, block column)`; its gradient is finite at 0.

    Args:
        weight: `(row, column)`.
        block: height and width, tiled as in `block_magnitudes`.
        eps: added to the sum of squares.

    Example:
        >>> block_norms(torch.tensor([[3.0, 4.0, 5.0]]), (1, 2), eps=0.0)
        tensor([[5., 5.]])

    Reference:
        The group lasso of Narang et al. 2017 (arXiv 1711.02782); eps as in the code of Wen et al. 2018 (1709.05027).
    """
    wide = weight if weight.dtype == torch.float64 else weight.float()  # 1e-8 is 0 in half precision
    return (_tiles(wide.square(), block).sum(3).sum(1) + eps).sqrt()


def block_sizes(weight: Tensor, block: Block) -> Tensor:
    """The number of weights in each block, int64 `(block row, block column)`; less at the edges.

    Example:
        >>> block_sizes(torch.zeros(3, 5), (2, 2))
        tensor([[4, 4, 2],
                [2, 2, 1]])
    """
    sides = [
        (length - torch.arange(0, length, side, device=weight.device)).clamp(max=side)
        for length, side in zip(weight.shape, block, strict=True)
    ]
    return torch.outer(*sides)


def expand_blocks(block_mask: Tensor, shape: Sequence[int], block: Block) -> Tensor:
    """What is said of each block, for each weight.

    Args:
        block_mask: `(block row, block column)`.
        shape: rows and columns of the weight, and of the result.
        block: height and width, tiled as in `block_magnitudes`.

    Example:
        >>> expand_blocks(torch.tensor([[True, False]]), (2, 3), (2, 2))
        tensor([[ True,  True, False],
                [ True,  True, False]])
    """
    wide = block_mask.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return wide[: shape[0], : shape[1]]


def _tiles(weight: Tensor, block: Block) -> Tensor:
    """A matrix as `(block row, height, block column, width)`, with zeros beyond its edges."""
    below, right = (-length % side for length, side in zip(weight.shape, block, strict=True))
    padded = F.pad(weight, (0, right, 0, below)) if below or right else weight
    return padded.unflatten(1, (-1, block[1])).unflatten(0, (-1, block[0]))


def _pair(block: int | Sequence[int]) -> Block:
    sides = (block, block) if isinstance(block, int) else tuple(block)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"`block` must be a whole number > 0, or two for height and width, got {block!r}")
    return sides[0], sides[1]


def _check_blocks(targets: Mapping[str, Tensor], block: Block) -> None:
    for name, weight in targets.items():
        if block[0] > weight.shape[0] or block[1] > weight.shape[1]:
            shape = tuple(weight.shape)
            raise ValueError(f"`block` must fit into every matrix, but {block} is larger than {shape}, {name!r}")


def _lasso(targets: Mapping[str, Tensor], block: Block) -> Tensor:
    return torch.stack([block_norms(weight, block).sum() for weight in targets.values()]).sum()


@checked
class BlockPruning(GradualMagnitude):
    """Gradual pruning of blocks of weights, with or without a group lasso that draws blocks towards zero.

    Removes: blocks of the matrices; the masks only ever lose entries. Rule: as `GradualMagnitude`, with the largest
    absolute value of a block in place of that of a weight. Cost at run time: that of the dense network, unless a kernel
    for block sparse matrices runs it.

    With the schedule ``"cubic"``, density counts weights, since blocks at the edges are smaller: kept are the blocks of
    largest score as long as they fit into the density, at least one. With ``"two_slope"`` the threshold of a block is
    that of a weight times the fourth root of the number of weights in a block, 2 for 4 x 4 and 4 for 16 x 16.

    Args:
        density: fraction of the weights to keep. This and all arguments that do not follow are those of
            `GradualMagnitude`; ``q`` and what is found in ``dense`` are thresholds of single weights.
        block: height and width of the blocks, or one number for both. The height lies along the gate units.
        start: fraction of the training at which pruning starts. As we recall the paper, that is the start of the second
            epoch, which is ``1 / epochs``, the ramp starts at 20 % and pruning ends at 40 % of the training.
        ramp_slope: second slope as a multiple of the first; as we recall, 1.2 to 1.7 in the paper.
        group_lasso: weight of the sum of all blocks' norms in the loss, until pruning ends; 0 for none. The paper
            calls the two together group lasso with pruning (GLP).

    Raises:
        ValueError: if an argument is out of range, or does not go with the schedule.

    Example:
        >>> from l0rnn.language.language_model import LanguageModel
        >>> from l0rnn.tracing import trace
        >>> network = LanguageModel(10, 4, 8, num_layers=1)
        >>> method = BlockPruning(density=0.25, block=4, start=0.0, end=1.0)
        >>> method.attach(network, trace(network, torch.zeros(5, 2, dtype=torch.int64)))
        >>> method.begin(total_steps=1)
        >>> method.after_step(1)
        >>> {name: int(block_magnitudes(mask.float(), (4, 4)).sum()) for name, mask in method.masks().items()}
        {'encoder.weight_ih_l0': 2, 'encoder.weight_hh_l0': 4, 'decoder.weight': 1}

    Reference:
        Narang, Undersander, Diamos, Block-Sparse Recurrent Neural Networks (2017), arXiv 1711.02782.
    """

    def __init__(
        self,
        density: float | None = None,
        *,
        block: int | Sequence[int] = 16,
        schedule: Schedule = "cubic",
        start: float = 0.05,
        ramp: float = 0.2,
        end: float = 0.4,
        ramp_slope: float = 1.5,
        frequency: float = 0.01,
        q: float | Mapping[str, float] | None = None,
        dense: str | Path | None = None,
        scope: Scope = "matrix",
        group_lasso: float = 0.0,
        embedding: bool = False,
    ) -> None:
        super().__init__(
            density,
            schedule=schedule,
            start=start,
            ramp=ramp,
            end=end,
            ramp_slope=ramp_slope,
            frequency=frequency,
            q=q,
            dense=dense,
            scope=scope,
            embedding=embedding,
        )
        if not group_lasso >= 0:
            raise ValueError(f"`group_lasso` must be >= 0, got {group_lasso}")
        self.block, self.group_lasso = _pair(block), group_lasso

    def penalty(self) -> Tensor:
        """``group_lasso`` times the sum of the norms of all blocks; nothing once pruning has ended."""
        if not self.group_lasso or self.has_chosen:
            return super().penalty()
        return self.group_lasso * _lasso(self.targets(), self.block)

    def check(self, network: nn.Module, targets: Mapping[str, Tensor]) -> None:
        """Refuse blocks that are larger than a matrix, and find the threshold of each."""
        _check_blocks(targets, self.block)
        super().check(network, targets)

    def _scores(self, matrix: Tensor) -> Tensor:
        return block_magnitudes(matrix.float() if matrix.dtype == torch.bool else matrix, self.block)

    def _sizes(self, matrix: Tensor) -> Tensor:
        return block_sizes(matrix, self.block)

    def _expand(self, groups: Tensor, matrix: Tensor) -> Tensor:
        return expand_blocks(groups, matrix.shape, self.block)

    def _threshold_factor(self) -> float:
        return (self.block[0] * self.block[1]) ** 0.25


@checked
class BlockGroupLasso(MaskMethod):
    """Group lasso alone: blocks shrink under a penalty, and those that got small are removed all at once.

    Removes: blocks of the matrices. Rule: at `end`, the blocks of least norm, either all below a threshold or as many
    as a density asks for; the rest of the training is fine-tuning, with fixed masks and without the penalty. Cost
    at run time: that of the dense network, unless a kernel for block sparse matrices runs it.

    Args:
        weight: price of the norms: ``weight * Σ ‖block‖₂`` is added to the loss; > 0.
        block: height and width of the blocks, or one number for both; the height lies along the gate units.
        end: fraction of the training at which blocks are removed, in (0, 1].
        threshold: blocks whose norm is below it are removed; > 0. This or ``density`` is given.
        density: fraction of the weights to keep, in (0, 1]; kept are the blocks of largest norm that fit, at least one.
        scope: whether to rank the blocks of each ``"matrix"`` by themselves, so that each gets the density, or of the
            whole ``"network"``.
        embedding: whether embeddings are pruned too.

    Raises:
        ValueError: if an argument is out of range, or not exactly one of ``threshold`` and ``density`` is given.

    Example:
        >>> from l0rnn.language.language_model import LanguageModel
        >>> from l0rnn.tracing import trace
        >>> network = LanguageModel(10, 4, 8, num_layers=1)
        >>> method = BlockGroupLasso(1e-3, block=4, density=0.5)
        >>> method.attach(network, trace(network, torch.zeros(5, 2, dtype=torch.int64)))
        >>> method.penalty().shape
        torch.Size([])

    Reference:
        Narang, Undersander, Diamos, Block-Sparse Recurrent Neural Networks (2017), arXiv 1711.02782.
    """

    def __init__(
        self,
        weight: float,
        *,
        block: int | Sequence[int] = 16,
        end: float = 0.6,
        threshold: float | None = None,
        density: float | None = None,
        scope: Scope = "matrix",
        embedding: bool = False,
    ) -> None:
        super().__init__(embedding=embedding)
        if not weight > 0:
            raise ValueError(f"`weight` must be > 0, got {weight}; use `BlockPruning` to prune without a penalty")
        if not 0 < end <= 1:
            raise ValueError(f"`end` must be a fraction of the training in (0, 1], got {end}")
        if (threshold is None) == (density is None):
            raise ValueError(f"exactly one of `threshold` and `density` must be given, got {threshold} and {density}")
        if threshold is not None and not threshold > 0:
            raise ValueError(f"`threshold` must be > 0, a norm of a block, got {threshold}")
        check_density(density)
        self.weight, self.block, self.end, self.threshold = weight, _pair(block), end, threshold
        self.density = density
        self.scope: Scope = scope

    def check(self, network: nn.Module, targets: Mapping[str, Tensor]) -> None:
        """Refuse blocks that are larger than a matrix."""
        _check_blocks(targets, self.block)

    def penalty(self) -> Tensor:
        """``weight`` times the sum of all blocks' norms; nothing once blocks are removed."""
        return super().penalty() if self.has_chosen else self.weight * _lasso(self.targets(), self.block)

    def start_afresh_(self) -> None:
        """Let all weights be; those that are 0 start from there."""
        super().start_afresh_()
        self.unmask_()

    @torch.no_grad()
    def update_masks_(self) -> None:
        """Remove the blocks, once, when it is time."""
        if not self._total or self.has_chosen or self._step < step_of(self.end, self._total):
            return
        masks = self.masks()
        norms = {name: block_norms(weight, self.block, eps=0.0) for name, weight in self.targets().items()}
        kept = {name: norm >= (self.threshold or 0.0) for name, norm in norms.items()}
        if self.density is not None:
            sizes = {name: block_sizes(mask, self.block) for name, mask in masks.items()}
            kept = largest_within(norms, kept, sizes, self.density, self.scope)
        for name, groups in kept.items():
            masks[name].copy_(expand_blocks(groups, masks[name].shape, self.block))
        self.choose_()
