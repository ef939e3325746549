"""Time networks against each other fairly: the best runtime of each, in interleaved rounds of one run."""

from __future__ import annotations

import inspect
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence
from torch.utils.benchmark import Timer

from l0rnn.bench_report import BenchReport, BenchRow, environment
from l0rnn.layers import RaggedRNN
from l0rnn.onednn import onednn

Call = Callable[[], Any]


def benchmark(
    networks: Mapping[str, nn.Module],
    make_inputs: Callable[[int, int], tuple[Any, ...]],
    *,
    grid: Sequence[tuple[int, int]] = ((1, 1), (1, 35), (10, 30)),
    threads: Sequence[int] = (1,),
    device: str | torch.device = "cpu",
    seconds: float = 1.0,
    rounds: int = 5,
    baseline: str | None = None,
    carry_state: bool = True,
) -> BenchReport:
    """Measure milliseconds per call of every network, input size, thread count and runtime.

    The runtimes are torch with oneDNN on and off on a CPU, and cuDNN on a GPU; which is faster depends on the size, so
    networks are compared best against best. The networks take turns in several rounds (A B A B …) and each ratio is
    taken within a round, so that a machine that slows down for a while slows all of them. All run in evaluation mode
    under `torch.inference_mode`; modes, thread count and oneDNN are as before afterwards.

    A single step (``steps`` = 1) is timed as in streaming: a network that returns ``(output, state)`` and takes
    ``(*inputs, state)`` goes on, in every call, from the state that its first call returned.

    Args:
        networks: name → network, all on ``device``.
        make_inputs: ``(batch, steps)`` → tuple of positional arguments, the same for every network. Tensors, also in
            tuples, lists and dicts, are moved to ``device``.
        grid: pairs ``(batch, steps)``: sequences, and time steps, per call.
        threads: CPU thread counts. More threads than idle cores measure the scheduler, not the networks.
        device: ``"cpu"``, or a GPU such as ``"cuda"``.
        seconds: time spent on each network × size × thread count × runtime, over all rounds; warm-up comes on top.
        rounds: how often the networks take turns.
        baseline: name of the network that speedups refer to; the first if None.
        carry_state: whether single steps go on from a state.

    Returns:
        The rows, in milliseconds per call, the bytes of each network, and the environment.

    Raises:
        ValueError: if there are no networks, ``baseline`` is none of them, a number is ≤ 0 or missing, ``device`` is
            not there, or a network is elsewhere, has no weights yet, or does not run on the inputs.

    Example:
        >>> networks = {"dense": nn.LSTM(8, 16), "small": nn.LSTM(8, 4)}
        >>> report = benchmark(
        ...     networks, lambda batch, steps: (torch.randn(steps, batch, 8),), grid=[(1, 1)], seconds=0.01
        ... )
        >>> [row.network for row in report.rows if row.is_best]
        ['dense', 'small']
        >>> report.parameter_bytes["small"]  # 4 gates of 4 units: 8 + 4 weights and 2 biases of 4 bytes each
        896
    """
    if not networks:
        raise ValueError("`networks` must hold at least one network, got none; give a dict of name → module")
    baseline = next(iter(networks)) if baseline is None else baseline
    if baseline not in networks:
        raise ValueError(f"`baseline` must be one of {', '.join(networks)}, got {baseline!r}")
    _check_numbers(grid, threads, seconds=seconds, rounds=rounds)
    device = _checked_device(device)
    _check_networks(networks, device)
    rows: list[BenchRow] = []
    peaks: dict[str, int] = {}
    with torch.inference_mode(), _evaluating_then_restored(networks), _current(device):
        for batch, steps in dict.fromkeys((batch, steps) for batch, steps in grid):
            inputs = make_inputs(batch, steps)
            if not isinstance(inputs, tuple):
                raise ValueError(
                    f"`make_inputs` must return a tuple of positional arguments, got {type(inputs).__name__}; "
                    "return `(inputs,)` for a single one"
                )
            inputs = _moved(inputs, device)
            for count in dict.fromkeys(threads):
                torch.set_num_threads(count)
                calls, carried = _prepare_calls(networks, inputs, (batch, steps), carry_state and steps == 1)
                if device.type == "cuda":
                    peaks = {name: max(peaks.get(name, 0), _cuda_peak(call, device)) for name, call in calls.items()}
                samples = _take_turns(calls, device, threads=count, seconds=seconds / rounds, rounds=rounds)
                rows += _rows(samples, baseline, batch=batch, steps=steps, threads=count, carried=carried)
    sizes = {name: parameter_bytes(network) for name, network in networks.items()}
    return BenchReport(tuple(rows), baseline, sizes, peaks, environment(device))


def sample_seconds(call: Call, *, threads: int, seconds: float) -> list[float]:
    """Seconds per call, once for each of the blocks of calls that fit into ``seconds``; at least one."""
    timer = Timer("call()", globals={"call": call}, num_threads=threads)
    return list(timer.blocked_autorange(min_run_time=seconds).times)


def parameter_bytes(network: nn.Module) -> int:
    """Bytes of all parameters and buffers; shared ones count once.

    Example:
        >>> parameter_bytes(nn.Linear(3, 2))
        32
    """
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))


def _take_turns(
    calls: Mapping[str, Call], device: torch.device, *, threads: int, seconds: float, rounds: int
) -> dict[tuple[str, str], list[list[float]]]:
    """(network, runtime) → seconds per call, a list for each round."""
    if device.type == "cuda":
        runtimes = ["cuda"]
    else:
        runtimes = ["onednn", "native"] if torch.backends.mkldnn.is_available() else ["native"]
    samples: dict[tuple[str, str], list[list[float]]] = {(name, runtime): [] for name in calls for runtime in runtimes}
    for _ in range(rounds):
        for runtime in runtimes:
            with nullcontext() if runtime == "cuda" else onednn(runtime == "onednn"):
                for name, call in calls.items():
                    samples[name, runtime].append(sample_seconds(call, threads=threads, seconds=seconds))
    return samples


