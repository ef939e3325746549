"""Train one run of a comparison, shrink it, evaluate it, and write down what came out."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from l0rnn.cost.cost import Cost, cost, masked_cost
from l0rnn.export import save_dense
from l0rnn.recurrent.nested import moved_to
from l0rnn.surgery.shrink import operate
from l0rnn.tracing.trace import trace
from l0rnn.training.callbacks import Paused, PauseOnSignal, WriteProgress
from l0rnn.training.configuration import build_run, last_checkpoint, training_seconds

RESULT, MODEL, CONFIG, PROGRESS = "result.json", "model", "config.yaml", "progress.json"
PAUSED = 75  # exit status of a run that was asked to stop; EX_TEMPFAIL of sysexits.h


def train_run(
    config: Mapping[str, Any],
    folder: Path,
    *,
    quality: str,
    final: str,
    extra: Sequence[str] = (),
    key: str | None = None,
) -> dict[str, Any]:
    """Train from a configuration, or go on where an earlier call was stopped.

    Args:
        config: the whole configuration, as ``l0rnn fit`` takes it.
        folder: for checkpoints, logs, the deployable model and ``result.json``.
        quality: name of the logged figure of validation.
        final: name of the logged figure of the test.
        extra: further arguments of the command line, for what is the machine's and not the experiment's.
        key: what identifies the configuration, for the result.

    Returns:
        What was written to ``result.json``.

    Raises:
        Paused: if the process was asked to stop by a signal; a checkpoint of that step has been written.
        ValueError: if the configuration is wrong, or a figure is not logged.
        FloatingPointError: if the loss or a figure is not finite.
    """
    # whoever runs several of these shows one line for each
    model, data, trainer = build(config, folder, extra=[*extra, "--trainer.enable_progress_bar=false"])
    whole = cost(model.units)  # now: units may be removed while it trains
    pause = PauseOnSignal(folder / "checkpoints" / "last.ckpt")  # the last, after all others have done their part
    trainer.callbacks.extend([WriteProgress(folder / PROGRESS, quality=quality), pause])
    trainer.fit(model, data, ckpt_path=last_checkpoint(folder))
    figures = {**trainer.validate(model, data, verbose=False)[0], **trainer.test(model, data, verbose=False)[0]}
    told = {
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "training_seconds": training_seconds(trainer),
        "device": device_name(trainer.strategy.root_device),
        "seed": config.get("seed_everything"),
        "configuration": key,
        "config": dict(config),
    }
    return write_result(model, whole, figures, folder, quality=quality, final=final, told=told)


def write_result(
    model: Any,
    whole: Cost,
    figures: Mapping[str, float],
    folder: Path,
    *,
    quality: str,
    final: str,
    told: Mapping[str, Any],
) -> dict[str, Any]:
    """Shrink a trained model, save it, and write ``result.json``.

    Args:
        model: the `PrunableModule`.
        whole: cost of its network before the training.
        figures: of validation and test.
        folder: for the deployable model and the result.
        quality: name of the figure of validation.
        final: name of the figure of the test.
        told: what else to write.

    Raises:
        ValueError: if one of the two figures is missing.
        FloatingPointError: if it is not finite.
    """
    for name in (quality, final):
        if name not in figures:
            raise ValueError(f"{name!r} must be a figure that the model logs, got {', '.join(figures)}")
        if not math.isfinite(figures[name]):
            raise FloatingPointError(f"{name!r} is {figures[name]} at the end of the training; lower the learning rate")
    surgery = operate(model.eval())
    save_dense(surgery.network, folder / MODEL, overwrite=True)
    masks = model.method.masks()
    device = next(surgery.network.parameters()).device
    units = trace(surgery.network, moved_to(model.example_input_array, device))
    kept = masked_cost(units, masks) if masks else cost(units)
    # a dense module without example inputs is not traced before its training
    density = kept.multiply_adds / whole.multiply_adds if whole.multiply_adds else 1.0
    result = {
        "quality": figures[quality],
        "final": figures[final],
        "figures": dict(figures),
        "parameters": kept.parameters,
        "parameters_without_embedding": kept.parameters_without_embedding,
        "multiply_adds": kept.multiply_adds,
        "density": density,
        "widths": {axis: kept_units for axis, (kept_units, _) in surgery.widths.items()},
        "block": block_of(model.method) if masks else None,
        "has_zeros": bool(masks),
        "max_abs_difference": surgery.max_abs_difference,
        "not_pruned": surgery.untouched if not masks else whole_parameters(model.network, masks),
        "method": type(model.method).__name__,
        "model": str(folder / MODEL),
        "versions": {"torch": torch.__version__, "threads": torch.get_num_threads()},
        **told,
    }
    aside = folder / f"{RESULT}.new"
    aside.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    aside.replace(folder / RESULT)
    return result


def main(train: Callable[..., Any], arguments: Sequence[str]) -> int:
    """Train the configuration in a folder, as the queue asks a process to; the exit status is `PAUSED` if told to stop.

    Args:
        train: `train_run`, or another loop with its arguments.
        arguments: folder, names of the two figures, key, and what is passed on to Lightning's command line.
    """
    folder, quality, final, key, *extra = arguments
    config = yaml.safe_load((Path(folder) / CONFIG).read_text(encoding="utf-8"))
    try:
        train(config, Path(folder), quality=quality, final=final, key=key, extra=extra)
    except Paused:
        return PAUSED
    return 0


def build(config: Mapping[str, Any], folder: Path, *, extra: Sequence[str] = ()) -> tuple[Any, Any, Any]:
    """Model, data and Trainer of a configuration, which is written to the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
    return build_run(folder / CONFIG, folder, extra=extra)


def device_name(device: torch.device) -> str:
    """What a training ran on: the name of the card, or the kind of processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


def block_of(method: Any) -> int | None:
    """Side of the square blocks that a method prunes, or None."""
    block = getattr(method, "block", None)
    return block[0] if isinstance(block, tuple) and block[0] == block[1] > 1 else None


def whole_parameters(network: torch.nn.Module, masks: Mapping[str, Any]) -> dict[str, str]:
    """The parameters without a mask, with the reason."""
    return {name: "it has no mask" for name, _ in network.named_parameters() if name not in masks}
