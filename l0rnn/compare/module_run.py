"""Train one run of somebody's LightningModule and DataModule, shrink the network, and write down what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from l0rnn.compare.engines.engine import RESULT
from l0rnn.compare.instances import instance
from l0rnn.compare.outcome import MODEL, PROGRESS, check_figure, device_name, sizes, write_json
from l0rnn.compare.task_run import check_start
from l0rnn.cost.cost import cost
from l0rnn.methods import Dense
from l0rnn.methods.units import UnitMethod
from l0rnn.surgery.fresh import fresh
from l0rnn.surgery.shrink import operate
from l0rnn.tracing.units import Units
from l0rnn.training.in_folder import pruned_at_once, train_in_folder
from l0rnn.training.resuming import seed_all


class GivenWidths(UnitMethod):
    """Keeps the first units of each axis, as many as are asked for, and closes the others before the training.

    Args:
        widths: axis → units; an axis that is absent stays whole.
    """

    def __init__(self, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.widths = dict(widths)

    def attach(self, network: nn.Module, units: Units) -> None:
        """Gate the network and close what is too much."""
        self.gate_(network, units)
        axes = self.traced.axes.values()
        self.close_(torch.cat([torch.arange(axis.size) < self.widths.get(axis.name, axis.size) for axis in axes]))
        self.choose_()


def train_run(
    config: Mapping[str, Any],
    folder: Path,
    *,
    quality: str,
    final: str,
    extra: Sequence[str] = (),
    key: str | None = None,
) -> dict[str, Any]:
    """Train a run, or go on where an earlier call was stopped.

    Args:
        config: ``module`` and ``data``, each a class path or ``class_path`` and ``init_args``; ``trainer``, arguments
            of Lightning's Trainer; ``seed_everything``, ``method``, ``widths`` and ``epochs`` as for
            `l0rnn.compare.task_run.train_run`.
        folder: for logs, checkpoints, weights and ``result.json``.
        quality: name of the logged figure of validation.
        final: name of the logged figure of the test, if there is one.
        extra: nothing is known here.
        key: what identifies the configuration, for the result.

    Raises:
        Paused: if the process was asked to stop by a signal; a checkpoint of that step has been written.
        ValueError: if something is not as it has to be, or a figure is not logged.
    """
    seed_all(int(config["seed_everything"]))
    module: Any
    module, data = built(config)
    settings = dict(config.get("trainer") or {})
    if config.get("epochs") is not None:
        settings["max_epochs"] = config["epochs"]
    whole, method = None, Dense() if config.get("method") is None else instance(config["method"])
    if config.get("widths") is not None:
        initialise = getattr(module, "initialise", None)
        check_start(module, initialise, place="the LightningModule")
        small, pruner = pruned_at_once(module, data, GivenWidths(config["widths"]))
        whole = cost(pruner.units)
        seed_all(int(config["seed_everything"]))
        small = fresh(small, None if initialise is None else type(module).initialise)
        module = small.train()
        _, data = built(config)
    trained = train_in_folder(
        module,
        data,
        method,
        folder,
        seed=int(config["seed_everything"]),
        settings=settings,
        quality=quality,
        progress=folder / PROGRESS,
    )
    pruner, figures = trained.pruner, trained.figures
    surgery = operate(
        pruner.network, pruner.trained_gates(), example_inputs=pruner.example_inputs, units=pruner.units, loss=False
    )
    torch.save(surgery.network.state_dict(), folder / f"{MODEL}.pt")
    result = {
        "quality": check_figure(quality, figures),
        "final": check_figure(final, figures) if final in figures else None,
        "figures": figures,
        "higher_is_better": bool(config.get("higher_is_better")),
        **sizes(surgery, pruner.network, pruner.method, whole or cost(pruner.units), pruner.example_inputs),
        "model": str(folder / f"{MODEL}.pt"),
        **trained.told,
        "device": device_name(trained.told["device"]),
        "seed": config["seed_everything"],
        "configuration": key,
        "config": dict(config),
    }
    if config.get("widths") is not None:  # by the names that the axes have in the whole network
        result["widths"] = dict(config["widths"])
    write_json(result, folder / RESULT)
    return result


def built(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """Module and data of a configuration.

    Raises:
        ValueError: if a class is not there, or its arguments do not fit.
    """
    told = [config[part] for part in ("module", "data")]
    module, data = (instance(part if isinstance(part, Mapping) else {"class_path": part}) for part in told)
    if not hasattr(module, "training_step") or not hasattr(data, "train_dataloader"):
        raise ValueError(
            f"`task` must name a LightningModule and a LightningDataModule, got {type(module).__name__} and "
            f"{type(data).__name__}"
        )
    return module, data
