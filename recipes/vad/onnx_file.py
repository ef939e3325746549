"""A network as an ONNX file with the inputs, outputs and state of the package's, for the package's own wrapper.

Three things are done in the file that leave the outputs as they are. The reflection at the end of a chunk is part of
the indices that cut it into windows. Cosines are even and sines odd, so each frequency reads sums and differences of
128 pairs of samples instead of 256 samples, twice. And the last two convolutions leave out the taps that only ever
meet padding.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l0rnn.extras import require
from recipes.vad.network import CHUNK, CONTEXT, FRAMES, HOP, RATE, WINDOW, VoiceDetector, Widths, cut, widths_of
from recipes.vad.original import package, package_file

STATE = 128  # units in the state of the package's file; a smaller network uses the first of them
OPSET = 18
_SAMPLES = CONTEXT + CHUNK


def write_onnx(network: VoiceDetector, path: Path) -> None:
    """Write a network to a file, and check it against the network on random streams.

    Raises:
        ValueError: if the name lacks ``16k``, by which the package's wrapper knows that there are no 8 kHz, or the
            network is too wide for the package's state.
        RuntimeError: if ONNX Runtime gets other outputs.
    """
    if "16k" not in path.name:
        raise ValueError(f"`path` must have 16k in its name for the package's wrapper, got {path.name!r}")
    if widths_of(network).units > STATE:
        raise ValueError(f"`network` must have at most {STATE} units, got {widths_of(network).units}")
    onnx = require("onnx", "onnx")
    model = _model(network, onnx)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.partial")
    aside.write_bytes(model.SerializeToString())
    aside.replace(path)
    check_onnx(network, path)


def check_onnx(network: VoiceDetector, path: Path, *, tolerance: float = 1e-5) -> float:
    """The largest difference between a file and its network, step by step over two random streams.

    Raises:
        RuntimeError: if it is more than ``tolerance``.
    """
    audio = 0.1 * torch.randn(2, 20 * CHUNK, generator=torch.Generator().manual_seed(0))
    session, state, worst = open_session(path), np.zeros((2, 2, STATE), np.float32), 0.0
    carried = torch.zeros(2, 2, widths_of(network).units)
    for chunk in cut(audio).transpose(0, 1):
        with torch.no_grad():
            wanted, carried = network.step(chunk, carried)
        found, state = session.run(None, {"input": chunk.numpy(), "state": state, "sr": np.array(RATE)})
        worst = max(worst, float(np.abs(found - wanted.numpy()).max()))
    if not worst <= tolerance:
        raise RuntimeError(f"the file must have the network's outputs to {tolerance}, but they differ by {worst:.1e}")
    return worst


def open_session(path: Path) -> Any:
    """The file in ONNX Runtime on one thread of the processor."""
    runtime = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_wrapped(path: Path, sound: Tensor) -> np.ndarray:
    """Probabilities of each chunk of `(samples,)`, by the package's own wrapper."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This model support only 16000")
        wrapper = package().OnnxWrapper(str(path), force_onnx_cpu=True)
    return wrapper.audio_forward(sound[None], RATE)[0].numpy()


def multiply_adds(widths: Widths) -> int:
    """Multiply-adds of a chunk as the package computes it, taps on padding included."""
    return _multiply_adds(widths, pairs=WINDOW, taps=(3, 3, 3, 3))


def file_multiply_adds(widths: Widths) -> int:
    """Multiply-adds of a chunk in a file of ours, which gets the same outputs with fewer."""
    return _multiply_adds(widths, pairs=WINDOW // 2, taps=(3, 3, 2, 1))


def _multiply_adds(widths: Widths, *, pairs: int, taps: tuple[int, int, int, int]) -> int:
    one, two, three, four = widths.channels
    sizes = ((widths.bins, one, 4), (one, two, 2), (two, three, 1), (three, four, 1))  # in, out, places
    convolutions = sum(tap * ins * outs * places for tap, (ins, outs, places) in zip(taps, sizes, strict=True))
    return 2 * widths.bins * pairs * FRAMES + convolutions + 4 * widths.units * (four + widths.units) + widths.units


def original_onnx() -> Path:
    """The package's own file."""
    return package_file("silero_vad.onnx")


class _Graph:
    """Nodes and constants of a graph under way."""

    def __init__(self, onnx: Any) -> None:
        self.onnx, self.nodes, self.constants = onnx, [], []

    def constant(self, name: str, value: Any) -> str:
        array = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, kind: str, inputs: list[str], *outputs: str, **attributes: Any) -> str:
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, list(outputs), **attributes))
        return outputs[0]


