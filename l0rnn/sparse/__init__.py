"""Networks with zeros in their weights, run as sparse matrices: the form in which methods that leave zeros deploy."""

from l0rnn.sparse.bsr import BSRMatrix
from l0rnn.sparse.convert import NothingSparseError, SparseReport, density_of, sparse_form, stored_bytes
from l0rnn.sparse.csr import CSRMatrix
from l0rnn.sparse.linear import SparseLinear
from l0rnn.sparse.recurrence import SparseRNN

__all__ = [
    "BSRMatrix",
    "CSRMatrix",
    "NothingSparseError",
    "SparseLinear",
    "SparseRNN",
    "SparseReport",
    "density_of",
    "sparse_form",
    "stored_bytes",
]
