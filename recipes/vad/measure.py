"""Everything that is said about a small network, and its files."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l0rnn.version import __version__
from recipes.vad.data import Streams
from recipes.vad.evaluate import on_recordings, on_streams
from recipes.vad.latency import latency
from recipes.vad.model import save_model
from recipes.vad.network import VoiceDetector, Widths, widths_of
from recipes.vad.onnx_file import file_multiply_adds, multiply_adds, original_onnx, write_onnx
from recipes.vad.original import KNOWN, load_original

PUBLISHED = multiply_adds(Widths())


def measured(
    network: VoiceDetector, folder: Path, recordings: Mapping[str, Tensor], test: Streams, *, rounds: int = 60
) -> dict[str, Any]:
    """Write a network to a folder and measure it.

    Args:
        network: which.
        folder: where its files go: ``model.pt`` and ``silero_vad_small_16k.onnx``.
        recordings: real ones, by name.
        test: streams with known truth.
        rounds: of timing.
    """
    save_model(network, folder / "model.pt")
    ours, whole = folder / "silero_vad_small_16k.onnx", folder / "whole_16k.onnx"
    write_onnx(network, ours)
    write_onnx(load_original(), whole)  # the original in a file like ours: what is gained without pruning
    times = latency({"small": ours, "whole": whole}, rounds=rounds)
    whole.unlink()
    real = on_recordings(network, recordings)
    widths = widths_of(network)
    adds = multiply_adds(widths)
    return {
        "auc": real["auc"],
        "mean_difference": real["mean_difference"],
        "density": adds / PUBLISHED,
        "bytes": ours.stat().st_size,
        "milliseconds": times["small"]["milliseconds"],
        "speedup": times["small"]["speedup"],
        "widths": asdict(widths),
        "multiply_adds": adds,
        "file_multiply_adds": file_multiply_adds(widths),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "package_bytes": original_onnx().stat().st_size,
        "latency": times,
        "real": real,
        "made": on_streams(network, test),
        "versions": {
            "l0rnn": __version__,
            "torch": torch.__version__,
            "silero-vad": KNOWN,
            "python": platform.python_version(),
        },
    }
