"""A budget: the cost enters the loss at the price that meets a limit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from l0rnn.cost import Cost
from l0rnn.latency_grid import CallSize
from l0rnn.latency_table import LatencyTable
from l0rnn.objective import Objective
from l0rnn.schedule import check_schedule, cubic_density, ramp_done

log = logging.getLogger(__name__)


class Budget(Objective):
    """A target cost, met by dual ascent: the price rises while the network costs too much, and falls when it does not.

    The target sinks from the dense cost to the budget over the `ramp`. With
    ``excess = (E[cost] - target) / dense cost`` the loss term is ``price * excess + stiffness / 2 * max(0, excess)²``,
    and after each optimiser step ``price = max(0, price + rate * excess)``. The square answers at once where the price
    has yet to learn, so that the cost keeps up with the target. Both follow the expected cost, not that of the units
    kept so far: gates take a hundred steps to close, and a price that waited for them would by then have grown so far
    that it closed them all at once.

    Several budgets may be given, such as one for the memory and one for the time; each has its target and its price,
    and all are met.

    A budget in milliseconds is one for calls of a certain size on a certain device. When the method is attached, layers
    and whole networks of several widths are timed there, in about 20 seconds for a language model of 2 × 650 units, and
    latency is interpolated between them. What was measured is in the checkpoint, and a resumed run goes on with it, on
    whatever machine; with ``table`` as a file, it does not even measure before it reads the checkpoint.

    Args:
        density: target as a fraction of the dense network's multiply-adds, in (0, 1]; not with ``multiply_adds``.
        parameters: target number of parameters, embeddings included.
        multiply_adds: target number of multiply-adds per time step.
        milliseconds: target latency of a call; at most that of the whole network.
        batch: sequences of that call; with ``milliseconds`` only, as the next four.
        steps: its time steps.
        threads: its CPU threads.
        device: where it runs, ``"cpu"`` or a GPU such as ``"cuda"``; the training may be elsewhere.
        table: latencies measured already, as `LatencyTable.plain` gives them, or the path of a JSON file, which is read
            if it is there, and written if it is not; None to measure.
        rate: step of the dual ascent, > 0.
        stiffness: weight of the squared excess, ≥ 0.
        start: fraction of the training before the target begins to sink. Until the network has learned something, no
            unit looks useful to its gate.
        ramp: fraction of the training over which it sinks.
        curve: ``"linear"``, or ``"cubic"``: fast at first and then ever slower, so that there is more time for the last
            units, each of which is a larger part of what is left.

    Raises:
        ValueError: if no budget is given, or two for the multiply-adds, or a value is out of range.

    Example:
        >>> budget = Budget(density=0.25, start=0.0, ramp=0.5)
        >>> budget.after_step(Cost(90, 0, 90), Cost(100, 0, 100), progress=0.5)  # 0.9 of the cost, 0.25 wanted
        >>> round(budget.price.item(), 4)
        0.013

    Reference:
        Gallego-Posada et al., Controlled Sparsity via Constrained Optimization (2022), arXiv 2208.04425; here the
        constraint is on the cost, and the price is not reset when the target is met, since the target moves. The
        squared term is that of the augmented Lagrangian, as in Wang, Wohlwend, Lei (2020), arXiv 1910.04732.
    """

    measured: Tensor
    environment: Tensor

    price: Tensor
    target: Tensor
    # `parameters` is a method of every module, so the argument of that name lives under another one
    stored_as: ClassVar[dict[str, str]] = {"parameters": "parameters_budget", "multiply_adds": "multiply_adds_budget"}

    def __init__(
        self,
        density: float | None = None,
        *,
        parameters: int | None = None,
        multiply_adds: int | None = None,
        milliseconds: float | None = None,
        batch: int | None = None,
        steps: int | None = None,
        threads: int = 1,
        device: str = "cpu",
        table: Mapping[str, Any] | str | None = None,
        rate: float = 0.02,
        stiffness: float = 10.0,
        start: float = 0.1,
        ramp: float = 0.25,
        curve: Literal["linear", "cubic"] = "linear",
    ) -> None:
        super().__init__()
        budgets = {
            "density": density,
            "parameters": parameters,
            "multiply_adds": multiply_adds,
            "milliseconds": milliseconds,
        }
        given = {name: value for name, value in budgets.items() if value is not None}
        if not given:
            raise ValueError(f"at least one of {', '.join(f'`{name}`' for name in budgets)} must be given, got none")
        if density is not None and multiply_adds is not None:
            raise ValueError(
                f"`density` and `multiply_adds` are two budgets for one cost, got {density} and {multiply_adds}; "
                "give one of them"
            )
        if density is not None and not 0 < density <= 1:
            raise ValueError(f"`density` must be in (0, 1], got {density}; use the method `Dense` for an unpruned run")
        for name in ("parameters", "multiply_adds", "milliseconds"):
            if name in given and not given[name] > 0:
                raise ValueError(f"`{name}` must be > 0, got {given[name]}")
        if not rate > 0:
            raise ValueError(f"`rate` must be > 0, got {rate}")
        if not stiffness >= 0:
            raise ValueError(f"`stiffness` must be >= 0, got {stiffness}")
        check_schedule(start, ramp)
        if curve not in ("linear", "cubic"):
            raise ValueError(f"`curve` must be 'linear' or 'cubic', got {curve!r}")
        self.curve: Literal["linear", "cubic"] = curve
        self.batch, self.steps, self.threads, self.device, self.table = batch, steps, threads, device, table
        if milliseconds is not None:
            self.call_size = CallSize(batch, steps, threads, device)  # type: ignore[arg-type]
        elif (batch, steps, threads, device, table) != (None, None, 1, "cpu", None):
            raise ValueError(
                "`batch`, `steps`, `threads`, `device` and `table` belong to a budget in `milliseconds`, got "
                f"{', '.join(given)}; give `milliseconds`, or leave them out"
            )
        self.density, self.parameters_budget, self.multiply_adds_budget = density, parameters, multiply_adds
        self.milliseconds = milliseconds
        self.rate, self.stiffness, self.start, self.ramp = rate, stiffness, start, ramp
        self.kinds = tuple(dict.fromkeys("multiply_adds" if name == "density" else name for name in given))
        shape = () if len(self.kinds) == 1 else (len(self.kinds),)
        self.register_buffer("price", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("target", torch.ones(shape, dtype=torch.float64))  # fraction of the dense cost wanted now

    @staticmethod
    def refuse_foreign(arguments: Mapping[str, Any]) -> None:
        """Refuse a budget out of a checkpoint that names a file, or would measure; see `l0rnn.settings`."""
        table, milliseconds = arguments.get("table"), arguments.get("milliseconds")
        if not isinstance(table, Mapping) and not (table is None and milliseconds is None):
            raise ValueError(
                "`table` of a budget in a checkpoint must be the latencies that were measured, not a file or nothing, "
                f"got {table!r:.80}; this checkpoint was not written by l0rnn"
            )

    def check(self, minimum: Cost, dense: Cost) -> None:
        """Refuse a budget below what one unit per axis costs, and a latency above that of the whole network."""
        for kind, limit in self.limits(dense).items():
            if kind == "milliseconds":
                self._check_latency(limit, minimum, dense)
            elif limit < minimum[kind]:
                is_share = kind == "multiply_adds" and self.density is not None
                asked = f"`density` = {self.density} asks" if is_share else f"`{kind}` asks"
                raise ValueError(
                    f"{asked} for {limit:,.0f} {kind.replace('_', '-')}, but one unit per layer already costs "
                    f"{minimum[kind]:,} (density {minimum[kind] / dense[kind]:.4f})"
                )

    def _check_latency(self, limit: float, minimum: Cost, dense: Cost) -> None:
        if minimum.milliseconds is None or dense.milliseconds is None:
            raise ValueError("`milliseconds` can only be a budget of `L0Gates`, which measures them; give `density`")
        whole = f"the whole network's {dense.milliseconds:.3g} ms ({self.call_size})"
        if limit < minimum.milliseconds:
            raise ValueError(
                f"`milliseconds` = {limit} cannot be had: one unit per layer already takes {minimum.milliseconds:.3g} "
                f"ms of {whole}"
            )
        if limit > dense.milliseconds:
            raise ValueError(f"`milliseconds` must be at most {whole}, got {limit}; ask for less, or use `Dense`")

    def use_table_(self, latency: LatencyTable) -> None:
        """Take the latencies of the network that is pruned, and keep them in the checkpoint."""
        self.latency, self.table = latency, latency.plain()
        self.register_buffer("measured", latency.values().view(torch.int64))  # bits, that no cast nor device changes
        self.register_buffer("environment", latency.digest())

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        own = None if self.latency is None else self.environment.clone()
        state, prefix = arguments[0], arguments[1]
        if f"{prefix}measured" in state and state[f"{prefix}measured"].is_floating_point():  # as it was saved before
            state[f"{prefix}measured"] = state[f"{prefix}measured"].double().view(torch.int64)
        super()._load_from_state_dict(*arguments, **options)
        if self.latency is not None and own is not None:
            is_foreign = not torch.equal(own, self.environment)
            self.latency = self.latency.with_values(
                self.measured.cpu().view(torch.float64), environment={} if is_foreign else None
            )
            self.table = self.latency.plain()
            if is_foreign:
                log.warning("the latencies of the checkpoint, with which the run goes on, are from another environment")

    def start_afresh_(self) -> None:
        """Back to a price of 0, and to the dense cost as target."""
        self.price.zero_()
        self.target.fill_(1)

    def limits(self, dense: Cost) -> dict[str, float]:
        """Attribute of `Cost` → its budget."""
        limits: dict[str, Any] = {
            "multiply_adds": self.multiply_adds_budget if self.density is None else self.density * dense.multiply_adds,
            "parameters": self.parameters_budget,
            "milliseconds": self.milliseconds,
        }
        return {kind: float(limits[kind]) for kind in self.kinds}

    def term(self, expected: Cost, dense: Cost) -> Tensor:
        """``price * excess + stiffness / 2 * max(0, excess)²``, summed over the budgets."""
        excess = self._excess(expected, dense)
        return (self.price * excess + self.stiffness / 2 * excess.clamp(min=0).square()).sum().float()

    def after_step(self, expected: Cost, dense: Cost, *, progress: float) -> None:
        """One step of dual ascent towards the targets of this moment; the host does not wait for the device."""
        targets = self.target.reshape(-1)
        for place, (kind, limit) in enumerate(self.limits(dense).items()):
            final = min(1.0, limit / dense[kind])
            if self.curve == "cubic":
                target = cubic_density(progress, self.start, self.start + self.ramp, final)
            else:
                target = 1 - (1 - final) * ramp_done(progress, self.start, self.ramp)
            targets[place].fill_(target)
        self.price.add_(self._excess(expected, dense), alpha=self.rate).clamp_(min=0)

    def _excess(self, expected: Cost, dense: Cost) -> Tensor:
        """By how much of the dense cost each budget's target of this moment is exceeded; in the shape of `price`."""
        shares = [torch.as_tensor(expected[kind]).to(self.price) / dense[kind] for kind in self.kinds]
        return torch.stack(shares).reshape(self.price.shape) - self.target

    def figures(self) -> dict[str, float]:
        """The price; where there are several budgets, that of each."""
        if self.price.dim() == 0:
            return {"price": float(self.price)}
        return {f"price/{kind}": price for kind, price in zip(self.kinds, self.price.tolist(), strict=True)}
