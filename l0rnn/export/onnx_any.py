"""Export of any network to ONNX: inputs and outputs in any nesting, axes that are open by name, states in and out."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.export.card import figures_section
from l0rnn.export.check import compare_tensors
from l0rnn.export.config import write_header
from l0rnn.export.describe import refuse_gates
from l0rnn.export.directory import CARD, ONNX
from l0rnn.export.onnx_run import OLDEST_RUNTIME, OnnxNetwork
from l0rnn.export.onnx_twin import onnx_twin
from l0rnn.extras import quiet_exporters
from l0rnn.recurrent.nested import moved_to, sequence_like
from l0rnn.tracing.trace import as_call
from l0rnn.version import __version__

log = logging.getLogger(__name__)

Axes = dict[int, str]
EXPORTERS = {True: "torch.export", False: "torchscript"}
_TORCHSCRIPT_OPSET = 20  # the newest that torch's older exporter writes


def named_leaves(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a nesting of tuples, lists, dicts and dataclasses, under the path to it.

    Example:
        >>> [name for name, _ in named_leaves((torch.ones(1), {"a": torch.ones(1)}), "output")]
        ['output_0', 'output_1_a']
    """
    if isinstance(value, Tensor):
        yield name, value
    else:
        for key, part in _parts(value):
            yield from named_leaves(part, f"{name}_{re.sub(r'[^A-Za-z0-9_]', '_', str(key))}" if name else str(key))


def with_leaves(value: Any, tensors: Iterator[Tensor]) -> Any:
    """The same nesting with other tensors, taken in the order of `named_leaves`."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, Mapping):
        return type(value)((key, with_leaves(part, tensors)) for key, part in value.items())  # type: ignore[call-arg]
    if isinstance(value, (tuple, list)):
        return sequence_like(value, [with_leaves(part, tensors) for part in value])
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{key: with_leaves(part, tensors) for key, part in _parts(value)})
    return value


def _parts(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, (tuple, list)):
        return enumerate(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    return ()


class FlatNetwork(nn.Module):
    """Takes the tensors of its inputs one by one, and returns those of its outputs so.

    Args:
        network: to be called.
        inputs: argument of its forward → value, whose nesting is kept and whose tensors are replaced.
    """

    def __init__(self, network: nn.Module, inputs: Mapping[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.inputs = dict(inputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the network."""
        given = with_leaves(self.inputs, iter(tensors))
        positional = [given.pop(name) for name in list(given) if name.startswith("*")]
        return tuple(tensor for _, tensor in named_leaves(self.network(*positional, **given), ""))


