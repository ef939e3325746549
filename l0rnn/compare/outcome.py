"""What a run leaves in its folder: sizes and figures in ``result.json``, and how far it is while it trains."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from l0rnn.cost.cost import Cost, cost, masked_cost
from l0rnn.methods.method import Method
from l0rnn.recurrent.nested import moved_to
from l0rnn.surgery.shrink import Surgery
from l0rnn.tracing.trace import trace

MODEL, CONFIG, PROGRESS = "model", "config.yaml", "progress.json"


def sizes(surgery: Surgery, network: nn.Module, method: Method, whole: Cost, example_inputs: Any) -> dict[str, Any]:
    """What is left of a network, as the result of a run has it.

    Args:
        surgery: what `l0rnn.surgery.shrink.operate` did to it.
        network: the trained one, before that.
        method: what pruned it.
        whole: cost of the network there was in the beginning.
        example_inputs: arguments of its forward.
    """
    masks = method.masks()
    device = next(surgery.network.parameters()).device
    units = trace(surgery.network, moved_to(example_inputs, device))
    kept = masked_cost(units, masks) if masks else cost(units)
    return {
        "parameters": kept.parameters,
        "parameters_without_embedding": kept.parameters_without_embedding,
        "multiply_adds": kept.multiply_adds,
        # a dense module without example inputs is not traced before its training
        "density": kept.multiply_adds / whole.multiply_adds if whole.multiply_adds else 1.0,
        "widths": {axis: kept_units for axis, (kept_units, _) in surgery.widths.items()},
        "block": block_of(method) if masks else None,
        "has_zeros": bool(masks),
        "max_abs_difference": surgery.max_abs_difference,
        "not_pruned": surgery.untouched if not masks else whole_parameters(network, masks),
        "method": type(method).__name__,
        "versions": {"torch": torch.__version__, "threads": torch.get_num_threads()},
    }


def check_figure(name: str, figures: Mapping[str, float]) -> float:
    """A figure by its name.

    Raises:
        ValueError: if it is not there.
        FloatingPointError: if it is not finite.

    Example:
        >>> check_figure("valid/loss", {"valid/loss": 0.5})
        0.5
    """
    if name not in figures:
        raise ValueError(f"{name!r} must be a figure that the model logs, got {', '.join(figures)}")
    if not math.isfinite(figures[name]):
        raise FloatingPointError(f"{name!r} is {figures[name]} at the end of the training; lower the learning rate")
    return figures[name]


def write_json(value: Any, path: Path) -> None:
    """Write a whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.new")
    aside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    aside.replace(path)


def device_name(device: torch.device) -> str:
    """What a training ran on: the name of the card, or the kind of processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


def block_of(method: Any) -> int | None:
    """Side of the square blocks that a method prunes, or None."""
    block = getattr(method, "block", None)
    return block[0] if isinstance(block, tuple) and block[0] == block[1] > 1 else None


def whole_parameters(network: nn.Module, masks: Mapping[str, Any]) -> dict[str, str]:
    """The parameters without a mask, with the reason."""
    return {name: "it has no mask" for name, _ in network.named_parameters() if name not in masks}
