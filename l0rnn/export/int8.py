"""Export to ONNX with weights in int8, by ONNX Runtime's dynamic quantisation, and say what that costs and buys."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.arguments import checked
from l0rnn.export.check import UNSEEN
from l0rnn.export.config import Figures, checked_figures
from l0rnn.export.describe import tied_parameters
from l0rnn.export.directory import ONNX, written_aside
from l0rnn.export.interface import inputs_like
from l0rnn.export.measure import perplexity, relative_error, sampled_text, step_milliseconds
from l0rnn.export.onnx_file import OPSET, check_onnx, check_versions, write_onnx, write_onnx_config
from l0rnn.export.onnx_run import OnnxStreamer
from l0rnn.export.streaming import TorchStreamer
from l0rnn.export.vocabulary import checked_vocabulary
from l0rnn.extras import quiet_exporters, require

# recurrent operators of which ONNX Runtime has no int8 form: their matrices stay in float32
_LEFT_IN_FLOAT = ("GRU", "RNN")


@dataclass(frozen=True)
class Int8Report:
    """What int8 changed, against the same network as float32 ONNX in the same ONNX Runtime.

    Attributes:
        bytes_float: bytes of the float file.
        bytes_int8: bytes of the int8 file.
        milliseconds_float: of one step of one sequence, on one thread.
        milliseconds_int8: likewise.
        relative_error: root mean square of the outputs' difference, relative to that of the outputs.
        perplexity_float: of a language model, on the text given or on one that the model made up.
        perplexity_int8: likewise.
        text: what the perplexity was measured on.
        left_in_float: kinds of layers whose matrices ONNX Runtime leaves in float32.
    """

    bytes_float: int
    bytes_int8: int
    milliseconds_float: float
    milliseconds_int8: float
    relative_error: float
    perplexity_float: float | None
    perplexity_int8: float | None
    text: str | None
    left_in_float: tuple[str, ...]

    def figures(self) -> dict[str, Any]:
        """For ``config.json`` and model card."""
        found = {name.replace("_", " "): value for name, value in asdict(self).items() if value is not None}
        return {**found, "left in float": ", ".join(self.left_in_float) or "nothing"}

    def __str__(self) -> str:
        lines = [
            f"bytes       {self.bytes_float:>12,} → {self.bytes_int8:,} ({self.bytes_int8 / self.bytes_float:.0%})",
            f"one step    {self.milliseconds_float:>9.3f} ms → {self.milliseconds_int8:.3f} ms, one thread",
        ]
        if self.perplexity_float is not None and self.perplexity_int8 is not None:
            lines.append(f"perplexity  {self.perplexity_float:>12.2f} → {self.perplexity_int8:.2f} on {self.text}")
        lines.append(f"outputs differ by {self.relative_error:.2%} (root mean square)")
        if self.left_in_float:
            lines.append(f"left in float by ONNX Runtime: the matrices of {', '.join(self.left_in_float)}")
        return "\n".join(lines)


@checked
def export_int8(
    network: nn.Module,
    directory: str | Path,
    *,
    example_input: Tensor | None = None,
    vocabulary: Sequence[str] | None = None,
    figures: Figures | None = None,
    text: Tensor | None = None,
    tolerance: float = 0.1,
    opset: int = OPSET,
    overwrite: bool = False,
) -> Int8Report:
    """Write a network as ONNX with int8 weights, and measure it against the float export.

    Weights of embedding, linear and LSTM layers become int8, the inputs of matrices are quantised as they come. A
    weight that two layers share is stored for each of them. The float export is checked as by `export_onnx`.

    Args:
        network: as for `export_onnx`.
        directory: where to write.
        example_input: as for `export_onnx`.
        vocabulary: the words of a language model in the order of their ids.
        figures: what was measured of the network; the int8 figures are added.
        text: word ids `(time, batch)` to measure a language model's perplexity on; one that it makes up if None.
        tolerance: largest accepted relative error of the outputs, and largest accepted relative rise in perplexity.
        opset: version of the ONNX operators.
        overwrite: whether an export that is there may be replaced.

    Returns:
        What was measured.

    Raises:
        ValueError: as `export_onnx`, or if ``tolerance`` is not > 0, or ``text`` is given for a network that is not a
            language model: one that returns logits of all words, and goes on from a state.
        RuntimeError: as `export_onnx`, or if quality falls by more than the tolerance.
        FileExistsError: if the directory is not empty and ``overwrite`` is False, or holds other files.
        ModuleNotFoundError: if the extra ``onnx`` is not installed.
    """
    if not tolerance > 0:
        raise ValueError(f"`tolerance` must be > 0, got {tolerance}")
    check_versions(opset)
    reference = TorchStreamer(network, example_input)
    if text is not None and not _is_language_model(reference):
        raise ValueError(
            "`text` is to measure the perplexity of a language model on, which takes word ids (time, batch) and a "
            f"state, and returns a logit of each word; this {type(network).__name__} does not, so leave it out"
        )
    words = None if vocabulary is None else checked_vocabulary(vocabulary, reference.interface.words)
    known = checked_figures(figures)
    details: dict[str, Any] = {"vocabulary": words, "export": "int8", "opset": opset}
    with written_aside(directory, overwrite=overwrite) as aside, tempfile.TemporaryDirectory() as folder:
        plain = Path(folder)
        write_onnx(reference, plain / ONNX, opset=opset)
        write_onnx_config(plain, reference.interface, vocabulary=None, figures={}, export="onnx", opset=opset)
        check_onnx(reference, OnnxStreamer(plain), what="the ONNX file")
        untied = plain / ONNX
        if tied_parameters(reference.network):  # shared, a weight would be quantised for one of its readers only
            untied = plain / "untied.onnx"
            write_onnx(reference, untied, opset=opset, ties=False)
        _quantise(untied, aside / ONNX)
        write_onnx_config(aside, reference.interface, figures=known, **details)
        report = _measured(reference, plain, aside, text)
        _check(report, tolerance)
        write_onnx_config(aside, reference.interface, figures=known | report.figures(), **details)
    return report


def _quantise(plain: Path, quantised: Path) -> None:
    quantization = require("onnxruntime.quantization", "onnx")
    with quiet_exporters():
        # weights in 7 bits: without VNNI, a processor adds pairs of products in 16 bits, and 8 would overflow there
        quantization.quantize_dynamic(plain, quantised, weight_type=quantization.QuantType.QInt8, reduce_range=True)


def _measured(reference: TorchStreamer, plain: Path, quantised: Path, text: Tensor | None) -> Int8Report:
    streamers = {"float": OnnxStreamer(plain, threads=1), "int8": OnnxStreamer(quantised, threads=1)}
    interface = reference.interface
    is_batch_first = interface.is_batch_first
    expected, got = [], []
    for batch, time in UNSEEN:
        inputs = inputs_like(reference.example_input, (batch, time), is_batch_first=is_batch_first)
        expected.append(streamers["float"].run(inputs)[0].flatten())
        got.append(streamers["int8"].run(inputs)[0].flatten())
    is_language_model = _is_language_model(reference)
    perplexities: dict[str, float] = {}
    if is_language_model:
        tokens = sampled_text(reference) if text is None else text
        perplexities = {name: perplexity(streamer, tokens) for name, streamer in streamers.items()}
    one_step = inputs_like(reference.example_input, (1, 1), is_batch_first=is_batch_first)
    milliseconds = step_milliseconds(streamers, one_step, seconds=0.3)
    return Int8Report(
        bytes_float=(plain / ONNX).stat().st_size,
        bytes_int8=(quantised / ONNX).stat().st_size,
        milliseconds_float=milliseconds["float"],
        milliseconds_int8=milliseconds["int8"],
        relative_error=relative_error(torch.cat(expected), torch.cat(got)),
        perplexity_float=perplexities.get("float"),
        perplexity_int8=perplexities.get("int8"),
        text=None if not is_language_model else "text that the model made up" if text is None else "the text given",
        left_in_float=_left_in_float(quantised / ONNX),
    )


def _is_language_model(reference: TorchStreamer) -> bool:
    interface = reference.interface
    if interface.words is None or not interface.is_streamable or interface.is_batch_first:
        return False
    step = inputs_like(reference.example_input, (1, 1), is_batch_first=False)
    return reference.run(step)[0].shape[-1] == interface.words


def _left_in_float(path: Path) -> tuple[str, ...]:
    graph = require("onnx", "onnx").load(str(path)).graph
    return tuple(sorted({node.op_type for node in graph.node} & set(_LEFT_IN_FLOAT)))


def _check(report: Int8Report, tolerance: float) -> None:
    rise = 0.0
    if report.perplexity_float is not None and report.perplexity_int8 is not None:
        rise = report.perplexity_int8 / report.perplexity_float - 1
    for name, value in {"an error of the outputs": report.relative_error, "a rise in perplexity": rise}.items():
        if not value <= tolerance:
            raise RuntimeError(
                f"int8 causes {name} of {value:.1%}, more than the tolerance of {tolerance:.1%}; nothing was written; "
                "raise `tolerance` to have it all the same, or stay with the float export"
            )
