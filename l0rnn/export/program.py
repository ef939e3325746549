"""Export by torch.export to a ``.pt2`` program of fixed length and open batch, compiled by AOTInductor if asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.arguments import checked
from l0rnn.export.card import figures_section
from l0rnn.export.check import check_export, check_stream
from l0rnn.export.config import Figures, checked_figures, write_header
from l0rnn.export.directory import CARD, COMPILED, PROGRAM, written_aside
from l0rnn.export.interface import FlatCall, Interface, State, inputs_like
from l0rnn.export.streaming import Streamer, TorchStreamer
from l0rnn.export.vocabulary import checked_vocabulary, write_vocabulary
from l0rnn.extras import quiet_exporters
from l0rnn.version import __version__

_BATCHES = (1, 3, 5)  # checked; the program is traced with another
_CARD = """\
# A shrunken recurrent network as a torch program

Written by l0rnn {version} with torch {torch}. The batch is open; **the length is fixed to {length}**{streaming}.
The program is for torch on the CPU. Load it only from those you trust: torch does not promise that this runs no code.

```python
import torch

network = torch.export.load("{program}").module()
output, *states = network(inputs, *states)  # names and shapes: config.json; states are zeros at the start
```
{compiled}"""
_COMPILED_CARD = """
`{file}` is the same, compiled for this kind of processor: `network = torch._inductor.aoti_load_package("{file}")`.
"""


class ProgramStreamer(Streamer):
    """Runs a program of torch.export, or one that AOTInductor compiled.

    Args:
        program: called as ``program(input, *states)``.
        interface: of the network.
    """

    def __init__(self, program: Callable[..., Any], interface: Interface) -> None:
        self.program = program
        self.interface = interface
        self.vocabulary = None

    def run(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """See `Streamer.run`; the length must be that of the program."""
        axis = 0 if self.interface.is_batch_first else 1
        state = self.initial_state(inputs.shape[axis]) if state is None else state
        with torch.no_grad():
            output, *final = self.program(inputs, *state)
        return output, tuple(final)


@checked
def export_program(
    network: nn.Module,
    directory: str | Path,
    *,
    example_input: Tensor | None = None,
    length: int = 1,
    compiled: bool = False,
    vocabulary: Sequence[str] | None = None,
    figures: Figures | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a network as a program of torch.export, which needs torch and no source.

    The batch is open. The length is fixed, since torch.export specialises it in every recurrent layer: the program
    refuses any other. A length of 1 makes a stream, which goes on from the states that it returns. The program is
    loaded and run against the network before it is moved to its place.

    Args:
        network: a `LanguageModel`, a recurrent layer, or any network called as ``network(input)`` or
            ``network(input, state)`` that returns a tensor, or a tensor and a state.
        directory: where to write.
        example_input: for a network of one's own an input, as for `export_onnx`.
        length: time steps of the program.
        compiled: whether to compile it too, by AOTInductor, for this kind of processor; needs a C++ compiler.
        vocabulary: the words of a language model in the order of their ids, written beside it.
        figures: what was measured, for ``config.json`` and ``README.md``.
        overwrite: whether an export that is there may be replaced.

    Returns:
        The directory.

    Raises:
        ValueError: if the network has gates, an argument is not what it should be, or there is no C++ compiler.
        RuntimeError: if torch cannot trace the network, or the program gives other outputs.
        FileExistsError: if the directory is not empty and ``overwrite`` is False, or holds other files.
    """
    if type(length) is not int or length < 1:
        raise ValueError(f"`length` must be a number of time steps ≥ 1, got {length}")
    if compiled and not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        raise ValueError("`compiled` needs a C++ compiler, such as g++; install one, or leave the program as it is")
    reference = TorchStreamer(network, example_input)
    words = None if vocabulary is None else checked_vocabulary(vocabulary, reference.interface.words)
    known = checked_figures(figures)
    with written_aside(directory, overwrite=overwrite) as aside:
        program = trace(reference, batch=2, length=length, is_batch_open=True)
        with quiet_exporters():
            torch.export.save(program, aside / PROGRAM)
            loaded = torch.export.load(aside / PROGRAM).module()
        _check(reference, ProgramStreamer(loaded, reference.interface), length, "the program")
        if compiled:
            with quiet_exporters():
                torch._inductor.aoti_compile_and_package(program, package_path=str(aside / COMPILED))
                package = torch._inductor.aoti_load_package(str(aside / COMPILED))
            _check(reference, ProgramStreamer(package, reference.interface), length, "the compiled program")
        details = {"torch": torch.__version__, "vocabulary": words is not None, "figures": known}
        interface = {**reference.interface.to_json(), "length": length}
        write_header(aside, "program", {**details, "interface": interface})
        card = _card(length, reference.interface, compiled) + figures_section(known)
        (aside / CARD).write_text(card, encoding="utf-8")
        if words is not None:
            write_vocabulary(words, aside)
    return Path(directory)


def trace(reference: TorchStreamer, *, batch: int, length: int, is_batch_open: bool) -> torch.export.ExportedProgram:
    """The program of a network, called as ``program(input, *states)``.

    Raises:
        RuntimeError: if torch cannot trace it.
    """
    interface = reference.interface
    inputs = inputs_like(reference.example_input, (batch, length), is_batch_first=interface.is_batch_first)
    shapes = None
    if is_batch_open:
        dimension = torch.export.Dim("batch")
        states = tuple({state.shape.index(None): dimension} for state in interface.states)
        shapes = ({1 - interface.time_axis: dimension}, states)[: 2 if states else 1]
    for parameter in reference.network.parameters():  # torch.export saves a transposed one as part of what it misses
        parameter.data = parameter.data.contiguous()
    call = FlatCall(reference.network, reference.nesting).eval()
    try:
        with quiet_exporters(), torch.no_grad():
            program = torch.export.export(call, (inputs, *interface.zero_state(batch)), dynamic_shapes=shapes)
    except (RuntimeError, ValueError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RuntimeError(f"torch cannot export the network: {reason[:300]}") from error
    return program


def _check(reference: TorchStreamer, exported: ProgramStreamer, length: int, what: str) -> None:
    check_export(reference, exported, sizes=[(batch, length) for batch in _BATCHES], what=what)
    if length == 1 and reference.interface.is_streamable:
        check_stream(reference, exported, what=what)


def _card(length: int, interface: Interface, compiled: bool) -> str:
    return _CARD.format(
        version=__version__,
        torch=torch.__version__,
        length=length,
        streaming=", for a stream that goes on from the states it returns" * (length == 1 and interface.is_streamable),
        program=PROGRAM,
        compiled=_COMPILED_CARD.format(file=COMPILED) * compiled,
    )
