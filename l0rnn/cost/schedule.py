"""How far a schedule is, as a function of the progress of the training."""

from __future__ import annotations


def ramp_done(progress: float, start: float, ramp: float) -> float:
    """How much of a ramp is behind at some progress of the training, all three as fractions of it.

    Example:
        >>> [ramp_done(progress, 0.2, 0.4) for progress in (0.1, 0.4, 0.9)]
        [0.0, 0.5, 1.0]
    """
    if progress < start:
        return 0.0
    return min(1.0, (progress - start) / ramp) if ramp else 1.0


def cubic_density(progress: float, start: float, end: float, final: float) -> float:
    """Density that falls from 1 at the start to its final value at the end, fast at first and then ever slower.

    ``final + (1 - final) * (1 - (progress - start) / (end - start))³`` between them, held before and after.

    Args:
        progress: fraction of the training done.
        start: fraction at which pruning starts.
        end: fraction at which the final density is reached; when it is ``start``, all happens at once.
        final: density at the end, in [0, 1].

    Example:
        >>> [cubic_density(progress, 0.25, 0.75, 0.5) for progress in (0.25, 0.5, 0.75, 1.0)]
        [1.0, 0.5625, 0.5, 0.5]

    Reference:
        Zhu and Gupta, To prune, or not to prune (2017), arXiv 1710.01878, equation 1, with initial sparsity 0.
    """
    if progress >= end:
        return final
    if progress <= start:
        return 1.0
    return final + (1 - final) * (1 - (progress - start) / (end - start)) ** 3


def check_schedule(start: float, ramp: float) -> None:
    """Raise ValueError if ``start`` and ``ramp`` are not fractions of one training."""
    if not (start >= 0 and ramp >= 0 and start + ramp <= 1):
        raise ValueError(
            f"`start` and `ramp` must be fractions of the training, together at most 1, got {start} and {ramp}"
        )
