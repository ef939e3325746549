"""Run a network once and note, beside every tensor, which unit each of its elements belongs to.

The run happens under a `TorchFunctionMode`, which sees every operation on tensors, in modules, functions and loops
alike. Beside a tensor lies its `Shadow`: labels of the same shape. An activation has one label per element. A parameter
has one set of labels for each of its dimensions, since its element belongs to a row and to a column at once. What an
operation does to labels is said by the rule under its name, in `l0rnn.tracing.rules`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _functorch as functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from l0rnn.tracing.rules.atoms import FREE, OUTSIDE, Atoms, are_equal, copied, differs, line, thin, varies
from l0rnn.tracing.rules.shadows import Reading, Run, Shadow, TensorAtoms, operation_name, settle, tensors_in

# operations that leave the elements themselves as they are, so that what an embedding made is still that
_KEEPS_ELEMENTS = (
    "embedding embedding_bag view reshape flatten unflatten permute transpose swapaxes swapdims movedim moveaxis "
    "squeeze unsqueeze expand repeat tile chunk split split_with_sizes tensor_split unsafe_chunk unsafe_split "
    "narrow select slice getitem index_select gather take_along_dim flip fliplr flipud unbind t T mT H mH data "
    "atleast_1d atleast_2d atleast_3d expand_as view_as reshape_as repeat_interleave clone contiguous detach "
    "requires_grad to float double half bfloat16 type type_as cpu cuda alias cat concat concatenate stack hstack "
    "vstack pad constant_pad_nd setitem copy index pack_padded_sequence pad_packed_sequence pad_sequence dropout"
)
KEEPS_ELEMENTS = frozenset(_KEEPS_ELEMENTS.split())


class Tracer(TorchFunctionMode):
    """The mode under which a network is run; fills a `Run`."""

    def __init__(self, network: nn.Module, rules: dict[Any, Callable[[Call], None]]) -> None:
        super().__init__()
        self.run = Run()
        self.rules = rules
        self.network = network
        self.modules: list[str] = []
        self.running: list[nn.Module] = []
        self.example_shapes: dict[int, torch.Size] = {}  # of each example tensor
        self._shadows: dict[int, tuple[weakref.ref[Tensor], Shadow]] = {}
        self._by_storage: dict[
            int, list[weakref.ref[Tensor]]
        ] = {}  # storage → tensors that have a shadow and lie in it
        self._places: dict[int, int] = {}  # tensor that has a shadow → its storage
        # storage of labels that change as their tensor is written into → that tensor, and the labels
        self._written_into: dict[int, tuple[weakref.ref[Tensor], Tensor]] = {}
        self._weights: dict[int, Shadow] = {}  # parameter or buffer → its own labels, whatever is written into it
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
            self._weights[id(tensor)] = Shadow(sides, is_weight=True)
            self.set_shadow(tensor, self._weights[id(tensor)])

    def gate_modules(self) -> set[str]:
        """Names of modules whose parameters are gates and not weights."""
        return {name for name, module in self.network.named_modules() if getattr(module, "is_gates", False)}

    def set_shadow(self, tensor: Tensor, shadow: Shadow, *, is_writer: bool = False) -> None:
        """Lay a shadow beside a tensor.

        Args:
            tensor: the tensor.
            shadow: its shadow.
            is_writer: whether its labels may be written into as the tensor is; nobody else shares them then.
        """
        number, storage = id(tensor), _storage(tensor)
        known = self._shadows.get(number)
        if known is None or known[0]() is not tensor:
            reference = weakref.ref(tensor, lambda gone, number=number: self._forget(number, gone))
            self._by_storage.setdefault(storage, []).append(reference)
            self._places[number] = storage
        else:
            reference = known[0]
        pointers = [side.untyped_storage().data_ptr() for side in shadow.sides]
        if is_writer:
            self._written_into[pointers[0]] = (reference, shadow.sides[0])
        elif self._written_into and any(pointer in self._written_into for pointer in pointers):
            shadow = replace(shadow, sides=tuple(copied(side) for side in shadow.sides))
        self._shadows[number] = (reference, shadow)

    def _forget(self, number: int, gone: weakref.ref[Tensor]) -> None:
        """A tensor is no more."""
        found = self._shadows.get(number)
        if found is not None and found[0] is gone:
            for side in self._shadows.pop(number)[1].sides:
                self._written_into.pop(side.untyped_storage().data_ptr(), None)
        storage = self._places.pop(number, 0)
        others = [other for other in self._by_storage.pop(storage, []) if other is not gone]
        if others:
            self._by_storage[storage] = others

    def is_written_into(self, tensor: Tensor, labels: Tensor) -> bool:
        """Whether labels change as this tensor is written into, and belong to it alone."""
        found = self._written_into.get(labels.untyped_storage().data_ptr())
        return found is not None and found[0]() is tensor and found[1] is labels

    def shadow(self, tensor: Tensor) -> Shadow:
        """The shadow of a tensor; one that nobody has laid is that of a tensor from outside."""
        found = self._shadows.get(id(tensor))
        if found is not None and found[0]() is tensor and all(side.shape == tensor.shape for side in found[1].sides):
            return found[1]
        self._fix_wrapped(tensor)
        return Shadow((torch.full((), OUTSIDE).expand(tensor.shape),))

    def _fix_wrapped(self, tensor: Tensor) -> None:
        """Inside `torch.vmap` and its like a tensor is wrapped; what it wraps cannot be followed, so its units stay."""
        while functorch.is_functorch_wrapped_tensor(tensor):
            tensor = functorch.get_unwrapped(tensor)
            found = self._shadows.get(id(tensor))
            if found is not None and found[0]() is tensor:
                for side in found[1].sides:
                    self.run.atoms.fix(side, f"`torch.func`{self.place} works on it where it cannot be followed")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        versions = [(tensor, _version(tensor)) for tensor in tensors_in((args, kwargs))]
        with (
            torch._C._DisableTorchDispatch()
        ):  # what runs inside, and what happens to labels, is nothing new to `Watch`
            out = func(*args, **kwargs)
            call = Call(self, operation_name(func), args, kwargs, out, func)
            written = [tensor for tensor, version in versions if _version(tensor) != version]
            if any(True for _ in tensors_in(out)) or written or call.name in self.rules:
                self._apply(call)
            for tensor in written:
                self._spread_to_aliases(tensor, call)
        return out

    def _apply(self, call: Call) -> None:
        rule = self.rules.get(call.function) or self.rules.get(call.name)
        if rule is None:
            call.unknown()
            return
        try:
            rule(call)
        except Exception as error:  # never refused: what a rule does not understand stays
            call.unknown(f"the rule of {call.why} failed: {type(error).__name__}: {error}")
        if call.name not in KEEPS_ELEMENTS:
            for result in tensors_in(call.out):
                shadow = self.shadow(result)
                if len(shadow.sides) == 1 and not shadow.is_weight:
                    labels = self.run.atoms.twins(shadow.sides[0])
                    if labels is not shadow.sides[0]:
                        self.set_shadow(result, replace(shadow, sides=(labels,)))

    def _spread_to_aliases(self, tensor: Tensor, call: Call) -> None:
        """A tensor was written into: label every other one that shares its memory, and bind the buffer that it is."""
        if tensor.layout != torch.strided or functorch.is_functorch_wrapped_tensor(tensor):
            return
        labels = call.labels(tensor)
        others = [other() for other in self._by_storage.get(_storage(tensor), ())]
        aliases = [other for other in others if other is not None and other is not tensor]
        self._bind_weight(tensor, labels, call)
        if not aliases:
            return
        size = tensor.untyped_storage().nbytes() // tensor.element_size()
        unwritten = FREE - 1
        canvas = torch.full((size,), unwritten)
        canvas.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).copy_(labels)
        for alias in aliases:
            if alias.dtype != tensor.dtype:
                call.fix((tensor, alias), f"{call.why} writes into it as numbers of another type")
                continue
            new = canvas.as_strided(alias.shape, alias.stride(), alias.storage_offset())
            if bool((new != unwritten).any()):
                self._bind_weight(alias, new.clamp(min=FREE), call)
                own = self.shadow(alias)
                old = own.sides[0] if len(own.sides) == 1 and not own.is_weight else call.labels(alias)
                self.set_shadow(alias, Shadow((thin(torch.where(new == unwritten, old, new)),)))

    def _bind_weight(self, tensor: Tensor, labels: Tensor, call: Call) -> None:
        """A parameter or buffer that is written into has the units of what is written."""
        own = self._weights.get(id(tensor))
        if own is None:
            return
        classes = self.run.atoms.roots(labels)
        if bool((classes == FREE).all()):  # zeroed: it can be of any width again, so that of its own is kept
            self.set_shadow(tensor, own)
            return
        for side in own.sides:
            along = [d for d in range(side.dim()) if varies(side, d)]
            if along and all(differs(classes, d) for d in along):
                self.run.atoms.unite(labels, side, f"{call.why} writes into it")
            elif along and bool((classes == OUTSIDE).any()):
                self.run.atoms.fix(side, f"{call.why} writes into it what comes from outside the network")

    def count(self, keys: Iterable[tuple[str, str]], labels: Tensor, why: str) -> None:
        """Note that numbers of the user's are widths, so that they have to follow them, and the widths each other.

        Args:
            keys: modules and the names under which they remember the number.
            labels: labels of the units that it counts, `(unit,)`.
            why: what uses it.
        """
        for key in keys:
            known = self.run.numbers.get(key)
            if known is None:
                self.run.numbers[key] = labels.clone()
            elif self.run.atoms.has_units(labels) or self.run.atoms.has_units(known):
                self.run.atoms.unite(
                    known, labels, f"{why} counts it by {key[1]!r}, by which it counts what has to stay"
                )

    def numbers(self, size: int) -> tuple[tuple[str, str], ...]:
        """The module of the user's that is running, and the names under which it remembers a number."""
        module = self.running[-1] if self.running else self.network
        if type(module).__module__.startswith(("torch.nn.", "l0rnn.")) or size < 2:
            return ()
        return tuple(
            (self.module, name) for name, value in vars(module).items() if type(value) is int and value == size
        )

    def keep_grid(self, labels: Tensor, why: str) -> None:
        """Note that what is removed of a tensor must be whole rows along each of its dimensions.

        Which dimension that is gets decided at the end of the run, as what reads it often says.
        """
        classes = self.run.atoms.roots(labels)
        along = [d for d in range(labels.dim()) if differs(classes, d)]
        if len(along) > 1:
            grid = line(labels, *(d for d in range(labels.dim()) if d not in along))
            key = bytes(str(tuple(grid.shape)), "ascii") + grid.contiguous().numpy().tobytes()
            self.run.grids.setdefault(key, (grid, why))

    @property
    def module(self) -> str:
        """Name of the module that is running."""
        return self.modules[-1] if self.modules else ""

    @property
    def place(self) -> str:
        """The module that is running, as part of a sentence."""
        return f" in {self.module!r}" if self.module else ""


