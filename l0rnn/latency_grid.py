"""What a latency table is measured on: calls of one size, kinds of layers, and the widths they are measured at."""

from __future__ import annotations

from dataclasses import dataclass

MOST_STEPS = 10**6  # of all sequences of one timed call together


@dataclass(frozen=True)
class CallSize:
    """What one timed call is.

    Args:
        batch: sequences per call, > 0.
        steps: time steps per call, > 0.
        threads: CPU threads of torch, > 0.
        device: ``"cpu"``, or a GPU such as ``"cuda"``.

    Raises:
        ValueError: if a number is missing or ≤ 0, or the call is so large that it would not end.

    Example:
        >>> str(CallSize(batch=1, steps=35))
        'batch 1, steps 35, threads 1, on cpu'
    """

    batch: int
    steps: int
    threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("batch", "steps", "threads"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
                raise ValueError(
                    f"`{name}` must be a whole number > 0 with a budget in milliseconds, got {value}; "
                    "latency depends on the size of a call, for example batch=1, steps=35"
                )

        if self.batch * self.steps > MOST_STEPS:
            raise ValueError(
                f"`batch` x `steps` must be at most {MOST_STEPS:,}, got {self.batch:,} x {self.steps:,}; a call is "
                "timed hundreds of times, and longer ones take as much longer as they have more steps"
            )

    def __str__(self) -> str:
        return f"batch {self.batch}, steps {self.steps}, threads {self.threads}, on {self.device}"


@dataclass(frozen=True)
class LayerGrid:
    """A kind of layer, and the widths at which it was measured.

    Attributes:
        layer: ``"LSTM"``, ``"GRU"``, ``"RNN_TANH"``, ``"RNN_RELU"`` or ``"Linear"``.
        bias: whether it has biases.
        reads: numbers of units read, increasing.
        units: numbers of units produced, increasing.
    """

    layer: str
    bias: bool
    reads: tuple[int, ...]
    units: tuple[int, ...]


@dataclass(frozen=True)
class LayerPlace:
    """One layer of a network: the position of its grid, and the axes whose units it reads and produces."""

    grid: int
    reads: tuple[str, ...]
    units: tuple[str, ...]


def grid_widths(least: int, most: int, *, per_octave: int = 1) -> tuple[int, ...]:
    """Widths to measure at: the smallest, and from the largest down four octaves.

    Args:
        least: the smallest.
        most: the largest.
        per_octave: in how many steps a width is halved.

    Example:
        >>> grid_widths(1, 650), grid_widths(1, 6), grid_widths(10, 10)
        ((1, 41, 81, 162, 325, 650), (1, 2, 3, 6), (10,))
        >>> grid_widths(1, 650, per_octave=2)
        (1, 41, 57, 81, 115, 162, 230, 325, 460, 650)
    """
    halved = {max(least, round(most / 2 ** (step / per_octave))) for step in range(4 * per_octave + 1)}
    return tuple(sorted(halved | {least}))
