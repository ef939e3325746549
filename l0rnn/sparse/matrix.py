"""One matrix in the form it is multiplied in: dense, compressed rows (CSR) or compressed rows of blocks (BSR).

A product has the matrix on the left and one column per sequence on the right, `(feature, batch)`, since torch's sparse
kernels want it so. Several torch functions compute it, and which one is fastest depends on the number of columns;
`recipes/penn_treebank/kernel_table.py` measures all of them. Names of kernels are those of the torch functions:

=================  =====================================================================================================
``addmv``          CSR times one vector
``addmm``          CSR or BSR times a matrix; MKL's routines where torch is built with MKL
``embedding_bag``  CSR: row i of the product is a weighted sum of rows of the right side, which is what this sums
``bmm``            BSR: the rows that each block reads are gathered, multiplied in one batch, and added up by block row
=================  =====================================================================================================
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Multiply = Callable[[Tensor, Tensor], Tensor]


class DenseMatrix(nn.Module):
    """A matrix without zeros worth leaving out, multiplied as the sparse ones are.

    Args:
        weight: `(row, column)`; copied.

    Example:
        >>> multiply = DenseMatrix(torch.tensor([[1.0, 0.0], [2.0, 3.0]])).multiplier(1)
        >>> multiply(torch.tensor([[1.0], [1.0]]), torch.zeros(2, 1)).flatten().tolist()
        [1.0, 5.0]
    """

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.rows, self.columns = weight.shape
        self.register_buffer("weight", weight.detach().clone())

    def multiplier(self, columns: int) -> Multiply:
        """As `SparseMatrix.multiplier`; for few columns, BLAS is twice as fast with the weight on the right."""

        def multiply(right: Tensor, addend: Tensor) -> Tensor:
            return torch.addmm(addend.t(), right.t(), self.weight.t()).t().contiguous()

        return multiply


class SparseMatrix(nn.Module):
    """What CSR and BSR share: values, where each row starts and the column of each value, all of them buffers.

    Indices are int32, as MKL wants them: with int64 torch converts them in every product.
    """

    layout = ""
    values: Tensor
    row_starts: Tensor
    column_numbers: Tensor

    def __init__(self, weight: Tensor, block: int) -> None:
        if weight.dim() != 2 or weight.dtype not in (torch.float32, torch.float64) or weight.device.type != "cpu":
            raise ValueError(
                "`weight` must be a matrix of float32 or float64 on the CPU, got "
                f"{tuple(weight.shape)}, {weight.dtype}, {weight.device}; convert it first"
            )
        if block < 1:
            raise ValueError(f"`block` must be a whole number > 0, got {block!r}; 16 suits most processors")
        super().__init__()
        self.rows, self.columns = weight.shape
        self.block = block
        self.padded = (-(-self.rows // block) * block, -(-self.columns // block) * block)
        compressed = self._compress(weight.detach())
        self.register_buffer("values", compressed.values().contiguous())
        self.register_buffer("row_starts", compressed.crow_indices().int())
        self.register_buffer("column_numbers", compressed.col_indices().int())

    def kernels(self, columns: int) -> tuple[str, ...]:
        """The kernels that can multiply so many columns here."""
        raise NotImplementedError

    def fastest(self, columns: int) -> str:
        """The kernel that is used for so many columns: the one that was fastest when they were measured."""
        raise NotImplementedError

    def multiplier(self, columns: int, kernel: str | None = None) -> Multiply:
        """The product with so many columns, as a function ``(right, addend) → matrix @ right + addend``.

        Args:
            columns: columns of the right side.
            kernel: one of `kernels`; None for `fastest`.

        Returns:
            A function of a contiguous ``right``, `(column, batch)`, and an ``addend``, `(row, batch)`, which may be a
            view of any strides; the sum is a new tensor. The function holds what it has prepared, so that a loop over
            time need not.

        Raises:
            ValueError: if ``kernel`` cannot multiply so many columns here.
        """
        known = self.kernels(columns)
        kernel = self.fastest(columns) if kernel is None else kernel
        if kernel not in known:
            raise ValueError(
                f"`kernel` must be one of {', '.join(known)} for {columns} columns, got {kernel!r}; None chooses one"
            )
        return getattr(self, f"_{kernel}")()

    @property
    def stored(self) -> int:
        """Number of values that are stored, zeros inside stored blocks included."""
        return self.values.numel()

    def dense(self) -> Tensor:
        """The matrix with all its zeros, `(row, column)`."""
        with beta_warnings_ignored():
            return self._tensor().to_dense()[: self.rows, : self.columns]

    def extra_repr(self) -> str:
        """Shape and what is stored, for `print`."""
        return f"{self.rows} × {self.columns}, {self.stored} stored"

    def _compress(self, weight: Tensor) -> Tensor:
        raise NotImplementedError

    def _tensor(self) -> Tensor:
        raise NotImplementedError

    def _addmm(self) -> Multiply:
        with beta_warnings_ignored():
            matrix = self._tensor()

        def multiply(right: Tensor, addend: Tensor) -> Tensor:
            sums = torch.addmm(lengthened(addend, self.padded[0]), matrix, lengthened(right, self.padded[1]))
            return sums[: self.rows]

        return multiply

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Torch's kernels do not check indices and would read past the end of the right side."""
        names = [f"{prefix}{name}" for name in ("values", "row_starts", "column_numbers")]
        if all(name in state_dict for name in names):
            values, starts, numbers = (state_dict[name] for name in names)
            is_whole = starts.shape == self.row_starts.shape and bool((starts.diff() >= 0).all())
            is_whole = is_whole and int(starts[0]) == 0 and int(starts[-1]) == len(values) == len(numbers)
            most = self.padded[1] // self.block
            if not is_whole or not bool(((numbers >= 0) & (numbers < most)).all()):
                raise ValueError(
                    f"`state_dict` must hold row starts and column numbers of a {self.rows} × {self.columns} matrix "
                    f"for {prefix.rstrip('.')!r}, got others; convert the dense network again"
                )
        super()._load_from_state_dict(state_dict, prefix, *rest)


def in_parts(multiply: Multiply, width: int) -> Multiply:
    """The same product, ``width`` columns at a time where there are at least half as many again."""

    def multiply_parts(right: Tensor, addend: Tensor) -> Tensor:
        if right.shape[1] < 1.5 * width:
            return multiply(right, addend)
        parts = zip(right.split(width, 1), addend.split(width, 1), strict=True)
        return torch.cat([multiply(columns.contiguous(), sums) for columns, sums in parts], 1)

    return multiply_parts


def lengthened(matrix: Tensor, rows: int) -> Tensor:
    """With rows of zeros at the end, as many as are missing."""
    missing = rows - matrix.shape[0]
    return nn.functional.pad(matrix, (0, 0, 0, missing)) if missing else matrix


@contextmanager
def beta_warnings_ignored() -> Iterator[None]:
    """Torch says once per process that its support of CSR and BSR is in beta state."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR|BSR) tensor support is in beta state")
        yield