class Watch(TorchDispatchMode):
    """Shows the tracer what runs past Python's functions, such as the operations of a scripted function.

    Every operation comes through here. One that the tracer has not seen yet is called from Python now, so it sees it.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


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
    def why(self) -> str:
        """The operation and the module that ran it, as a reason."""
        return f"`{self.name}`{self.tracer.place}"

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by its position or name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    @property
    def data(self) -> Tensor:
        """The first tensor, however it was passed."""
        return next(tensors_in((self.args, self.kwargs)))

    def shadow(self, tensor: Tensor) -> Shadow:
        """The shadow of a tensor."""
        return self.tracer.shadow(tensor)

    def labels(self, tensor: Tensor) -> Tensor:
        """One label per element: for what is made of weights, those of the last dimension that has several units.

        Where a weight has several such dimensions, the others have to stay: their units cannot be followed as well.
        """
        shadow = self.shadow(tensor)
        if len(shadow.sides) <= 1:
            return shadow.sides[0] if shadow.sides else torch.full((), FREE).expand(tensor.shape)
        varying = [side for side in shadow.sides if any(varies(side, d) for d in range(side.dim()))]
        for side in varying[:-1]:
            self.atoms.fix(side, f"{self.why} takes the weight as data")
        return (varying or list(shadow.sides))[-1]

    def classes(self, tensor: Tensor) -> Tensor:
        """As `labels`, each label replaced by its class."""
        return self.atoms.roots(self.labels(tensor))

    def set(self, tensor: Any, labels: Tensor, **options: Any) -> None:
        """Label a result."""
        if isinstance(tensor, Tensor):
            self.tracer.set_shadow(tensor, Shadow((thin(labels.expand(tensor.shape)),), **options))

    def meet(self, constant: Tensor, labels: Tensor) -> None:
        """Units meet a constant of their width: the number that the user made it by is theirs."""
        keys = self.shadow(constant).counted
        last = labels.dim() - 1
        if not keys or not labels.dim() or labels.size(-1) != constant.size(-1):
            return
        if [d for d in range(labels.dim()) if differs(self.atoms.roots(labels), d)] == [last]:
            self.tracer.count(keys, line(labels, *range(last)).reshape(-1), self.why)

    def tie_or_fix(self, labels: Tensor, dimensions: Iterable[int], why: str) -> Tensor:
        """An operation runs over these dimensions: the labels of its result, of size 1 along them.

        Units that differ along them alone have to stay. Where labels form a grid, such as (direction, unit), the
        operation adds up unit i of all directions, which live and die together then.
        """
        dimensions = list(dimensions)
        over = [d for d in dimensions if differs(self.atoms.roots(labels), d)]
        others = [d for d in range(labels.dim()) if d not in dimensions]
        if over and any(differs(self.atoms.roots(labels), d) for d in others):
            self.atoms.unite(labels, line(labels, *over), why)
        elif over:
            self.atoms.fix(labels, why)
        return line(labels, *dimensions)

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

    def unknown(self, failure: str = "") -> None:
        """An operation without a rule, or whose rule failed."""
        touched = (self.args, self.kwargs, self.out)
        if any(self.atoms.has_units(side) for tensor in tensors_in(touched) for side in self.shadow(tensor).sides):
            self.tracer.run.unknown.setdefault(self.name, self.tracer.module)
            self.fix(self.out, failure or f"{self.why} has no rule; `l0rnn.tracing.rule` gives it one")
            self.fix_and_end(failure or f"{self.why} has no rule; `l0rnn.tracing.rule` gives it one")
        for result in tensors_in(self.out):
            self.set(result, torch.full((), OUTSIDE))

    def join(self, left: Tensor, right: Tensor, why: str) -> Tensor:
        """Labels of a result whose elements come from both of these; broadcast as the operation broadcasts.

        A side with one element where the other has several units scales them all, so its own unit has to stay; it says
        nothing about theirs.
        """
        ndim = max(left.dim(), right.dim())
        left, right = (labels.reshape((1,) * (ndim - labels.dim()) + tuple(labels.shape)) for labels in (left, right))
        one, other = self.atoms.roots(left), self.atoms.roots(right)
        left_is_spread = right_is_spread = shared = False
        for d in range(ndim):
            if one.size(d) == 1 and other.size(d) > 1:
                left_is_spread |= differs(other, d)
            elif other.size(d) == 1 and one.size(d) > 1:
                right_is_spread |= differs(one, d)
            else:
                shared |= differs(one, d) or differs(other, d)
        if left_is_spread and right_is_spread:  # an outer product: the larger side keeps its units
            left_is_smaller = len(one.unique()) < len(other.unique())
            left, right = (left, right) if left_is_smaller else (right, left)
            self.atoms.fix(left, f"{why} spreads it over other units")
            return right
        if right_is_spread:
            left, right, one, other = right, left, other, one
        if (left_is_spread or right_is_spread) and not (shared and bool((one >= OUTSIDE).any())):
            self.atoms.fix(left, f"{why} spreads it over other units")
            return right
        self.atoms.unite(left, right, f"{why} joins it with what has to stay")
        if bool((left == FREE).all()):
            return right
        if bool((right == FREE).all()):
            return left
        left, right = torch.broadcast_tensors(left, right)
        return left if are_equal(left, right) else torch.where(left == FREE, right, left)


def _version(tensor: Tensor) -> int:
    """How often a tensor was written into; tensors of inference mode do not count."""
    return -1 if tensor.is_inference() else tensor._version


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided and _has_storage(tensor) else -id(tensor)


def _has_storage(tensor: Tensor) -> bool:
    return not functorch.is_functorch_wrapped_tensor(tensor)


@contextmanager
def naming_modules(tracer: Tracer, network: nn.Module) -> Iterator[None]:
    """Keep `Tracer.module` at the module that is running."""
    names = {id(module): name for name, module in network.named_modules()}

    def enter(module: nn.Module, inputs: Any) -> None:
        tracer.modules.append(names.get(id(module), tracer.module))
        tracer.running.append(module)

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        tracer.modules.pop()
        tracer.running.pop()

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
            tracer.example_shapes[number] = tensor.shape
    with torch.no_grad(), naming_modules(tracer, network), tracer, Watch():
        output = network(*args, **kwargs)
    for number, tensor in enumerate(tensors_in(output)):
        shadow = tracer.shadow(tensor)
        if number == 0 or not shadow.is_state:
            for side in shadow.sides:
                tracer.run.atoms.fix(side, "it is an output of the network")
        tracer.run.outputs.append(shadow.sides[0] if len(shadow.sides) == 1 else torch.full(tensor.shape, OUTSIDE))
    settle(tracer.run)
    return tracer.run


__all__ = ["Call", "PackedSequence", "Reading", "Run", "Shadow", "run_traced", "tensors_in"]
