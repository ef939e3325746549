"""A vector of hard-concrete gates, one per unit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.arguments import checked
from l0rnn.gates.hard_concrete import HardConcrete
from l0rnn.gates.transforms import needs_plain_operations


@checked
class Gates(nn.Module):
    """One trainable hard-concrete gate per unit.

    `draw` makes one vector of gates and keeps it as `value` until the next draw, so that everything that reads these
    units in one forward pass sees the same gates: random in training, deterministic in evaluation and once frozen.

    Args:
        units: number of gates, > 0.
        open_probability: initial P(gate ≠ 0), in [0, 1]. 1 means gates that are exactly 1 and stay so.
        distribution: the hard concrete distribution; its defaults are the paper's.
        noise: whether gates are random in training; without, they are those of evaluation there too.
        device: device of the parameter.
        dtype: dtype of the parameter.

    Raises:
        ValueError: if ``units`` or ``open_probability`` is outside its range.

    Example:
        >>> gates = Gates(3, open_probability=1.0)
        >>> gates.draw()
        tensor([1., 1., 1.], grad_fn=<ClampBackward1>)
        >>> gates.keep()
        tensor([True, True, True])

    Reference:
        Wen et al., Structured Pruning of Recurrent Neural Networks through Neuron Selection (2019), arXiv 1906.06847.
    """

    frozen: Tensor
    fixed: Tensor
    is_gates = True  # for tracing: these are no weights of the network

    def __init__(
        self,
        units: int,
        *,
        open_probability: float = 0.93,
        distribution: HardConcrete | None = None,
        noise: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if units <= 0:
            raise ValueError(f"`units` must be > 0, got {units}")
        if not 0 <= open_probability <= 1:
            raise ValueError(f"`open_probability` must be in [0, 1], got {open_probability}")
        self.units = units
        self.distribution = distribution or HardConcrete()
        self.noise = noise
        start = self._start(open_probability)
        self.log_alpha = nn.Parameter(torch.full((units,), start, device=device, dtype=dtype))
        self.register_buffer("frozen", torch.tensor(False, device=device))
        self.register_buffer("fixed", torch.zeros(units, device=device, dtype=dtype))
        self._is_frozen = False  # the buffer's value on the host, so that a forward pass never waits for the device
        self._value: Tensor | None = None
        self._drawn_in_training = False
        self._pull: Tensor | None = None
        self.draws = 0  # which draw `value` is; what is computed from one draw is good for that draw alone

    def _start(self, open_probability: float) -> float:
        """The ``log_alpha`` of a P(gate ≠ 0), as a number, on the CPU whatever device torch makes tensors on."""
        return self.distribution.log_alpha(torch.tensor(open_probability, dtype=torch.float64, device="cpu")).item()

    def draw(self) -> Tensor:
        """Draw the gates of one forward pass, keep them as `value`, and return them: `(unit,)`."""
        if self._is_frozen:
            self._value = self.fixed
        elif self.training and self.noise:
            self._value = self.distribution.sample(self.log_alpha)
        else:
            self._value = self.deterministic()
        self._drawn_in_training = self.training
        self.draws += 1
        if self.training and self._value.requires_grad and not needs_plain_operations():
            self._value.register_hook(self._keep_pull)
        return self._value

    def _keep_pull(self, gradient: Tensor) -> None:
        gradient = gradient.detach()
        self._pull = (gradient.square().sum() / (gradient != 0).sum()).sqrt()  # NaN where all gates are cut off

    def take_pull(self) -> Tensor | None:
        """How strongly the last loss pulled at the gates: the root mean square of ∂loss/∂gate, a scalar; once.

        Gates that are cut off at 0 or 1 do not count. What a price adds to the loss does not either, since it depends
        on P(gate ≠ 0) and not on the gates drawn. NaN where all gates are cut off, None where no loss has been taken
        back to the gates since they were asked last.
        """
        pull, self._pull = self._pull, None
        return pull

    def forward(self, *inputs: object) -> object:
        """What came in: an `nn.Sequential` that holds gates runs them as if they were its last layer."""
        return inputs[0] if len(inputs) == 1 else inputs

    @property
    def value(self) -> Tensor:
        """The gates last drawn, `(unit,)`; drawn now if there are none yet, or only ones that do not serve.

        Those of the other mode do not serve, nor do those drawn without gradients where gradients are wanted now.
        """
        value = self._value
        if value is None or self._drawn_in_training != self.training:
            return self.draw()
        if not value.requires_grad and torch.is_grad_enabled() and not self._is_frozen and self.log_alpha.requires_grad:
            return self.draw()
        return value

    def forget(self) -> None:
        """Let go of the gates last drawn, so that the next to read `value` draws afresh."""
        self._value = None

    def deterministic(self) -> Tensor:
        """The gates of evaluation, `(unit,)`: the ones that surgery folds into the weights."""
        return self.fixed if self._is_frozen else self.distribution.deterministic(self.log_alpha)

    def mean(self) -> Tensor:
        """What the gates are in training on average, `(unit,)`."""
        return self.distribution.mean(self.log_alpha) if self.noise and not self._is_frozen else self.deterministic()

    def open_probability(self) -> Tensor:
        """P(gate ≠ 0) of each unit, `(unit,)`."""
        return self.distribution.open_probability(self.log_alpha)

    def keep(self) -> Tensor:
        """Which units survive, bool `(unit,)`: those whose deterministic gate is not 0."""
        return self.deterministic().detach() > 0

    @property
    def is_frozen(self) -> bool:
        """Whether the gates are fixed."""
        return self._is_frozen

    @torch.no_grad()
    def freeze_(self, keep: Tensor | None = None) -> None:
        """Fix the gates from now on, in training too; they get no gradient any more.

        A unit that is kept goes on with the gate that it had: without noise its deterministic one, unless that is 0;
        else the mean of its gate while it is open, E[gate] / P(gate ≠ 0), since the deterministic gate of a unit that
        is open every other time is close to 0. The others get 0.

        Args:
            keep: bool `(unit,)`, the units that stay open; those whose deterministic gate is not 0 if None.
        """
        keep = self.keep() if keep is None else keep.to(self.log_alpha.device)
        while_open = (self.distribution.mean(self.log_alpha) / self.open_probability()).clamp(0, 1)
        if not self.noise:
            deterministic = self.distribution.deterministic(self.log_alpha)
            while_open = torch.where(deterministic > 0, deterministic, while_open)
        self.fixed.copy_(torch.where(keep, while_open, 0.0))
        self.frozen.fill_(True)
        self._is_frozen = True
        self.log_alpha.requires_grad_(False)
        self.log_alpha.grad = None  # a gradient of zeros would let an optimiser's momentum go on
        self._value = None

    @torch.no_grad()
    def thaw_(self, open_probability: float) -> None:
        """Let the gates learn again, from a P(gate ≠ 0)."""
        self.log_alpha.fill_(self._start(open_probability))
        self.fixed.zero_()
        self.frozen.fill_(False)
        self._is_frozen = False
        self.log_alpha.requires_grad_(True)
        self._value = None

    @torch.no_grad()
    def hold_(self, values: Tensor) -> None:
        """Compute with these gates, in any mode, until `release_`."""
        self.fixed = values.to(self.fixed)
        self._is_frozen, self._value = True, None

    def held(self) -> tuple[Tensor, bool]:
        """What `release_` goes back to."""
        return self.fixed, self._is_frozen

    def release_(self, before: tuple[Tensor, bool]) -> None:
        """Take back `hold_`."""
        self.fixed, self._is_frozen = before
        self._value = None

    def extra_repr(self) -> str:
        """The number of units, for `print`."""
        return f"{self.units}"

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._is_frozen = bool(self.frozen)
        self.log_alpha.requires_grad_(not self._is_frozen)
        self._value = None

    def __getstate__(self) -> dict[str, object]:
        # a drawn value hangs on an autograd graph, which neither copy nor pickle can take along
        return {**self.__dict__, "_value": None, "_pull": None}


class GatesApart(Gates):
    """Gates that move, load, save and copy with the network around them, and that its `parameters()` does not give out.

    So whatever its user does with all parameters (optimisers, clipping, averages, penalties, the exchange of gradients
    between processes) leaves them alone: who trains the gates has them from the method.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 2), GatesApart(2))
        >>> [name for name, _ in network.named_parameters()], list(network.state_dict())[2:]
        (['0.weight', '0.bias'], ['1.log_alpha', '1.frozen', '1.fixed'])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._hide()

    def _hide(self) -> None:
        for tensors in (self._parameters, self._buffers):
            self.__dict__.update(tensors)
            tensors.clear()

    @contextmanager
    def _shown(self) -> Iterator[None]:
        """Inside the block the tensors are a module's as any other's."""
        self._parameters["log_alpha"] = self.__dict__.pop("log_alpha")
        self._buffers.update({name: self.__dict__.pop(name) for name in ("frozen", "fixed")})
        try:
            yield
        finally:
            self._hide()

    def _apply(self, fn: Any, recurse: bool = True) -> GatesApart:  # noqa: FBT001, FBT002 - torch's signature
        with self._shown():
            return super()._apply(fn, recurse)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        with self._shown():
            super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        with self._shown():
            super()._load_from_state_dict(*args, **kwargs)