def _rows(
    samples: Mapping[tuple[str, str], list[list[float]]],
    baseline: str,
    *,
    batch: int,
    steps: int,
    threads: int,
    carried: Mapping[str, bool],
) -> list[BenchRow]:
    pooled = {key: np.concatenate(taken) * 1e3 for key, taken in samples.items()}  # milliseconds
    in_rounds = {key: [statistics.median(times) for times in taken] for key, taken in samples.items()}
    best: dict[str, str] = {}
    for name, runtime in samples:
        if name not in best or np.median(pooled[name, runtime]) < np.median(pooled[name, best[name]]):
            best[name] = runtime
    reference = in_rounds[baseline, best[baseline]]
    return [
        BenchRow(
            network=name,
            batch=batch,
            steps=steps,
            threads=threads,
            runtime=runtime,
            milliseconds=float(np.median(times)),
            spread=float(np.subtract(*np.percentile(times, [75, 25]))),
            speedup=statistics.median(a / b for a, b in zip(reference, in_rounds[name, runtime], strict=True)),
            is_best=best[name] == runtime,
            is_state_carried=carried[name],
        )
        for (name, runtime), times in pooled.items()
    ]


def _prepare_calls(
    networks: Mapping[str, nn.Module], inputs: tuple[Any, ...], size: tuple[int, int], carry: bool
) -> tuple[dict[str, Call], dict[str, bool]]:
    """What is timed for each network, run once already, and whether it goes on from a state."""
    calls: dict[str, Call] = {}
    carried = dict.fromkeys(networks, False)
    for name, network in networks.items():
        arguments = inputs
        try:
            output = network(*inputs)
            if carry and isinstance(output, tuple) and len(output) == 2 and output[1] is not None:
                carried[name] = _takes(network, (*inputs, output[1]))
            if carried[name]:
                arguments = (*inputs, output[1])
                network(*arguments)
        except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
            way_out = "; `carry_state=False` passes no state" if carried[name] else ""
            raise ValueError(
                f"`make_inputs` must give what every network runs on, but {name!r} fails at batch {size[0]}, "
                f"steps {size[1]}{' with its state passed back' if carried[name] else ''}: {error}{way_out}"
            ) from error
        calls[name] = partial(network, *arguments)
    return calls, carried


def _takes(network: nn.Module, arguments: tuple[Any, ...]) -> bool:
    try:
        inspect.signature(network.forward).bind(*arguments)
    except (TypeError, ValueError):  # too many arguments, or a scripted module without a signature
        return False
    return True


def _cuda_peak(call: Call, device: torch.device) -> int:
    """Most bytes that a call takes beyond what is held already."""
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


@contextmanager
def _evaluating_then_restored(networks: Mapping[str, nn.Module]) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards every module's mode, and the thread count, are as they were."""
    count = torch.get_num_threads()
    modes = [(module, module.training) for network in networks.values() for module in network.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        torch.set_num_threads(count)
        for module, mode in modes:
            module.training = mode


def _current(device: torch.device) -> AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, (Tensor, PackedSequence)):
        return value.to(device)  # type: ignore[arg-type]
    if type(value) in (tuple, list):
        return type(value)(_moved(part, device) for part in value)
    if type(value) is dict:
        return {key: _moved(part, device) for key, part in value.items()}
    return value


def _check_numbers(grid: Sequence[tuple[int, int]], threads: Sequence[int], *, seconds: float, rounds: int) -> None:
    if not grid or any(len(size) != 2 or min(size) <= 0 for size in grid):
        raise ValueError(f"`grid` must hold pairs (batch, steps), both > 0, got {grid}; for example [(1, 1), (10, 30)]")
    if not threads or min(threads) <= 0:
        raise ValueError(f"`threads` must hold thread counts > 0, got {threads}; for example [1, {os.cpu_count()}]")
    for name, value in {"seconds": seconds, "rounds": rounds}.items():
        if not value > 0:
            raise ValueError(f"`{name}` must be > 0, got {value}")


def _checked_device(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"`device` must be 'cpu' or 'cuda', got {device!r}") from error
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"`device` must be 'cpu' or 'cuda', got {str(device)!r}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found.type == "cuda" and (found.index or 0) >= count:
        raise ValueError(
            f"`device` must be one that torch finds here, got {str(device)!r} with {count} CUDA GPUs; use 'cpu'"
        )
    if found.type == "cuda" and found.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return found


def _check_networks(networks: Mapping[str, nn.Module], device: torch.device) -> None:
    for name, network in networks.items():
        for tensor in (*network.parameters(), *network.buffers()):
            if is_lazy(tensor):
                raise ValueError(f"`networks` must have their weights, but {name!r} is lazy; call it once on an input")
            if tensor.device != device:
                raise ValueError(
                    f"`networks` must be on `device`, {device}, but {name!r} has weights on {tensor.device}; "
                    f"move it with `.to({str(device)!r})`"
                )


if __name__ == "__main__":
    torch.manual_seed(0)
    layers = {"dense 2 × 650": nn.LSTM(650, 650, 2), "small 200, 160": RaggedRNN("LSTM", 650, [[200], [160]])}
    print(benchmark(layers, lambda batch, steps: (torch.randn(steps, batch, 650),)).table())
