"""A recurrent stack as a loop over time, from the formulas in torch's documentation: fused layers are held against it.

And the forms in which layers take their input, with losses and gradients of what they return.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

FORMS = ("batched", "unbatched", "packed, sorted", "packed, unsorted")
TIME, BATCH = 5, 3
LENGTHS = {"packed, sorted": [5, 4, 2], "packed, unsorted": [2, 5, 4]}


def input_of(layer: Any, form: str) -> Tensor:
    """Plain numbers in the shape of a form; for packed forms, the padded batch."""
    if form == "unbatched":
        return torch.randn(TIME, layer.input_size)
    return torch.randn(*((BATCH, TIME) if layer.batch_first else (TIME, BATCH)), layer.input_size)


def packed(data: Tensor, form: str, *, batch_first: bool) -> Tensor | PackedSequence:
    if form not in LENGTHS:
        return data
    lengths = torch.tensor(LENGTHS[form])
    return pack_padded_sequence(data, lengths, batch_first=batch_first, enforce_sorted=form == "packed, sorted")


def state_of(layer: Any, form: str) -> Any:
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    sizes = [layer.proj_size or layer.hidden_size] + [layer.hidden_size] * (layer.mode == "LSTM")
    state = tuple(torch.randn((rows, size) if form == "unbatched" else (rows, BATCH, size)) for size in sizes)
    return state if layer.mode == "LSTM" else state[0]


def tensors(value: Any) -> list[Tensor]:
    """All tensors in a nest of tuples."""
    if isinstance(value, PackedSequence):
        return [value.data]
    if isinstance(value, Tensor):
        return [value]
    return [] if value is None else [tensor for part in value for tensor in tensors(part)]


def loss_of(results: Any) -> Tensor:
    """A number on which every entry of the results has its own weight."""
    parts = [r.double() * torch.linspace(-1, 2, r.numel(), device=r.device).reshape(r.shape) for r in tensors(results)]
    return torch.stack([part.sum() for part in parts]).sum()


def run(layer: Any, data: Tensor, form: str, state: Any, read: Any = lambda results: results) -> tuple[Any, Any]:
    """What ``read`` takes of a layer's results, and the gradients of input, state and parameters."""
    data = data.clone().requires_grad_()
    state = _leaves(state)
    results = tensors(read(layer(packed(data, form, batch_first=layer.batch_first), state)))
    wanted = [data, *tensors(state), *(parameter for _, parameter in layer.named_parameters())]
    gradients = torch.autograd.grad(loss_of(results), wanted, retain_graph=True, allow_unused=True)
    return results, [torch.zeros_like(of) if by is None else by for by, of in zip(gradients, wanted, strict=True)]


def _leaves(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_leaves(part) for part in value)
    return None if value is None else value.clone().requires_grad_()


def step(
    mode: str, weights: dict[str, Tensor], data: Tensor, h: Tensor, c: Tensor, own: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of one cell, given the gates of its units: what is read is multiplied by its gate."""
    from_input = F.linear(data, weights["weight_ih"], weights.get("bias_ih"))
    from_hidden = F.linear(h * own, weights["weight_hh"], weights.get("bias_hh"))
    if mode == "LSTM":
        i, f, g, o = (from_input + from_hidden).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return (F.linear(h * cell, weights["weight_hr"]) if "weight_hr" in weights else h), c
    if mode == "GRU":
        r_input, z_input, n_input = from_input.chunk(3, -1)
        r_hidden, z_hidden, n_hidden = from_hidden.chunk(3, -1)
        z = torch.sigmoid(z_input + z_hidden)
        n = torch.tanh(n_input + torch.sigmoid(r_input + r_hidden) * n_hidden)
        return (1 - z) * n + z * h, c
    return (torch.tanh if mode == "RNN_TANH" else torch.relu)(from_input + from_hidden), c


def recurrence(
    mode: str,
    weights: dict[str, dict[str, Tensor]],
    data: Tensor,
    state: list[tuple[Tensor, Tensor]],
    gates: dict[str, Tensor],
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """A stack of recurrent layers, step by step.

    ``weights`` and ``gates`` are by key (``l0``, ``l0_reverse``, …), ``data`` is `(time, batch, feature)`, and the
    state is (h, c) of each key in order.
    """
    one = torch.ones(())
    data = data * gates.get("input", one)
    finals: list[tuple[Tensor, Tensor]] = []
    for depth in range(len({key.split("_")[0] for key in weights})):
        outputs = []
        for key in [key for key in weights if key.split("_")[0] == f"l{depth}"]:
            h, c = state[len(finals)]
            own, cell = gates.get(key, one), gates.get(f"{key}_cell", one)
            times = range(len(data))
            steps: dict[int, Tensor] = {}
            for time in reversed(times) if key.endswith("reverse") else times:
                h, c = step(mode, weights[key], data[time], h, c, own, cell)
                steps[time] = h * own
            outputs.append(torch.stack([steps[time] for time in times]))
            finals.append((h, c))
        data = torch.cat(outputs, -1)
    return data, finals
