"""Torch's fused recurrent functions and single cells.

The rows of a weight are packed as ``(gate unit)``; all gates of a unit live and die with it, and so does the column of
``weight_hh`` that reads it one step later. With a projection, cell units are read by ``weight_hr`` alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from l0rnn.tracing.rules.atoms import OUTSIDE, compact, line, varies
from l0rnn.tracing.rules.run import Call, Reading, Shadow


def stack(call: Call) -> None:
    """``lstm``, ``gru``, ``rnn_tanh``, ``rnn_relu``, of tensors or of packed data."""
    is_packed = isinstance(call.args[3], (tuple, list))
    if is_packed:
        data, _, hx, weights, has_bias, num_layers, _, _, bidirectional = call.args
        batch_first = False
    else:
        data, hx, weights, has_bias, num_layers, _, _, bidirectional, batch_first = call.args
    directions = 2 if bidirectional else 1
    is_lstm = call.name == "lstm"
    states = list(hx) if isinstance(hx, (tuple, list)) else [hx]
    per_layer = len(weights) // (num_layers * directions)
    read = compact(call.labels(data)).expand(*[-1] * (data.dim() - 1), data.size(-1))
    steps = data.numel() // max(1, data.size(-1))
    source = _one(read)
    finals: list[list[Tensor]] = [[] for _ in states]
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            number = layer * directions + direction
            own = list(weights[number * per_layer : (number + 1) * per_layer])
            w_ih, w_hh = own[0], own[1]
            biases = own[2:4] if has_bias else []
            projection = own[2 + 2 * has_bias] if len(own) > 2 + 2 * has_bias else None
            unit, cell = _cell(call, read, source, w_ih, w_hh, biases, projection, steps)
            outputs.append(unit)
            for part, labels in enumerate((unit, cell) if is_lstm else (unit,)):
                finals[part].append(labels)
                _take_state(call, states[part], number, labels)
        read = source = torch.cat(outputs)
    out = call.out[0] if isinstance(call.out, (tuple, list)) else call.out
    call.set(out, source)
    for part, final in enumerate(finals):
        rows = torch.stack(final) if len({len(row) for row in final}) == 1 else torch.full((), OUTSIDE)
        result = call.out[1 + part]
        if rows.dim() == 2:
            rows = rows[:, None, :].expand(result.shape) if result.dim() == 3 else rows.expand(result.shape)
        call.tracer.set_shadow(result, Shadow((rows.expand(result.shape),), is_state=rows.dim() > 0))


def cell(call: Call) -> None:
    """``lstm_cell``, ``gru_cell``, ``rnn_tanh_cell``, ``rnn_relu_cell``."""
    data, hx, w_ih, w_hh, *biases = call.args
    biases = [bias for bias in biases if isinstance(bias, Tensor)]
    states = list(hx) if isinstance(hx, (tuple, list)) else [hx]
    read = compact(call.labels(data)).expand(*[-1] * (data.dim() - 1), data.size(-1))
    steps = data.numel() // max(1, data.size(-1))
    unit, _ = _cell(call, read, _one(read), w_ih, w_hh, biases, None, steps)
    for state in states:
        _take_state(call, state, None, unit)
    results = call.out if isinstance(call.out, (tuple, list)) else (call.out,)
    for result in results:
        call.tracer.set_shadow(result, Shadow((unit.expand(result.shape),), is_state=True))


def _cell(
    call: Call,
    read: Tensor,
    source: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    biases: list[Tensor],
    projection: Tensor | None,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Tie the weights of one layer and direction; labels of its output units and of its cell units."""
    atoms = call.atoms
    in_rows, in_columns = _sides(call, w_ih)
    own_rows, own_columns = _sides(call, w_hh)
    atoms.unite(in_columns, read, "what it reads comes from outside the network")
    for bias in biases:
        atoms.unite(_bias(call, bias), own_rows, call.why)
    atoms.unite(in_rows, own_rows, call.why)
    cells = own_columns if projection is None else _sides(call, projection)[1]
    gates = own_rows.reshape(-1, len(cells))
    atoms.unite(gates, cells[None], call.why)
    unit = own_columns
    module = call.tracer.module
    readings = call.tracer.run.readings
    readings.append(Reading(module, call.name, in_rows, in_columns, steps, source=source))
    readings.append(Reading(module, call.name, own_rows, own_columns, steps, source=own_columns))
    for columns in (in_columns, own_columns):
        atoms.read(columns)
    atoms.write(own_rows)
    atoms.write(in_rows)
    if projection is not None:
        out_rows, out_columns = _sides(call, projection)
        atoms.unite(out_rows, own_columns, call.why)
        atoms.read(out_columns)
        atoms.write(out_rows)
        readings.append(Reading(module, call.name, out_rows, out_columns, steps, source=out_columns))
        call.tracer.run.projections.append((out_rows, out_columns))
    call.tracer.run.recurrent.append(unit)
    call.tracer.run.recurrent.append(cells)
    return unit, cells


def _sides(call: Call, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Labels of the rows and of the columns of a matrix."""
    shadow = call.shadow(weight)
    if len(shadow.sides) != 2 or not shadow.is_weight:
        outside = torch.full((), OUTSIDE)
        call.fix(weight, f"{call.why} takes a weight that is not a parameter")
        return outside.expand(weight.size(0)), outside.expand(weight.size(1))
    rows, columns = shadow.sides
    if varies(columns, 0) or varies(rows, 1):  # a weight put together from several
        call.atoms.unite(columns, line(columns, 0), call.why)
        call.atoms.unite(rows, line(rows, 1), call.why)
    return line(rows, 1)[:, 0], line(columns, 0)[0]


def _bias(call: Call, bias: Tensor) -> Tensor:
    sides = call.shadow(bias).sides
    return sides[0] if sides else torch.full((), OUTSIDE).expand(bias.shape)


def _one(labels: Tensor) -> Tensor:
    """The labels of one step, `(unit,)`."""
    return line(labels, *range(labels.dim() - 1)).reshape(-1).clone()


def _take_state(call: Call, state: Tensor, number: int | None, units: Tensor) -> None:
    """A state that is handed in belongs to the same units; one from the example inputs is noted as theirs."""
    shadow = call.shadow(state)
    row = (lambda labels: labels) if number is None else (lambda labels: labels[number])
    if shadow.places is not None:
        places = row(shadow.places)
        whole = torch.full(call.tracer.example_shapes[shadow.source], OUTSIDE)
        labels = call.tracer.run.input_states.setdefault(shadow.source, whole)
        labels.view(-1)[places.reshape(-1)] = units.expand(places.shape).reshape(-1)
        return
    call.meet(state, units.expand(*state.shape[:-1], -1))
    call.atoms.unite(row(call.labels(state)), units, f"{call.why} starts from a state that has to stay")


RULES = {
    "lstm gru rnn_tanh rnn_relu": stack,
    "lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell": cell,
}
