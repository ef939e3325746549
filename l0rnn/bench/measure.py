"""Time networks against each other fairly: the best runtime of each, in interleaved rounds of one run."""

from __future__ import annotations

import inspect
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy
from tqdm import tqdm

from l0rnn.arguments import check_threads, checked
from l0rnn.bench import timing
from l0rnn.bench.report import BenchReport, BenchRow, environment
from l0rnn.bench.roofline import Roofline, Work, measure_roofline, work_of
from l0rnn.bench.timing import Call, CannotRunError, Others
from l0rnn.gates.gates import Gates
from l0rnn.recurrent.nested import moved_to
from l0rnn.recurrent.single_steps import onednn

SWITCHES = {"onednn": True, "native": False}  # runtime of torch on a CPU → oneDNN


@checked
def benchmark(
    networks: Mapping[str, nn.Module],
    make_inputs: Callable[[int, int], tuple[Any, ...]],
    *,
    grid: Sequence[Sequence[int]] = ((1, 1), (1, 35), (10, 30)),
    threads: Sequence[int] = (1,),
    device: str | torch.device = "cpu",
    seconds: float = 1.0,
    rounds: int = 5,
    baseline: str | None = None,
    carry_state: bool = True,
    others: Others | None = None,
    roofline: bool = False,
    progress: bool = False,
) -> BenchReport:
    """Measure milliseconds per call of every network, input size, thread count and runtime.

    torch is timed with oneDNN on and off on a CPU, and with cuDNN on a GPU. Which is fastest depends on the size, so
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
        others: runtimes beside torch; `l0rnn.bench.runtimes.benchmark_in` makes and passes them.
        roofline: whether to measure, in the same run, what the machine can read and multiply at most, and to hold each
            row against it; see `l0rnn.bench.roofline`. Takes a few seconds for each thread count.
        progress: whether to show on a terminal how many of the sizes are done, and how long the rest will take.

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
    device = checked_device(device)
    check_networks(networks, device)
    baseline = next(iter(networks)) if baseline is None else baseline
    if baseline not in networks:
        raise ValueError(f"`baseline` must be one of {', '.join(networks)}, got {baseline!r}")
    check_numbers(grid, threads, seconds=seconds, rounds=rounds)
    rows: list[BenchRow] = []
    peaks: dict[str, int] = {}
    refused: dict[str, dict[str, str]] = {}
    limits: dict[int, Roofline] = {}
    with torch.inference_mode(), _evaluating_then_restored(networks), _current(device), ExitStack() as stack:
        for count in dict.fromkeys(threads):
            if roofline:
                limits[count] = measure_roofline(count, device=device)
        sizes_of_inputs = dict.fromkeys((batch, steps) for batch, steps in grid)
        total = len(sizes_of_inputs) * len(dict.fromkeys(threads))
        bar = stack.enter_context(tqdm(total=total, desc="sizes", leave=False, disable=None if progress else True))
        for batch, steps in sizes_of_inputs:
            inputs = make_inputs(batch, steps)
            if not isinstance(inputs, tuple):
                raise ValueError(
                    f"`make_inputs` must return a tuple of positional arguments, got {type(inputs).__name__}; "
                    "return `(inputs,)` for a single one"
                )
            inputs = moved_to(inputs, device)
            for count in dict.fromkeys(threads):
                torch.set_num_threads(count)
                place = _Place(batch, steps, count)
                place.prepare_(networks, inputs, carry_state and steps == 1)
                if device.type == "cuda":
                    peaks = {
                        name: max(peaks.get(name, 0), _cuda_peak(call, device)) for name, call in place.calls.items()
                    }
                timed = _in_torch(place, device)
                if others is not None:
                    _add_others_(timed, refused, place, networks, others)
                samples = _take_turns(timed, threads=count, seconds=seconds / rounds, rounds=rounds)
                rows += _rows(samples, baseline, place, _work(networks, place) if roofline else {}, limits.get(count))
                bar.update()
    sizes = {name: timing.parameter_bytes(network) for name, network in networks.items()}
    found = [limit.to_json() for limit in limits.values()]
    return BenchReport(tuple(rows), baseline, sizes, peaks, environment(device), refused, found)


@dataclass
class _Place:
    """An input size and a thread count, and what is called there."""

    batch: int
    steps: int
    threads: int
    arguments: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    calls: dict[str, Call] = field(default_factory=dict)
    carried: dict[str, bool] = field(default_factory=dict)

    def prepare_(self, networks: Mapping[str, nn.Module], inputs: tuple[Any, ...], carry: bool) -> None:
        """Run each network once, and note whether it goes on from a state."""
        for name, network in networks.items():
            is_carried, arguments = False, inputs
            try:
                output = network(*inputs)
                if carry and isinstance(output, tuple) and len(output) == 2 and output[1] is not None:
                    is_carried = _takes(network, (*inputs, output[1]))
                if is_carried:
                    arguments = (*inputs, output[1])
                    network(*arguments)
            except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
                way_out = "; `carry_state=False` passes no state" if is_carried else ""
                raise ValueError(
                    f"`make_inputs` must give what every network runs on, but {name!r} fails at batch {self.batch}, "
                    f"steps {self.steps}{' with its state passed back' if is_carried else ''}: {error}{way_out}"
                ) from error
            self.arguments[name], self.carried[name] = arguments, is_carried
            self.calls[name] = partial(network, *arguments)


# runtime → network → what is timed
Timed = dict[str, dict[str, Call]]


def _in_torch(place: _Place, device: torch.device) -> Timed:
    """The calls in torch's own runtimes."""
    if device.type == "cuda":
        return {"cuda": dict(place.calls)}
    timed = {"native": dict(place.calls)}
    if torch.backends.mkldnn.is_available():
        timed = {"onednn": dict(place.calls), **timed}
    return timed


