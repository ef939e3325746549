"""A trained network with zeros in its weights, in the form in which its zeros save time and room."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from l0rnn.arguments import checked
from l0rnn.gates.gates import Gates
from l0rnn.recurrent.names import RECURRENT
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.sparse.bsr import BSRMatrix
from l0rnn.sparse.csr import CSRMatrix
from l0rnn.sparse.linear import SparseLinear
from l0rnn.sparse.matrix import SparseMatrix
from l0rnn.sparse.recurrence import SparseRNN
from l0rnn.surgery.proof import check_tolerance, compare
from l0rnn.tracing.trace import trace
from l0rnn.tracing.units import Units

log = logging.getLogger(__name__)


class NothingSparseError(ValueError):
    """No matrix of a network takes fewer bytes in the sparse layout, so there is no use in it."""


@dataclass(frozen=True)
class SparseReport:
    """What `sparse_form` did.

    Attributes:
        layout: ``"csr"`` or ``"bsr"``.
        block: rows and columns of a block; 1 for CSR.
        converted: parameter that is sparse now → weights that are not 0, weights stored, weights there were.
        left: what stayed dense → why.
        max_abs_difference: largest absolute difference between the outputs of the two networks.
        bytes_before: `stored_bytes` of the dense network.
        bytes_after: `stored_bytes` of the sparse one.
    """

    layout: str
    block: int
    converted: dict[str, tuple[int, int, int]]
    left: dict[str, str]
    max_abs_difference: float
    bytes_before: int
    bytes_after: int

    def __str__(self) -> str:
        blocks = f", blocks of {self.block} × {self.block}" if self.layout == "bsr" else ""
        sizes = f"{self.bytes_before} → {self.bytes_after} bytes"
        first = f"{self.layout}{blocks}, {sizes}, outputs differ by at most {self.max_abs_difference:.1e}"
        held = [
            f"  {name}: {kept} of {size} weights, {stored} stored"
            for name, (kept, stored, size) in self.converted.items()
        ]
        left = [f"  {name}: {why}" for name, why in self.left.items()]
        return "\n".join([first, *held, *(["dense:", *left] if left else [])])


@checked
def sparse_form(
    network: nn.Module,
    *,
    layout: Literal["csr", "bsr"],
    block: int = 16,
    example_inputs: Any = None,
    tolerance: float | None = None,
) -> nn.Module:
    """A copy of a network for inference on a CPU, with its matrices held as CSR or BSR, proven equal on inputs.

    A matrix is converted if it takes fewer bytes so: for CSR in float32 that is a density below about one half. The
    others stay dense, as do embeddings, of which single rows are looked up, and subclasses of torch's layers. Recurrent
    layers with a sparse matrix become a `SparseRNN`, a Linear a `SparseLinear`; all else is copied. The original is not
    changed.

    Args:
        network: plain torch layers and `RaggedRNN`, trained, with zeros in their weights; on the CPU.
        layout: ``"csr"`` for zeros anywhere, ``"bsr"`` for zeros in blocks.
        block: rows and columns of a block of ``"bsr"``; not used by ``"csr"``.
        example_inputs: arguments of the network's forward, as `l0rnn.explain` takes them: it is run on them to find
            what it multiplies, and for the proof.
        tolerance: largest accepted difference, as in `l0rnn.shrink`.

    Returns:
        The copy, in evaluation mode, without gradients. Its attribute ``sparse_report`` is the `SparseReport`: what was
        converted, and what was not and why.

    Raises:
        ValueError: if an argument is missing or out of range, the network is gated, not on the CPU or neither float32
            nor float64, no matrix would be smaller, or the outputs differ.

    Example:
        >>> network = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50))
        >>> with torch.no_grad():
        ...     zeros = network[1].weight.tril_()[8:].zero_()
        >>> sparse = sparse_form(network, layout="csr", example_inputs=torch.arange(50))
        >>> sparse.sparse_report.converted, sparse.sparse_report.left
        ({'1.weight': (36, 36, 400)}, {'0.weight': 'its rows are looked up, not multiplied'})
    """
    if example_inputs is None:
        raise ValueError("`example_inputs` must be given: the sparse network is run against the dense one on them")
    if block < 1:
        raise ValueError(f"`block` must be a whole number > 0, got {block}")
    check_tolerance(tolerance)
    _check_network(network)
    units = trace(network, example_inputs)
    weights = {name: network.get_parameter(name) for name in _multiplied(network, units)}
    if layout == "bsr":
        _check_block(block, weights)
    left = _never_converted(units, weights)
    held: dict[str, SparseMatrix] = {}
    for name, weight in weights.items():
        matrix = CSRMatrix(weight) if layout == "csr" else BSRMatrix(weight, block)
        why = _why_not(matrix, weight)
        if why is None:
            held[name] = matrix
        else:
            left[name] = why
    if not held:
        reasons = "; ".join(f"{name}: {why}" for name, why in left.items())
        raise NothingSparseError(
            f"`network` must have a matrix that is smaller as {layout}, has none: {reasons}; run it dense"
        )
    sparse: Any = _rebuilt(network, held)
    difference = _difference(network, sparse, example_inputs, tolerance)
    sparse.sparse_report = SparseReport(
        layout,
        block if layout == "bsr" else 1,
        {name: (_kept(weights[name]), matrix.stored, weights[name].numel()) for name, matrix in held.items()},
        left,
        difference,
        stored_bytes(network),
        stored_bytes(sparse),
    )
    log.info("%s", sparse.sparse_report)
    return sparse


@checked
def density_of(network: nn.Module, example_inputs: Any) -> float:
    """Fraction of the weights multiplied in every time step that are not 0; embeddings and biases are not counted.

    Args:
        network: plain torch layers.
        example_inputs: arguments of its forward.

    Raises:
        ValueError: if it has no matrix.

    Example:
        >>> network = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 8))
        >>> with torch.no_grad():
        ...     zeros = network[1].weight.copy_(torch.eye(8))
        >>> density_of(network, torch.arange(50))
        0.125
    """
    weights = [network.get_parameter(name) for name in _multiplied(network, trace(network, example_inputs))]
    if not weights:
        raise ValueError("`network` must have a recurrent or Linear layer with a matrix, found none")
    return sum(map(_kept, weights)) / sum(weight.numel() for weight in weights)


@checked
def stored_bytes(network: nn.Module) -> int:
    """Bytes of all that a checkpoint of the network holds; what is shared counts once.

    A sparse matrix counts with its values and its indices: one int32 per value for CSR, per block for BSR, and one per
    row or row of blocks.

    Example:
        >>> stored_bytes(CSRMatrix(torch.eye(100))), stored_bytes(BSRMatrix(torch.eye(100), block=10))
        (1204, 4084)
    """
    tensors = {id(tensor): tensor for tensor in network.state_dict(keep_vars=True).values()}
    return sum(tensor.nbytes for tensor in tensors.values())


def _check_network(network: nn.Module) -> None:
    if any(isinstance(module, Gates) for module in network.modules()):
        raise ValueError("`network` must be plain, got one with gates; cut the closed units with `l0rnn.shrink` first")
    for name, parameter in network.named_parameters():
        if parameter.device.type != "cpu":
            raise ValueError(
                f"`network` must be on the CPU, where its sparse form runs, but {name!r} is on {parameter.device}; "
                "move it with `.to('cpu')`"
            )
        if parameter.is_floating_point() and parameter.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"`network` must be float32 or float64, which sparse products take, but {name!r} is "
                f"{parameter.dtype}; convert it with `.float()`"
            )


def _check_block(block: int, weights: Mapping[str, Tensor]) -> None:
    widest = max((min(weight.shape) for weight in weights.values()), default=0)
    if not 0 < block <= widest:
        raise ValueError(
            f"`block` must be a whole number from 1 to {widest}, so that a block fits into one of the matrices, "
            f"got {block!r}"
        )


def _multiplied(network: nn.Module, units: Units) -> list[str]:
    """Names of the matrices of layers that there is a sparse form of."""
    return [
        alias
        for weight in units.weights.values()
        if weight.is_matrix
        for alias in weight.aliases
        if type(network.get_submodule(alias.rpartition(".")[0])) in (nn.Linear, nn.LSTM, nn.GRU, nn.RNN)
    ]


def _never_converted(units: Units, weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Embeddings, and matrices of layers that there is no sparse form of."""
    left = {}
    for weight in units.weights.values():
        for alias in weight.aliases:
            if weight.is_lookup and alias not in weights:
                left[alias] = "its rows are looked up, not multiplied"
            elif weight.is_matrix and alias not in weights:
                left[alias] = "there is no sparse form of its layer"
    return left


