"""`trace`: the units of a network, from one run on example inputs; `explain`: the same, to be read."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from l0rnn.arguments import checked
from l0rnn.tracing.numbering import units_of
from l0rnn.tracing.rules import RULES
from l0rnn.tracing.rules.run import Run, run_traced, tensors_in
from l0rnn.tracing.units import Units

_is_tracing: ContextVar[bool] = ContextVar("a network is being traced", default=False)

NORMS = (nn.LayerNorm, nn.RMSNorm)
RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)


@checked
def trace(
    network: nn.Module,
    example_inputs: Any,
    *,
    fixed: Sequence[str] = (),
    tied: Sequence[Sequence[str]] = (),
    whole: Mapping[str, str] | None = None,
) -> Units:
    """Run a network once and find its units: who writes and who reads them, what stays whole and why.

    Args:
        network: any network in torch. It is run in evaluation mode, and left as it was.
        example_inputs: arguments of its forward: a tuple for several, a dict of keyword arguments, or the only one.
        fixed: names of layers whose weights, or of axes whose units, have to stay.
        tied: groups of axes whose units have to be removed together, number by number.
        whole: axis → why its units have to stay, for reasons that were found elsewhere.

    Returns:
        The units. What cannot be removed is in `Units.whole` with the reason.

    Raises:
        ValueError: if the network fails on the example inputs, or a name is not known.
        TypeError: if the network is compiled or scripted.

    Example:
        >>> network = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10))
        >>> units = trace(network, torch.arange(10))
        >>> {axis.name: axis.size for axis in units.axes.values()}, units.whole
        ({'0': 4}, {'1': 'it is an output of the network'})
    """
    _check(network, example_inputs)
    args, kwargs = as_call(network, example_inputs)
    modules = dict(network.named_modules())
    others = _code_of_others(modules)
    own = {name: dict(module._parameters) for name, module in modules.items()}
    with evaluating_modules(network), without_gates(), torch.random.fork_rng(devices=[]):
        try:
            run = run_traced(network, args, kwargs, RULES)
        except Exception as error:
            hint = _hint(error)
            raise ValueError(
                f"`network` fails on the `example_inputs`{hint}: {type(error).__name__}: {error}"
            ) from error
    for name, module in modules.items():  # a forward pass may set what is no parameter to what is one
        for extra in module._parameters.keys() - own[name].keys():
            module.__dict__[extra] = module._parameters.pop(extra)
    _fix_layers(run, modules, [name for name in fixed if name in modules])
    for name, why in others.items():
        _fix_own(run, name, why)
    parameters = {name for name, _ in network.named_parameters()}
    norms = {name for name, module in modules.items() if type(module) in NORMS or hasattr(module, "input_gates")}
    units = units_of(run, parameters, norms)
    reasons = dict.fromkeys((name for name in fixed if name not in modules), "`fixed` names it") | dict(whole or {})
    if reasons or tied:
        _overrule(run, units, reasons, tied)
        units = units_of(run, parameters, norms)
    units.fixed = tuple(fixed)
    return units


@checked
def explain(network: nn.Module, example_inputs: Any, **options: Any) -> str:
    """What can be pruned in a network, what stays whole and why, as text to be printed.

    Args:
        network: any network in torch.
        example_inputs: arguments of its forward, as for `trace`.
        **options: those of `trace`.

    Example:
        >>> print(explain(nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10)), torch.arange(10)))
        4 units on 1 axis can be removed, and with them 100 % of the multiply-adds (40 a step).
          0: 4 units, made by 0.weight, read by 1.weight
        stays whole:
          1: it is an output of the network
    """
    return describe(trace(network, example_inputs, **options))


def describe(units: Units) -> str:
    """`Units` as text, see `explain`."""
    whole, removable = 0.0, 0.0
    for product in units.products:
        rows, columns = (
            {name: count * (units.axes[name].size if name else 1) for name, count in side.items()}
            for side in (product.rows, product.columns)
        )
        size = product.factor * sum(rows.values()) * (1 if product.is_diagonal else sum(columns.values()))
        stays = product.factor * rows.get("", 0) * (1 if product.is_diagonal else columns.get("", 0))
        whole, removable = whole + size, removable + size - stays
    share = f"{100 * removable / whole:.0f} %" if whole else "none"
    count = f"{len(units.axes)} ax{'i' if len(units.axes) == 1 else 'e'}s"
    costs = f"with them {share} of the multiply-adds ({whole:,.0f} a step)"
    lines = [f"{units.count} units on {count} can be removed, and {costs}."]
    for axis in units.axes.values():
        made, read = [], []
        for weight in units.weights.values():
            for dimension, numbers in enumerate(weight.units):
                own = (numbers >= axis.start) & (numbers < axis.start + axis.size)
                if bool((own & weight.is_read[dimension]).any()):
                    read.append(weight.name)
                elif bool(own.any()):
                    made.append(weight.name)
        lines.append(f"  {axis.name}: {axis.size} units, made by {_some(made or read)}, read by {_some(read)}")
    if units.whole:
        lines.append("stays whole:")
        lines += [f"  {name}: {why}" for name, why in units.whole.items()]
    if units.unknown:
        lines.append("operations without a rule (`l0rnn.tracing.rule` gives them one):")
        lines += [f"  {operation}{f' in {module}' if module else ''}" for operation, module in units.unknown.items()]
    return "\n".join(lines)


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def as_call(network: nn.Module, example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of the network's forward.

    A tuple is several arguments, a dict whose keys are names of arguments is keyword arguments, all else is the only
    one, also a PackedSequence or another named tuple.

    Example:
        >>> as_call(nn.Linear(3, 2), {"input": 1}), as_call(nn.Linear(3, 2), {"x": 1})
        (((), {'input': 1}), (({'x': 1},), {}))
    """
    if isinstance(example_inputs, tuple) and not hasattr(example_inputs, "_fields"):
        return example_inputs, {}
    if isinstance(example_inputs, Mapping) and example_inputs:
        parameters = inspect.signature(network.forward).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        if all(isinstance(key, str) and (key in parameters or takes_any) for key in example_inputs):
            return (), dict(example_inputs)
    return (example_inputs,), {}


