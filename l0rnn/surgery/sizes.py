"""What modules remember of the sizes of their weights, kept in step with the weights after a cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.tracing.units import STAYS, Units


def set_sizes_(network: nn.Module, units: Units, keep: Tensor) -> None:
    """Let every module of torch know the sizes of the weights that it holds now.

    Args:
        network: with its weights cut already.
        units: the units before.
        keep: which of them are kept, bool `(unit,)`.
    """
    for name, module in network.named_modules():
        _set_sizes_of_(module)
        if name in units.normalised and hasattr(module, "normalized_shape"):
            numbers = units.normalised[name]
            module.normalized_shape = (int(((numbers == STAYS) | keep[numbers.clamp(min=0)]).sum()),)
    for module in network.modules():
        if isinstance(module, RaggedRNN):
            _set_ragged_sizes_(module)


def _set_sizes_of_(module: Any) -> None:
    own: Mapping[str, Tensor | None] = {**module._parameters, **module._buffers}
    weight = own.get("weight")
    if weight is None and hasattr(module, "parametrizations") and "weight" in module.parametrizations:
        weight = module.weight
    if isinstance(module, nn.Linear) and weight is not None:
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and weight is not None:
        module.embedding_dim = weight.size(1)
    elif isinstance(module, _ConvNd) and weight is not None:
        is_depthwise = module.groups == module.in_channels > 1
        outer, inner = (1, 0) if isinstance(module, _ConvTransposeNd) else (0, 1)
        if is_depthwise:
            module.groups = weight.size(0)
            module.in_channels = module.out_channels = weight.size(0)
        else:
            module.out_channels = weight.size(outer) * (module.groups if outer == 1 else 1)
            module.in_channels = weight.size(inner) * (module.groups if inner == 1 else 1)
    elif isinstance(module, _NormBase):
        sized = [tensor for tensor in (weight, own.get("running_mean")) if tensor is not None]
        module.num_features = len(sized[0]) if sized else module.num_features
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and weight is not None:
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.PReLU) and weight is not None:
        module.num_parameters = weight.numel()
    elif isinstance(module, nn.RNNCellBase):
        module.input_size, module.hidden_size = own["weight_ih"].size(1), own["weight_hh"].size(1)  # type: ignore[union-attr]
    elif isinstance(module, nn.RNNBase) and len(set(stack_widths(module))) == 1:
        ((module.hidden_size, module.proj_size),) = set(stack_widths(module))
        module.input_size = own["weight_ih_l0"].size(1)  # type: ignore[union-attr]
        module._init_flat_weights()


def stack_widths(module: nn.RNNBase) -> list[tuple[int, int]]:
    """Hidden and projected units (0 for none) of each layer and direction, as its weights have them."""
    widths = []
    for depth in range(module.num_layers):
        for reverse in ("", "_reverse")[: 2 if module.bidirectional else 1]:
            recurrent: Any = module._parameters[f"weight_hh_l{depth}{reverse}"]
            projection = module._parameters.get(f"weight_hr_l{depth}{reverse}")
            if projection is None:
                widths.append((recurrent.size(1), 0))
            else:
                widths.append((projection.size(1), projection.size(0)))
    return widths


def _set_ragged_sizes_(module: Any) -> None:
    module.hidden_sizes = [[int(layer.hidden_size) for layer in row] for row in module.layers]
    if module.proj_sizes is not None:
        module.proj_sizes = [[int(layer.proj_size) for layer in row] for row in module.layers]
    module.input_size = int(module.layers[0][0].input_size)
    module.output_size = sum(int(layer.proj_size or layer.hidden_size) for layer in module.layers[-1])


def follow_attributes_(network: nn.Module, units: Units, keep: Tensor) -> list[str]:
    """Set a user's own numbers, such as ``self.hidden_size``, to the new widths of the weights around them.

    A number is taken for a width if all dimensions of that length, in the weights of its module and of those within,
    have one and the same new length. It is a guess: the proof says whether it was right.

    Returns:
        What was set, such as ``encoder.hidden_size 256 → 80``.
    """
    changed = []
    for name, module in network.named_modules():
        if type(module).__module__.startswith("torch.nn.") or isinstance(module, RaggedRNN):
            continue
        prefix = f"{name}." if name else ""
        lengths: dict[int, set[int]] = {}
        for weight in units.weights.values():
            if not weight.name.startswith(prefix):
                continue
            for numbers in weight.units:
                new = int(((numbers == STAYS) | keep[numbers.clamp(min=0)]).sum()) if len(keep) else len(numbers)
                lengths.setdefault(len(numbers), set()).add(new)
        for attribute, value in list(vars(module).items()):
            if type(value) is int and len(found := lengths.get(value, set()) - {value}) == 1:
                (new,) = found
                setattr(module, attribute, new)
                changed.append(f"{prefix}{attribute} {value} → {new}")
    return changed


def raw_tensor(network: nn.Module, name: str) -> Tensor:
    """A parameter or buffer by its name, without the gates that its module may read it with."""
    layer, _, own = name.rpartition(".")
    module = network.get_submodule(layer)
    found = module._parameters.get(own)
    found = module._buffers.get(own) if found is None else found
    if found is None:
        raise ValueError(f"`network` has no parameter or buffer {name!r} any more; trace it again")
    return found


def set_raw_(network: nn.Module, name: str, value: Tensor) -> None:
    """Put another tensor in the place of a parameter or buffer."""
    layer, _, own = name.rpartition(".")
    module = network.get_submodule(layer)
    if own in module._parameters:
        module._parameters[own] = value if isinstance(value, nn.Parameter) else nn.Parameter(value)
    else:
        module._buffers[own] = value


