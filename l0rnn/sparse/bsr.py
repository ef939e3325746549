"""Block compressed sparse rows."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from l0rnn.arguments import checked
from l0rnn.sparse.matrix import Multiply, SparseMatrix, beta_warnings_ignored, in_parts, lengthened

# Measured on one core of an AMD EPYC (AVX-512), torch 2.13 with MKL: recipes/penn_treebank/kernel_table.py.
LEAST_COLUMNS_OF_BMM = 8  # with fewer columns, addmm is faster for every size of block; with so many, bmm is
LARGE_BLOCK = 32  # for blocks at least so wide, and for those at least
MEDIUM_BLOCK = 16  # so wide up to
MOST_COLUMNS_OF_MEDIUM = 32  # so many columns
PART = 16  # columns that bmm multiplies at a time, so that what was gathered stays in the cache


@checked
class BSRMatrix(SparseMatrix):
    """Block compressed sparse rows: square blocks with a weight that is not 0, tiled from the top left corner.

    Edges are filled up with zeros to whole blocks.

    Args:
        weight: `(row, column)`, float32 or float64, on the CPU.
        block: rows and columns of a block.

    Raises:
        ValueError: if ``weight`` is anything else, or ``block`` is not a whole number > 0.

    Example:
        >>> matrix = BSRMatrix(torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0]]), block=2)
        >>> matrix.stored, matrix.column_numbers.tolist()
        (4, [0])
        >>> matrix.multiplier(1)(torch.ones(3, 1), torch.zeros(2, 1)).flatten().tolist()
        [2.0, 1.0]
    """

    layout = "bsr"

    def __init__(self, weight: Tensor, block: int = 16) -> None:
        super().__init__(weight, block)

    def kernels(self, columns: int) -> tuple[str, ...]:
        """The kernels that can multiply so many columns: ``addmm`` only where torch has MKL's sparse routines."""
        return ("addmm", "bmm") if _has_mkl_sparse() else ("bmm",)

    def fastest(self, columns: int) -> str:
        """``bmm`` for large blocks and more than a few columns, or without MKL; else ``addmm``."""
        is_faster = self.block >= LARGE_BLOCK or (self.block >= MEDIUM_BLOCK and columns <= MOST_COLUMNS_OF_MEDIUM)
        return "bmm" if (is_faster and columns >= LEAST_COLUMNS_OF_BMM) or not _has_mkl_sparse() else "addmm"

    def _compress(self, weight: Tensor) -> Tensor:
        rows, columns = self.padded
        whole = nn.functional.pad(weight, (0, columns - self.columns, 0, rows - self.rows))
        with beta_warnings_ignored():
            return whole.to_sparse_bsr((self.block, self.block))

    def _tensor(self) -> Tensor:
        parts = (self.row_starts, self.column_numbers, self.values)
        return torch.sparse_bsr_tensor(*parts, self.padded, check_invariants=False)

    def _bmm(self) -> Multiply:
        block_rows = torch.arange(len(self.row_starts) - 1, dtype=torch.int32)
        row_numbers = torch.repeat_interleave(block_rows, self.row_starts.diff())

        def multiply(right: Tensor, addend: Tensor) -> Tensor:
            blocks = (-1, self.block, right.shape[1])
            read = lengthened(right, self.padded[1]).view(blocks).index_select(0, self.column_numbers)
            sums = lengthened(addend, self.padded[0]).clone(memory_format=torch.contiguous_format)
            sums.view(blocks).index_add_(0, row_numbers, torch.bmm(self.values, read))
            return sums[: self.rows]

        return in_parts(multiply, PART)


def _has_mkl_sparse() -> bool:
    """Whether torch can multiply BSR on a CPU; on Windows it is built without that part of MKL."""
    return torch.backends.mkl.is_available() and sys.platform != "win32"
