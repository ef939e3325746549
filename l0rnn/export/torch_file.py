"""Export to a Python file and a state dict that run wherever torch is installed, without l0rnn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.arguments import checked
from l0rnn.export.card import figures_section
from l0rnn.export.check import check_export, check_stream
from l0rnn.export.config import Figures, checked_figures, write_header
from l0rnn.export.describe import refuse_gates
from l0rnn.export.directory import CARD, TORCH_FILE, TORCH_WEIGHTS, written_aside
from l0rnn.export.interface import State
from l0rnn.export.streaming import Streamer, TorchStreamer
from l0rnn.export.torch_source import check_class, torch_source
from l0rnn.export.vocabulary import checked_vocabulary, write_vocabulary
from l0rnn.language.language_model import LanguageModel
from l0rnn.version import __version__

_CARD = """\
# A shrunken recurrent network in plain torch

Written by l0rnn {version}. `model.py` is ordinary Python: read it before you import it, as any source of others.

```python
from model import load

network = load()
```
"""


@checked
def export_torch(
    network: nn.Module,
    directory: str | Path,
    *,
    vocabulary: Sequence[str] | None = None,
    figures: Figures | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a network as ``model.py``, which imports torch alone, and ``weights.pt``, a plain state dict.

    The file is run against the network before it is moved to its place. It is for inference: dropout is left out.

    Args:
        network: a `LanguageModel` or a single recurrent layer.
        directory: where to write.
        vocabulary: the words of a language model in the order of their ids, written beside it.
        figures: what was measured, for the model card.
        overwrite: whether an export that is there may be replaced.

    Returns:
        The directory.

    Raises:
        ValueError: if the network has gates, or is of another class; its own source says how that is run.
        RuntimeError: if the file gives other outputs than the network.
        FileExistsError: if the directory is not empty and ``overwrite`` is False, or holds other files.

    Example:
        >>> import tempfile
        >>> directory = export_torch(LanguageModel(50, 4, 6), tempfile.mkdtemp())
        >>> "nn.LSTM(4, 6, num_layers=2)" in (directory / "model.py").read_text()
        True
    """
    refuse_gates(network)
    check_class(network)
    reference = TorchStreamer(network)
    source = torch_source(reference.network, reference.interface, version=__version__)
    words = None if vocabulary is None else checked_vocabulary(vocabulary, reference.interface.words)
    known = checked_figures(figures)
    with written_aside(directory, overwrite=overwrite) as aside:
        (aside / TORCH_FILE).write_text(source, encoding="utf-8")
        torch.save(_state_dict(reference.network), aside / TORCH_WEIGHTS)
        details = {"interface": reference.interface.to_json(), "vocabulary": words is not None, "figures": known}
        write_header(aside, "torch", details)
        card = _CARD.format(version=__version__) + figures_section(known)
        (aside / CARD).write_text(card, encoding="utf-8")
        if words is not None:
            write_vocabulary(words, aside)
        exported = _SourceStreamer(aside, reference)
        check_export(reference, exported, what="the torch file")
        if reference.interface.is_streamable:
            check_stream(reference, exported, what="the torch file")
    return Path(directory)


def _state_dict(network: nn.Module) -> dict[str, Tensor]:
    """Contiguous tensors under the names that the file gives the layers."""
    prefix = "" if isinstance(network, LanguageModel) else "encoder."
    return {f"{prefix}{name}": tensor.contiguous() for name, tensor in network.state_dict().items()}


class _SourceStreamer(Streamer):
    """Runs the file that was just written, from source that this module made."""

    def __init__(self, directory: Path, reference: TorchStreamer) -> None:
        path = directory / TORCH_FILE
        module: dict[str, Any] = {"__name__": "model", "__file__": str(path)}
        code = compile(path.read_text(encoding="utf-8"), str(path), "exec")
        exec(code, module)  # an import would leave a cache in the directory
        self.network = module["load"]()
        self.interface = reference.interface
        self.vocabulary = None

    def run(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """See `Streamer.run`."""
        with torch.inference_mode():
            return self.network(inputs, state)

    def step(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """See `Streamer.step`."""
        with torch.inference_mode():
            return self.network.step(inputs, state)