@contextmanager
def without_gates() -> Iterator[None]:
    """Inside the block a gated network computes as if it had no gates."""
    token = _is_tracing.set(True)
    try:
        yield
    finally:
        _is_tracing.reset(token)


def is_without_gates() -> bool:
    """Whether gated layers have to compute as plain ones, here and now."""
    return _is_tracing.get()


def _check(network: nn.Module, example_inputs: Any) -> None:
    if isinstance(network, torch.jit.ScriptModule):
        raise TypeError("`network` must be a module in Python, got a scripted one; pass what was scripted")
    if hasattr(network, "_orig_mod"):
        raise TypeError("`network` must not be compiled yet; pass the module itself, and compile it afterwards")
    if example_inputs is None:
        raise ValueError("`example_inputs` must be given: the network is run on them once to find its units")
    devices = {tensor.device for tensor in network.parameters()}
    for tensor in tensors_in(example_inputs):
        if devices and tensor.device not in devices and tensor.dim() > 0:
            raise ValueError(
                f"`example_inputs` are on {tensor.device}, the network on {', '.join(sorted(map(str, devices)))}; "
                "move them there"
            )


def _hint(error: Exception) -> str:
    if isinstance(error, TypeError) and "argument" in str(error):
        return ", which must be a tuple for several arguments"
    return ""


@contextmanager
def evaluating_modules(*networks: nn.Module) -> Iterator[None]:
    """All modules in evaluation mode, each put back as it was."""
    before = [(module, module.training) for network in networks for module in network.modules()]
    try:
        for module, _ in before:
            module.training = False
        yield
    finally:
        for module, training in before:
            module.training = training


def _fix_layers(run: Run, modules: Mapping[str, nn.Module], names: Iterable[str]) -> None:
    for name in names:
        for tensor, found in run.tensors.items():
            if any(alias.startswith(f"{name}.") or alias == name for alias in run.aliases[tensor]):
                for labels in found.dimensions:
                    run.atoms.fix(labels, "`fixed` names it")


def _code_of_others(modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """Recurrent layers with code of their own → why they stay: it may go round torch's kernels, where gates act."""
    found = {}
    for name, module in modules.items():
        is_ours = hasattr(module, "is_wired")  # a gated layer, which while it is traced is torch's
        if not isinstance(module, nn.RNNBase) or is_ours:
            continue
        if type(module) not in RECURRENT:
            found[name] = f"{name!r} is a {type(module).__name__}, whose own code gates would go round"
        elif module.num_layers > 1 and set(module._flat_weights_names) != module._parameters.keys():
            found[name] = f"{name!r} has several layers, and weights that other code computes"
    return found


def _fix_own(run: Run, module: str, why: str) -> None:
    """Keep all units of a module's own parameters."""
    for name, tensor in run.tensors.items():
        if any(alias.rpartition(".")[0] == module for alias in run.aliases[name]):
            for labels in tensor.dimensions:
                run.atoms.fix(labels, why)


def _overrule(run: Run, units: Units, fixed: Mapping[str, str], tied: Iterable[Sequence[str]]) -> None:
    def labels(axis: str) -> Tensor:
        if axis not in units.axes:
            raise ValueError(
                f"`fixed` or `tied` names {axis!r}, which is neither a layer nor one of {', '.join(units.axes)}"
            )
        wanted = units.axes[axis]
        result = torch.zeros(wanted.size, dtype=torch.int64)
        for name, weight in units.weights.items():
            for numbers, own in zip(weight.units, run.tensors[name].dimensions, strict=True):
                is_own = (numbers >= wanted.start) & (numbers < wanted.start + wanted.size)
                result[numbers[is_own] - wanted.start] = own[is_own]
        return result

    for axis, why in fixed.items():
        run.atoms.fix(labels(axis), why)
    for group in tied:
        first, *others = (labels(axis) for axis in group)
        for axis, other in zip(group[1:], others, strict=True):
            if len(other) != len(first):
                raise ValueError(
                    f"`tied` must name axes of one size, got {group[0]} ({len(first)}) and {axis} ({len(other)})"
                )
            run.atoms.unite(first, other, "`tied` ties it to what has to stay")


__all__ = ["PackedSequence", "as_call", "describe", "explain", "trace"]
