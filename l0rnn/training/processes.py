"""A training in several processes: gates averaged over them, and what all of them have to agree on.

Torch's `DistributedDataParallel` (DDP) averages the gradients of the weights, so that weights are the same in every
process. Gates are not among the network's parameters, and are the `Pruner`'s to average. What is kept follows from
weights, gates and price alone, so it is the same everywhere without a word between the processes; that it is, is
checked where a difference would do harm.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from l0rnn.cost.cost import CostOf
from l0rnn.methods.method import Method
from l0rnn.methods.units import UnitMethod
from l0rnn.tracing.units import Units

WAY_OUT = "make the Pruner first and wrap its network afterwards: `DistributedDataParallel(network)`"


class WatchForReplicas:
    """Forward pre-hook of a network: tells its Pruner when a training pass runs inside of DDP.

    Args:
        pruner: it has ``join_replicas(ddp)``; held weakly, and not copied along with the network.
    """

    def __init__(self, pruner: Any) -> None:
        self._pruner: Any = weakref.ref(pruner)

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        """Tell it."""
        ddp: Any = DistributedDataParallel._get_active_ddp_module()
        pruner = self._pruner()
        if pruner is not None and isinstance(ddp, DistributedDataParallel) and torch.is_grad_enabled():
            pruner.join_replicas(ddp)

    def __getstate__(self) -> dict[str, Any]:
        return {"_pruner": nobody}


def nobody() -> None:
    """What a copied `WatchForReplicas` tells."""


class Replicas:
    """The processes that train copies of one network, each on data of its own.

    Args:
        group: torch's group of these processes.
        device: on which tensors are exchanged.
    """

    def __init__(self, group: Any, device: torch.device) -> None:
        self.group = group
        self.device = device
        self.count = dist.get_world_size(group)

    def __deepcopy__(self, memo: Any) -> Replicas:
        return self  # a copy of a network that is trained by several processes is not trained by others

    def start_alike_(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the values of the first, in place."""
        first = dist.get_global_rank(self.group, 0)
        for tensor in tensors:
            dist.broadcast(tensor.data, first, group=self.group)

    def average_gradients_(self, parameters: list[nn.Parameter]) -> None:
        """Average the gradients of parameters, in place; one that no process has stays None, others count as 0."""
        if not parameters:
            return
        like = parameters[0]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        have = like.new_tensor([p.grad is not None for p in parameters])
        sums = torch.cat([*(part.reshape(-1).to(like.dtype) for part in parts), have])
        dist.all_reduce(sums, group=self.group)
        *means, counts = (sums / self.count).split([*(p.numel() for p in parameters), len(parameters)])
        for parameter, mean, count in zip(parameters, means, counts.tolist(), strict=True):
            if count:
                parameter.grad = mean.view_as(parameter).to(parameter.dtype)

    def average_(self, tensors: list[Tensor]) -> None:
        """Average tensors, in place."""
        for tensor in tensors:
            dist.all_reduce(tensor, group=self.group)
            tensor.div_(self.count)

    def check_choice(self, method: Method) -> None:
        """Compare what a method has chosen to keep.

        Raises:
            RuntimeError: in all processes, if it differs.
        """
        self.refuse_differences({"what is kept": [method.gates(), method.masks()]})

    def refuse_differences(self, facts: Mapping[str, Any]) -> None:
        """Compare what has to be the same in every process; tensors in any nesting are compared by their bytes.

        Args:
            facts: name, as a message may show it → value.

        Raises:
            RuntimeError: in all processes, if one differs.
        """
        own = {name: _shown(value) for name, value in facts.items()}
        every: list[Any] = [None] * self.count
        dist.all_gather_object(every, own, group=self.group)
        for name, (shown, _) in every[0].items():
            others = [(rank, other[name][0]) for rank, other in enumerate(every) if other[name] != every[0][name]]
            if others:
                rank, other = others[0]
                values = f"{other} in process {rank} and {shown} in process 0" if other != shown else f"process {rank}"
                raise RuntimeError(
                    f"all processes must prune alike, but {name} differs: {values}; build network and Pruner from the "
                    "same arguments and the same example inputs in every process, load the same checkpoint, and let "
                    "DistributedDataParallel wrap the network"
                )