def _model(network: VoiceDetector, onnx: Any) -> Any:
    graph, helper, kinds = _Graph(onnx), onnx.helper, onnx.TensorProto
    heard = _encoder(graph, network, _spectrum(graph, network))
    _recurrence(graph, network, heard)
    inputs = [
        helper.make_tensor_value_info("input", kinds.FLOAT, ["batch", _SAMPLES]),
        helper.make_tensor_value_info("state", kinds.FLOAT, [2, "batch", STATE]),
        helper.make_tensor_value_info("sr", kinds.INT64, []),
    ]
    outputs = [
        helper.make_tensor_value_info("output", kinds.FLOAT, ["batch", 1]),
        helper.make_tensor_value_info("stateN", kinds.FLOAT, [2, "batch", STATE]),
    ]
    whole = helper.make_graph(graph.nodes, "voice_activity_16k", inputs, outputs, graph.constants)
    return helper.make_model(whole, producer_name="l0rnn", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def _spectrum(graph: _Graph, network: VoiceDetector) -> str:
    """Magnitudes, `(batch, bin, frame)`."""
    cosines, sines = (part[:, 0, 1 : WINDOW // 2 + 1].clone() for part in network.spectrum.basis.chunk(2))  # type: ignore[operator]
    cosines[:, -1] /= 2  # the middle sample is its own partner
    places = np.arange(1, WINDOW // 2 + 1)[:, None] + HOP * np.arange(FRAMES)  # (pair, frame)
    partners = WINDOW - np.arange(1, WINDOW // 2 + 1)[:, None] + HOP * np.arange(FRAMES)
    for name, indices in (("early", places), ("late", partners)):
        indices = np.where(indices < _SAMPLES, indices, 2 * (_SAMPLES - 1) - indices)
        graph.add("Gather", ["input", graph.constant(f"{name}_places", indices)], name, axis=1)
    graph.add("Add", ["early", "late"], "sums")
    graph.add("Sub", ["early", "late"], "differences")
    graph.add("MatMul", [graph.constant("cosines", cosines), "sums"], "real")
    graph.add("MatMul", [graph.constant("sines", sines), "differences"], "imaginary")
    graph.add("Mul", ["real", "real"], "real_power")
    graph.add("Mul", ["imaginary", "imaginary"], "imaginary_power")
    graph.add("Add", ["real_power", "imaginary_power"], "power")
    return graph.add("Sqrt", ["power"], "magnitudes")


def _encoder(graph: _Graph, network: VoiceDetector, heard: str) -> str:
    """The convolutions, `(batch, channel, 1)`."""
    taps: tuple[tuple[slice, dict[str, list[int]]], ...] = (
        (slice(0, 3), {"pads": [1, 1]}),
        (slice(0, 3), {"pads": [1, 1], "strides": [2]}),
        (slice(1, 3), {}),  # two places in, one out: the first tap would meet padding
        (slice(1, 2), {}),  # one place in
    )
    for number, (kept, attributes) in enumerate(taps):
        layer: Any = network.encoder[2 * number]
        weight = graph.constant(f"weight{number}", layer.weight[..., kept])
        bias = graph.constant(f"bias{number}", layer.bias)
        heard = graph.add("Conv", [heard, weight, bias], f"convolved{number}", **attributes)
        heard = graph.add("Relu", [heard], f"heard{number}")
    return heard


def _recurrence(graph: _Graph, network: VoiceDetector, heard: str) -> None:
    """LSTM, output and state."""
    units = network.lstm.hidden_size
    graph.add("Transpose", [heard], "sequence", perm=[2, 0, 1])  # (time, batch, channel)
    state = "state"
    if units < STATE:
        places = {"first_unit": 0, "units": units, "unit_axis": 2}
        bounds = [graph.constant(name, np.array([at])) for name, at in places.items()]
        state = graph.add("Slice", [state, *bounds], "own_state")
    graph.add("Split", [state], "h", "c", axis=0, num_outputs=2)
    order = torch.cat([torch.arange(units) + gate * units for gate in (0, 3, 1, 2)])  # ONNX has i, o, f, g
    weights = [getattr(network.lstm, f"{name}_l0")[order] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    arrays = [
        graph.constant("input_weight", weights[0][None]),
        graph.constant("recurrent_weight", weights[1][None]),
        graph.constant("gate_bias", torch.cat(weights[2:])[None]),
    ]
    graph.add("LSTM", ["sequence", *arrays, "", "h", "c"], "", "hN", "cN", hidden_size=units)
    state = graph.add("Concat", ["hN", "cN"], "stateN" if units == STATE else "own_stateN", axis=0)
    if units < STATE:
        graph.add("Pad", [state, graph.constant("room", np.array([0, 0, 0, 0, 0, STATE - units]))], "stateN")
    graph.add("Squeeze", ["hN", graph.constant("time_axis", np.array([0]))], "hidden")
    graph.add("Relu", ["hidden"], "open")
    weight = graph.constant("output_weight", network.output.weight)
    graph.add("Gemm", ["open", weight, graph.constant("output_bias", network.output.bias)], "logit", transB=1)
    graph.add("Sigmoid", ["logit"], "output")
