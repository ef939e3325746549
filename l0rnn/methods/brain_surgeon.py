"""Optimal brain surgeon on the gates of units: second order, with the units that are left making up for the others."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from l0rnn.arguments import checked
from l0rnn.methods.gate_gradients import GateGradients
from l0rnn.methods.gradual import GradualUnits
from l0rnn.methods.units import PrunedUnits
from l0rnn.surgery.kept import units_to_keep
from l0rnn.surgery.sizes import raw_tensor
from l0rnn.tracing.units import Units, scales

log = logging.getLogger(__name__)

MOST, LEAST = 2.0, 0.5  # factor of a unit in one pruning: further away the loss is not quadratic
PATIENCE = 3  # steps in a row without any gradient that are let pass


@checked
class BrainSurgeon(GradualUnits):
    """Closes the units whose loss the others can best make up for, per multiply-add saved, and lets them do so.

    Removes: whole units. Rule: optimal brain surgeon on gates. With c the ``g ∂L/∂g`` of all units in a step
    (`GateGradients`), the loss is taken to be quadratic in the gates with the matrix ``F = E[c cᵀ]``, a running mean
    over the steps, plus ``damping`` times the mean of its diagonal on the diagonal. All axes stand in one order:
    again and again that one closes whose ``1 / [F⁻¹]_jj`` is least for each multiply-add that it saves at that moment;
    F⁻¹ then loses its row and column, and the others' change is ``δ ← δ − F⁻¹_{·j} / [F⁻¹]_jj · (1 + δ_j)``. At the end
    of each pruning the columns that read unit i are multiplied by 1 + δ_i, kept within [0.5, 2]. They close along the
    curve of `GradualUnits`. Cost at run time: that of a smaller dense network.

    In training it costs a copy of the weights that read units and a matrix of `(unit, unit)`, which is in the
    checkpoint too; each pruning inverts that of the open units on the CPU. Where the loss is near 0, as at the end of
    an easy task, gradients are noise, and so is F.

    Args:
        density: multiply-adds to keep, as a fraction of the dense network's, in (0, 1].
        start: fraction of the training before the first unit closes, in [0, ``end``].
        end: fraction of the training at which the density is met; equal to ``start`` to prune in one shot.
        frequency: from one pruning to the next: a fraction of the training below 1, else optimiser steps.
        decay: of the running mean, in [0, 1).
        damping: what is added to the diagonal of F, as a multiple of its mean, > 0.
        units: which units can be removed, see `UnitMethod`.
        repair: whether what reads units that close takes over from the others, see `UnitMethod`.

    Raises:
        ValueError: if an argument is out of range.
        RuntimeError: in the training, if no unit gets a gradient.

    Example:
        >>> from l0rnn import Pruner
        >>> network, x = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2)), torch.randn(64, 4)
        >>> pruner = Pruner(network, BrainSurgeon(density=0.25, frequency=5), x, steps=50)
        >>> optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        >>> for _ in range(50):
        ...     optimizer.zero_grad()
        ...     ((network(x) - x[:, :2]).square().mean() + pruner.penalty()).backward()
        ...     optimizer.step()
        ...     pruner.step()
        >>> pruner.shrink()[0]
        Linear(in_features=4, out_features=4, bias=True)

    Reference:
        Hassibi, Stork: Second order derivatives for network pruning (1993), equations 5 and 6, with gates in place of
        weights; the empirical Fisher of Singh, Alistarh: WoodFisher (2020), arXiv 2004.14340, in place of the Hessian.
    """

    fisher: Tensor
    mass: Tensor

    def __init__(
        self,
        density: float,
        *,
        start: float = 0.3,
        end: float = 0.55,
        frequency: float = 0.01,
        decay: float = 0.99,
        damping: float = 0.1,
        units: PrunedUnits = "all",
        repair: bool = True,
    ) -> None:
        super().__init__(density, start=start, end=end, frequency=frequency, units=units, repair=repair)
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` must be in [0, 1), got {decay}")
        if not 0 < damping < float("inf"):
            raise ValueError(f"`damping` must be > 0, so that F can be inverted, got {damping}")
        self.decay = decay
        self.damping = damping
        self._without_gradient = 0  # steps in a row

    def attach(self, network: nn.Module, units: Units) -> None:
        """Gate the network; nothing is closed yet."""
        super().attach(network, units)
        like, count = self.own_gates.log_alpha, self.traced.count
        # of the units that there are now, also when some have been removed
        self.register_buffer("fisher", torch.zeros(count, count, dtype=like.dtype, device=like.device))
        self.register_buffer("mass", torch.zeros(count, dtype=like.dtype, device=like.device))  # weights in the mean
        self._gradients = GateGradients(network, self.traced)
        self._has_told = False

    def redraw_(self, units: Units, left: Tensor) -> None:
        """Go on with fewer units."""
        super().redraw_(units, left)
        self._gradients = GateGradients(self._network[0], units)

    def start_afresh_(self) -> None:
        """Open all units that are there, and forget their gradients."""
        super().start_afresh_()
        self.fisher.zero_()
        self.mass.zero_()

    def penalty(self) -> Tensor:
        """Nothing; but the weights of before the step are remembered here."""
        if not self.has_chosen:
            self._gradients.remember()
        return super().penalty()

    @torch.no_grad()
    def follow_(self, progress: float) -> None:
        """Let a step into the running mean, but for what it has no gradient of; one with NaN or infinity not at all."""
        if self.has_chosen:
            return
        values, is_known = self._gradients.of_step()
        self._check_gradients(bool(is_known.any()))
        everywhere = torch.ones(len(self.mass), dtype=torch.bool).index_copy(0, self.left, is_known)
        c = self.mass.new_zeros(len(self.mass)).index_copy(0, self.left.to(values.device), values.to(self.mass.dtype))
        share = (1 - self.decay) * c.isfinite().all()  # by the device: the host does not wait
        c = c.nan_to_num(0.0, 0.0, 0.0) * share.sqrt()
        if bool(everywhere.all()):
            self.fisher.mul_(1 - share).addr_(c, c)
            self.mass.lerp_(torch.ones_like(self.mass), share)
        else:
            known = everywhere.to(c)
            self.fisher.mul_(1 - share * torch.outer(known, known)).addr_(c, c)
            self.mass.lerp_(torch.ones_like(self.mass), share * known)

    def _check_gradients(self, has_any: bool) -> None:
        self._without_gradient = 0 if has_any else self._without_gradient + 1
        if self._without_gradient >= PATIENCE:
            raise RuntimeError(
                f"no unit has had a gradient for {PATIENCE} steps, without which BrainSurgeon cannot rank them: add "
                "`pruner.penalty()` to the loss, and call `pruner.step()` before gradients are cleared"
            )

    @torch.no_grad()
    def close_down_to_(self, density: float) -> None:
        """Close the units that are worth least, and let the others make up for them."""
        keep, limit = self.own_gates.keep().cpu(), density * self.dense.multiply_adds
        costs = self._cost.kept(self.traced.by_axis(units_to_keep(self.traced, keep.float()))).multiply_adds
        if costs <= limit:
            return
        surgery = Surgery(*self._fisher_of(keep))
        axis_of = torch.repeat_interleave(torch.tensor([axis.size for axis in self.traced.axes.values()]))
        open = keep.nonzero().squeeze(1)
        while costs > limit:
            counts = torch.stack([keep[axis.units].sum() for axis in self.traced.axes.values()])
            saved = torch.where(counts > 1, self._cost.saved(counts), 0.0)  # every axis keeps one
            place = surgery.remove(saved[axis_of[open]])
            if place is None:
                break
            keep[open[place]] = False
            costs -= float(saved[axis_of[open[place]]])
            if costs <= limit:  # an LSTM with a projection may need more cells than are open
                costs = self._cost.kept(self.traced.by_axis(units_to_keep(self.traced, keep.float()))).multiply_adds
        if self.repair:
            self.close_and_repair_(keep)
            return
        self.close_(keep)
        factors = torch.ones(self.traced.count).index_copy(0, open, (1 + surgery.change).float().clamp(LEAST, MOST))
        self._scale_readers_(torch.where(keep, factors, 1.0))

    def _fisher_of(self, keep: Tensor) -> tuple[Tensor, Tensor]:
        """F of the open units with its damping, as a multiple of the mean of its diagonal; and of which it is known."""
        own = self.left[keep]
        mass = self.mass.cpu().double()[own]
        is_known = mass > 0
        if not self._has_told and not bool(is_known.all()):
            self._has_told = True
            unknown = torch.zeros_like(keep).index_fill_(0, keep.nonzero().squeeze(1)[~is_known], True)
            log.warning(
                "no step has had a gradient for %d units of %s, so they are the last to be closed; `fixed` keeps them, "
                "or train what reads them",
                int(unknown.sum()),
                ", ".join(self.traced.axes_of(unknown.nonzero().squeeze(1))),
            )
        scale = torch.where(is_known, mass, 1.0).rsqrt()  # a mean that has begun late counts in full
        fisher = self.fisher.cpu()[own][:, own].double() * scale * scale.unsqueeze(1)
        mean = fisher.diagonal()[is_known].mean() if bool(is_known.any()) else fisher.new_zeros(())
        if not mean > 0:
            log.warning("all gradients of the units have been 0 so far, so units are closed by what they save alone")
            mean = torch.ones_like(mean)
        return (fisher / mean).add_(torch.eye(len(fisher), dtype=fisher.dtype), alpha=self.damping), is_known

    def _scale_readers_(self, factors: Tensor) -> None:
        """Multiply the columns that read each unit."""
        for weight in self.traced.weights.values():
            for dimension, own in scales(weight, factors) if weight.is_parameter else []:
                tensor = raw_tensor(self._network[0], weight.name)
                tensor.mul_(own.to(tensor).reshape([-1 if d == dimension else 1 for d in range(tensor.dim())]))


class Surgery:
    """Removal of one unit after the other from a quadratic form, the others following it to its lowest point.

    Args:
        fisher: symmetric and positive definite, `(unit, unit)`.
        is_known: which units it is right for, bool `(unit,)`; the others are the last to be removed.

    Attributes:
        change: by how much each gate has to change from 1, `(unit,)`; -1 for one that is removed.

    Example:
        >>> surgery = Surgery(torch.tensor([[1.0, 0.9], [0.9, 2.0]]), torch.tensor([True, True]))
        >>> surgery.remove(torch.ones(2)), surgery.change
        (0, tensor([-1.0000,  0.4500]))
    """

    def __init__(self, fisher: Tensor, is_known: Tensor) -> None:
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(fisher))
        self.change = torch.zeros(len(fisher), dtype=fisher.dtype)
        self._left = torch.ones(len(fisher), dtype=torch.bool)
        self._is_known = is_known

    def remove(self, saved: Tensor) -> int | None:
        """Remove the unit that is worth least for what it saves, `(unit,)`, > 0; None if there is none.

        Returns:
            Its number.
        """
        worth = 1 / self.inverse.diagonal() / saved
        worth = worth.masked_fill(~(self._left & (saved > 0)), torch.inf)
        known = worth.masked_fill(~self._is_known, torch.inf)
        worth = known if bool(known.isfinite().any()) else worth
        place = int(worth.argmin())
        if not bool(worth[place].isfinite()):
            return None
        column, corner = self.inverse[:, place].clone(), self.inverse[place, place].clone()
        self.change -= column / corner * (1 + self.change[place])
        self.inverse.addr_(column, column, alpha=-1 / float(corner))
        self.change[place] = -1
        self._left[place] = False
        return place
