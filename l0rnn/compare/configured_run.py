"""Train one run from a configuration of Lightning's command line, shrink it, and write down what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from l0rnn.compare.engines.engine import RESULT
from l0rnn.compare.outcome import CONFIG, MODEL, PROGRESS, check_figure, device_name, sizes, write_json
from l0rnn.cost.cost import Cost, cost
from l0rnn.export import save_dense
from l0rnn.surgery.shrink import operate
from l0rnn.training.callbacks import PauseOnSignal, WriteProgress
from l0rnn.training.configuration import build_run, last_checkpoint, training_seconds


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
    best, last = check_figure(quality, figures), check_figure(final, figures)
    surgery = operate(model.eval())
    save_dense(surgery.network, folder / MODEL, overwrite=True)
    result = {
        "quality": best,
        "final": last,
        "figures": dict(figures),
        **sizes(surgery, model.network, model.method, whole, model.example_input_array),
        "model": str(folder / MODEL),
        **told,
    }
    write_json(result, folder / RESULT)
    return result


def build(config: Mapping[str, Any], folder: Path, *, extra: Sequence[str] = ()) -> tuple[Any, Any, Any]:
    """Model, data and Trainer of a configuration, which is written to the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
    return build_run(folder / CONFIG, folder, extra=extra)