def joined(group: Any, method: Method, units: Units, **facts: Any) -> Replicas:
    """The processes that train together, once it has been seen that they are about to do the same.

    All of them begin with the gates of the first.

    Args:
        group: torch's group of these processes.
        method: the method of this process.
        units: the units it prunes.
        facts: what else has to be the same.

    Raises:
        RuntimeError: in all processes, if something differs.
    """
    learning = list(method.gate_parameters())
    alike = {
        "the axes of the network": {name: axis.size for name, axis in units.axes.items()},
        "its cost": vars(CostOf(units).kept()),
        "the method": type(method).__name__,
        "the number of steps": int(method.total_steps),
        "what is closed already": {} if learning else method.gates(),
        "the state of the method": method.state_dict(),
    }
    replicas = Replicas(group, method.steps.device)
    replicas.refuse_differences(alike | facts)
    replicas.start_alike_(learning)
    if isinstance(method, UnitMethod):
        method.group = group
    return replicas


def of_all_processes(own: Any) -> list[Any]:
    """What each process has, in their order; in a training in one process it is the only one.

    Tensors should lie on the CPU.

    Example:
        >>> of_all_processes("mine")
        ['mine']
    """
    if not (dist.is_available() and dist.is_initialized()):
        return [own]
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, own)
    return every


def _shown(value: Any) -> tuple[str, str]:
    """A short text for a message, and a hash of everything."""
    digest = hashlib.sha256()
    is_short = _feed(digest, value)
    return (repr(value) if is_short and len(repr(value)) < 200 else "", digest.hexdigest())


def _feed(digest: Any, value: Any) -> bool:
    """Feed a nested value into a hash; whether it has no tensors."""
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return False
    if isinstance(value, (Mapping, list, tuple)):
        parts = [part for pair in value.items() for part in pair] if isinstance(value, Mapping) else value
        have_none = [_feed(digest, part) for part in parts]
        return all(have_none)
    digest.update(repr(value).encode())
    return True


def refuse_wrapped(network: nn.Module) -> None:
    """Refuse a network that something else has wrapped already.

    Raises:
        ValueError: it says what to do instead.

    Example:
        >>> refuse_wrapped(nn.DataParallel(nn.Linear(2, 2)))
        Traceback (most recent call last):
        ...
        ValueError: `network` must not be wrapped in DataParallel yet; ...
    """
    if isinstance(network, (DataParallel, DistributedDataParallel)):
        raise ValueError(f"`network` must not be wrapped in {type(network).__name__} yet; {WAY_OUT}")
    refuse_shards(network)


def refuse_shards(network: nn.Module) -> None:
    """Refuse a network whose parameters are spread over processes (FSDP, tensor parallelism).

    Raises:
        ValueError: it names the parameter or module.
    """
    sharded = [name for name, parameter in network.named_parameters() if _is_shard(parameter)]
    # between its passes alone has a module of FSDP2 parameters that are shards
    sharded += [name for name, part in network.named_modules() if _has_base(part, "FSDPModule")]
    if sharded:
        name = repr(sharded[0]) if sharded[0] else "all of it"
        raise ValueError(
            f"`network` must be whole in every process, but {name} is spread over them (FSDP or tensor "
            "parallelism): a unit is removed with all its rows and columns, and no process has those; use "
            "DistributedDataParallel"
        )


def _is_shard(parameter: Tensor) -> bool:
    return getattr(parameter, "_fsdp_flattened", False) or any(
        _has_base(parameter, name) for name in ("FlatParameter", "DTensor")
    )


def _has_base(instance: object, name: str) -> bool:
    """By name: importing these classes takes longer than all of l0rnn."""
    return any(base.__name__ == name for base in type(instance).__mro__)


def refuse_what_ddp_cannot(ddp: DistributedDataParallel) -> None:
    """Refuse ways of using DDP under which processes would come apart or wait for one another for ever.

    Args:
        ddp: what runs the network.

    Raises:
        RuntimeError: it says what to do instead.
    """
    if ddp._join_config.enable:
        raise RuntimeError(
            "a Pruner cannot follow a training inside of `ddp.join()`: a process that has run out of batches makes no "
            "steps, and would be left with other prices and gates; give every process the same number of batches, as "
            "torch's DistributedSampler does (their sizes may differ)"
        )
