"""Linear and LayerNorm that read gated units; ordinary torch layers whose class is changed when a network is gated."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from l0rnn.gates.folding import fold
from l0rnn.gates.gates import Gates
from l0rnn.gates.open_units import WORTH_SKIPPING, open_positions

Blocks = list["Gates | int"]  # what a layer reads, in order: the gates of an axis, or the width of one without gates


def gate_values(blocks: Blocks, like: Tensor) -> Tensor:
    """The gates of all blocks, 1 where there are none: `(feature,)` in the dtype of ``like``."""
    values = [like.new_ones(block) if isinstance(block, int) else block.value.to(like.dtype) for block in blocks]
    return values[0] if len(values) == 1 else torch.cat(values)


class GatedLinear(nn.Linear):
    """Linear that multiplies what it reads by the gates of the units; on a CPU it leaves out those that are closed."""

    blocks: Blocks

    def forward(self, input: Tensor) -> Tensor:
        """`(…, feature)` → `(…, unit)`."""
        _check_width(input, self.in_features)
        values = gate_values(self.blocks, input)
        if values.device.type != "cpu":  # the host would have to wait for the gates to know which are open
            return nn.functional.linear(fold(input, values), self.weight, self.bias)
        units = open_positions(values)
        if len(units) > WORTH_SKIPPING * len(values):
            return nn.functional.linear(fold(input, values), self.weight, self.bias)
        open_input = input.index_select(-1, units) * values[units]
        return nn.functional.linear(open_input, self.weight.index_select(1, units), self.bias)


class GatedLayerNorm(nn.LayerNorm):
    """LayerNorm over the open units alone, as it will be once the closed ones are gone."""

    blocks: Blocks

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `(…, unit)` over the units whose gate is not 0; closed units come out as the bias alone."""
        _check_width(input, self.normalized_shape[0])
        masks = [input.new_ones(block) if isinstance(block, int) else _open(block).to(input) for block in self.blocks]
        mask = torch.cat(masks)
        units = mask.sum()
        centred = (input - (input * mask).sum(-1, keepdim=True) / units) * mask
        variance = centred.square().sum(-1, keepdim=True) / units
        normal = centred * torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            normal = normal * self.weight
        return normal if self.bias is None else normal + self.bias


def _check_width(input: Tensor, width: int) -> None:
    """Torch's own check comes too late: gates would broadcast one unit to all, and picking units hides surplus ones."""
    if input.size(-1) != width:
        raise RuntimeError(f"`input` must have {width} units in its last dimension, got {input.size(-1)}")


def _open(gates: Gates) -> Tensor:
    """Units that surgery would keep: those with a gate that is not 0, and the first if there is none."""
    is_open = gates.value != 0
    return torch.cat((is_open[:1] | ~is_open.any(), is_open[1:]))
