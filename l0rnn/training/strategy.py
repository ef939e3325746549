"""What Lightning's strategies for several processes need to be told, and which of them do."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from l0rnn.training.processes import Replicas


def refuse_strategy(trainer: Any) -> None:
    """Refuse a Trainer whose processes cannot prune a network together.

    Raises:
        ValueError: before anything is changed; it says why and what to do instead.

    Example:
        >>> from lightning import Trainer
        >>> refuse_strategy(Trainer(accelerator="cpu", logger=False, enable_checkpointing=False))
    """
    strategy = trainer.strategy
    name = type(strategy).__name__
    if any(word in name for word in ("FSDP", "DeepSpeed", "ModelParallel")):
        raise ValueError(
            f"`strategy` of the Trainer cannot be {name}: it gives each process a part of every weight, and a unit is "
            "removed with all its rows and columns, which no process has; use strategy='ddp'"
        )
    if trainer.world_size == 1:
        return
    if not isinstance(strategy, DDPStrategy):
        raise ValueError(f"`strategy` of the Trainer must be 'ddp' for several processes, got {name}")
    if type(strategy.launcher).__name__ == "_MultiProcessingLauncher":
        raise ValueError(
            "`strategy` of the Trainer must be 'ddp' for several processes, got one that starts them from this process "
            "('ddp_spawn', 'ddp_fork' or 'ddp_notebook') and hands back nothing but weights, so that what was chosen "
            "would be lost"
        )


def group_of(trainer: Any) -> Any:
    """Torch's group of the processes of a Trainer."""
    return trainer.strategy.model.process_group


def wrap_anew_(trainer: Any, replicas: Replicas, keep: Tensor) -> None:
    """Let DDP know the new shapes of parameters from which units were removed in all processes.

    Args:
        trainer: between two batches.
        replicas: its processes.
        keep: which units were kept, bool `(unit,)`.

    Raises:
        RuntimeError: in all processes, if they have not removed the same units.
    """
    replicas.refuse_differences({"what was removed": keep})
    strategy = trainer.strategy
    strategy.barrier("units removed")
    strategy.model = strategy.lightning_module
    strategy.configure_ddp()


def mean_over_processes(trainer: Any, value: Tensor) -> Tensor:
    """The mean of a figure that each process has of its own."""
    return torch.as_tensor(trainer.strategy.reduce(value.clone(), reduce_op="mean"))
