"""Gradual pruning of single weights: those with the smallest absolute values go first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from l0rnn.arguments import checked
from l0rnn.cost.schedule import cubic_density
from l0rnn.methods.masks import MaskMethod
from l0rnn.methods.method import check_frequency
from l0rnn.methods.thresholds import (
    Scope,
    check_density,
    largest_within,
    magnitude_quantile,
    read_dense,
    start_slope,
    step_of,
    two_slope_threshold,
)
from l0rnn.recurrent.names import kind_of_weight

Schedule = Literal["cubic", "two_slope"]


@checked
class GradualMagnitude(MaskMethod):
    """Gradual magnitude pruning of single weights.

    Removes: single weights of the matrices; the masks only ever lose entries. Rule: every ``frequency`` from
    `start` to `end`, and at `end` in any case, the weights of least absolute value among those still kept. After `end`
    the masks are fixed and the rest of the training is fine-tuning. Cost at run time: that of the dense network, unless
    a sparse kernel runs it.

    With the schedule ``"cubic"`` the density falls as in `cubic_density`, and what is promised is exactly kept: the
    weights are ranked, and the kept ones are as many as the density allows, at least one. If `end` equals `start`, all
    are pruned at once. With ``"two_slope"`` weights below a threshold are pruned, which rises as in
    `two_slope_threshold`, and the density is what comes of it: a threshold that is too large takes all of a matrix.

    Args:
        density: fraction of the weights to keep, in (0, 1]; with ``"two_slope"`` it goes with ``dense``.
        schedule: ``"cubic"`` or ``"two_slope"``.
        start: fraction of the training at which pruning starts. Narang et al. start with the second epoch, which is
            ``1 / epochs``.
        ramp: fraction of the training at which the second slope starts; ``"two_slope"`` alone has one.
        end: fraction of the training at which pruning ends.
        ramp_slope: second slope as a multiple of the first; with 1.5 the threshold ends at ``q``, with more above it.
        frequency: from one update of the masks to the next: a fraction of the training below 1, else optimiser steps.
        q: threshold at the end, for ``"two_slope"``: one for all matrices, or one for each parameter name or kind of
            weight, such as ``{"weight_hh": 0.11, "decoder.weight": 0.16}``, where a name goes before a kind and
            matrices that are not named stay whole.
        dense: a directory that `l0rnn.export.save_dense` wrote, or a safetensors file, of a trained dense model. Then
            the ``q`` of each matrix is the absolute value that a fraction ``density`` of its weights reach there.
            `attach` replaces ``dense`` and ``density`` by this ``q``, so that a checkpoint does not need the file.
        scope: whether ``"cubic"`` ranks the weights of each ``"matrix"`` by themselves, so that each gets the density,
            or of the whole ``"network"``.
        embedding: whether embeddings are pruned too.

    Raises:
        ValueError: if an argument is out of range, or does not go with the schedule.

    Example:
        >>> from l0rnn.language.language_model import LanguageModel
        >>> from l0rnn.tracing import trace
        >>> network = LanguageModel(10, 4, 8, num_layers=1)
        >>> method = GradualMagnitude(density=0.25, start=0.0, end=1.0)
        >>> method.attach(network, trace(network, torch.zeros(5, 2, dtype=torch.int64)))
        >>> method.begin(total_steps=1)
        >>> method.after_step(1)
        >>> {name: int((weight != 0).sum()) for name, weight in method.targets().items()}
        {'encoder.weight_ih_l0': 32, 'encoder.weight_hh_l0': 64, 'decoder.weight': 20}

    Reference:
        Narang et al., Exploring Sparsity in Recurrent Neural Networks (2017), arXiv 1704.05119, Algorithm 1 and
        Table 1: ``"two_slope"``. Zhu and Gupta, To prune, or not to prune (2017), arXiv 1710.01878: ``"cubic"``.
    """

    def __init__(
        self,
        density: float | None = None,
        *,
        schedule: Schedule = "cubic",
        start: float = 0.05,
        ramp: float = 0.25,
        end: float = 0.5,
        ramp_slope: float = 1.5,
        frequency: float = 0.01,
        q: float | Mapping[str, float] | None = None,
        dense: str | Path | None = None,
        scope: Scope = "matrix",
        embedding: bool = False,
    ) -> None:
        super().__init__(embedding=embedding)
        check_density(density)
        _check_schedule(schedule, start, ramp, end)
        if not ramp_slope > 0:
            raise ValueError(f"`ramp_slope` must be > 0, a multiple of the first slope, got {ramp_slope}")
        check_frequency(frequency)
        for name, value in q.items() if isinstance(q, Mapping) else [("all", q)]:
            if value is not None and not value > 0:
                raise ValueError(f"`q` must be > 0, a threshold in units of the weights, got {value} for {name!r}")
        _check_goal(schedule, scope, density=density, q=q, dense=None if dense is None else str(dense))
        self.density = density
        self.schedule: Schedule = schedule
        self.scope: Scope = scope
        self.start, self.ramp, self.end, self.ramp_slope, self.frequency = start, ramp, end, ramp_slope, frequency
        self.q = dict(q) if isinstance(q, Mapping) else q
        self.dense = None if dense is None else str(dense)

    @staticmethod
    def refuse_foreign(arguments: Mapping[str, Any]) -> None:
        """Refuse a method out of a checkpoint that names a file; see `l0rnn.training.settings`."""
        if arguments.get("dense") is not None:
            raise ValueError(
                "`dense` of a method in a checkpoint must be None, since `attach` puts the thresholds in its place, "
                f"got {arguments['dense']!r:.80}; this checkpoint was not written by l0rnn"
            )

    def check(self, network: nn.Module, targets: Mapping[str, Tensor]) -> None:
        """Find the threshold of each matrix."""
        q = self.q
        if self.dense is not None and self.density is not None:
            q = self._dense_quantiles(network, targets, self.dense, self.density)
        if isinstance(q, Mapping):  # a tied matrix has several names
            names = {alias: name for name, aliases in _aliases(network, targets).items() for alias in aliases}
            q = {names.get(name, name): value for name, value in q.items()}
        self._thresholds = _by_matrix(q, {name: kind_of_weight(name) for name in targets})
        if self.dense is not None:
            self.q, self.dense, self.density = q, None, None

    def _dense_quantiles(
        self, network: nn.Module, targets: Mapping[str, Tensor], dense: str, density: float
    ) -> dict[str, float]:
        aliases = _aliases(network, targets)
        wanted = {name: (aliases[name], parameter.shape) for name, parameter in targets.items()}
        q = {name: magnitude_quantile(weight, density) for name, weight in read_dense(dense, wanted).items()}
        for name, value in q.items():
            if not value > 0:
                raise ValueError(
                    f"`dense` must be a model whose weights are not 0, but a density of {density} of {name!r} "
                    f"reaches down to {value} there; name one that has not been pruned, or give `q`"
                )
        return q

    def start_afresh_(self) -> None:
        """Let all weights be; those that are 0 start from there."""
        super().start_afresh_()
        self.unmask_()

    def update_masks_(self) -> None:
        """Prune what is due after the current step."""
        if not self._total or self.has_chosen:
            return
        first, last = step_of(self.start, self._total), step_of(self.end, self._total)
        is_last = self._step >= last
        if is_last or self.comes_round(self.steps_between(self.frequency), first):
            self._prune_(self.end if is_last else self.progress)
        if is_last:
            self.choose_()

    @torch.no_grad()
    def _prune_(self, progress: float) -> None:
        """Prune to what the schedule asks for at some progress of the training."""
        masks = self.masks()
        scores = {name: self._scores(self.targets()[name]) for name in masks}
        if self.schedule == "cubic" and self.density is not None:
            kept = {name: self._scores(mask) > 0 for name, mask in masks.items()}
            sizes = {name: self._sizes(mask) for name, mask in masks.items()}
            density = cubic_density(progress, self.start, self.end, self.density)
            chosen = largest_within(scores, kept, sizes, density, self.scope)
        else:
            chosen = {name: scores[name] >= q for name, q in self.thresholds(progress).items()}
        for name, groups in chosen.items():
            masks[name].logical_and_(self._expand(groups, masks[name]))

    def thresholds(self, progress: float) -> dict[str, float]:
        """Parameter name → its threshold at some progress of the training, for the schedule ``"two_slope"``.

        Args:
            progress: fraction of the training done.
        """
        total = max(1, self._total)
        start, ramp, end = (fraction * total for fraction in (self.start, self.ramp, self.end))
        every = self.steps_between(self.frequency)
        slopes = {name: start_slope(q, start, ramp, end, every) for name, q in self._thresholds.items()}
        return {
            name: self._threshold_factor()
            * two_slope_threshold(progress * total, start, ramp, end, theta, self.ramp_slope * theta, every)
            for name, theta in slopes.items()
        }

    # What is pruned as a whole: here single weights, so that a group of weights is one of them.

    def _scores(self, matrix: Tensor) -> Tensor:
        """The largest absolute value of each group."""
        return matrix if matrix.dtype == torch.bool else matrix.abs()

    def _sizes(self, matrix: Tensor) -> Tensor:
        """How many weights each group has."""
        return torch.ones((), dtype=torch.int64, device=matrix.device).expand(matrix.shape)

    def _expand(self, groups: Tensor, matrix: Tensor) -> Tensor:
        """What is said of each group, for each weight."""
        return groups

    def _threshold_factor(self) -> float:
        """By how much a threshold for groups is larger than one for weights."""
        return 1.0


def _aliases(network: nn.Module, targets: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """All names of each target."""
    named = list(network.named_parameters(remove_duplicate=False))
    return {target: tuple(n for n, other in named if other is parameter) for target, parameter in targets.items()}


def _check_schedule(schedule: str, start: float, ramp: float, end: float) -> None:
    if not 0 <= start <= end <= 1:
        raise ValueError(
            f"`start` and `end` must be fractions of the training, 0 <= `start` <= `end` <= 1, got {start} and {end}"
        )
    if not 0 <= ramp <= 1:
        raise ValueError(f"`ramp` must be a fraction of the training in [0, 1], got {ramp}")
    if schedule == "two_slope" and not (start < end and start <= ramp <= end):
        raise ValueError(
            f"`ramp` must be from `start` to `end`, and these not equal, for a threshold that rises; "
            f"got {ramp}, {start} and {end}"
        )


def _check_goal(
    schedule: str, scope: str, *, density: float | None, q: float | Mapping[str, float] | None, dense: str | None
) -> None:
    """Refuse what does not say how far to prune, or says it twice."""
    if schedule == "cubic":
        if density is None:
            raise ValueError("`density` must be given for the schedule 'cubic', got None")
        for name, value in {"q": q, "dense": dense}.items():
            if value is not None:
                raise ValueError(f"`{name}` must be None for 'cubic', which has no threshold, got {value!r}")
        return
    if (q is None) == (dense is None):
        raise ValueError(f"exactly one of `q` and `dense` must be given for 'two_slope', got {q!r} and {dense!r}")
    if (density is None) != (dense is None):
        raise ValueError(
            f"`density` must go with `dense`, to find the thresholds there, and cannot be promised for a `q`; "
            f"got {density} with `dense` = {dense!r}"
        )
    if scope != "matrix":
        raise ValueError(f"`scope` must be 'matrix' for 'two_slope', which ranks nothing, got {scope!r}")


def _by_matrix(q: float | Mapping[str, float] | None, kinds: Mapping[str, str]) -> dict[str, float]:
    """Parameter name → its q, given the kind of weight of each matrix; a name goes before a kind."""
    if q is None:
        return {}
    if not isinstance(q, Mapping):
        return dict.fromkeys(kinds, q)
    unknown = [name for name in q if name not in kinds and name not in kinds.values()]
    if unknown or not q:
        known = ", ".join([*dict.fromkeys(kinds.values()), *kinds])
        wrong = ", ".join(map(repr, unknown)) or "nothing"
        raise ValueError(f"`q` must name matrices or kinds of weights, among {known}; got {wrong}")
    return {name: q.get(name, q.get(kind, 0.0)) for name, kind in kinds.items() if name in q or kind in q}
