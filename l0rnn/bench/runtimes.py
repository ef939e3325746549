"""Other ways to run a network than to call it, for the benchmark, each checked against torch before it is timed.

ONNX Runtime and OpenVINO get the network as ONNX; the streamer is l0rnn's own, in torch. A runtime is asked for by
name. What it cannot run is not left out silently: `CannotRunError` carries the reason into the report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from l0rnn.bench.measure import benchmark
from l0rnn.bench.report import BenchReport
from l0rnn.bench.timing import Call, CannotRunError
from l0rnn.export import TorchStreamer
from l0rnn.export.interface import flat
from l0rnn.export.onnx_file import OPSET, check_versions, write_onnx
from l0rnn.extras import require
from l0rnn.sparse import SparseLinear, SparseRNN

TORCH = "torch"
TOLERANCE = 1e-4  # of outputs against torch, relative to the largest if that is above 1; as for exports

# an opened file with a number of threads: (input name → array) → outputs in order
Session = Callable[[Mapping[str, Any]], Sequence[Any]]


def _open_onnxruntime(path: Path, threads: int) -> Session:
    runtime = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, feed)


def _open_openvino(path: Path, threads: int) -> Session:
    core = require("openvino", "openvino").Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",  # some processors would compute in bfloat16
    }
    compiled = core.compile_model(str(path), "CPU", settings)
    request = compiled.create_infer_request()

    def run(feed: Mapping[str, Any]) -> Sequence[Any]:
        found = request.infer(feed, share_inputs=True, share_outputs=True)
        return [found[output] for output in compiled.outputs]

    return run


# runtime → how it opens an ONNX file
_OPENERS: dict[str, Callable[[Path, int], Session]] = {
    "onnxruntime": _open_onnxruntime,
    "openvino": _open_openvino,
}
STREAMER = "streamer"
RUNTIMES = (TORCH, STREAMER, *_OPENERS)


def benchmark_in(
    runtimes: Sequence[str],
    networks: Mapping[str, nn.Module],
    make_inputs: Callable[[int, int], tuple[Any, ...]],
    **options: Any,
) -> BenchReport:
    """`l0rnn.bench.benchmark` in torch and other runtimes.

    Args:
        runtimes: ``"torch"``, and on a CPU ``"streamer"`` (a `TorchStreamer`), and ``"onnxruntime"`` and
            ``"openvino"`` where they are installed. A network is exported to ONNX for the last two. The outputs of all
            are compared with torch's before they are timed. Why one cannot run a network is in the report's
            ``refused``.
        networks: as for `benchmark`.
        make_inputs: as for `benchmark`; other runtimes take one tensor, and a state.
        options: all else that `benchmark` takes.

    Raises:
        ValueError: as `benchmark`; or if ``runtimes`` lacks torch, against which the others are checked, or names an
            unknown one, or one that is not for the device.
        ModuleNotFoundError: if a runtime is not installed; it names the extra that brings it.

    Example:
        >>> report = benchmark_in(
        ...     ["torch", "onnxruntime"],
        ...     {"small": nn.GRU(8, 4)},
        ...     lambda batch, steps: (torch.randn(steps, batch, 8),),
        ...     grid=[(1, 1)],
        ...     seconds=0.01,
        ... )
        >>> "onnxruntime" in {row.runtime for row in report.rows}
        True
    """
    check_runtimes(runtimes, str(options.get("device", "cpu")))
    with OtherRuntimes([name for name in runtimes if name != TORCH]) as others:
        return benchmark(networks, make_inputs, others=others, **options)


def check_runtimes(runtimes: Sequence[str], device: str) -> None:
    """That each runtime is known, installed, and for the device; see `benchmark_in` for what is raised."""
    others = [name for name in runtimes if name != TORCH]
    unknown = [name for name in others if name not in RUNTIMES]
    if unknown or TORCH not in runtimes:
        raise ValueError(
            f"`runtimes` must be torch, against which the others are checked, and any of {', '.join(RUNTIMES[1:])}; "
            f"got {', '.join(map(repr, runtimes)) or 'none'}"
        )
    if others and not device.startswith("cpu"):
        raise ValueError(f"`runtimes` must be torch alone on {device}, got {', '.join(others)}; use device 'cpu'")
    of_onnx = [name for name in others if name in _OPENERS]
    for name in of_onnx:
        require(name, {"onnxruntime": "onnx"}.get(name, name))
    if of_onnx:
        check_versions(OPSET)


class OtherRuntimes(AbstractContextManager["OtherRuntimes"]):
    """Runs networks in other runtimes, each exported once; the files are gone when the context ends.

    Args:
        names: of runtimes, torch apart.

    Example:
        >>> network = nn.LSTM(3, 5).eval()
        >>> with torch.inference_mode(), OtherRuntimes(["onnxruntime"]) as others:
        ...     call = others.prepare("onnxruntime", "small", network, (torch.randn(7, 2, 3),), threads=1)
        ...     [part.shape for part in call()]
        [(7, 2, 5), (1, 2, 5), (1, 2, 5)]
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(dict.fromkeys(names))
        self._folder = TemporaryDirectory()
        self._streamers: dict[tuple[str, int], TorchStreamer | CannotRunError] = {}
        self._exports: dict[str, Path | CannotRunError] = {}

    def __exit__(self, *_: object) -> None:
        """Delete the files."""
        self._folder.cleanup()

    def prepare(self, runtime: str, name: str, network: nn.Module, arguments: tuple[Any, ...], *, threads: int) -> Call:
        """What is timed: one run of the network in a runtime, on these arguments, checked against torch.

        Args:
            runtime: one of the names.
            name: of the network; it is exported once per name.
            network: in evaluation mode, on the CPU.
            arguments: its input, or its input and state.
            threads: of the runtime.

        Raises:
            CannotRunError: if the runtime cannot run the network, or gives other outputs.
        """
        key = name, torch.get_num_threads()  # which a streamer is made for
        if key not in self._streamers:
            self._streamers[key] = _caught(lambda: _streamer(network, arguments))
        streamer = _or_raised(self._streamers[key])
        inputs, states = arguments[0], flat(arguments[1]) if len(arguments) == 2 else []
        if not states:
            states = list(streamer.interface.zero_state(inputs.shape[0 if streamer.interface.is_batch_first else 1]))
        expected = [part for part in flat(network(*arguments)) if isinstance(part, Tensor)][: 1 + len(states)]
        if runtime == STREAMER:
            state = tuple(states) if len(arguments) == 2 else None
            call: Call = lambda: streamer.run(inputs, state)  # noqa: E731
            output, final = call()
            _check_outputs(expected, [output, *final])
            return call
        if name not in self._exports:
            self._exports[name] = _caught(lambda: self._export(network, streamer))
        path = _or_raised(self._exports[name])
        names = [streamer.interface.input, *(state.name for state in streamer.interface.states)]
        # copied, since an array shares the memory of an inference tensor, and some runtimes ask for it aligned
        feed = {key: part.numpy().copy() for key, part in zip(names, (inputs, *states), strict=True)}
        try:
            session = _OPENERS[runtime](path, threads)
            got = session(feed)
        except Exception as error:  # the runtimes' errors have no base class of their own
            raise CannotRunError(_one_line(error)) from error
        _check_outputs(expected, got)
        return lambda: session(feed)

    def _export(self, network: nn.Module, streamer: TorchStreamer) -> Path:
        if any(isinstance(module, (SparseLinear, SparseRNN)) for module in network.modules()):
            raise CannotRunError("ONNX has no operator for sparse layers")
        path = Path(self._folder.name) / f"{len(self._exports)}.onnx"
        with torch.inference_mode(False):  # tracing needs tensors that keep a version
            write_onnx(streamer, path, opset=OPSET)
        return path


