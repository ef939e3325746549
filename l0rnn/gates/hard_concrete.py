"""The hard concrete distribution: a random gate in [0, 1] that is exactly 0 or exactly 1 with positive probability.

A uniform number u is turned into a logistic sample, squeezed to (0, 1), stretched to (gamma, zeta) and cut to [0, 1]::

    s = sigmoid((logit(u) + log_alpha) / beta)
    gate = min(1, max(0, s * (zeta - gamma) + gamma))

so the sample is differentiable in ``log_alpha`` while the mass outside [0, 1] collapses onto the two ends. This file
needs torch alone and can be copied into another project as it is.

Reference:
    Louizos, Welling, Kingma: Learning Sparse Neural Networks through L0 Regularization (2018), arXiv 1712.01312,
    equations 10 to 13.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

# Beyond this |log_alpha| a gate is exactly 0 or 1 in float32 for every u, so larger values mean nothing more.
LOG_ALPHA_LIMIT = 50.0


@dataclass(frozen=True)
class HardConcrete:
    """The distribution of gates, given one ``log_alpha`` per gate.

    All methods take ``log_alpha`` of any shape and floating dtype, compute in float32 at least, and return the shape
    and dtype of ``log_alpha``.

    Args:
        beta: temperature, > 0. Small values push samples to the ends.
        gamma: lower end of the stretched interval, < 0.
        zeta: upper end of the stretched interval, > 1.

    Raises:
        ValueError: if a parameter is outside its range.

    Example:
        >>> import torch
        >>> gates = HardConcrete()
        >>> log_alpha = gates.log_alpha(torch.tensor([0.5, 0.9, 1.0]))
        >>> gates.open_probability(log_alpha)
        tensor([0.5000, 0.9000, 1.0000])
        >>> gates.deterministic(gates.log_alpha(torch.tensor([0.0, 1.0])))
        tensor([0., 1.])

    Reference:
        Louizos et al. 2018 (arXiv 1712.01312), equations 10 to 13; default values from section 4.
    """

    beta: float = 2 / 3
    gamma: float = -0.1
    zeta: float = 1.1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():  # by hand, since this file imports torch alone
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"`{name}` must be float, got {value!r}")
        if not self.beta > 0:
            raise ValueError(f"`beta` must be > 0, got {self.beta}")
        if not self.gamma < 0:
            raise ValueError(f"`gamma` must be < 0 so that a gate can close, got {self.gamma}")
        if not self.zeta > 1:
            raise ValueError(f"`zeta` must be > 1 so that a gate can be fully open, got {self.zeta}")
        for name, value in vars(self).items():
            if not math.isfinite(value):
                raise ValueError(f"`{name}` must be finite, got {value}")

    def sample(self, log_alpha: Tensor, *, uniform: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        """Draw one gate per element, differentiable in ``log_alpha`` (equations 10 and 11).

        Args:
            log_alpha: location of each gate.
            uniform: numbers in [0, 1] to use instead of fresh ones, of the shape of ``log_alpha``.
            generator: source of the fresh uniform numbers.

        Returns:
            Gates in [0, 1].

        Example:
            >>> HardConcrete().sample(torch.zeros(3), uniform=torch.tensor([0.0, 0.5, 1.0]))
            tensor([0.0000, 0.5000, 1.0000])
        """
        wide = _at_least_float32(log_alpha)
        if uniform is None:
            uniform = torch.rand(wide.shape, dtype=wide.dtype, device=wide.device, generator=generator)
        # eps keeps logit(u) finite at u = 0 and u = 1
        noise = torch.logit(uniform.to(wide.dtype), eps=torch.finfo(wide.dtype).eps)
        return self._stretch(torch.sigmoid((noise + wide) / self.beta)).to(log_alpha.dtype)

    def deterministic(self, log_alpha: Tensor) -> Tensor:
        """The gate used in evaluation: no noise, no temperature (equation 13)."""
        return self._stretch(torch.sigmoid(_at_least_float32(log_alpha))).to(log_alpha.dtype)

    def open_probability(self, log_alpha: Tensor) -> Tensor:
        """P(gate ≠ 0) = sigmoid(log_alpha - beta * log(-gamma / zeta)) (equation 12)."""
        return torch.sigmoid(_at_least_float32(log_alpha) + self._shift).to(log_alpha.dtype)

    def log_alpha(self, open_probability: Tensor) -> Tensor:
        """The location that gives an open probability: the inverse of `open_probability`.

        0 and 1 give ∓`LOG_ALPHA_LIMIT`, at which the gate is exactly 0 or 1 whatever the noise.
        """
        wide = _at_least_float32(open_probability)
        location = torch.logit(wide) - self._shift
        # the shift would move the two ends off the limit: they are set, not shifted
        location = torch.where(wide >= 1, LOG_ALPHA_LIMIT, torch.where(wide <= 0, -LOG_ALPHA_LIMIT, location))
        return location.clamp(-LOG_ALPHA_LIMIT, LOG_ALPHA_LIMIT).to(open_probability.dtype)

    def mean(self, log_alpha: Tensor, *, nodes: int = 64) -> Tensor:
        """E[gate] = ∫₀¹ P(gate > t) dt, by Gauss-Legendre quadrature with ``nodes`` points (no closed form exists)."""
        wide = _at_least_float32(log_alpha).unsqueeze(-1)
        points, weights = _gauss_legendre(nodes, like=wide)
        threshold = torch.logit((points - self.gamma) / (self.zeta - self.gamma))
        exceeds = torch.sigmoid(wide - self.beta * threshold)  # P(gate > t), shape (..., nodes)
        return (exceeds * weights).sum(-1).to(log_alpha.dtype)

    @property
    def closing_log_alpha(self) -> float:
        """The ``log_alpha`` at and below which the deterministic gate is 0."""
        return math.log(-self.gamma / self.zeta)

    @property
    def _shift(self) -> float:
        return -self.beta * math.log(-self.gamma / self.zeta)

    def _stretch(self, squeezed: Tensor) -> Tensor:
        return (squeezed * (self.zeta - self.gamma) + self.gamma).clamp(0, 1)


def _at_least_float32(tensor: Tensor) -> Tensor:
    """A half-precision logit cannot tell 0.999 from 1, so gates are computed in float32 (or float64 if given)."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _gauss_legendre(nodes: int, *, like: Tensor) -> tuple[Tensor, Tensor]:
    """Points and weights on [0, 1]: the eigenvalues of the Legendre Jacobi matrix (Golub and Welsch 1969)."""
    index = torch.arange(1, nodes, dtype=torch.float64, device="cpu")  # not every device has float64
    off_diagonal = index / torch.sqrt(4 * index**2 - 1)
    points, vectors = torch.linalg.eigh(torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1))
    weights = vectors[0] ** 2
    return ((points + 1) / 2).to(like), weights.to(like)
