"""Run a network once and note, beside every tensor, which unit each of its elements belongs to.

The run happens under a `TorchFunctionMode`, which sees every operation on tensors, in modules, functions and loops alike.
Beside a tensor lies its `Shadow`: labels of the same shape. An activation has one label per element. A parameter has one
set of labels for each of its dimensions, since its element belongs to a row and to a column at once. What an operation
does to labels is said by the rule under its name, in `l0rnn.tracing.rules`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from l0rnn.tracing.atoms import FREE, OUTSIDE, Atoms, thin, varies


@dataclass(frozen=True)
class Shadow:
    """Labels beside a tensor.

    Attributes:
        sides: labels in the tensor's shape: one for an activation, one per dimension for what is made of weights alone.
        is_weight: whether the tensor is made of weights alone.
        is_state: whether it is a final state of recurrent layers, as they return it.
        places: where its elements stand in the example input that it is a piece of, or None; and which input that is.
    """

    sides: tuple[Tensor, ...]
    is_weight: bool = False
    is_state: bool = False
    places: Tensor | None = None
    source: int = -1

    def mapped(self, change: Callable[[Tensor], Any]) -> Shadow:
        """The shadow of a piece or another order of the tensor."""
        places = None if self.places is None else change(self.places)
        return replace(self, sides=tuple(thin(change(side)) for side in self.sides), places=places)


@dataclass(frozen=True)
class Reading:
    """One operation that sums over units, times a weight.

    Attributes:
        module: name of the module that ran it.
        operation: such as ``linear``.
        rows: labels of what it computes, `(row,)`.
        columns: labels of what it reads, `(column,)`.
        positions: how often it ran over: time steps, sequences, places of a convolution.
        is_diagonal: whether row i reads column i alone, as in a depthwise convolution.
        source: labels of what was read as it was made, `(column,)`, or None.
    """

    module: str
    operation: str
    rows: Tensor
    columns: Tensor
    positions: int
    is_diagonal: bool = False
    source: Tensor | None = None


@dataclass
class Normalisation:
    """One operation that normalises over units: its module, and the labels it normalises over, `(unit,)`."""

    module: str
    labels: Tensor


@dataclass
class TensorAtoms:
    """The atoms of one parameter or buffer, a tensor int64 per dimension."""

    name: str
    tensor: Tensor
    dimensions: list[Tensor]


@dataclass
class Run:
    """What one run of a network showed."""

    atoms: Atoms = field(default_factory=Atoms)
    tensors: dict[str, TensorAtoms] = field(default_factory=dict)
    aliases: dict[str, list[str]] = field(default_factory=dict)
    readings: list[Reading] = field(default_factory=list)
    normalisations: list[Normalisation] = field(default_factory=list)
    projections: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # labels of projected and of cell units
    recurrent: list[Tensor] = field(default_factory=list)  # labels of units that recurrent layers compute
    lookups: list[Tensor] = field(default_factory=list)  # labels of units that an embedding computes
    input_states: dict[int, Tensor] = field(default_factory=dict)  # example tensor → labels of its elements
    outputs: list[Tensor] = field(default_factory=list)  # labels of every output tensor, in order
    unknown: dict[str, str] = field(default_factory=dict)  # operation without a rule → module
    twins: dict[int, Tensor] = field(default_factory=dict)  # atom of an embedding → its twin, see `Tracer.twins`


class Tracer(TorchFunctionMode):
    """The mode under which a network is run; fills a `Run`."""

    def __init__(self, network: nn.Module, rules: dict[Any, Callable[[Call], None]]) -> None:
        super().__init__()
        self.run = Run()
        self.rules = rules
        self.network = network
        self.modules: list[str] = []
        self.example_sizes: dict[int, int] = {}  # elements of each example tensor
        self._shadows: dict[int, tuple[weakref.ref[Tensor], Shadow]] = {}
        self._label_weights()

    def _label_weights(self) -> None:
        seen: dict[int, str] = {}
        named = [
            *self.network.named_parameters(remove_duplicate=False),
            *self.network.named_buffers(remove_duplicate=False),
        ]
        for name, tensor in named:
            if id(tensor) in seen:
                self.run.aliases[seen[id(tensor)]].append(name)
                continue
            if not tensor.is_floating_point() or name.rpartition(".")[0] in self.gate_modules():
                continue
            seen[id(tensor)] = name
            self.run.aliases[name] = [name]
            atoms = [self.run.atoms.add(size) for size in tensor.shape]
            self.run.tensors[name] = TensorAtoms(name, tensor, atoms)
            sides = tuple(
                labels.reshape([-1 if d == dimension else 1 for d in range(tensor.dim())]).expand(tensor.shape)
                for dimension, labels in enumerate(atoms)
            )
            self.set_shadow(tensor, Shadow(sides, is_weight=True))

    def gate_modules(self) -> set[str]:
        """Names of modules whose parameters are gates and not weights."""
        return {name for name, module in self.network.named_modules() if getattr(module, "is_gates", False)}

    def set_shadow(self, tensor: Tensor, shadow: Shadow) -> None:
        """Lay a shadow beside a tensor."""
        self._shadows[id(tensor)] = (weakref.ref(tensor), shadow)

    def shadow(self, tensor: Tensor) -> Shadow:
        """The shadow of a tensor; one that nobody has laid is that of a tensor from outside."""
        found = self._shadows.get(id(tensor))
        if found is not None and found[0]() is tensor and all(side.shape == tensor.shape for side in found[1].sides):
            return found[1]
        return Shadow((torch.full((), OUTSIDE).expand(tensor.shape),))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        call = Call(self, operation_name(func), args, kwargs, out, func)
        if not any(True for _ in tensors_in(out)) and not call.is_in_place:
            return out
        rule = self.rules.get(func) or self.rules.get(call.name)
        if rule is None:
            call.unknown()
        else:
            rule(call)
        return out

    def twins(self, labels: Tensor) -> Tensor:
        """Labels of the same units that tell that an element is not what an embedding made, or not that alone."""
        numbers = labels.unique()
        numbers = numbers[numbers > OUTSIDE]
        fresh = torch.tensor([int(n) for n in numbers if int(n) not in self.run.twins], dtype=torch.int64)
        if len(fresh):
            twins = self.run.atoms.add(len(fresh))
            self.run.atoms.unite(twins, fresh, "")
            self.run.twins.update(zip(fresh.tolist(), twins, strict=True))
        table = torch.arange(len(self.run.atoms))
        for number in numbers.tolist():
            table[number] = self.run.twins[number]
        return torch.where(labels < 0, labels, table[labels.clamp(min=0)])

    @property
    def module(self) -> str:
        """Name of the module that is running."""
        return self.modules[-1] if self.modules else ""


@dataclass
class Call:
    """One operation as a rule sees it.

    Attributes:
        tracer: what the operation is noted by.
        name: name of the operation without underscores, such as ``add``.
        args: its positional arguments.
        kwargs: its keyword arguments.
        out: its result.
        function: the function itself.
    """

    tracer: Tracer
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    function: Any = None

    @property
    def atoms(self) -> Atoms:
        """The atoms of the run."""
        return self.tracer.run.atoms

    @property
    def is_in_place(self) -> bool:
        """Whether the operation writes into its first argument and returns nothing."""
        return self.name == "setitem"

    @property
    def why(self) -> str:
        """The operation and the module that ran it, as a reason."""
        place = f" in {self.tracer.module!r}" if self.tracer.module else ""
        return f"`{self.name}`{place}"

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by its position or name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def shadow(self, tensor: Tensor) -> Shadow:
        """The shadow of a tensor."""
        return self.tracer.shadow(tensor)

    def labels(self, tensor: Tensor) -> Tensor:
        """One label per element: for what is made of weights, those of the last dimension that has several units."""
        shadow = self.shadow(tensor)
        if len(shadow.sides) <= 1:
            return shadow.sides[0] if shadow.sides else torch.full(tensor.shape, FREE)
        varying = [side for side in shadow.sides if any(varies(side, d) for d in range(side.dim()))]
        return (varying or list(shadow.sides))[-1]

    def classes(self, tensor: Tensor) -> Tensor:
        """As `labels`, each label replaced by its class."""
        return self.atoms.roots(self.labels(tensor))

    def set(self, tensor: Any, labels: Tensor, **options: Any) -> None:
        """Label a result."""
        if isinstance(tensor, Tensor):
            self.tracer.set_shadow(tensor, Shadow((thin(labels.expand(tensor.shape)),), **options))

    def fix(self, tensor: Any, why: str) -> None:
        """All units of a tensor have to stay."""
        for one in tensors_in(tensor):
            for side in self.shadow(one).sides:
                self.atoms.fix(side, why)

    def fix_and_end(self, why: str) -> None:
        """All units that the operation touches have to stay, and what it returns has none."""
        self.fix((self.args, self.kwargs), why)
        for result in tensors_in(self.out):
            self.set(result, torch.full((), OUTSIDE))

    def unknown(self) -> None:
        """An operation without a rule."""
        labelled = [t for t in tensors_in((self.args, self.kwargs)) if t.is_floating_point() and self._has_units(t)]
        if labelled:
            self.tracer.run.unknown.setdefault(self.name, self.tracer.module)
            self.fix_and_end(f"{self.why} has no rule; `l0rnn.tracing.rule` gives it one")

    def _has_units(self, tensor: Tensor) -> bool:
        return any(bool((self.atoms.roots(side) > OUTSIDE).any()) for side in self.shadow(tensor).sides)

    def join(self, left: Tensor, right: Tensor, why: str) -> Tensor:
        """Labels of a result whose elements come from both of these; broadcast as the operation broadcasts.

        A side with one element where the other has several units scales them all, so its own unit has to stay; it says
        nothing about theirs.
        """
        roots = [self.atoms.roots(labels) for labels in (left, right)]
        ndim = max(left.dim(), right.dim())
        one, other = (labels.reshape((1,) * (ndim - labels.dim()) + tuple(labels.shape)) for labels in roots)
        left, right = (labels.reshape((1,) * (ndim - labels.dim()) + tuple(labels.shape)) for labels in (left, right))
        left_is_spread = right_is_spread = shared = False
        for d in range(ndim):
            if one.size(d) == 1 and other.size(d) > 1:
                left_is_spread |= varies(other, d)
            elif other.size(d) == 1 and one.size(d) > 1:
                right_is_spread |= varies(one, d)
            else:
                shared |= varies(one, d) or varies(other, d)
        if left_is_spread and right_is_spread:  # an outer product: the larger side keeps its units
            right_is_spread = len(one.unique()) < len(other.unique())
            left_is_spread = not right_is_spread
            if right_is_spread:
                left, right, one, other = right, left, other, one
            left_is_spread, right_is_spread = True, False
        elif right_is_spread:
            left, right, one, other = right, left, other, one
            left_is_spread = True
        if left_is_spread and not (shared and bool((one >= OUTSIDE).any())):
            self.atoms.fix(left, f"{why} spreads it over other units")
            return right
        self.atoms.unite(left, right, f"{why} joins it with what has to stay")
        if bool((left == FREE).all()):
            return right
        if bool((right == FREE).all()):
            return left
        left, right = torch.broadcast_tensors(left, right)
        if torch.equal(left, right):
            return left
        return torch.where(left == FREE, right, self.tracer.twins(left) if self._is_lookup(left, right) else left)

    def _is_lookup(self, left: Tensor, right: Tensor) -> bool:
        """Whether one side is what an embedding made and the other is a different tensor."""
        lookups = self.tracer.run.lookups
        if not lookups:
            return False
        made = torch.cat(lookups)
        return bool(torch.isin(left, made).any() or torch.isin(right, made).any())


def operation_name(func: Any) -> str:
    """Name of an operation without the underscores that tell its variants: ``add_`` and ``__add__`` are ``add``.

    Example:
        >>> operation_name(torch.relu_), operation_name(torch.Tensor.__getitem__), operation_name(torch.Tensor.T.__get__)
        ('relu', 'getitem', 'T')
    """
    name = getattr(func, "__name__", str(func))
    if name in ("__get__", "__set__"):
        name = getattr(getattr(func, "__self__", None), "__name__", name)
    return name.strip("_")


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in any nesting of tuples, lists, dicts, packed sequences and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors_in(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors_in(part)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from tensors_in(getattr(value, name))


@contextmanager
def naming_modules(tracer: Tracer, network: nn.Module) -> Iterator[None]:
    """Keep `Tracer.module` at the module that is running."""
    names = {id(module): name for name, module in network.named_modules()}

    def enter(module: nn.Module, inputs: Any) -> None:
        tracer.modules.append(names.get(id(module), tracer.module))

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        tracer.modules.pop()

    handles = [
        handle
        for module in network.modules()
        for handle in (
            module.register_forward_pre_hook(enter, prepend=True),
            module.register_forward_hook(leave, always_call=True),
        )
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run_traced(
    network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], rules: dict[Any, Callable[[Call], None]]
) -> Run:
    """Run a network on example inputs and note what every operation does to units.

    Args:
        network: in evaluation mode.
        args: positional arguments of its forward.
        kwargs: keyword arguments of its forward.
        rules: operation → rule.
    """
    tracer = Tracer(network, rules)
    for number, tensor in enumerate(tensors_in((args, kwargs))):
        if tensor.is_floating_point():
            outside = torch.full((), OUTSIDE).expand(tensor.shape)
            places = torch.arange(tensor.numel()).reshape(tensor.shape)
            tracer.set_shadow(tensor, Shadow((outside,), places=places, source=number))
            tracer.example_sizes[number] = tensor.numel()
    with torch.no_grad(), naming_modules(tracer, network), tracer:
        output = network(*args, **kwargs)
    for number, tensor in enumerate(tensors_in(output)):
        shadow = tracer.shadow(tensor)
        if number == 0 or not shadow.is_state:
            for side in shadow.sides:
                tracer.run.atoms.fix(side, "it is an output of the network")
        tracer.run.outputs.append(shadow.sides[0] if len(shadow.sides) == 1 else torch.full(tensor.shape, OUTSIDE))
    return tracer.run


__all__ = ["Call", "PackedSequence", "Reading", "Run", "Shadow", "run_traced", "tensors_in"]