def _streamer(network: nn.Module, arguments: tuple[Any, ...]) -> TorchStreamer:
    if not 0 < len(arguments) <= 2 or not isinstance(arguments[0], Tensor):
        raise CannotRunError("it takes more than one tensor and a state")
    with torch.inference_mode(False):
        return TorchStreamer(network, arguments[0].clone())


def _caught(make: Callable[[], Any]) -> Any:
    """What is made, or the reason why it cannot be."""
    try:
        return make()
    except CannotRunError as error:
        return error
    except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
        return CannotRunError(_one_line(error))


def _or_raised(found: Any) -> Any:
    if isinstance(found, CannotRunError):
        raise found
    return found


def _check_outputs(expected: Sequence[Tensor], got: Sequence[Any]) -> None:
    arrays = [np.asarray(part) for part in got]
    if [tuple(part.shape) for part in expected] != [part.shape for part in arrays]:
        shapes = [tuple(part.shape) for part in expected], [part.shape for part in arrays]
        raise CannotRunError(f"its outputs have the shapes {shapes[1]}, torch's {shapes[0]}")
    for wanted, found in zip(expected, arrays, strict=True):
        numbers = wanted.double().numpy()
        is_finite = np.isfinite(numbers) & np.isfinite(found)
        is_same = bool((numbers == found)[~is_finite].all())  # else an infinite output would allow any difference
        difference = float(np.abs(numbers[is_finite] - found[is_finite]).max(initial=0.0)) if is_same else np.inf
        if not difference <= TOLERANCE * max(1.0, float(np.abs(numbers[is_finite]).max(initial=0.0))):
            raise CannotRunError(f"its outputs differ from torch's by {difference:.2g}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
