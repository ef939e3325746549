"""The same network with new weights: what a shrunken network has to beat is its own widths, trained from scratch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

FEW = 256  # entries from which on a standard deviation is known to about 5 %


def fresh(network: nn.Module, initialise: Callable[[nn.Module], Any] | None = None) -> nn.Module:
    """A copy of a network with the sizes it has and weights as if it had just been built.

    Each module draws its weights anew by its own ``reset_parameters``, as all layers of torch have it: a narrow layer
    starts from the distribution of a narrow one, not from the weights of a wide one that were cut. A weight that
    several modules share starts as in the first of them. Whatever the network's constructor did beyond that, such as
    another scale or a bias of 1 for forget gates, nobody can see in the built network: `initialise` does it again.

    Args:
        network: such as a shrunken one; it is not changed.
        initialise: called with the copy in the end. It has to set the parameters of modules without
            ``reset_parameters``; what it returns is not used.

    Raises:
        ValueError: if parameters belong to modules that cannot draw them, and nothing is given that does.

    Example:
        >>> trained = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
        >>> other = fresh(trained)
        >>> other[0].weight.shape, bool((other[0].weight == trained[0].weight).any())
        (torch.Size([5, 3]), False)

    Reference:
        Liu et al., Rethinking the Value of Network Pruning (2019), arXiv 1810.05270: the control of every pruning.
    """
    lost = [] if initialise is not None else without_reset(network)
    if lost:
        raise ValueError(
            f"`initialise` must be given: {_some(lost)} belong to modules without `reset_parameters`, so nobody knows "
            "how they start; give a function of the network that sets them"
        )
    new = copy.deepcopy(network)
    drawn: dict[int, Tensor] = {}
    new.apply(lambda module: _reset_(module, drawn))  # children first, so that a module may overrule its own
    for parameter in new.parameters():
        parameter.grad = None
    if initialise is not None:
        with torch.no_grad():
            initialise(new)
    return new


def without_reset(network: nn.Module) -> list[str]:
    """The parameters that belong to modules without ``reset_parameters``."""
    return [
        f"{name}.{own}".removeprefix(".")
        for name, module in network.named_modules()
        if _reset_of(module) is None
        for own, _ in module.named_parameters(recurse=False)
    ]


def started_otherwise(network: nn.Module) -> dict[str, tuple[float, float]]:
    """Parameters that a network just built starts otherwise than its modules' ``reset_parameters`` would.

    Args:
        network: as its constructor left it.

    Returns:
        Name → root mean square there, and after a reset, where they differ by more than chance; small ones are not
        judged unless one of the two is constant.

    Example:
        >>> layer = nn.Linear(32, 32)
        >>> _ = nn.init.normal_(layer.weight, std=0.5)
        >>> list(started_otherwise(layer))
        ['weight']
    """
    if without_reset(network):
        raise ValueError("`network` must be made of modules with `reset_parameters`, see `without_reset`")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reset = dict(fresh(network).named_parameters())
    found = {}
    for name, parameter in network.named_parameters():
        ours, theirs = (tensor.detach().double() for tensor in (parameter, reset[name]))
        a, b = float(ours.square().mean().sqrt()), float(theirs.square().mean().sqrt())
        is_constant = [tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all()) for tensor in (ours, theirs)]
        differs = a != b if any(is_constant) else ours.numel() >= FEW and not 0.75 < a / b < 1.33
        if differs:
            found[name] = (a, b)
    return found


def _reset_(module: nn.Module, drawn: dict[int, Tensor]) -> None:
    reset = _reset_of(module)
    if reset is None:
        return
    reset()
    with torch.no_grad():
        for parameter in module.parameters(recurse=False):
            if id(parameter) in drawn:
                parameter.copy_(drawn[id(parameter)])
            drawn[id(parameter)] = parameter.detach().clone()


def _reset_of(module: nn.Module) -> Callable[[], Any] | None:
    # torch's own name, but for MultiheadAttention, whose parameters are set by a method with an underscore
    return getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
