"""The published network: its files in the package silero-vad, and its weights in ours."""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from recipes.vad.network import VoiceDetector

KNOWN = "6.2.3"
SHA256 = {
    "silero_vad.jit": "e1122837f4154c511485fe0b9c64455f7b929c96fbb8d79fbdb336383ebd3720",
    "silero_vad.onnx": "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
}
NAMES = {f"encoder.{2 * layer}": f"encoder.{layer}.reparam_conv" for layer in range(4)}  # ours: theirs


def package_file(name: str) -> Path:
    """A file of the package, if it is the known one.

    Args:
        name: `silero_vad.jit` or `silero_vad.onnx`.

    Raises:
        ModuleNotFoundError: if the package is not installed.
        ValueError: if the file is of another version.
    """
    found = importlib.util.find_spec("silero_vad")  # not imported: its import sets torch's number of threads
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(
            "the package 'silero-vad' is not installed; install it with: pip install '.[vad]'", name="silero_vad"
        )
    path = Path(next(iter(found.submodule_search_locations))) / "data" / name
    if not path.is_file() or _sha256(path) != SHA256[name]:
        raise ValueError(
            f"`silero-vad` must have the files of version {KNOWN}, got {_version()}; "
            f"install that with: pip install silero-vad=={KNOWN}"
        )
    return path


def load_jit() -> torch.jit.ScriptModule:
    """The package's own network, as it runs it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
        return torch.jit.load(package_file("silero_vad.jit"), map_location="cpu").eval()


def load_original() -> VoiceDetector:
    """The 16 kHz network of the package in plain torch, in evaluation mode."""
    theirs = {
        name.removeprefix("_model."): tensor
        for name, tensor in load_jit().state_dict().items()
        if name.startswith("_model.")
    }
    ours: dict[str, Tensor] = {"spectrum.basis": theirs["stft.forward_basis_buffer"]}
    for name, source in NAMES.items():
        ours |= {f"{name}.{part}": theirs[f"{source}.{part}"] for part in ("weight", "bias")}
    for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        ours[f"lstm.{part}_l0"] = theirs[f"decoder.rnn.{part}"]
    ours |= {"output.weight": theirs["decoder.decoder.2.weight"].squeeze(-1)}
    ours |= {"output.bias": theirs["decoder.decoder.2.bias"]}
    network = VoiceDetector()
    network.load_state_dict({name: tensor.clone() for name, tensor in ours.items()})
    return network.eval()


def package() -> ModuleType:
    """The module with the package's wrapper and timestamps, imported without a change to torch's number of threads."""
    package_file("silero_vad.onnx")
    threads = torch.get_num_threads()
    try:
        return importlib.import_module("silero_vad.utils_vad")
    finally:
        torch.set_num_threads(threads)


@cache
def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _version() -> str:
    try:
        return f"version {metadata.version('silero-vad')}"
    except metadata.PackageNotFoundError:
        return "a copy without a version"
