"""Open a model directory for streaming, whichever export wrote it."""

from __future__ import annotations

from pathlib import Path

from l0rnn.arguments import check_threads, checked
from l0rnn.export.config import read_config, read_header
from l0rnn.export.native import load_dense
from l0rnn.export.onnx_run import OnnxStreamer
from l0rnn.export.streaming import Streamer, TorchStreamer
from l0rnn.export.vocabulary import read_vocabulary
from l0rnn.foreign_text import shown

_RUN_ELSEWHERE = {
    "torch": "its model.py is Python that l0rnn does not run: import it yourself, and call load().step(token, state)",
    "program": "load it with torch.export.load, and only if you trust who wrote it",
    "executorch": "it is for ExecuTorch's runtime",
}


@checked
def open_streamer(directory: str | Path, *, threads: int = 0) -> Streamer:
    """A model to be run step by step, from a directory of a native, ONNX or int8 export; no code in it is run.

    Args:
        directory: what `save_dense` (of a `LanguageModel`), `export_onnx` or `export_int8` wrote.
        threads: threads of ONNX Runtime; 0 leaves the choice to it.

    Returns:
        The streamer, with the vocabulary if the directory has one.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is not what it should be, or the export runs elsewhere; it says where.

    Example:
        >>> import tempfile, torch
        >>> from l0rnn.export.native import save_dense
        >>> from l0rnn.language.language_model import LanguageModel
        >>> directory = save_dense(LanguageModel(3, 4, 6), tempfile.mkdtemp(), vocabulary=["<eos>", "the", "cat"])
        >>> streamer = open_streamer(directory)
        >>> streamer.vocabulary, streamer.step(torch.tensor([1]))[0].shape
        (('<eos>', 'the', 'cat'), torch.Size([1, 3]))
    """
    check_threads(threads, least=0)
    directory = Path(directory)
    export = read_header(directory)["export"]
    if export in ("onnx", "int8"):
        return OnnxStreamer(directory, threads=threads)
    if isinstance(export, str) and export in _RUN_ELSEWHERE:
        raise ValueError(f"{directory} is a {export} export: {_RUN_ELSEWHERE[export]}")
    if export != "native":
        raise ValueError(f"{directory} is an export of the unknown kind {shown(export)}; update l0rnn")
    vocabulary = read_vocabulary(directory) if read_config(directory).has_vocabulary else None
    return TorchStreamer(load_dense(directory), vocabulary=vocabulary)
