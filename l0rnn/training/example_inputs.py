"""Example inputs for a network in somebody's LightningModule: what its training step calls it with."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from l0rnn.recurrent.nested import moved_to
from l0rnn.training.batches import inputs_of

SHORTEST = 2  # sequences of the example batch


class _Called(Exception):  # noqa: N818 - it ends a training step where the network is called
    def __init__(self, inputs: Any) -> None:
        super().__init__("the network has been called")
        self.inputs = inputs


def example_inputs_of(trainer: Trainer, module: LightningModule, network: nn.Module) -> Any:
    """What the training step calls a network with, given the first data of the training; nothing is trained.

    Items 0 and 1 of the data set are put together as the loader does, so that no loader is begun, and
    `training_step` runs until it calls the network. Where it does not, a network that takes one argument is given the
    first tensor of the batch. Random numbers go on as if nothing had been done.

    Args:
        trainer: that of the module, which has its data.
        module: the module that is trained.
        network: the part of it, or the module itself, that is pruned.

    Returns:
        A tuple of arguments, or a dict of keyword arguments.

    Raises:
        ValueError: if it cannot be found out so.
    """
    with isolate_rng(), torch.no_grad(), torch.compiler.set_stance("force_eager"):
        try:
            batch = _first_batch(trainer.fit_loop._data_source.dataloader())
        except Exception as error:  # the user's data
            raise _unknown(f"the data cannot be asked for a batch, {type(error).__name__}: {error}") from error
        if batch is None:
            raise _unknown("the data are several loaders, or a stream")
        device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
        return _called_with(module, network, moved_to(batch, device))


def _first_batch(loader: Any) -> Any:
    """The first batch of a loader, of few sequences where they are told apart; None if to ask would use it up."""
    if isinstance(loader, DataLoader):
        if isinstance(loader.dataset, IterableDataset):
            return None
        if loader.batch_sampler is None:
            return loader.collate_fn(loader.dataset[0])
        few = min(SHORTEST, len(loader.dataset))  # type: ignore[arg-type]
        return loader.collate_fn([loader.dataset[place] for place in range(few)])
    if isinstance(loader, (list, tuple, dict)) or not hasattr(loader, "__len__"):  # several loaders, or a stream
        return None
    return next(iter(loader))


def _called_with(module: LightningModule, network: nn.Module, batch: Any) -> Any:
    def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Called(_as_inputs(network, args, kwargs))

    handle = network.register_forward_pre_hook(stop, with_kwargs=True, prepend=True)
    try:
        batch = module.on_after_batch_transfer(module.on_before_batch_transfer(batch, 0), 0)
        run_training_step(module, batch)
        why = "does not call the network that is pruned; does `network` name the right one?"
    except _Called as called:
        return called.inputs
    except Exception as error:  # the user's code, before the training has begun
        why = f"fails before it calls the network, {type(error).__name__}: {error}"
    finally:
        handle.remove()
    inputs = inputs_of(batch)
    if isinstance(inputs, Tensor) and _takes_one(network):
        return (inputs,)
    raise _unknown(f"`training_step` {why}")


def run_training_step(module: LightningModule, batch: Any) -> Any:
    """What `training_step` returns for a batch outside of a training, where it can log nothing."""
    quiet: dict[str, Any] = dict.fromkeys(("log", "log_dict"), lambda *args, **kwargs: None)
    module.__dict__.update(quiet)
    try:
        return module.training_step(*(batch, 0)[: len(inspect.signature(module.training_step).parameters)])
    finally:
        for name in quiet:
            del module.__dict__[name]


def _takes_one(network: nn.Module) -> bool:
    parameters = inspect.signature(network.forward).parameters.values()
    required = [one for one in parameters if one.default is one.empty and one.kind in (0, 1)]
    return len(required) == 1


def _as_inputs(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not args or not kwargs:
        return kwargs or args
    bound = inspect.signature(network.forward).bind(*args, **kwargs)  # names for those that came without
    if any(bound.signature.parameters[name].kind in (2, 4) for name in bound.arguments):  # *args, **kwargs
        raise TypeError("the network is called with arguments that have no name and others that have")
    return dict(bound.arguments)


def _unknown(why: str) -> ValueError:
    return ValueError(
        f"`example_inputs` must be given to Prune, or be the module's `example_input_array`: {why}. The network is run "
        "on them to find its units; a batch of two short sequences will do"
    )
