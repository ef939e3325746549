"""Run an ONNX export in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l0rnn.export.config import read_header
from l0rnn.export.directory import ONNX
from l0rnn.export.interface import Interface, State
from l0rnn.export.streaming import Streamer
from l0rnn.export.untrusted_json import shown
from l0rnn.export.vocabulary import read_vocabulary
from l0rnn.extras import require

OLDEST_RUNTIME = (1, 18)  # the first that reads the files that torch's exporter writes (IR version 10)
_DOMAINS = {"", "ai.onnx", "com.microsoft"}
_ONNX_DTYPES = {"int64": "tensor(int64)", "float32": "tensor(float)"}


class OnnxStreamer(Streamer):
    """Runs an export in ONNX Runtime on the CPU.

    Args:
        directory: what `export_onnx` or `export_int8` wrote.
        threads: threads within an operator; 0 leaves the choice to ONNX Runtime.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is not what it should be, or ONNX Runtime is too old for it.
        ModuleNotFoundError: if ONNX Runtime is not installed.
    """

    def __init__(self, directory: str | Path, *, threads: int = 0) -> None:
        directory = Path(directory)
        header = read_header(directory)
        if header["export"] not in ("onnx", "int8"):
            raise ValueError(f"config.json is that of a {shown(header['export'])} export, not of an ONNX one")
        self.interface = Interface.from_json(header.get("interface") or {})
        self.vocabulary = read_vocabulary(directory, self.interface.words) if header.get("vocabulary") is True else None
        self.path = directory / ONNX
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path} does not exist; name a directory that export_onnx wrote")
        _check_file(self.path)
        self.session = _session(self.path, threads)
        self._check_names()

    def run(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """See `Streamer.run`."""
        axis = 0 if self.interface.is_batch_first else 1
        state = self.initial_state(inputs.shape[axis]) if state is None else state
        names = [self.interface.input, *(part.name for part in self.interface.states)]
        feed = {name: part.contiguous().numpy() for name, part in zip(names, (inputs, *state), strict=True)}
        try:
            output, *final = (torch.from_numpy(part) for part in self.session.run(None, feed))
        except Exception as error:  # its errors have no base class of their own
            reason = " ".join(str(error).split())[:200]
            raise RuntimeError(f"ONNX Runtime cannot run {ONNX} on inputs {tuple(inputs.shape)}: {reason}") from error
        return output, tuple(final)

    def _check_names(self) -> None:
        states = [state.name for state in self.interface.states]
        wanted = {self.interface.input: self.interface.dtype, **dict.fromkeys(states, "float32")}
        inputs = {part.name: part.type for part in self.session.get_inputs()}
        if inputs != {name: _ONNX_DTYPES.get(dtype) for name, dtype in wanted.items()}:
            raise ValueError(f"{ONNX} must have the inputs {', '.join(wanted)}, got {', '.join(inputs) or 'none'}")
        for state, part in zip(self.interface.states, self.session.get_inputs()[1:], strict=True):
            shape = tuple(size if isinstance(size, int) else None for size in part.shape)
            if shape != state.shape:
                raise ValueError(f"{ONNX} must have states of the shapes in config.json, but not so {part.name!r}")
        outputs = [part.name for part in self.session.get_outputs()]
        if outputs != [self.interface.output, *(f"next_{name}" for name in states)]:
            raise ValueError(f"{ONNX} must have the outputs that config.json names, got {', '.join(outputs)}")


def _session(path: Path, threads: int) -> Any:
    runtime = require("onnxruntime", "onnx", at_least=OLDEST_RUNTIME)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no base class of their own
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"ONNX Runtime {runtime.__version__} cannot load {path.name}: {reason}; the file is damaged, or needs a "
            "newer ONNX Runtime"
        ) from error


def _check_file(path: Path) -> None:
    """That the file holds its own weights, and ONNX's and ONNX Runtime's operators alone: no other file is used."""
    onnx = require("onnx", "onnx")
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as error:  # of protobuf, which has several implementations
        raise ValueError(f"{path.name} is not an ONNX file: {str(error)[:200]}") from error
    external = [tensor.name for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    if external:
        raise ValueError(f"{path.name} must hold its own weights, but {shown(external[0])} is in another file")
    foreign = [node.domain for node in graph.node if node.domain not in _DOMAINS]
    if foreign:
        raise ValueError(f"{path.name} must be made of ONNX's own operators, but has one of {shown(foreign[0])}")
