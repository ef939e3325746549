"""Export one step of a network to ExecuTorch, for phones and microcontrollers: batch 1, states in and out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from l0rnn.arguments import checked
from l0rnn.export.card import figures_section
from l0rnn.export.check import check_export, check_stream
from l0rnn.export.config import Figures, checked_figures, write_header
from l0rnn.export.directory import CARD, EXECUTORCH, written_aside
from l0rnn.export.interface import Interface, State
from l0rnn.export.program import trace
from l0rnn.export.streaming import Streamer, TorchStreamer
from l0rnn.export.vocabulary import checked_vocabulary, write_vocabulary
from l0rnn.extras import quiet_exporters, require
from l0rnn.version import __version__

_CARD = """\
# One step of a shrunken recurrent network for ExecuTorch

Written by l0rnn {version}. Batch 1 and length 1 are fixed; each call takes the states that the last one returned,
at the start zeros. Names, order and shapes are in `config.json`.

```python
from executorch.runtime import Runtime

step = Runtime.get().load_program("{file}").load_method("forward")
output, *states = step.execute((inputs, *states))
```
"""


@checked
def export_executorch(
    network: nn.Module,
    directory: str | Path,
    *,
    example_input: Tensor | None = None,
    vocabulary: Sequence[str] | None = None,
    figures: Figures | None = None,
    overwrite: bool = False,
) -> Path:
    """Write one step of a network as an ExecuTorch program, and run it against the network in ExecuTorch's runtime.

    Layers that XNNPACK knows run there, the others in ExecuTorch's portable kernels.

    Args:
        network: as for `export_program`; it must take and return a state.
        directory: where to write.
        example_input: as for `export_program`.
        vocabulary: the words of a language model in the order of their ids, written beside it.
        figures: what was measured, for ``config.json`` and ``README.md``.
        overwrite: whether an export that is there may be replaced.

    Returns:
        The directory.

    Raises:
        ValueError: if the network has gates or cannot be run step by step.
        RuntimeError: if torch cannot trace the network, or the program gives other outputs.
        FileExistsError: if the directory is not empty and ``overwrite`` is False, or holds other files.
        ModuleNotFoundError: if the extra ``executorch`` is not installed.
    """
    exir = require("executorch.exir", "executorch")
    partition = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
    reference = TorchStreamer(network, example_input)
    if not reference.interface.is_streamable:
        raise ValueError("`network` must take and return a state and read forwards, to be run step by step")
    words = None if vocabulary is None else checked_vocabulary(vocabulary, reference.interface.words)
    known = checked_figures(figures)
    with written_aside(directory, overwrite=overwrite) as aside:
        program = trace(reference, batch=1, length=1, is_batch_open=False)
        with quiet_exporters():
            lowered = exir.to_edge_transform_and_lower(program, partitioner=[partition.XnnpackPartitioner()])
            (aside / EXECUTORCH).write_bytes(lowered.to_executorch().buffer)
        exported = ExecutorchStreamer(aside / EXECUTORCH, reference.interface)
        check_export(reference, exported, sizes=[(1, 1)], what="the ExecuTorch program")
        check_stream(reference, exported, sizes=[(1, 11)], what="the ExecuTorch program")
        interface = {**reference.interface.to_json(), "batch": 1, "length": 1}
        write_header(aside, "executorch", {"interface": interface, "vocabulary": words is not None, "figures": known})
        card = _CARD.format(version=__version__, file=EXECUTORCH) + figures_section(known)
        (aside / CARD).write_text(card, encoding="utf-8")
        if words is not None:
            write_vocabulary(words, aside)
    return Path(directory)


class ExecutorchStreamer(Streamer):
    """Steps through a program in ExecuTorch's runtime.

    Args:
        path: of the program.
        interface: of the network.
    """

    def __init__(self, path: Path, interface: Interface) -> None:
        # from bytes, so that the file may be moved while the program is in use
        self._content = path.read_bytes()
        self._program = require("executorch.runtime", "executorch").Runtime.get().load_program(self._content)
        self._forward = self._program.load_method("forward")
        self.interface = interface
        self.vocabulary = None

    def run(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """See `Streamer.run`; batch and length must be 1."""
        state = self.initial_state() if state is None else state
        # the outputs lie in memory that the next call writes to
        output, *final = (part.clone() for part in self._forward.execute((inputs.contiguous(), *state)))
        return output, tuple(final)
