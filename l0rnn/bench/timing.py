"""Calls, how long one takes, and how other runtimes than torch offer theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import nn
from torch.utils.benchmark import Timer, timer

from l0rnn.arguments import check_threads, checked

Call = Callable[[], Any]


class CannotRunError(Exception):
    """A runtime cannot run a network, or gives other outputs; the message is the reason."""


class Others(Protocol):
    """Runtimes beside torch, as `l0rnn.bench.runtimes` has them.

    Attributes:
        names: of the runtimes.
    """

    names: tuple[str, ...]

    def prepare(self, runtime: str, name: str, network: nn.Module, arguments: tuple[Any, ...], *, threads: int) -> Call:
        """One run of a network in a runtime, checked; raises CannotRunError."""
        ...


@checked
def sample_seconds(call: Call, *, threads: int, seconds: float) -> list[float]:
    """Seconds per call, once for each of the blocks of calls that fit into ``seconds``; at least one.

    Args:
        call: what to time; on a GPU its end is waited for.
        threads: CPU threads of torch.
        seconds: time to spend. A call that takes longer is run twice: once to warm up, once to be timed.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> all(sample > 0 for sample in sample_seconds(lambda: sum(range(100)), threads=1, seconds=0.001))
        True
    """
    check_threads(threads)
    if not seconds > 0:
        raise ValueError(f"`seconds` must be > 0, got {seconds}")
    warm_up = _once(call)
    if warm_up > seconds / 4:  # torch's timer would warm up three times, which for calls of a second takes too long
        return [_once(call) for _ in range(max(1, round(seconds / warm_up)))]
    blocks = Timer("call()", globals={"call": call}, num_threads=threads)
    return list(blocks.blocked_autorange(min_run_time=seconds).times)


@checked
def parameter_bytes(network: nn.Module) -> int:
    """Bytes of all parameters and buffers; shared ones count once.

    Example:
        >>> parameter_bytes(nn.Linear(3, 2))
        32
    """
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))


def _once(call: Call) -> float:
    started = timer()
    call()
    return timer() - started