class GateView:
    """The gates of what one reader reads, picked from those of the whole network.

    Args:
        gates: the gates of all units of a network.
        units: for each index of what is read its unit, int64 `(index,)`; -1 for one without a gate, which counts as 1.
        is_scaled: indices that come in scaled by their gates already, which only have to be left out where the gate is
            0, bool `(index,)`; None for none.
    """

    def __init__(self, gates: Gates, units: Tensor, is_scaled: Tensor | None = None) -> None:
        self.gates = gates
        self.units = units
        self.is_scaled = is_scaled if is_scaled is not None and bool(is_scaled.any()) else None
        self._count = count = len(units)
        start = int(units[0]) if count else 0
        is_run = start >= 0 and torch.equal(units, torch.arange(start, start + count))
        self._slice = slice(start, start + count) if is_run else None
        self._key: tuple[int, bool] | None = None  # of which draw, and whether with gradients, `_value` is
        self._value: Tensor | None = None
        self._open: Tensor | None = None

    def __len__(self) -> int:
        return self._count

    @property
    def value(self) -> Tensor:
        """The gates of this pass, `(index,)`; picked once per draw."""
        drawn = self.gates.value
        key = (self.gates.draws, torch.is_grad_enabled())
        if self._key != key or self._value is None:
            self._value, self._open, self._key = self.picked(drawn), None, key
        return self._value

    def open_positions(self) -> Tensor:
        """Positions of the gates that are not 0, at least one: int64 `(open,)`; found once per draw."""
        value = self.value
        if self._open is None:
            self._open = open_positions(value)
        return self._open

    def picked(self, drawn: Tensor) -> Tensor:
        """The gates of this reader, `(index,)`, given those of all units."""
        if self._slice is not None:
            values = drawn[self._slice]
        else:
            if self.units.device != drawn.device:
                self.units = self.units.to(drawn.device)
            values = torch.cat((drawn, drawn.new_ones(1))).index_select(0, self.units % (len(drawn) + 1))
        if self.is_scaled is None:
            return values
        return torch.where(self.is_scaled.to(values.device), (values != 0).to(values.dtype), values)

    def __getstate__(self) -> dict[str, Any]:
        # a value hangs on an autograd graph, which neither copy nor pickle can take along
        return {**self.__dict__, "_key": None, "_value": None, "_open": None}


