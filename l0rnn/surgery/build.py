"""Build the network of the kept units: fresh plain layers around the cut weights, gates folded in."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.axes import Blueprint, Weight, cut, positions
from l0rnn.gates.network import DrawGates
from l0rnn.recurrent.names import recurrent_parameter_name, recurrent_sizes
from l0rnn.recurrent.ragged_rnn import CLASSES, RaggedRNN


def build(
    network: nn.Module, blueprint: Blueprint, gates: Mapping[str, Tensor], keep: Mapping[str, Tensor]
) -> nn.Module:
    """The network with fresh plain layers, cut to the kept units, gates folded in. Nothing is run."""
    modules = dict(network.named_modules())
    fresh: dict[str, nn.Module] = {}
    for weight in blueprint.weights:
        if weight.layer not in fresh:
            fresh[weight.layer] = _empty_layer(modules[weight.layer], weight.layer, blueprint, keep)
        source = modules[weight.layer].get_parameter(weight.parameter)
        _set_weight_(fresh[weight.layer], weight, _cut(source.detach(), weight, blueprint, gates, keep), source)
    for layer in blueprint.outputs:
        if layer not in fresh and isinstance(modules[layer], nn.LayerNorm):  # without weights
            fresh[layer] = _empty_layer(modules[layer], layer, blueprint, keep)
    for embedding, linear in blueprint.tied.items():
        fresh[embedding] = _empty_layer(modules[embedding], embedding, blueprint, keep)
        fresh[embedding].weight = fresh[linear].weight
    if "" in fresh:
        raise ValueError("`network` must hold its layers as submodules; wrap the single layer in a module")
    memo: dict[int, Any] = {id(modules[layer]): module for layer, module in fresh.items()}
    small = copy.deepcopy(network, memo)
    for layer, module in small.named_modules():
        module.training = modules[layer].training if layer in modules else network.training
        for handle, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, DrawGates):
                del module._forward_pre_hooks[handle]
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()
    return small


def _cut(
    source: Tensor, weight: Weight, blueprint: Blueprint, gates: Mapping[str, Tensor], keep: Mapping[str, Tensor]
) -> Tensor:
    indices = {
        name: positions([keep[axis] for axis in axes])
        for name, axes in weight.axes.items()
        if not all(bool(keep[axis].all()) for axis in axes)  # the vocabulary, say: selecting it all would copy it all
    }
    if weight.reads is None:
        return cut(source, weight, indices=indices)
    axes = weight.axes[weight.reads]
    prescaled = (False,) * len(axes)
    if weight.reads == "feature" and weight.key in ("", "l0", "l0_reverse"):
        prescaled = blueprint.prescaled[weight.layer]
    factors = []
    for axis, is_scaled in zip(axes, prescaled, strict=True):
        ungated = axis not in gates or is_scaled
        values = torch.ones(len(keep[axis])) if ungated else gates[axis].cpu()
        factors.append(values[keep[axis]])
    scale = torch.cat(factors)
    return cut(source, weight, indices=indices, scale=None if bool((scale == 1).all()) else scale)


def _set_weight_(module: nn.Module, weight: Weight, value: Tensor, source: nn.Parameter) -> None:
    name = recurrent_parameter_name(module, weight.key, weight.kind) if weight.key else weight.parameter
    owner, _, kind = name.rpartition(".")
    expected = module.get_parameter(name).shape
    # oneDNN's LSTM reads past the buffer of a wrong shape instead of failing, so a shape is checked here or never
    if value.shape != expected:
        raise ValueError(f"{weight.name!r} was cut to {tuple(value.shape)}, but its layer needs {tuple(expected)}")
    setattr(module.get_submodule(owner), kind, nn.Parameter(value, requires_grad=source.requires_grad))


def _empty_layer(module: nn.Module, layer: str, blueprint: Blueprint, keep: Mapping[str, Tensor]) -> nn.Module:
    """A plain layer of the kept widths, on the meta device until its weights are set."""

    def width(axes: tuple[str, ...]) -> int:
        return sum(int(keep[axis].sum()) for axis in axes)

    outputs = width(blueprint.outputs[layer])
    if isinstance(module, nn.Linear):
        inputs = width(blueprint.inputs[layer])
        return nn.Linear(inputs, outputs, bias=module.bias is not None, device="meta")
    if isinstance(module, nn.LayerNorm):
        affine = {"elementwise_affine": module.elementwise_affine, "bias": module.bias is not None}
        return nn.LayerNorm(outputs, module.eps, **affine, device="meta")
    if isinstance(module, nn.Embedding):
        options: dict[str, Any] = {"scale_grad_by_freq": module.scale_grad_by_freq, "sparse": module.sparse}
        return nn.Embedding(module.num_embeddings, outputs, module.padding_idx, **options, device="meta")
    sizes = [
        [int(keep[axis].sum()) for axis in (f"{layer}.{key}", f"{layer}.{key}_cell") if axis in keep]
        for key in recurrent_sizes(module)
    ]
    return _empty_recurrent_layer(module, width(blueprint.inputs[layer]), sizes)


def _empty_recurrent_layer(module: Any, input_size: int, sizes: list[list[int]]) -> nn.Module:
    """``sizes``: for each layer and direction, [units] or [projected units, cell units]."""
    options: dict[str, Any] = {"bias": module.bias, "batch_first": module.batch_first, "device": "meta"}
    hidden = [size[-1] for size in sizes]
    projected = [size[0] for size in sizes] if len(sizes[0]) == 2 else None
    if len({tuple(size) for size in sizes}) == 1:
        if module.mode.startswith("RNN_"):
            options["nonlinearity"] = module.mode.removeprefix("RNN_").lower()
        if projected:
            options["proj_size"] = projected[0]
        if module.num_layers > 1:
            options["dropout"] = module.dropout
        options |= {"num_layers": module.num_layers, "bidirectional": module.bidirectional}
        return CLASSES[module.mode](input_size, hidden[0], **options)
    directions = 2 if module.bidirectional else 1
    return RaggedRNN(
        module.mode,
        input_size,
        _in_layers(hidden, directions),
        proj_sizes=_in_layers(projected, directions) if projected else None,
        dropout=module.dropout,
        **options,
    )


def _in_layers(flat: list[int], directions: int) -> list[list[int]]:
    return [flat[start : start + directions] for start in range(0, len(flat), directions)]
