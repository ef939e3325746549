"""Compressed sparse rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from l0rnn.arguments import checked
from l0rnn.sparse.matrix import Multiply, SparseMatrix, beta_warnings_ignored, in_parts

# Measured on one core of an AMD EPYC (AVX-512), torch 2.13 with MKL: recipes/penn_treebank/kernel_table.py.
MOST_COLUMNS_OF_ADDMM = 12  # beyond, embedding_bag is faster
PART = 64  # columns that embedding_bag sums at a time, so that what it reads stays in the cache


@checked
class CSRMatrix(SparseMatrix):
    """Compressed sparse rows: each weight that is not 0, with its column; 8 bytes per weight in float32.

    Args:
        weight: `(row, column)`, float32 or float64, on the CPU.

    Raises:
        ValueError: if ``weight`` is anything else.

    Example:
        >>> matrix = CSRMatrix(torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0]]))
        >>> matrix.stored, matrix.row_starts.tolist(), matrix.column_numbers.tolist()
        (2, [0, 1, 2], [1, 0])
        >>> matrix.multiplier(1)(torch.ones(3, 1), torch.zeros(2, 1)).flatten().tolist()
        [2.0, 1.0]
    """

    layout = "csr"

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight, block=1)

    def kernels(self, columns: int) -> tuple[str, ...]:
        """The kernels that can multiply so many columns."""
        return ("addmv", "addmm", "embedding_bag") if columns == 1 else ("addmm", "embedding_bag")

    def fastest(self, columns: int) -> str:
        """``addmv`` for one column; many columns of float32 are faster by ``embedding_bag`` than by ``addmm``."""
        if columns == 1:
            return "addmv"
        return "embedding_bag" if columns > MOST_COLUMNS_OF_ADDMM and self.values.dtype == torch.float32 else "addmm"

    def _compress(self, weight: Tensor) -> Tensor:
        with beta_warnings_ignored():
            return weight.to_sparse_csr()

    def _tensor(self) -> Tensor:
        parts = (self.row_starts, self.column_numbers, self.values)
        return torch.sparse_csr_tensor(*parts, (self.rows, self.columns), check_invariants=False)

    def _addmv(self) -> Multiply:
        with beta_warnings_ignored():
            matrix = self._tensor()

        def multiply(right: Tensor, addend: Tensor) -> Tensor:
            return torch.addmv(addend[:, 0], matrix, right[:, 0]).unsqueeze(1)

        return multiply

    def _embedding_bag(self) -> Multiply:
        def multiply(right: Tensor, addend: Tensor) -> Tensor:
            sums = nn.functional.embedding_bag(
                self.column_numbers,
                right,
                self.row_starts,
                mode="sum",
                per_sample_weights=self.values,
                include_last_offset=True,
            )
            return sums.add_(addend)

        return in_parts(multiply, PART)