class KeptView(GateView):
    """1 for the units that surgery would keep, else 0: those whose gate is not 0, and of a closed axis the first.

    Args:
        gates: the gates of all units of a network.
        units: for each index its unit, int64 `(index,)`; -1 for one without a gate, which is kept.
        axes: numbers of the units of each axis that is among them.
    """

    def __init__(self, gates: Gates, units: Tensor, axes: list[slice]) -> None:
        super().__init__(gates, units)
        self.axes = [(axis, units == axis.start) for axis in axes]

    def picked(self, drawn: Tensor) -> Tensor:
        """As `value`, given the gates of all units."""
        drawn = drawn.detach()
        kept = super().picked(drawn) != 0
        for axis, is_first in self.axes:
            kept = kept | (is_first.to(drawn.device) & ~(drawn[axis] != 0).any())
        return kept.to(drawn.dtype)


def open_positions(values: Tensor, at_least: int = 1) -> Tensor:
    """Positions of the gates that are not 0, filled up with closed ones to ``at_least``: int64 `(open,)`.

    Example:
        >>> open_positions(torch.tensor([0.0, 1.0, 0.0, 0.3])), open_positions(torch.zeros(3))
        (tensor([1, 3]), tensor([0]))
    """
    is_open = values.detach() != 0
    positions = is_open.nonzero().squeeze(1)
    missing = at_least - len(positions)
    if missing > 0:
        positions = torch.cat((positions, (~is_open).nonzero().squeeze(1)[:missing]))
    return positions
