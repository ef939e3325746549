"""A budget: the cost enters the loss at the price that meets a limit."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from l0rnn.arguments import checked
from l0rnn.cost.cost import Cost
from l0rnn.cost.objective import Objective
from l0rnn.cost.schedule import check_schedule, cubic_density, ramp_done


@checked
class Budget(Objective):
    """A target cost, met by dual ascent: the price rises while the network costs too much, and falls when it does not.

    The target sinks from the dense cost to the budget over the `ramp`. With
    ``excess = (E[cost] - target) / dense cost`` the loss term is ``price * excess + stiffness / 2 * max(0, excess)²``,
    and after each optimiser step ``price = max(0, price + rate * excess)``. The square answers at once where the price
    has yet to learn, so that the cost keeps up with the target. Both follow the expected cost, not that of the units
    kept so far: gates take a hundred steps to close, and a price that waited for them would by then have grown so far
    that it closed them all at once.

    Several budgets may be given, such as one for the parameters and one for the multiply-adds; each has its target and
    its price, and all are met.

    Args:
        density: target as a fraction of the dense network's multiply-adds, in (0, 1]; not with ``multiply_adds``.
        parameters: target number of parameters, embeddings included.
        multiply_adds: target number of multiply-adds per time step.
        rate: step of the dual ascent, > 0.
        stiffness: weight of the squared excess, ≥ 0.
        start: fraction of the training before the target begins to sink. Until the network has learned something, no
            unit looks useful to its gate.
        ramp: fraction of the training over which it sinks.
        relative: whether rate and stiffness are multiples of how strongly the loss pulls at the gates (`L0Gates.pull`),
            so that the choice is the same whatever the loss is counted in; else they are in units of the loss.
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

    price: Tensor
    target: Tensor

    def __init__(
        self,
        density: float | None = None,
        *,
        parameters: int | None = None,
        multiply_adds: int | None = None,
        rate: float = 0.02,
        stiffness: float = 10.0,
        start: float = 0.3,
        ramp: float = 0.2,
        curve: Literal["linear", "cubic"] = "linear",
        relative: bool = True,
    ) -> None:
        super().__init__()
        budgets = {"density": density, "parameters": parameters, "multiply_adds": multiply_adds}
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
        for name in ("parameters", "multiply_adds"):
            if name in given and not given[name] > 0:
                raise ValueError(f"`{name}` must be > 0, got {given[name]}")
        if not rate > 0:
            raise ValueError(f"`rate` must be > 0, got {rate}")
        if not stiffness >= 0:
            raise ValueError(f"`stiffness` must be >= 0, got {stiffness}")
        check_schedule(start, ramp)
        self.relative = self.is_relative = relative
        self.curve: Literal["linear", "cubic"] = curve
        self.density, self.multiply_adds = density, multiply_adds
        self.parameters_ = parameters  # without the underscore it is a method of every module
        self.rate, self.stiffness, self.start, self.ramp = rate, stiffness, start, ramp
        self.kinds = tuple(dict.fromkeys("multiply_adds" if name == "density" else name for name in given))
        shape = () if len(self.kinds) == 1 else (len(self.kinds),)
        self.register_buffer("price", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("target", torch.ones(shape, dtype=torch.float64))  # fraction of the dense cost wanted now

    def check(self, minimum: Cost, dense: Cost) -> None:
        """Refuse a budget below what one unit per axis costs."""
        for kind, limit in self.limits(dense).items():
            if limit < minimum[kind]:
                is_share = kind == "multiply_adds" and self.density is not None
                asked = f"`density` = {self.density} asks" if is_share else f"`{kind}` asks"
                raise ValueError(
                    f"{asked} for {limit:,.0f} {kind.replace('_', '-')}, but one unit per layer already costs "
                    f"{minimum[kind]:,} (density {minimum[kind] / dense[kind]:.4f})"
                )

    def start_afresh_(self) -> None:
        """Back to a price of 0, and to the dense cost as target."""
        self.price.zero_()
        self.target.fill_(1)

    def limits(self, dense: Cost) -> dict[str, float]:
        """Attribute of `Cost` → its budget."""
        whole = self.multiply_adds if self.density is None else self.density * dense.multiply_adds
        limits: dict[str, Any] = {"multiply_adds": whole, "parameters": self.parameters_}
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