def _add_others_(
    timed: Timed,
    refused: dict[str, dict[str, str]],
    place: _Place,
    networks: Mapping[str, nn.Module],
    others: Others,
) -> None:
    """Add the calls in other runtimes, and the reasons of those that cannot run a network."""
    for runtime in others.names:
        timed[runtime] = {}
        for name, network in networks.items():
            if runtime in refused.get(name, {}):
                continue
            try:
                timed[runtime][name] = others.prepare(
                    runtime, name, network, place.arguments[name], threads=place.threads
                )
            except CannotRunError as error:
                refused.setdefault(name, {})[runtime] = str(error)


def _take_turns(timed: Timed, *, threads: int, seconds: float, rounds: int) -> dict[tuple[str, str], list[list[float]]]:
    """(network, runtime) → seconds per call, a list for each round."""
    samples: dict[tuple[str, str], list[list[float]]] = {
        (name, runtime): [] for runtime, calls in timed.items() for name in calls
    }
    for _ in range(rounds):
        for runtime, calls in timed.items():
            with onednn(SWITCHES[runtime]) if runtime in SWITCHES else nullcontext():
                for name, call in calls.items():
                    samples[name, runtime].append(timing.sample_seconds(call, threads=threads, seconds=seconds))
    return samples


def _work(networks: Mapping[str, nn.Module], place: _Place) -> dict[str, Work]:
    """The work of each network; not of gated ones, which leave out what is closed."""
    return {
        name: work_of(network, place.arguments[name])
        for name, network in networks.items()
        if not any(isinstance(module, Gates) for module in network.modules())
    }


def _rows(
    samples: Mapping[tuple[str, str], list[list[float]]],
    baseline: str,
    place: _Place,
    work: Mapping[str, Work],
    limit: Roofline | None,
) -> list[BenchRow]:
    pooled = {key: np.concatenate(taken) * 1e3 for key, taken in samples.items()}  # milliseconds
    in_rounds = {key: [statistics.median(times) for times in taken] for key, taken in samples.items()}
    best: dict[str, str] = {}
    for name, runtime in samples:
        if name not in best or np.median(pooled[name, runtime]) < np.median(pooled[name, best[name]]):
            best[name] = runtime
    bounds = {name: found.bound_seconds(limit) * 1e3 for name, found in work.items()} if limit else {}
    reference = in_rounds[baseline, best[baseline]]
    return [
        BenchRow(
            network=name,
            batch=place.batch,
            steps=place.steps,
            threads=place.threads,
            runtime=runtime,
            milliseconds=float(np.median(times)),
            spread=float(np.subtract(*np.percentile(times, [75, 25]))),
            speedup=statistics.median(a / b for a, b in zip(reference, in_rounds[name, runtime], strict=True)),
            is_best=best[name] == runtime,
            is_state_carried=place.carried[name],
            bound_milliseconds=bounds.get(name),
        )
        for (name, runtime), times in sorted(pooled.items(), key=lambda item: list(best).index(item[0][0]))
    ]


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


def check_numbers(grid: Sequence[Sequence[int]], threads: Sequence[int], *, seconds: float, rounds: int) -> None:
    """Raises ValueError for numbers that are missing or ≤ 0."""
    if not grid or any(len(size) != 2 or min(size) <= 0 for size in grid):
        raise ValueError(f"`grid` must hold pairs (batch, steps), both > 0, got {grid}; for example [(1, 1), (10, 30)]")
    if not threads:
        raise ValueError(f"`threads` must hold thread counts > 0, got {threads}; for example [1, {os.cpu_count()}]")
    for count in threads:
        check_threads(count)
    for name, value in {"seconds": seconds, "rounds": rounds}.items():
        if not value > 0:
            raise ValueError(f"`{name}` must be > 0, got {value}")


def checked_device(device: str | torch.device) -> torch.device:
    """The device, with its number if it is a GPU; raises ValueError if it is not there."""
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


def check_networks(networks: Mapping[str, nn.Module], device: torch.device) -> None:
    """Raises ValueError if there are no networks, or one is elsewhere or has no weights yet."""
    if not networks:
        raise ValueError("`networks` must hold at least one network, got none; give a dict of name → module")
    for name, network in networks.items():
        for tensor in (*network.parameters(), *network.buffers()):
            if is_lazy(tensor):
                raise ValueError(f"`networks` must have their weights, but {name!r} is lazy; call it once on an input")
            if tensor.device != device:
                raise ValueError(
                    f"`networks` must be on `device`, {device}, but {name!r} has weights on {tensor.device}; "
                    f"move it with `.to({str(device)!r})`"
                )
