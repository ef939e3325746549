"""From the trained network to int8: what each step of the way costs and buys.

    python -m recipes.penn_treebank.export_report out/small/shrunk --out out/small/export

For the shrunken model, and with --dense for the network before it was cut, in torch, as float ONNX and as int8 ONNX:
parameters, bytes, milliseconds and perplexity, as export_report.json and export_report.md. The exports lie beside them.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch
from torch import nn

from l0rnn.export import (
    export_int8,
    export_onnx,
    load_dense,
    perplexity,
    read_config,
    read_vocabulary,
    save_dense,
    text_columns,
)
from l0rnn.export.directory import ONNX, WEIGHTS
from l0rnn.export.measure import step_milliseconds
from l0rnn.export.onnx_run import OnnxStreamer
from l0rnn.export.streaming import Streamer, TorchStreamer
from l0rnn.extras import require
from l0rnn.models import load_model
from l0rnn.surgery.build import build
from recipes.penn_treebank.data import Vocabulary, load_text

SIZES = ((1, 1), (1, 35), (20, 35))  # (batch, steps) for the latency
FILES = {"native": WEIGHTS, "onnx": ONNX, "int8": ONNX}  # export → the file that counts
KINDS = {"native": "torch", "onnx": "onnx", "int8": "int8"}  # export → what runs it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="shrunken directory, as `l0rnn shrink` or training writes it")
    parser.add_argument("--out", type=Path, required=True, help="folder for the report and the exports")
    parser.add_argument("--dense", type=Path, help="checkpoint of the network before it was cut")
    parser.add_argument("--data-dir", type=Path, help="folder with ptb.{train,valid,test}.txt")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each latency (default: 1.0)")
    options = parser.parse_args()
    result = report(options.model, options.out, dense=options.dense, data_dir=options.data_dir, seconds=options.seconds)
    print(markdown(result))


def report(
    model: Path, out: Path, *, dense: Path | None = None, data_dir: Path | None = None, seconds: float = 1.0
) -> dict[str, Any]:
    """Export, measure, and write `export_report.json` and `export_report.md`."""
    network = load_dense(model)
    words = read_vocabulary(model) if read_config(model).has_vocabulary else None
    vocabulary = Vocabulary(load_text("train", data_dir))
    if words is not None and words != vocabulary.words:
        raise ValueError(f"{model} has another vocabulary than the Penn Treebank's train text")
    texts = {
        "valid": text_columns(vocabulary.words, load_text("valid", data_dir)),
        "test": text_columns(vocabulary.words, load_text("test", data_dir)),
    }
    networks = {"shrunken": network} if dense is None else {"dense": _full_width(dense), "shrunken": network}
    rows: dict[str, dict[str, Any]] = {}
    streamers: dict[str, list[Streamer]] = {}
    for name, found in networks.items():
        save_dense(found, out / name / "native", vocabulary=vocabulary.words, overwrite=True)
        export_onnx(found, out / name / "onnx", vocabulary=vocabulary.words, overwrite=True)
        export_int8(found, out / name / "int8", vocabulary=vocabulary.words, text=texts["valid"], overwrite=True)
        streamers[f"{name}, torch"] = [TorchStreamer(found)]
        for kind in ("onnx", "int8"):
            streamers[f"{name}, {kind}"] = [OnnxStreamer(out / name / kind, threads=1)]
        for kind, file in FILES.items():
            size = (out / name / kind / file).stat().st_size
            rows[f"{name}, {KINDS[kind]}"] = {"parameters": _count(found), "bytes": size}
    for name, found in streamers.items():
        rows[name] |= {f"{split}_perplexity": perplexity(found[0], text) for split, text in texts.items()}
    _add_milliseconds_(rows, streamers, seconds)
    result = {"model": str(model), "rows": rows, "environment": _environment()}
    (out / "export_report.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    (out / "export_report.md").write_text(markdown(result) + "\n", encoding="utf-8")
    return result


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _full_width(checkpoint: Path) -> nn.Module:
    """The network of a checkpoint at its full width, in plain torch, with the gates folded into the weights."""
    model = load_model(checkpoint)
    gates, everything = model.units.vector(model.trained_gates(), 1.0), torch.ones(model.units.count, dtype=torch.bool)
    return build(model.network, model.units, gates, everything).eval()


def _add_milliseconds_(rows: dict[str, dict[str, Any]], streamers: dict[str, list[Streamer]], seconds: float) -> None:
    """Time them in turns, on one thread; the best kernel of each counts."""
    named = {(name, index): streamer for name, found in streamers.items() for index, streamer in enumerate(found)}
    for batch, steps in SIZES:
        inputs = torch.randint(1000, (steps, batch), generator=torch.Generator().manual_seed(0))
        inputs = inputs.clamp_max(min(streamer.interface.words or 1 for streamer in named.values()) - 1)
        keys = {f"{name}/{index}": streamer for (name, index), streamer in named.items()}
        measured = step_milliseconds(keys, inputs, threads=1, seconds=seconds)
        for name in streamers:
            best = min(value for key, value in measured.items() if key.rpartition("/")[0] == name)
            rows[name][f"milliseconds_{batch}x{steps}"] = round(best, 4)


def _environment() -> dict[str, Any]:
    packages = {name: require(name, "onnx").__version__ for name in ("onnx", "onnxruntime")}
    return {
        "torch": torch.__version__,
        **packages,
        "threads": 1,
        "processor": platform.processor() or platform.machine(),
    }


def markdown(result: dict[str, Any]) -> str:
    """The report as a table."""
    heads = [
        "parameters",
        "bytes",
        *(f"ms, {batch} × {steps}" for batch, steps in SIZES),
        "valid perplexity",
        "test perplexity",
    ]
    lines = [f"| model | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for name, row in result["rows"].items():
        cells = [f"{row['parameters']:,}", f"{row['bytes']:,}"]
        cells += [f"{row[f'milliseconds_{batch}x{steps}']:.3f}" for batch, steps in SIZES]
        cells += [f"{row[f'{split}_perplexity']:.2f}" for split in ("valid", "test")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    environment = ", ".join(f"{name} {value}" for name, value in result["environment"].items())
    note = "Milliseconds per call, batch × steps, on one thread; torch with the better of oneDNN on and off."
    return "\n".join([*lines, "", f"{note} {environment}."])


if __name__ == "__main__":
    main()