def _why_not(matrix: SparseMatrix, weight: Tensor) -> str | None:
    """Why a matrix stays dense, or None."""
    if _kept(weight) == weight.numel():
        return "it has no zeros"
    if matrix.stored == matrix.padded[0] * matrix.padded[1]:
        return f"it has no block of {matrix.block} × {matrix.block} zeros"
    if stored_bytes(matrix) >= weight.nbytes:
        return f"as {matrix.layout} it would take {stored_bytes(matrix)} bytes, and dense {weight.nbytes}"
    return None


def _kept(weight: Tensor) -> int:
    return int(weight.count_nonzero())


def _rebuilt(network: nn.Module, held: Mapping[str, SparseMatrix]) -> nn.Module:
    """The network copied around its sparse layers."""
    fresh: dict[int, Any] = {}
    ragged = [name for name, module in network.named_modules() if isinstance(module, RaggedRNN)]
    for layer, module in network.named_modules():
        prefix = f"{layer}." if layer else ""
        matrices = {name.removeprefix(prefix): held[name] for name in held if name.startswith(prefix)}
        is_part = any(layer.startswith(f"{name}.") for name in ragged)
        if matrices and isinstance(module, (nn.Linear, *RECURRENT)) and not is_part:
            is_linear = isinstance(module, nn.Linear)
            fresh[id(module)] = SparseLinear(module, matrices["weight"]) if is_linear else SparseRNN(module, matrices)
    return copy.deepcopy(network, fresh).eval().requires_grad_(False)


def _difference(network: nn.Module, sparse: nn.Module, example_inputs: Any, tolerance: float | None) -> float:
    try:
        difference, allowed = compare(network, sparse, example_inputs, tolerance)
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"`network` does not run with sparse layers in the place of its own: {error}; its forward must call them "
            "on tensors, and not read their weights"
        ) from error
    if not difference <= allowed:
        raise ValueError(
            f"the sparse network differs from the dense one by {difference:.3g}, more than {allowed:.3g}; a hook on a "
            "layer is the usual cause: call what it does in the network's forward, or raise `tolerance`"
        )
    return difference
