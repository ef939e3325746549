"""Run a gated recurrent stack on its open units alone.

A unit whose gate is exactly 0 is read by nothing, so it need not be computed: its rows and columns are left out of the
weights, the fused kernel runs on what remains, and the state is put back in its place. Outputs and gradients are those
of folding, because a gate clamped to 0 has no gradient either. The state of a unit that was left out stays what it was
before; that matters only when a unit closed in one segment opens in the next, which then starts from the older state.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from l0rnn.gates.gates import open_positions
from l0rnn.gates.kernels import call_kernel
from l0rnn.recurrent.stack import run_stack

# Below this share of the multiply-adds, gathering weights costs less than computing closed units
# (recipes/penn_treebank/step_time.py).
WORTH_SKIPPING = 0.85
# On a GPU the host has to wait for the gates to know which are open, and a step of a small batch takes as long with few
# units as with many: on an H200 leaving out three quarters of 2 x 1500 units takes 0.62 of the time with 512 sequences,
# and more than folding with 20.
WORTH_SKIPPING_ON_GPU = 0.15
SEQUENCES_ON_GPU = 256


class OpenUnits:
    """Which units of a gated stack are open in this pass, and what computing only those would cost.

    Args:
        layer: the stack, a `GatedRecurrence`; its gates have been drawn.
        input_values: gates of its input, `(feature,)`, or None.
    """

    def __init__(self, layer: Any, input_values: Tensor | None) -> None:
        self.layer = layer
        self.rows = layer.layer_rows()
        self.input = None if input_values is None else open_positions(input_values)
        self.positions: list[list[Tensor]] = []
        for row in self.rows:
            values = [layer.gates[key].value for key in row]
            # both directions of a layer run in one kernel, so they need the same number of units
            width = max(max(len(open_positions(value)) for value in values), 1)
            self.positions.append([open_positions(value, at_least=width) for value in values])

    @staticmethod
    def may_pay(layer: Any, data: Tensor, sequences: int) -> bool:
        """Whether to look which units are open; there must be gates on all units, and no projection."""
        if layer.proj_size or not all(key in layer.gates for key in layer.layer_keys()):
            return False
        if layer.skips_closed_units is None:
            return data.device.type == "cpu" or sequences >= SEQUENCES_ON_GPU
        return layer.skips_closed_units

    def pays(self) -> bool:
        """Whether computing the open units alone takes less time than folding."""
        is_on_cpu = self.positions[0][0].device.type == "cpu"
        return self.share_of_work() < (WORTH_SKIPPING if is_on_cpu else WORTH_SKIPPING_ON_GPU)

    def share_of_work(self) -> float:
        """Multiply-adds of the open units as a share of all."""
        layer = self.layer
        size, directions = layer.hidden_size, len(self.rows[0])
        done = whole = 0
        width, full = layer.input_size if self.input is None else len(self.input), layer.input_size
        for positions in self.positions:
            units = len(positions[0])
            done += directions * units * (width + units)
            whole += directions * size * (full + size)
            width, full = directions * units, directions * size
        return done / whole

    def run(
        self, data: Tensor, state: tuple[Tensor, ...], batch_sizes: Tensor | None, kernel: Any
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As the fused kernel over all layers; closed units come out as 0.

        Args:
            data: `(time, batch, feature)` or the layer's other layouts, already multiplied by the gates of the input.
            state: tensors `(layer·direction, batch, unit)`.
            batch_sizes: those of a PackedSequence, or None.
            kernel: torch's fused function for the cell.
        """
        layer, size = self.layer, self.layer.hidden_size

        def run(depth: int, columns: Tensor | None, data: Tensor, state: Sequence[Tensor]) -> Any:
            if depth:
                data = layer.dropped(data)
            row, positions = self.rows[depth], self.positions[depth]
            scale = self._values(depth - 1) if depth else None
            weights = [
                weight
                for key, units in zip(row, positions, strict=True)
                for weight in self._weights(key, units, columns, scale)
            ]
            parts = [
                torch.stack([part[i].index_select(-1, units) for i, units in enumerate(positions)]) for part in state
            ]
            output, ends = call_kernel(layer, kernel, data, parts, weights, batch_sizes)
            return output, [
                torch.stack([part[i].to(end.dtype).index_copy(-1, units, end[i]) for i, units in enumerate(positions)])
                for part, end in zip(state, ends, strict=True)
            ]

        # the open units of each layer, numbered in the output of both its directions
        written = [torch.cat([units + i * size for i, units in enumerate(positions)]) for positions in self.positions]
        layers = [[partial(run, depth, columns)] for depth, columns in enumerate([self.input, *written[:-1]])]
        states = zip(*(part.split(len(self.rows[0])) for part in state), strict=True)
        data = data if self.input is None else data.index_select(-1, self.input)
        data, finals = run_stack(layers, data, states)
        whole = data.new_zeros(*data.shape[:-1], size * len(self.rows[-1]))
        return whole.index_copy(-1, written[-1], data), tuple(torch.cat(parts) for parts in zip(*finals, strict=True))

    def _values(self, depth: int) -> Tensor:
        """Gates of the open units of a layer, in the order of its output."""
        pairs = zip(self.rows[depth], self.positions[depth], strict=True)
        return torch.cat([self.layer.gates[key].value[units] for key, units in pairs])

    def _weights(self, key: str, units: Tensor, columns: Tensor | None, scale: Tensor | None) -> list[Tensor]:
        """Rows of the open units in every gate of the cell, columns of the open units they read."""
        layer = self.layer
        size = layer.hidden_size
        gates = getattr(layer, f"weight_hh_{key}").size(0) // size
        rows = (torch.arange(gates, device=units.device)[:, None] * size + units).flatten()  # (gate unit)
        w_ih = getattr(layer, f"weight_ih_{key}").index_select(0, rows)
        if columns is not None:
            w_ih = w_ih.index_select(1, columns)
        if scale is not None:
            w_ih = w_ih * scale.to(w_ih.dtype)
        w_hh = getattr(layer, f"weight_hh_{key}").index_select(0, rows).index_select(1, units)
        w_hh = layer.dropped_weight(w_hh) * layer.gates[key].value[units].to(w_hh.dtype)
        biases = [
            getattr(layer, f"{kind}_{key}").index_select(0, rows) for kind in ("bias_ih", "bias_hh")[: 2 * layer.bias]
        ]
        return [w_ih, w_hh, *biases]
