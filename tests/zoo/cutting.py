"""Cut a traced network by hand and compare, so that tracing is tested without surgery."""

import copy

import torch
from torch import nn

from l0rnn.tracing.run import tensors_in
from l0rnn.tracing.units import STAYS, cut, scales


def random_half(units, seed=0):
    """Which units are kept: half of each axis, so that layers of equal width stay of equal width."""
    generator = torch.Generator().manual_seed(seed)
    keep = torch.zeros(units.count, dtype=torch.bool)
    for axis in units.axes.values():
        order = torch.randperm(axis.size, generator=generator)
        keep[axis.start + order[: (axis.size + 1) // 2]] = True
    return keep


def masked(network, units, gates):
    """The dense network with gates folded into what reads the units."""
    result = copy.deepcopy(network)
    tensors = dict([*result.named_parameters(remove_duplicate=False), *result.named_buffers(remove_duplicate=False)])
    for name, weight in units.weights.items():
        for dimension, factors in scales(weight, gates):
            shape = [-1 if d == dimension else 1 for d in range(len(weight.units))]
            tensors[name].data.mul_(factors.reshape(shape))
    for name, numbers in units.normalised.items():
        open_units = (numbers == STAYS) | (gates[numbers.clamp(min=0)] > 0)
        module = result.get_submodule(name)
        module.forward = _normalises_open(module, open_units)
    return result


def _normalises_open(module, open_units):
    weight = module.weight if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) else module.gamma
    bias = getattr(module, "bias", getattr(module, "beta", None))
    is_channel = not isinstance(module, (nn.LayerNorm, nn.RMSNorm))

    def forward(x):
        x = x.transpose(1, -1) if is_channel else x
        kept = x[..., open_units]
        if not isinstance(module, nn.RMSNorm):
            x = x - kept.mean(-1, keepdim=True)
            kept = kept - kept.mean(-1, keepdim=True)
        eps = module.eps if module.eps is not None else torch.finfo(x.dtype).eps
        y = x / (kept.square().mean(-1, keepdim=True) + eps).sqrt() * weight
        y = y if bias is None else y + bias
        return y.transpose(1, -1) if is_channel else y

    return forward


def smaller(network, units, keep):
    """The network whose parameters are cut, its attributes following."""
    result = copy.deepcopy(network)
    before = {name: tuple(p.shape) for name, p in _tensors(result).items()}
    tensors = _tensors(result)
    for name, weight in units.weights.items():
        new = cut(tensors[name].detach(), weight, keep)
        new = nn.Parameter(new) if weight.is_parameter else new
        for alias in weight.aliases:
            path, _, leaf = alias.rpartition(".")
            module = result.get_submodule(path)
            if weight.is_parameter:
                delattr(module, leaf) if leaf not in module._parameters else None
                module._parameters[leaf] = new
                if hasattr(module, "_flat_weights_names") and leaf in module._flat_weights_names:
                    module._flat_weights[module._flat_weights_names.index(leaf)] = new
            else:
                module._buffers[leaf] = new
    after = {name: tuple(p.shape) for name, p in _tensors(result).items()}
    sizes = {axis.size: int(keep[axis.units].sum()) for axis in units.axes.values()}
    for path, module in result.named_modules():
        _follow(module, path, before, after, sizes)
    return result


def _tensors(network):
    return dict([*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)])


def _follow(module, path, before, after, sizes):
    """Integers that equal an old width become the new one."""
    prefix = f"{path}." if path else ""
    own = {name for name in before if name.startswith(prefix)}
    changes = dict(sizes) if not path else {}
    for name in own:
        for old, new in zip(before[name], after[name], strict=True):
            changes[old] = new if old != new else changes.get(old, old)
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)):
        weight = module.weight
        transposed = isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d))
        if module.groups == module.in_channels > 1:
            module.groups = weight.size(0)
        module.in_channels = weight.size(0) if transposed else weight.size(1) * module.groups
        return
    if isinstance(module, nn.RNNBase):
        module.input_size = module.weight_ih_l0.size(1)
        module.hidden_size = module.weight_ih_l0.size(0) // {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
        module.proj_size = module.weight_hh_l0.size(1) if module.proj_size else 0
        return
    if isinstance(module, nn.RNNCellBase):
        module.input_size, module.hidden_size = module.weight_ih.size(1), module.weight_hh.size(1)
        return
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        module.normalized_shape = tuple(module.weight.shape)
        return
    for key, value in vars(module).items():
        if type(value) is int and changes.get(value, value) != value:
            setattr(module, key, changes[value])
        elif isinstance(value, tuple) and value and all(type(v) is int for v in value) and not isinstance(module, nn.Conv2d):
            setattr(module, key, tuple(changes.get(v, v) for v in value))


def compare(entry, units_of, seed=0, tolerance=1e-5):
    """The largest difference between the masked and the smaller network, over all outputs."""
    network = entry.network()
    torch.manual_seed(seed)
    args, kwargs = entry.inputs(), entry.kwargs()
    units = units_of(network, args, kwargs)
    keep = random_half(units, seed)
    large, small = masked(network, units, keep.float()), smaller(network, units, keep)
    small_args = _cut_states(units, keep, args)
    with torch.no_grad():
        expected = list(tensors_in(large(*copy.deepcopy(args), **kwargs)))
        found = list(tensors_in(small(*copy.deepcopy(small_args), **kwargs)))
    worst = 0.0
    for numbers, one, other in zip(units.outputs, expected, found, strict=True):
        if numbers is not None:
            kept = (numbers == STAYS) | keep[numbers.clamp(min=0)]
            one, other = one[kept.expand(one.shape)], other.reshape(-1)
        assert one.shape == other.shape, (one.shape, other.shape)
        if one.is_floating_point():
            worst = max(worst, float((one - other).abs().max()) / (1 + float(one.abs().max())))
    return worst


def _cut_states(units, keep, args):
    number = -1

    def change(value):
        nonlocal number
        if isinstance(value, torch.Tensor):
            number += 1
            if number in units.input_states:
                numbers = units.input_states[number].reshape(value.shape)
                kept = (numbers == STAYS) | keep[numbers.clamp(min=0)]
                return value[kept].reshape(*value.shape[:-1], -1)
            return value
        if isinstance(value, (tuple, list)):
            return type(value)(change(v) for v in value)
        return value

    return change(args)
