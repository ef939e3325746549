"""Repair at the cut: the units that stay take over from those that close, as well as a linear map can.

A layer reads x, of which the columns C are about to close and the columns J stay. With the moments of x over a few
batches, x_C is predicted from x_J and from the constant 1 by least squares, ``x_C ≈ P x_J + p``; the layer then gets
``W_J + W_C P`` in place of W_J, and its bias ``W_C p`` more. Nothing but weights that read units is changed, so surgery
has nothing to learn of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from l0rnn.gates.gates import Gates
from l0rnn.gates.readers import plain_class
from l0rnn.gates.recurrence import GatedRecurrence
from l0rnn.recurrent.nested import map_tensors
from l0rnn.surgery.proof import evaluating
from l0rnn.surgery.shrink import gated_by
from l0rnn.surgery.sizes import raw_tensor
from l0rnn.tracing.units import STAYS, Units, Weight, scales

RIDGE = 1e-2  # added to the diagonal of the moments, as a multiple of its mean, which inverts singular ones too
ROWS = 2**14  # of what a layer reads that are summed at a time

Call = tuple[tuple[Any, ...], dict[str, Any]]  # positional and keyword arguments of a network's forward


class Moments:
    """Sums of what a layer reads, one row and column more for the constant 1.

    Example:
        >>> moments = Moments()
        >>> moments.add(torch.tensor([[1.0, 2.0], [3.0, 2.0]]))
        >>> moments.total
        tensor([[10.,  8.,  4.],
                [ 8.,  8.,  4.],
                [ 4.,  4.,  2.]], dtype=torch.float64)
    """

    total: Tensor | None = None

    def add(self, values: Tensor) -> None:
        """Add some `(…, feature)`."""
        wide = torch.float32 if values.device.type == "mps" else torch.float64  # a device without the latter
        for rows in values.detach().flatten(0, -2).split(ROWS):
            rows = torch.cat((rows.to(wide), rows.new_ones(len(rows), 1, dtype=wide)), 1)
            own = (rows.T @ rows).cpu().double()
            self.total = own if self.total is None else self.total + own


@dataclass(frozen=True)
class Reader:
    """A weight that reads units by a layer of torch, so that it is known what the layer reads.

    Attributes:
        weight: its units.
        bias: name of the bias that is added to what it gives, or None.
        module: the layer.
        parameter: name of the weight in the layer.
    """

    weight: Weight
    bias: str | None
    module: nn.Module
    parameter: str


@torch.no_grad()
def repair_(
    network: nn.Module, units: Units, before: Tensor, after: Tensor, calls: Sequence[Call], *, group: Any = None
) -> dict[str, str]:
    """Change what reads units so that a network with fewer of them computes nearly what it does now, in place.

    Args:
        network: a network with gates; it is run in evaluation mode, and nothing else of it is changed.
        units: its units.
        before: gates that it computes with now, `(unit,)`.
        after: gates that it will compute with, `(unit,)`; some are 0 that were none.
        calls: arguments of its forward to run it on, such as those of the last step.
        group: torch's group of processes that train copies of the network, each on data of its own: all repair alike,
            with the moments of all. None for one process.

    Returns:
        Weights that read units and were not repaired → why.

    Example:
        >>> from l0rnn.gates.network import gate_network_
        >>> from l0rnn.tracing import trace
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(100, 1)
        >>> network = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 1))  # what three read, one can tell
        >>> expected, units = network(x), trace(network, x)
        >>> gates = gate_network_(network, units, open_probability=1.0)
        >>> one = torch.tensor([1.0, 0.0, 0.0])
        >>> repair_(network, units, torch.ones(3), one, [((x,), {})])
        {}
        >>> gates.hold_(one)
        >>> torch.allclose(network(x), expected, atol=1e-2)
        True
    """
    readers, left_out = _readers(network, units, (before != 0) & (after == 0))
    found = _moments(network, units, before, readers, calls)
    for name, reader in readers.items():
        moments = _over_processes(
            found[name].total, reader.weight.shape[1] + 1, group, next(network.parameters()).device
        )
        if moments is None:
            left_out[name] = "its layer has not run"
        elif not bool(moments.isfinite().all()):
            left_out[name] = "what it reads is not finite"
        else:
            _repair_reader_(network, reader, before, after, moments)
    return left_out


def _readers(network: nn.Module, units: Units, closing: Tensor) -> tuple[dict[str, Reader], dict[str, str]]:
    """The weights that read units which close, by what kind of layer; and the others, with the reason."""
    readers, left_out = {}, {}
    normalised = {axis for numbers in units.normalised.values() for axis in units.axes_of(numbers)}
    for name, weight in units.weights.items():
        if weight.is_parameter and any(
            bool((closing[numbers.clamp(min=0)] & is_read & (numbers != STAYS)).any())
            for numbers, is_read in zip(weight.units, weight.is_read, strict=True)
        ):
            found = _reader(network, units, weight, normalised)
            if isinstance(found, Reader):
                readers[name] = found
            else:
                left_out[name] = found
    return readers, left_out


def _reader(network: nn.Module, units: Units, weight: Weight, normalised: set[str]) -> Reader | str:
    path, _, parameter = weight.name.rpartition(".")
    module, kind = network.get_submodule(path), plain_class(network.get_submodule(path))
    if len(weight.aliases) > 1:
        return f"it is shared with {', '.join(weight.aliases[1:])}"
    if any(product.weight == weight.name and product.module != path for product in units.products):
        return "code outside of its layer multiplies by it"
    is_of_stack = isinstance(module, GatedRecurrence)
    if is_of_stack and parameter.startswith("weight_hr"):
        return "torch's kernel does not show the units before a projection"
    if not (is_of_stack and parameter.startswith("weight_hh")) and normalised & set(units.axes_of(weight.units[1])):
        return "a LayerNorm or RMSNorm over fewer units changes what it reads of the others"
    is_conv = kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d) and module.groups == 1
    is_cell = kind in (nn.LSTMCell, nn.GRUCell, nn.RNNCell)
    if not (is_of_stack or is_conv or is_cell or kind is nn.Linear):
        return f"it belongs to a {kind.__name__}, and what that reads is not known"
    bias = parameter.replace("weight", "bias", 1)
    has_bias = isinstance(module._parameters.get(bias), nn.Parameter)
    shared = {alias for other in units.weights.values() if len(other.aliases) > 1 for alias in other.aliases}
    name = f"{path}.{bias}" if path else bias
    return Reader(weight, name if has_bias and name not in shared else None, module, parameter)


def _moments(
    network: nn.Module, units: Units, gates: Tensor, readers: Mapping[str, Reader], calls: Sequence[Call]
) -> dict[str, Moments]:
    """What each layer reads, multiplied by these gates, over some runs of the network."""
    found = {name: Moments() for name in readers}
    handles: list[Any] = []
    stacks: dict[GatedRecurrence, dict[str, Callable[[Tensor], None]]] = {}
    for name, reader in readers.items():
        add = partial(_add_gated, found[name], _columns(reader.weight, gates))
        if isinstance(reader.module, GatedRecurrence):
            stacks.setdefault(reader.module, {})[reader.parameter] = add
        else:
            hook = partial(_add_inputs, reader.parameter, isinstance(reader.module, nn.modules.conv._ConvNd), add)
            handles.append(reader.module.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        for stack, adders in stacks.items():
            stack.watch = partial(_add_layer, adders)
        with gated_by(network, units, gates), evaluating(network), _as_it_was(network), torch.random.fork_rng():
            # what autocast made half as wide, such as a state that was carried over, as wide as the weights again
            like = next(network.parameters())
            with torch.autocast(like.device.type, enabled=False):
                for args, kwargs in map_tensors(lambda part: _as_wide(part, like.dtype), list(calls)):
                    network(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
        for stack in stacks:
            del stack.watch
    return found


def _as_wide(part: Any, dtype: torch.dtype) -> Any:
    is_narrow = isinstance(part, Tensor) and part.dtype in (torch.float16, torch.bfloat16)
    return part.to(dtype) if is_narrow else part


def _over_processes(total: Tensor | None, size: int, group: Any, device: torch.device) -> Tensor | None:
    """The sum over all processes of a training, which must all change their weights alike; each has other batches."""
    if group is None:
        return total
    summed = torch.zeros(size, size, dtype=torch.float64) if total is None else total
    summed = summed.to(device)
    dist.all_reduce(summed, group=group)
    return summed.cpu() if bool(summed.any()) else None


def _add_gated(moments: Moments, gates: Tensor, values: Tensor, *, is_gated: bool = False) -> None:
    moments.add(values if is_gated else values * gates.to(values))


def _add_inputs(
    parameter: str, is_conv: bool, add: Callable[[Tensor], None], module: nn.Module, args: Any, kwargs: Any
) -> None:
    """Pre-hook of a layer or cell."""
    values = [*args, *kwargs.values()]
    if parameter == "weight_hh":
        state = values[1] if len(values) > 1 else None
        if state is not None:
            add(state[0] if isinstance(state, (tuple, list)) else state)
    else:
        add(values[0].movedim(-1 - len(module.kernel_size), -1) if is_conv else values[0])  # type: ignore[arg-type]


def _add_layer(adders: Mapping[str, Callable[..., None]], keys: Sequence[str], data: Tensor, output: Tensor) -> None:
    """What one layer of a stack reads: its input, which comes in gated, and its own output of the step before."""
    for key, own in zip(keys, output.chunk(len(keys), -1), strict=True):
        if f"weight_ih_{key}" in adders:
            adders[f"weight_ih_{key}"](data, is_gated=True)
        if f"weight_hh_{key}" in adders:
            adders[f"weight_hh_{key}"](own)


@contextmanager
def _as_it_was(network: nn.Module) -> Iterator[None]:
    """What modules remember from one call to the next is afterwards as it was before."""
    modules = [module for module in network.modules() if not isinstance(module, Gates)]  # who count their draws
    attributes = [(module, dict(vars(module)), dict(module._buffers)) for module in modules]
    values = [
        (buffer, buffer.clone()) for module in modules for buffer in module._buffers.values() if buffer is not None
    ]
    try:
        yield
    finally:
        for module, before, buffers in attributes:
            vars(module).clear()
            vars(module).update(before)
            module._buffers.update(buffers)
        for buffer, value in values:
            buffer.copy_(value)


def _columns(weight: Weight, gates: Tensor) -> Tensor:
    """The gate of what is read by each column, 1 where there is none: `(column,)`."""
    return dict(scales(weight, gates.cpu())).get(1, torch.ones(weight.shape[1]))


def _repair_reader_(network: nn.Module, reader: Reader, before: Tensor, after: Tensor, moments: Tensor) -> None:
    old, new = _columns(reader.weight, before), _columns(reader.weight, after)
    kept, gone = (((new != 0) & (old != 0)).nonzero().squeeze(1), ((new == 0) & (old != 0)).nonzero().squeeze(1))
    if not len(gone):
        return
    mix, constant = predictor(moments, kept, gone, has_constant=reader.bias is not None)
    weight = raw_tensor(network, reader.weight.name)
    own = weight.detach().transpose(0, 1).cpu().double()  # (column, row, …)
    taken = own[gone].flatten(1)
    change = (mix.T @ taken).reshape(own[kept].shape)  # (kept, row, …)
    scale = (old[kept] / new[kept]).double().reshape([-1, *[1] * (own.dim() - 1)])
    own[kept] = (own[kept] + change) * scale
    weight.copy_(own.transpose(0, 1))
    if reader.bias is not None:
        more = (constant @ taken).reshape(own.shape[1:])
        raw_tensor(network, reader.bias).add_(more.reshape(len(more), -1).sum(1).to(weight))  # over a kernel's places


def predictor(
    moments: Tensor, kept: Tensor, gone: Tensor, *, has_constant: bool = True, ridge: float | None = None
) -> tuple[Tensor, Tensor]:
    """Best linear prediction of some features from others.

    Args:
        moments: sums of products of features, the last of which is the constant 1: `(feature + 1, feature + 1)`.
        kept: numbers of the features that predict.
        gone: numbers of those that are predicted.
        has_constant: whether the constant may predict too.
        ridge: what is added to the diagonal, as a multiple of its mean; `RIDGE` if None.

    Returns:
        Weights `(gone, kept)` and constants `(gone,)`.

    Example:
        >>> moments = Moments()
        >>> moments.add(torch.tensor([[0.0, 1.0], [1.0, 3.0], [2.0, 5.0]]))  # 2 x + 1
        >>> weights, constants = predictor(moments.total, torch.tensor([0]), torch.tensor([1]))
        >>> f"{weights.item():.1f} x + {constants.item():.1f}"
        '2.0 x + 1.0'
    """
    total = moments / moments[-1, -1].clamp(min=1)
    mean = total[-1, :-1] if has_constant else torch.zeros_like(total[-1, :-1])
    spread = total[:-1, :-1] - torch.outer(
        mean, mean
    )  # the constant takes the means, and is not held back by the ridge
    own = spread[kept][:, kept]
    size = own.diagonal().mean()
    if not size > 0:  # features that never change, or none: nothing but the constant can tell of others
        weights = spread.new_zeros(len(gone), len(kept))
    else:
        own.diagonal().add_((RIDGE if ridge is None else ridge) * size)
        weights = torch.linalg.solve(own, spread[kept][:, gone]).T
    return weights, mean[gone] - weights @ mean[kept]
