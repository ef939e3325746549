"""A small network in a file of torch's, to be opened without pickled code."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError

import torch

from recipes.vad.network import VoiceDetector, Widths, widths_of


def save_model(network: VoiceDetector, path: Path) -> None:
    """Write widths and weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    aside = path.with_name(f"{path.name}.partial")
    torch.save({"widths": asdict(widths_of(network)), "weights": weights}, aside)
    aside.replace(path)


def load_model(path: Path) -> VoiceDetector:
    """The network of a file, in evaluation mode.

    Raises:
        ValueError: if it is no such file.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        widths = saved["widths"]
        network = VoiceDetector(Widths(widths["bins"], tuple(widths["channels"]), widths["units"]))
        network.load_state_dict(saved["weights"])
    except (KeyError, TypeError, ValueError, RuntimeError, EOFError, OSError, UnpicklingError) as error:
        raise ValueError(
            f"`path` must be a network saved by recipes.vad.shrink, got {str(path)!r} ({type(error).__name__})"
        ) from error
    return network.eval()
