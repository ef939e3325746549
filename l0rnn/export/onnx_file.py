"""Export to ONNX: batch and length open, states in and out, one file that ONNX Runtime runs without torch or l0rnn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.arguments import checked
from l0rnn.export.card import figures_section
from l0rnn.export.check import TRACED, check_export, check_stream
from l0rnn.export.config import Figures, checked_figures, write_header
from l0rnn.export.directory import CARD, ONNX, written_aside
from l0rnn.export.interface import FlatCall, Interface, inputs_like
from l0rnn.export.onnx_any import ports_of, write_any_onnx
from l0rnn.export.onnx_run import OLDEST_RUNTIME, OnnxStreamer
from l0rnn.export.onnx_twin import onnx_twin
from l0rnn.export.streaming import TorchStreamer
from l0rnn.export.vocabulary import checked_vocabulary, write_vocabulary
from l0rnn.extras import quiet_exporters, require, version_numbers
from l0rnn.version import __version__

OPSET = 20
OLDEST_OPSET = 18  # the oldest that torch's exporter writes
MOST_BYTES = 2 * 10**9  # a file may not have more than 2 GiB, the limit of its encoding
_CANNOT = "torch cannot export the network with batch and length open"
OLDEST_TORCH = (2, 8)  # the first with torch.onnx.ops


@checked
def export_onnx(
    network: nn.Module,
    directory: str | Path,
    *,
    example_input: Tensor | None = None,
    example_inputs: Any = None,
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
    states: Mapping[str, str] | None = None,
    other_inputs: Sequence[Any] = (),
    vocabulary: Sequence[str] | None = None,
    figures: Figures | None = None,
    opset: int = OPSET,
    overwrite: bool = False,
) -> Path:
    """Write a network as ONNX, and run it in ONNX Runtime against the network before it is moved to its place.

    A network that reads a sequence is exported as a stream, with batch and length open: a `LanguageModel`, a recurrent
    layer, or with ``example_input`` any network called as ``network(input)`` or ``network(input, state)`` that returns
    a tensor, or a tensor and a state. Compared are output and state at three unseen sizes, from zero and random states,
    and the sequence step by step. `open_streamer` opens it.

    Any other network is exported with ``example_inputs`` and ``dynamic_axes``: several inputs and outputs in any
    nesting, images or features in front. Inputs have the names of the arguments, those of a nesting with the path
    behind (``state_0``); outputs are ``output``, or ``output_0``, ``output_1`` and so on. Compared is the example, the
    example at larger and smaller sizes of the open axes, and with ``states`` a second step. Where torch's exporter
    cannot, its older one is used, and a warning, ``config.json`` and ``README.md`` say so. `OnnxNetwork` runs it.

    Args:
        network: in float32.
        directory: where to write ``model.onnx`` and ``config.json``, which names inputs, outputs and states.
        example_input: a sequence, `(time, batch, …)`, or `(batch, time, …)` if its recurrent layers are
            ``batch_first``.
        example_inputs: arguments of the network's forward, as `l0rnn.explain` takes them.
        dynamic_axes: argument → {axis: name} of those whose size is open; all others have the size of the example. Axes
            of one name have one size.
        states: argument → the output that is its value for the next call, such as ``{"state": "output_1"}``; it is
            named ``next_state``.
        other_inputs: further inputs to compare on, where the example cannot be cut and repeated along its open axes.
        vocabulary: the words of a language model in the order of their ids.
        figures: what was measured, for ``config.json`` and ``README.md``.
        opset: version of the ONNX operators, 18 or newer.
        overwrite: whether an export that is there may be replaced.

    Returns:
        The directory.

    Raises:
        ValueError: if the network has gates or layers that ONNX cannot hold, or an argument is not what it should be,
            or torch, onnx or ONNX Runtime is too old.
        RuntimeError: if torch cannot trace the network with the axes open, or the export gives other outputs.
        FileExistsError: if the directory is not empty and ``overwrite`` is False, or holds other files.
        ModuleNotFoundError: if the extra ``onnx`` is not installed.
    """
    check_versions(opset)
    known = checked_figures(figures)
    if example_inputs is not None:
        _refuse_beside(example_inputs=True, example_input=example_input, vocabulary=vocabulary)
        ports = ports_of(network, example_inputs, dynamic_axes, states)
        _check_size(ports.network)
        with written_aside(directory, overwrite=overwrite) as aside:
            write_any_onnx(ports, aside, other_inputs=other_inputs, figures=known, opset=opset)
        return Path(directory)
    _refuse_beside(dynamic_axes=dynamic_axes, states=states, other_inputs=other_inputs or None)
    reference = TorchStreamer(network, example_input)
    words = None if vocabulary is None else checked_vocabulary(vocabulary, reference.interface.words)
    with written_aside(directory, overwrite=overwrite) as aside:
        write_onnx(reference, aside / ONNX, opset=opset)
        write_onnx_config(aside, reference.interface, vocabulary=words, figures=known, export="onnx", opset=opset)
        check_onnx(reference, OnnxStreamer(aside), what="the ONNX file")
    return Path(directory)


def _refuse_beside(*, example_inputs: bool = False, **given: Any) -> None:
    """Refuse arguments that belong to the other way of exporting."""
    for name, value in given.items():
        if value is not None:
            why = "must be left out with `example_inputs`" if example_inputs else "needs `example_inputs`"
            raise ValueError(f"`{name}` {why}")


def _check_size(network: nn.Module) -> None:
    size = sum(parameter.nbytes for parameter in network.parameters())
    if size > MOST_BYTES:
        raise ValueError(f"`network` must have at most {MOST_BYTES:,} bytes to fit into one ONNX file, got {size:,}")


def check_onnx(reference: TorchStreamer, exported: OnnxStreamer, *, what: str) -> float:
    """The largest difference between network and export, whole sequences and streams; see `check_export`."""
    worst = check_export(reference, exported, what=what)
    if reference.interface.is_streamable:
        worst = max(worst, check_stream(reference, exported, what=what))
    return worst


def check_versions(opset: int) -> None:
    """That torch, onnx and ONNX Runtime are there and new enough.

    Raises:
        ValueError: if one is too old, or the opset is one that torch's exporter does not write.
        ModuleNotFoundError: if one is missing.
    """
    onnx = require("onnx", "onnx")
    require("onnxscript", "onnx")
    require("onnxruntime", "onnx", at_least=OLDEST_RUNTIME)
    if version_numbers(torch.__version__) < OLDEST_TORCH:
        raise ValueError(f"torch {torch.__version__} is too old to export RNNs to ONNX; update it to 2.8 or newer")
    newest = onnx.defs.onnx_opset_version()
    if type(opset) is not int or not OLDEST_OPSET <= opset <= newest:
        raise ValueError(f"`opset` must be from {OLDEST_OPSET} to {newest}, got {opset}; the default is {OPSET}")


def write_onnx(reference: TorchStreamer, path: Path, *, opset: int, ties: bool = True) -> None:
    """Trace the twin of a network and write it; nothing is checked.

    Args:
        reference: the network.
        path: of the file.
        opset: version of the operators.
        ties: whether a weight that two layers share is written once.

    Raises:
        ValueError: if the network is too large for one file, or has layers that ONNX cannot hold.
        RuntimeError: if torch cannot trace it.
    """
    interface = reference.interface
    _check_size(reference.network)
    twin = FlatCall(onnx_twin(reference.network), reference.nesting).eval()
    if not ties:
        _untie_(twin)
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    axes = {0: batch, 1: time} if interface.is_batch_first else {0: time, 1: batch}
    inputs = inputs_like(reference.example_input, TRACED, is_batch_first=interface.is_batch_first)
    names = [state.name for state in interface.states]
    open_axes = (axes, tuple({state.shape.index(None): batch} for state in interface.states))
    try:
        with quiet_exporters():
            program = torch.onnx.export(
                twin,
                (inputs, *interface.zero_state(TRACED[0])),
                input_names=[interface.input, *names],
                output_names=[interface.output, *(f"next_{name}" for name in names)],
                dynamic_shapes=open_axes if names else open_axes[:1],
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
            assert program is not None
    except torch.onnx.OnnxExporterError as error:
        reason = next(line for line in str(error.__cause__ or error).splitlines() if line.strip())
        raise RuntimeError(f"{_CANNOT}: {reason[:300]}") from error
    sizes = program.model.graph.inputs[0].shape
    for axis, name in zip(
        sizes or (), ("batch", "time") if interface.is_batch_first else ("time", "batch"), strict=False
    ):
        if isinstance(axis, int):
            raise RuntimeError(f"{_CANNOT}: its forward pass freezes {name} to {axis}")
    program.save(path, external_data=False)


def write_onnx_config(
    directory: Path,
    interface: Interface,
    *,
    vocabulary: Sequence[str] | None,
    figures: dict[str, Any],
    export: str,
    opset: int,
) -> None:
    """Write ``config.json``, ``README.md`` and the vocabulary."""
    details = {"opset": opset, "interface": interface.to_json(), "vocabulary": vocabulary is not None}
    write_header(directory, export, {**details, "figures": figures})
    (directory / CARD).write_text(_card(interface) + figures_section(figures), encoding="utf-8")
    if vocabulary is not None:
        write_vocabulary(vocabulary, directory)


def _card(interface: Interface) -> str:
    axes = ", ".join(["batch", "time"] if interface.is_batch_first else ["time", "batch"])
    lines = [f"- in `{interface.input}` ({', '.join([axes, *map(str, interface.features)])}), {interface.dtype}"]
    for state in interface.states:
        shape = ", ".join(str(size or "batch") for size in state.shape)
        lines.append(
            f"- in `{state.name}`, out `next_{state.name}` ({shape}), {interface.state_dtype}; zeros at the start"
        )
    lines.append(f"- out `{interface.output}`")
    runtime = ".".join(map(str, OLDEST_RUNTIME))
    return f"""\
# A shrunken recurrent network in ONNX

Written by l0rnn {__version__}; runs in ONNX Runtime {runtime} or newer, which needs neither torch nor l0rnn.
Batch and length are open. To go on step by step, give a length of 1 and pass each state's output back as its input.

```python
import onnxruntime

session = onnxruntime.InferenceSession("{ONNX}")
outputs = session.run(None, {{...}})  # names and shapes: below, and in config.json
```

{chr(10).join(lines)}
"""


def _untie_(network: nn.Module) -> None:
    seen: set[int] = set()
    for name, parameter in list(network.named_parameters(remove_duplicate=False)):
        if id(parameter) in seen:
            owner, _, kind = name.rpartition(".")
            setattr(network.get_submodule(owner), kind, nn.Parameter(parameter.detach().clone()))
        seen.add(id(parameter))
