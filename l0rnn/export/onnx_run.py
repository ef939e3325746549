"""Run an ONNX export in ONNX Runtime."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l0rnn.arguments import check_threads, checked
from l0rnn.export.config import read_header
from l0rnn.export.directory import ONNX
from l0rnn.export.interface import Interface, State
from l0rnn.export.onnx_check import read_onnx
from l0rnn.export.streaming import Streamer
from l0rnn.export.vocabulary import read_vocabulary
from l0rnn.extras import require
from l0rnn.foreign_text import printable, shown

OLDEST_RUNTIME = (1, 18)  # the first that reads the files that torch's exporter writes (IR version 10)
_SECONDS = 60.0  # that one call of a file with loops may take
_ONNX_DTYPES = {"int64": "tensor(int64)", "float32": "tensor(float)"}


class OnnxStreamer(Streamer):
    """Runs an export in ONNX Runtime on the CPU.

    Args:
        directory: what `export_onnx` or `export_int8` wrote.
        threads: threads within an operator; 0 leaves the choice to ONNX Runtime.
        seconds: that one call may take where the file has loops, which those that l0rnn writes do not need.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is not what it should be, or ONNX Runtime is too old for it.
        ModuleNotFoundError: if ONNX Runtime is not installed.
    """

    def __init__(self, directory: str | Path, *, threads: int = 0, seconds: float = _SECONDS) -> None:
        if not 0 < seconds <= threading.TIMEOUT_MAX:
            raise ValueError(f"`seconds` must be > 0, got {seconds}")
        self.seconds = seconds
        directory = Path(directory)
        header = read_header(directory)
        if header["export"] not in ("onnx", "int8"):
            raise ValueError(f"config.json is that of a {shown(header['export'])} export, not of an ONNX one")
        if "interface" not in header and "inputs" in header:
            raise ValueError(
                f"{directory} takes inputs of its own and not a stream; run it by l0rnn.export.OnnxNetwork"
            )
        self.interface = Interface.from_json(header.get("interface") or {})
        self.vocabulary = read_vocabulary(directory, self.interface.words) if header.get("vocabulary") is True else None
        self.path = directory / ONNX
        content, self._has_loops = read_onnx(self.path)
        self.session = _session(content, threads)
        self._check_names()

    def run(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """See `Streamer.run`."""
        axis = 0 if self.interface.is_batch_first else 1
        state = self.initial_state(inputs.shape[axis]) if state is None else state
        names = [self.interface.input, *(part.name for part in self.interface.states)]
        feed = {name: part.contiguous().numpy() for name, part in zip(names, (inputs, *state), strict=True)}
        try:
            found = self._run_in_time(feed) if self._has_loops else self.session.run(None, feed)
            output, *final = (torch.from_numpy(part) for part in found)  # a file may have outputs of another kind
        except Exception as error:  # its errors have no base class of their own
            reason = printable(error)
            raise RuntimeError(f"ONNX Runtime cannot run {ONNX} on inputs {tuple(inputs.shape)}: {reason}") from error
        return output, tuple(final)

    def _run_in_time(self, feed: dict[str, Any]) -> list[Any]:
        """A call that ends: a loop of a file from elsewhere need not. Without loops it takes no clock, nor its time."""
        options = require("onnxruntime", "onnx").RunOptions()
        clock = threading.Timer(self.seconds, setattr, (options, "terminate", True))
        clock.daemon = True
        clock.start()
        try:
            return self.session.run(None, feed, options)  # type: ignore[no-any-return]
        except Exception as error:
            if options.terminate:
                raise TimeoutError(f"its loops had not ended after {self.seconds:g} seconds") from error
            raise
        finally:
            clock.cancel()

    def _check_names(self) -> None:
        states = [state.name for state in self.interface.states]
        wanted = {self.interface.input: self.interface.dtype, **dict.fromkeys(states, "float32")}
        inputs = {part.name: part.type for part in self.session.get_inputs()}
        if inputs != {name: _ONNX_DTYPES.get(dtype) for name, dtype in wanted.items()}:
            expected, found = printable(", ".join(wanted)), printable(", ".join(inputs)) or "none"
            raise ValueError(f"{ONNX} must have the inputs {expected}, got {found}")
        for state, part in zip(self.interface.states, self.session.get_inputs()[1:], strict=True):
            shape = tuple(size if isinstance(size, int) else None for size in part.shape)
            if shape != state.shape:
                raise ValueError(f"{ONNX} must have states of the shapes in config.json, but not so {part.name!r}")
        outputs = [part.name for part in self.session.get_outputs()]
        if outputs != [self.interface.output, *(f"next_{name}" for name in states)]:
            raise ValueError(
                f"{ONNX} must have the outputs that config.json names, got {printable(', '.join(outputs))}"
            )


@checked
class OnnxNetwork:
    """Runs an export with inputs of its own in ONNX Runtime on the CPU: called with tensors by the names of its inputs.

    Args:
        directory: what `export_onnx` wrote.
        threads: threads within an operator; 0 leaves the choice to ONNX Runtime.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is not what it should be, or ONNX Runtime is too old for it.
        ModuleNotFoundError: if ONNX Runtime is not installed.
    """

    def __init__(self, directory: str | Path, *, threads: int = 0) -> None:
        directory = Path(directory)
        check_threads(threads, least=0)
        if read_header(directory)["export"] != "onnx":
            raise ValueError(f"{directory} must be an ONNX export")
        self.path = directory / ONNX
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path} does not exist; name a directory that export_onnx wrote")
        content, _ = read_onnx(self.path)
        self.session = _session(content, threads)
        self.inputs = [part.name for part in self.session.get_inputs()]
        self.outputs = [part.name for part in self.session.get_outputs()]

    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        """Output → tensor; an input that the network does not use is left out.

        Raises:
            ValueError: if an input is missing.
            RuntimeError: if ONNX Runtime cannot run it on these inputs.
        """
        missing = [name for name in self.inputs if name not in tensors]
        if missing:
            raise ValueError(f"the inputs {', '.join(self.inputs)} must be given, got no {', '.join(missing)}")
        feed = {name: tensors[name].detach().contiguous().numpy() for name in self.inputs}
        try:
            found = self.session.run(None, feed)
        except Exception as error:  # its errors have no base class of their own
            shapes = ", ".join(f"{name} {part.shape}" for name, part in feed.items())
            reason = " ".join(str(error).split())[:200]
            raise RuntimeError(f"ONNX Runtime cannot run {ONNX} on {shapes}: {reason}") from error
        return {name: torch.as_tensor(part) for name, part in zip(self.outputs, found, strict=True)}


def _session(content: bytes, threads: int) -> Any:
    runtime = require("onnxruntime", "onnx", at_least=OLDEST_RUNTIME)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    try:
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no base class of their own
        raise ValueError(
            f"ONNX Runtime {runtime.__version__} cannot load {ONNX}: {printable(error)}; the file is damaged, or needs "
            "a newer ONNX Runtime"
        ) from error