@dataclasses.dataclass
class Ports:
    """What goes into a network and what comes out, by the names that the file has for it.

    Attributes:
        network: a copy, in evaluation mode on the CPU.
        inputs: argument → example.
        tensors: name → example tensor, for every tensor of the inputs.
        axes: name → the open axes of the tensor, by their names.
        outputs: name → example tensor.
        states: name of an input → name of the output that is its next value.
    """

    network: nn.Module
    inputs: dict[str, Any]
    tensors: dict[str, Tensor]
    axes: dict[str, Axes]
    outputs: dict[str, Tensor]
    states: dict[str, str]

    @property
    def sizes(self) -> dict[str, int]:
        """Open axis → its size in the example."""
        return {axis: self.tensors[name].shape[d] for name, own in self.axes.items() for d, axis in own.items()}

    def resized(self, sizes: Mapping[str, int]) -> dict[str, Tensor]:
        """The example at other sizes of the open axes, made of its own entries."""
        generator = torch.Generator().manual_seed(0)
        found = dict(self.tensors)
        for axis, size in sizes.items():
            chosen = torch.randint(max(1, self.sizes[axis]), (size,), generator=generator)
            for name, own in self.axes.items():
                for dimension in (d for d, known in own.items() if known == axis):
                    found[name] = found[name].index_select(dimension, chosen)
        return found

    def run(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The network in torch: output → tensor."""
        with torch.inference_mode():
            found = FlatNetwork(self.network, self.inputs)(*(tensors[name].clone() for name in self.tensors))
        return dict(zip(self.outputs, found, strict=True))


def ports_of(
    network: nn.Module,
    example_inputs: Any,
    dynamic_axes: Mapping[str, Mapping[int, str]] | None,
    states: Mapping[str, str] | None,
) -> Ports:
    """Find out what goes in and out by running the network once.

    Raises:
        ValueError: if an argument is not what it should be; it names it.
    """
    refuse_gates(network)
    network = copy.deepcopy(network).cpu().eval()
    args, kwargs = as_call(network, moved_to(example_inputs, torch.device("cpu")))
    inputs = _by_argument(network, args) | kwargs
    named = [pair for name, value in inputs.items() for pair in named_leaves(value, name.removeprefix("*"))]
    tensors = {name: tensor.detach() for name, tensor in _unique(named, "`example_inputs`").items()}
    if not tensors:
        raise ValueError("`example_inputs` must hold a tensor, got none")
    try:
        with torch.inference_mode():
            output = network(*args, **kwargs)
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"`network` does not run on the `example_inputs`: {error}") from error
    outputs = _unique(named_leaves(output, "output"), "the outputs of `network`")
    if not outputs:
        raise ValueError(f"`network` must return tensors, in any nesting, got a {type(output).__name__}")
    axes = _axes(tensors, dynamic_axes)
    back = _states(tensors, outputs, states or {})
    renamed = {new: f"next_{old}" for old, new in back.items()}
    outputs = {renamed.get(name, name): tensor for name, tensor in outputs.items()}
    return Ports(network, inputs, tensors, axes, outputs, {name: f"next_{name}" for name in back})


def _by_argument(network: nn.Module, args: Sequence[Any]) -> dict[str, Any]:
    """Positional arguments by their names; ``*name_0`` for those of a variable number."""
    parameters = list(inspect.signature(network.forward).parameters.values())
    found: dict[str, Any] = {}
    for place, value in enumerate(args):
        parameter = parameters[min(place, len(parameters) - 1)]
        if parameter.kind is parameter.VAR_POSITIONAL:
            found[f"*{parameter.name}_{place}"] = value
        elif parameter.kind is parameter.POSITIONAL_ONLY or any(p.kind is p.VAR_POSITIONAL for p in parameters):
            found[f"*{parameter.name}"] = value
        else:
            found[parameter.name] = value
    return found


def _unique(named: Iterable[tuple[str, Tensor]], what: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, tensor in named:
        if name in found:
            raise ValueError(f"{what} must have names that differ once they are laid flat, got two of {name!r}")
        found[name] = tensor
    return found


def _under(name: str, names: Iterable[str]) -> list[str]:
    """Those of the names that are a tensor, or all tensors in a nesting."""
    return [known for known in names if known == name or known.startswith(f"{name}_")]


def _axes(tensors: Mapping[str, Tensor], dynamic: Mapping[str, Mapping[int, str]] | None) -> dict[str, Axes]:
    if dynamic is None:
        raise ValueError(
            "`dynamic_axes` must be given with `example_inputs`: argument → {axis: name} of those whose size is open, "
            f"such as {{{next(iter(tensors))!r}: {{0: 'batch'}}}}; {{}} for none"
        )
    axes: dict[str, Axes] = {name: {} for name in tensors}
    sizes: dict[str, int] = {}
    for argument, own in dynamic.items():
        found = _under(argument, tensors)
        if not found:
            raise ValueError(f"`dynamic_axes` names {argument!r}, which is none of the inputs {', '.join(tensors)}")
        for name in found:
            for axis, label in own.items():
                if not isinstance(axis, int) or not -tensors[name].dim() <= axis < tensors[name].dim():
                    raise ValueError(
                        f"`dynamic_axes` must give axes of {name!r}, which has {tensors[name].dim()}, got {axis!r}"
                    )
                if not isinstance(label, str) or not label.isidentifier():
                    raise ValueError(f"`dynamic_axes` must name each axis by letters, digits and _, got {label!r}")
                size = tensors[name].shape[axis]
                if sizes.setdefault(label, size) != size:
                    raise ValueError(
                        f"`dynamic_axes` gives one name, {label!r}, to axes of {sizes[label]} and {size} in the example"
                    )
                axes[name][axis % tensors[name].dim()] = label
    return axes


def _states(tensors: Mapping[str, Tensor], outputs: Mapping[str, Tensor], states: Mapping[str, str]) -> dict[str, str]:
    """Input → output, tensor by tensor."""
    found = {}
    for given, back in states.items():
        into, out = _under(given, tensors), _under(back, outputs)
        for name, names, known in ((given, into, tensors), (back, out, outputs)):
            if not names:
                raise ValueError(f"`states` names {name!r}, which is none of {', '.join(known)}")
        for one, other in zip(into, out, strict=False):
            if len(into) != len(out) or tensors[one].shape != outputs[other].shape:
                raise ValueError(
                    f"`states` must pair inputs with outputs of their shapes, got {given!r} with {back!r}: "
                    f"{[tuple(tensors[n].shape) for n in into]} and {[tuple(outputs[n].shape) for n in out]}"
                )
            found[one] = other
    return found


def write_any_onnx(
    ports: Ports, directory: Path, *, other_inputs: Sequence[Any], figures: Mapping[str, Any], opset: int
) -> None:
    """Write the file and what goes with it, and check it in ONNX Runtime; where one exporter cannot, by the other.

    Args:
        ports: the network.
        directory: to write to.
        other_inputs: further inputs to check it on.
        figures: what was measured.
        opset: version of the operators.

    Raises:
        ValueError: if the network has layers that ONNX cannot hold.
        RuntimeError: if neither exporter gives a file that computes what the network does.
    """
    others = [_other_tensors(ports, inputs) for inputs in other_inputs]
    reasons = []
    twin = _twin(ports)
    for is_new in (True, False):
        try:
            with quiet_exporters():
                (_by_export if is_new else _by_tracing)(ports, twin if is_new else None, directory / ONNX, opset)
            _write_details(ports, directory, figures, opset, EXPORTERS[is_new])
            _check(ports, OnnxNetwork(directory), others)
        except _WrongInputsError:
            raise
        except Exception as error:  # torch's exporters raise whatever the code that they trace raises
            reasons.append(f"{EXPORTERS[is_new]}: {_first_line(error)}")
            continue
        if reasons:
            log.warning(
                "written by torch's older exporter, which traces one run, since the newer could not (%s); it was "
                "checked at other sizes of the open axes",
                reasons[0],
            )
        return
    raise RuntimeError(
        "torch cannot export the network so that it runs at other sizes of the `dynamic_axes`; leave out those that "
        f"the forward pass freezes, such as one that a loop in Python runs over. {'; '.join(reasons)}"
    )


class _WrongInputsError(ValueError):
    """Inputs that the network itself does not run on."""


def _twin(ports: Ports) -> nn.Module:
    return FlatNetwork(onnx_twin(ports.network), ports.inputs).eval()


def _traced_inputs(ports: Ports) -> tuple[Tensor, ...]:
    """The example, with at least two of everything that is open, since torch takes a size of 1 for a fixed one."""
    tensors = ports.resized({axis: max(2, size) for axis, size in ports.sizes.items()})
    return tuple(tensors[name] for name in ports.tensors)


def _by_export(ports: Ports, twin: nn.Module | None, path: Path, opset: int) -> None:
    assert twin is not None
    dims = {axis: torch.export.Dim(axis) for axis in ports.sizes}
    shapes = tuple({d: dims[axis] for d, axis in own.items()} or None for own in ports.axes.values())
    program = torch.onnx.export(
        twin,
        _traced_inputs(ports),
        input_names=list(ports.tensors),
        output_names=list(ports.outputs),
        dynamic_shapes=(shapes,),
        opset_version=opset,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    for port in program.model.graph.inputs:
        for d, axis in ports.axes.get(str(port.name), {}).items():
            if port.shape is not None and isinstance(port.shape[d], int):
                raise RuntimeError(f"the forward pass freezes {axis!r} of {port.name!r} to {port.shape[d]}")
    program.save(path, external_data=False)


def _by_tracing(ports: Ports, twin: nn.Module | None, path: Path, opset: int) -> None:
    names = {**ports.axes, **{name: {} for name in ports.outputs}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is the older one, and what it takes for fixed: the check tells
        torch.onnx.export(
            FlatNetwork(ports.network, ports.inputs).eval(),
            _traced_inputs(ports),
            str(path),
            input_names=list(ports.tensors),
            output_names=list(ports.outputs),
            dynamic_axes={name: own for name, own in names.items() if own},
            opset_version=min(opset, _TORCHSCRIPT_OPSET),
            dynamo=False,
        )


def _write_details(ports: Ports, directory: Path, figures: Mapping[str, Any], opset: int, exporter: str) -> None:
    inputs = [
        {
            "name": name,
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": [ports.axes[name].get(d, size) for d, size in enumerate(tensor.shape)],
        }
        for name, tensor in ports.tensors.items()
    ]
    details = {"opset": opset, "exporter": exporter, "inputs": inputs, "outputs": list(ports.outputs)}
    write_header(directory, "onnx", {**details, "states": ports.states, "vocabulary": False, "figures": dict(figures)})
    lines = [f"- in `{port['name']}` ({', '.join(map(str, port['shape']))}), {port['dtype']}" for port in inputs]
    lines += [f"- out `{name}`" for name in ports.outputs]
    older = "" if exporter == EXPORTERS[True] else " It was written by torch's older exporter, which traces one run."
    (directory / CARD).write_text(
        f"""\
# A shrunken network in ONNX

Written by l0rnn {__version__}; runs in ONNX Runtime {".".join(map(str, OLDEST_RUNTIME))} or newer, which needs neither
torch nor l0rnn. Axes with a name are open.{older} An output `next_…` is what to pass back as that input.

```python
import onnxruntime

session = onnxruntime.InferenceSession("{ONNX}")
outputs = session.run(None, {{...}})  # names and shapes: below, and in config.json
```

{chr(10).join(lines)}
"""
        + figures_section(figures),
        encoding="utf-8",
    )


def _other_tensors(ports: Ports, inputs: Any) -> dict[str, Tensor]:
    args, kwargs = as_call(ports.network, moved_to(inputs, torch.device("cpu")))
    given = _by_argument(ports.network, args) | kwargs
    found = dict(pair for name, value in given.items() for pair in named_leaves(value, name.removeprefix("*")))
    if found.keys() != ports.tensors.keys():
        raise _WrongInputsError(
            f"`other_inputs` must have the inputs of the example, {', '.join(ports.tensors)}, got {', '.join(found)}"
        )
    return found


def _check(ports: Ports, exported: OnnxNetwork, others: Sequence[dict[str, Tensor]]) -> None:
    """Against torch: at the example's sizes, at larger and smaller ones, and going on from the states."""
    sizes = ports.sizes
    changed = [{axis: change(size) for axis, size in sizes.items()} for change in _CHANGES] if sizes else []
    for number, tensors in enumerate([ports.tensors, *others, *map(ports.resized, changed)]):
        try:
            expected = ports.run(tensors)
        except (RuntimeError, ValueError, IndexError) as error:
            now = changed[number - 1 - len(others)] if number > len(others) else {}
            if any(size < sizes[axis] for axis, size in now.items()):
                continue  # smaller than the network takes
            what = "`other_inputs`" if 0 < number <= len(others) else "the example at other sizes of the `dynamic_axes`"
            raise _WrongInputsError(f"`network` does not run on {what}: {_first_line(error)}") from error
        got = exported(**tensors)
        _compare(expected, got, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
        if ports.states:
            again = {name: expected[back] for name, back in ports.states.items()}
            back = {name: got[back] for name, back in ports.states.items()}
            _compare(ports.run({**tensors, **again}), exported(**{**tensors, **back}), "the second step")


_CHANGES = (lambda size: size + 1, lambda size: 2 * size + 3, lambda size: max(1, size // 2))


def _compare(expected: Mapping[str, Tensor], got: Mapping[str, Tensor], where: object) -> None:
    for name, tensor in expected.items():
        difference, allowed = compare_tensors(tensor, got[name])
        if not difference <= allowed:
            raise RuntimeError(f"{name!r} differs from the network by {difference:.3g} at {where}")


def _first_line(error: BaseException) -> str:
    text = str(error.__cause__ or error)
    return next((line for line in text.splitlines() if line.strip()), type(error).__name__)[:300]
