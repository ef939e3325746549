"""How fast a machine could run a network at best: what it can read and multiply, measured, against what there is.

A call must read every weight that it multiplies with, and must do its multiply-adds; a machine that reads and computes
at full speed all the time takes the longer of the two times:

    bound = max(Σ bytes read / read bandwidth, multiply-adds / matrix throughput)

An embedding is read for the rows that are looked up, any other weight once per call. The weights that the state is
multiplied with are read again in every time step, since a step needs the one before it. All activations count as free.
Bandwidth depends on where the data lie, so it is measured on arrays of many sizes: the first read of a weight is held
against the bandwidth of an array as large as all that a call reads, a further one against that of an array as large as
the weight, which may still be in a cache.

Reference:
    Williams, Waterman, Patterson: Roofline: an insightful visual performance model for multicore architectures (2009),
    Communications of the ACM 52(4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.benchmark import timer

from l0rnn.arguments import check_threads, checked
from l0rnn.bench.timing import parameter_bytes

ARRAYS = tuple(4**power * 2**18 for power in range(6))  # bytes: 256 KB, within a core's cache, to 256 MB, beyond all
COLUMNS = 1024  # of the matrix that is multiplied with a vector to read it, and of the square matrices
SECONDS = 0.1  # on each kernel and array


@dataclass(frozen=True)
class Roofline:
    """What a machine can do at most, by torch, with a number of threads.

    Attributes:
        threads: CPU threads of torch.
        read_bandwidth: pairs of bytes of an array and bytes read per second, best kernel, from small to large.
        multiply_adds: multiply-adds per second of a float32 matrix product.

    Example:
        >>> roofline = Roofline(1, ((1000, 50e9), (10**6, 10e9)), multiply_adds=40e9)
        >>> roofline.bandwidth_of(500), roofline.bandwidth_of(2000), roofline.bandwidth_of(10**9)
        (50000000000.0, 50000000000.0, 10000000000.0)
    """

    threads: int
    read_bandwidth: tuple[tuple[int, float], ...]
    multiply_adds: float

    def bandwidth_of(self, size: int) -> float:
        """Bytes per second at which so many bytes can be read again and again: that of the next smaller array.

        Where a larger array was read faster, which only noise can explain, its bandwidth counts: this is a limit.
        """
        smaller = [array for array, _ in self.read_bandwidth if array <= size]
        start = smaller[-1] if smaller else self.read_bandwidth[0][0]
        return max(bandwidth for array, bandwidth in self.read_bandwidth if array >= start)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "read_bandwidth": [list(pair) for pair in self.read_bandwidth]}


@dataclass(frozen=True)
class Work:
    """What one call of a network cannot do without.

    Attributes:
        weights: pairs of bytes and how often they are read in a call.
        multiply_adds: multiply-adds of a call, matrix products alone.

    Example:
        >>> work = Work(((4000, 1), (2000, 3)), multiply_adds=5000)
        >>> work.bytes_read
        10000
        >>> work.bound_seconds(Roofline(1, ((1000, 1e6),), multiply_adds=1e6))
        0.01
    """

    weights: tuple[tuple[int, int], ...]
    multiply_adds: int

    @property
    def bytes_read(self) -> int:
        """Bytes of all reads of a call."""
        return sum(size * times for size, times in self.weights)

    def bound_seconds(self, roofline: Roofline) -> float:
        """The least time that a call takes; see the module for the model."""
        whole = roofline.bandwidth_of(sum(size for size, _ in self.weights))
        reading = sum(
            size / whole + (times - 1) * size / roofline.bandwidth_of(size) for size, times in self.weights if size
        )
        return max(reading, self.multiply_adds / roofline.multiply_adds)


@checked
@torch.inference_mode()
def work_of(network: nn.Module, arguments: tuple[Any, ...]) -> Work:
    """Count what a call must read and multiply, by running it once.

    Known are torch's recurrent layers, Linear and Embedding, and the layers of `l0rnn.sparse`. Other modules that are
    called count with the bytes of their own parameters, each read once, and without multiply-adds.

    Args:
        network: in evaluation mode.
        arguments: of its forward.

    Example:
        >>> work = work_of(nn.LSTM(3, 5), (torch.randn(7, 2, 3),))  # 7 time steps of 2 sequences
        >>> work.multiply_adds == 7 * 2 * 4 * 5 * (3 + 5), (4 * 4 * 5 * 5, 7) in work.weights
        (True, True)
    """
    weights: list[tuple[int, int]] = []
    multiply_adds = 0

    def add(sizes: list[tuple[int, int]], products: int) -> None:
        nonlocal multiply_adds
        weights.extend(sizes)
        multiply_adds += products

    def count(module: nn.Module, inputs: tuple[Any, ...], _: Any) -> None:
        add(*_counter_of(module)(module, inputs))

    handles = [module.register_forward_hook(count) for module in network.modules()]
    try:
        network(*arguments)
    finally:
        for handle in handles:
            handle.remove()
    return Work(tuple(weights), multiply_adds)


def _count_recurrent(layer: Any, inputs: tuple[Any, ...]) -> tuple[list[tuple[int, int]], int]:
    data = inputs[0]
    features = data.data if isinstance(data, PackedSequence) else data
    rows = features.numel() // features.shape[-1]
    if isinstance(data, PackedSequence):
        steps = len(data.batch_sizes)
    else:
        steps = data.shape[1 if layer.batch_first and data.dim() == 3 else 0]
    sizes, products = [], 0
    for name, weight in layer.named_parameters():
        is_of_state = name.startswith(("weight_hh", "weight_hr"))
        sizes.append((weight.nbytes, steps if is_of_state else 1))
        products += rows * weight.numel() if name.startswith("weight") else 0
    return sizes, products


def _count_linear(layer: Any, inputs: tuple[Any, ...]) -> tuple[list[tuple[int, int]], int]:
    rows = inputs[0].numel() // inputs[0].shape[-1]
    return [(weight.nbytes, 1) for weight in layer.parameters()], rows * layer.weight.numel()


def _count_embedding(layer: Any, inputs: tuple[Any, ...]) -> tuple[list[tuple[int, int]], int]:
    return [(len(inputs[0].unique()) * layer.embedding_dim * layer.weight.element_size(), 1)], 0


def _count_sparse_linear(layer: Any, inputs: tuple[Any, ...]) -> tuple[list[tuple[int, int]], int]:
    rows = inputs[0].numel() // inputs[0].shape[-1]
    return [(parameter_bytes(layer), 1)], rows * _weights_of(layer.matrix)


def _count_sparse_cell(cell: Any, inputs: tuple[Any, ...]) -> tuple[list[tuple[int, int]], int]:
    _, steps, batch = inputs[0].shape
    of_state = [matrix for matrix in (cell.weight_hh, cell.weight_hr) if matrix is not None]
    sizes = [(parameter_bytes(cell.weight_ih), 1), *((parameter_bytes(matrix), steps) for matrix in of_state)]
    return sizes, steps * batch * sum(map(_weights_of, (cell.weight_ih, *of_state)))


def _count_other(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[list[tuple[int, int]], int]:
    return [(weight.nbytes, 1) for weight in module.parameters(recurse=False)], 0


Counter = Callable[[Any, tuple[Any, ...]], tuple[list[tuple[int, int]], int]]
_COUNTERS: dict[type[nn.Module], Counter] = {
    nn.RNNBase: _count_recurrent,
    nn.Linear: _count_linear,
    nn.Embedding: _count_embedding,
}


def _counter_of(module: nn.Module) -> Counter:
    """The layers of `l0rnn.sparse`, which this module must not import, are known by the matrices that they hold."""
    if isinstance(getattr(module, "weight_hh", None), nn.Module):
        return _count_sparse_cell
    if isinstance(getattr(module, "matrix", None), nn.Module):
        return _count_sparse_linear
    return next((counter for kind, counter in _COUNTERS.items() if isinstance(module, kind)), _count_other)


def _weights_of(matrix: Any) -> int:
    """Weights that a `SparseMatrix` stores, or that a dense one has."""
    return getattr(matrix, "stored", matrix.rows * matrix.columns)


@checked
@torch.inference_mode()
def measure_roofline(
    threads: int, *, device: str | torch.device = "cpu", arrays: tuple[int, ...] = ARRAYS, seconds: float = SECONDS
) -> Roofline:
    """Measure what this machine can read and multiply, by torch.

    An array is read by a sum, by a dot product of its halves and by a product of a matrix with a vector; the best time
    of the fastest of them counts. The matrix product is that of two square float32 matrices.

    Args:
        threads: CPU threads; torch's number of them is as before afterwards.
        device: where to measure.
        arrays: bytes of the arrays, each at least 8 KiB; the largest should exceed all caches.
        seconds: time spent on each kernel and array.

    Raises:
        ValueError: if ``threads``, an array or ``seconds`` is too small.
    """
    check_threads(threads)
    if seconds <= 0:
        raise ValueError(f"`seconds` must be > 0, got {seconds}")
    if not arrays or min(arrays) < 8 * COLUMNS:
        raise ValueError(f"`arrays` must hold sizes of at least {8 * COLUMNS} bytes, got {arrays}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        bandwidths = tuple((size, _read_bandwidth(size, device, seconds)) for size in sorted(arrays))
        left, right = (torch.randn(COLUMNS, COLUMNS, device=device) for _ in range(2))
        throughput = COLUMNS**3 / _best_seconds(partial(torch.mm, left, right), seconds)
    finally:
        torch.set_num_threads(before)
    return Roofline(threads, bandwidths, throughput)


def _read_bandwidth(size: int, device: str | torch.device, seconds: float) -> float:
    array = torch.ones(size // 4 // (2 * COLUMNS) * 2 * COLUMNS, device=device)
    halves, matrix, vector = array.view(2, -1), array.view(-1, COLUMNS), torch.ones(COLUMNS, device=device)
    kernels = [array.sum, partial(torch.dot, *halves), partial(torch.mv, matrix, vector)]
    return array.nbytes / min(_best_seconds(kernel, seconds) for kernel in kernels)


def _best_seconds(kernel: Callable[[], Tensor], seconds: float) -> float:
    """The best time of a call, over blocks of calls that take about a hundredth of the time each."""
    kernel()
    started = timer()
    kernel()
    repeats = max(1, int(seconds / 100 / max(timer() - started, 1e-9)))
    best = float("inf")
    end = timer() + seconds
    while True:
        started = timer()
        for _ in range(repeats):
            kernel()
        now = timer()
        best = min(best, (now - started) / repeats)
        if now >= end:
            return best
