"""Networks of one cell side by side: the classifiers of parts 1 and 2, computed as one.

A network is a list of layers, each with one or more recurrent cells of one width, which read one earlier layer each and
whose outputs are added: in a plain network one cell that reads the layer before, in that of a graph one more for each
skip connection. Layers of several networks with the same depth and about the same width are one group: their cells are
one batch of products, padded with zeros to the widest. Padded weights get no gradient but zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad

from l0rnn.recurrent.names import GATES_PER_CELL
from recipes.reber.time_loops import GruLoop, LstmLoop, SimpleLoop

MOST_ROWS = 2000  # of a group: gates times units of its cells, few enough for a time step to stay in the cache
LEAST_ROWS = 800  # with fewer than these, a group takes in layers of less width
FILLED = 0.7  # the least width in a group, as a fraction of the largest, otherwise


@dataclass(frozen=True)
class Cell:
    """One recurrent layer of torch's.

    Attributes:
        source: the depth that it reads, -1 for the embedding.
        weights: ``weight_ih``, ``weight_hh``, ``bias_ih`` and ``bias_hh``.
        masks: which entries of the first two may differ from 0, bool; None for all.
    """

    source: int
    weights: Sequence[Tensor]
    masks: tuple[Tensor | None, Tensor | None] = (None, None)


@dataclass(frozen=True)
class Member:
    """A network of a stack: the weight of its embedding, the cells of each layer, weight and bias of its Linear."""

    mode: str
    embedding: Tensor
    layers: Sequence[Sequence[Cell]]
    decoder: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Group:
    """Layers of one depth.

    Attributes:
        depth: of the layers.
        width: units of the widest.
        features: the most units that one of their cells reads.
        networks: the number of the network that each layer belongs to.
        cells: number of the network and source of each cell, by the group that the cell reads.
    """

    depth: int
    width: int
    features: int
    networks: list[int]
    cells: list[tuple[int, int]]


class Stack(nn.Module):
    """Networks of one cell with any numbers of layers, side by side.

    Attributes:
        numbers: the places in ``members`` of the networks that are still in the stack, in order.
        groups: the layers, sources before those that read them.
        weights: of embeddings, Linears and each group; the first dimension is one of networks, or of cells.
        masks: of each of the weights, or None.

    Args:
        members: the networks to take over; they are not changed.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        self.mode = members[0].mode
        self.numbers = list(range(len(members)))
        self.lasts = [len(member.layers) - 1 for member in members]
        decoders = [torch.cat((bias.unsqueeze(1), weight), 1) for weight, bias in (one.decoder for one in members)]
        weights = [_stacked([member.embedding for member in members]), _stacked(decoders)]
        self.masks: list[Tensor | None] = [None, None]
        self.groups: list[Group] = []
        self._place: dict[tuple[int, int], int] = {}  # (network, depth) → group
        for depth in range(max(self.lasts) + 1):
            for networks in _grouped(members, depth):
                self._place |= {(number, depth): len(self.groups) for number in networks}
                cells = [(number, cell) for number in networks for cell in members[number].layers[depth]]
                cells.sort(key=lambda one: self._place.get((one[0], one[1].source), -1))
                width, features = (max(cell.weights[part].size(1) for _, cell in cells) for part in (1, 0))
                sources = [(number, cell.source) for number, cell in cells]
                self.groups.append(Group(depth, width, features, networks, sources))
                packed = [self._packed(cell, self.groups[-1]) for _, cell in cells]
                masks = torch.stack([mask for _, mask in packed])
                weights.append(torch.stack([weight for weight, _ in packed]) * masks)
                self.masks.append(None if bool(masks.all()) else masks)
        self.weights = nn.ParameterList(weights)
        self._plan_()

    def forward(self, codes: Tensor, last: Tensor) -> Tensor:
        """Scores `(network, class, batch)` of codes `(time, batch)`, read at the step ``last`` of each string."""
        found, places = codes.flatten().unique(return_inverse=True)
        embedding = self.weights[0].index_select(1, found)
        columns = one_hot(places, len(found)).to(embedding.dtype).t()
        outputs: list[Tensor | None] = []
        for group, packed, reads, into in zip(self.groups, self.weights[2:], self._reads, self._into, strict=True):
            if not group.networks:
                outputs.append(None)
                continue
            ih, hh, bias_ih, bias_hh = packed.split((group.features, group.width, 1, 1), 2)
            bias = bias_ih if self.mode == "GRU" else bias_ih + bias_hh
            if group.depth == 0:  # a table by code, since there are only so many
                table = torch.bmm(ih, embedding[reads[0][1], :, : group.features].transpose(1, 2)).flatten(0, 1)
                projected = torch.addmm(bias.reshape(-1, 1), table, columns).view(len(ih), -1, codes.numel())
            else:
                parts = [_padded(outputs[source], rows, group.features) for source, rows in reads]
                projected = torch.baddbmm(bias, ih, parts[0] if len(parts) == 1 else torch.cat(parts))
            states = self._loop(projected, hh, bias_hh, len(codes))
            if len(group.cells) > len(group.networks):
                states = states.new_zeros(len(group.networks), *states.shape[1:]).index_add(0, into, states)
            outputs.append(states)
        return self._scores(outputs, last)

    def keep_(self, numbers: Sequence[int], optimizer: torch.optim.Optimizer) -> None:
        """Drop all other networks, and what the optimiser holds of them."""
        stay = set(numbers)
        for place, weight in enumerate(self.weights):
            rows = [row for row, owner in enumerate(self.owners[place]) if self.numbers[owner] in stay]
            chosen, mask = torch.tensor(rows, dtype=torch.long), self.masks[place]
            self.masks[place] = None if mask is None else mask[chosen]
            shape, weight.grad, weight.data = weight.shape, None, weight.data[chosen]
            for name, value in optimizer.state[weight].items():
                if value.shape == shape:
                    optimizer.state[weight][name] = value[chosen]
        for group in self.groups:
            group.networks[:] = [number for number in group.networks if number in stay]
            group.cells[:] = [cell for cell in group.cells if cell[0] in stay]
        self.numbers = [number for number in self.numbers if number in stay]
        self._plan_()

    @torch.no_grad()
    def write_back_(self, number: int, member: Member) -> None:
        """Set the weights of a network, which has the shapes of the one that was taken over, to those trained here."""
        embedding, decoder = (self.weights[part][self.numbers.index(number)] for part in (0, 1))
        weight, bias = member.decoder
        member.embedding.copy_(embedding[:, : member.embedding.size(1)])
        bias.copy_(decoder[:, 0])
        weight.copy_(decoder[:, 1 : 1 + weight.size(1)])
        for depth, cells in enumerate(member.layers):
            place = self._place[number, depth]
            group = self.groups[place]
            for cell in cells:
                packed = self.weights[2 + place][group.cells.index((number, cell.source))]
                rows = packed.unflatten(0, (-1, group.width))[:, : cell.weights[1].size(1)].flatten(0, 1)
                parts = rows.split((group.features, group.width, 1, 1), 1)
                for weight, part in zip(cell.weights, parts, strict=True):
                    weight.copy_(part[:, : weight.size(1)] if weight.dim() == 2 else part.squeeze(1))

    def _plan_(self) -> None:
        """Note who reads what: for each of the weights the ``owners``, as places in ``numbers``, and rows of groups."""
        position = {number: place for place, number in enumerate(self.numbers)}
        row = [{number: row for row, number in enumerate(group.networks)} for group in self.groups]
        self.owners = [list(position.values())] * 2
        self._reads: list[list[tuple[int, Tensor]]] = []  # of each group: source, and which of its layers cells read
        self._into: list[Tensor] = []  # of each group: the layer that each cell's output is added to
        for group, rows in zip(self.groups, row, strict=True):
            self.owners.append([position[number] for number, _ in group.cells])
            sources = [(self._place.get((number, source), -1), number) for number, source in group.cells]
            self._reads.append(
                [
                    (
                        source,
                        torch.tensor([position[number] if source < 0 else row[source][number] for _, number in cells]),
                    )
                    for source, cells in groupby(sources, key=lambda one: one[0])
                ]
            )
            self._into.append(torch.tensor([rows[number] for number, _ in group.cells], dtype=torch.long))
        ends = sorted((self._place[number, self.lasts[number]], number) for number in self.numbers)
        self._ends = [
            (place, torch.tensor([row[place][number] for _, number in group]))
            for place, group in groupby(ends, key=lambda one: one[0])
        ]
        self._order = torch.tensor([position[number] for _, number in ends]).argsort()

    def _loop(self, projected: Tensor, weight: Tensor, bias: Tensor, steps: int) -> Tensor:
        if self.mode == "LSTM":
            states = LstmLoop.apply(projected, weight, steps)
        elif self.mode == "GRU":
            states = GruLoop.apply(projected, weight, bias, steps)
        else:
            states = SimpleLoop.apply(projected, weight, steps, self.mode.removeprefix("RNN_").lower())
        assert isinstance(states, Tensor)  # torch gives `apply` no type
        return states

    def _scores(self, outputs: Sequence[Tensor | None], last: Tensor) -> Tensor:
        """Each network is read at its own last layer, each string at its own step."""
        bias, weight = self.weights[1].split((1, self.weights[1].size(2) - 1), 2)
        columns = last * len(last) + torch.arange(len(last))
        read = []
        for place, rows in self._ends:
            output = outputs[place]
            assert output is not None
            at_last = output.gather(2, columns.expand(*output.shape[:2], -1))
            read.append(_padded(at_last, rows, weight.size(2)))
        return torch.baddbmm(bias, weight, torch.cat(read)[self._order])

    def _packed(self, cell: Cell, group: Group) -> tuple[Tensor, Tensor]:
        """All weights of a cell `(gate unit, feature previous 2)` and their mask, padded to the width of the group."""
        ih, hh, *biases = cell.weights
        gates, units, features = GATES_PER_CELL[self.mode], hh.size(1), group.features
        weight, mask = hh.new_zeros(2, gates, group.width, features + group.width + 2).unbind(0)
        for start, part, kept in ((0, ih, cell.masks[0]), (features, hh, cell.masks[1])):
            columns = slice(start, start + part.size(1))
            weight[:, :units, columns] = part.detach().unflatten(0, (gates, units))
            mask[:, :units, columns] = 1 if kept is None else kept.to(mask.dtype).unflatten(0, (gates, units))
        for place, bias in enumerate(biases):
            weight[:, :units, place - 2] = bias.detach().unflatten(0, (gates, units))
        mask[:, :units, -2:] = 1
        return weight.flatten(0, 1), mask.flatten(0, 1)


def _grouped(members: Sequence[Member], depth: int) -> list[list[int]]:
    """The numbers of the networks that have a layer there, in groups of about one width."""
    gates = GATES_PER_CELL[members[0].mode]
    widths: Mapping[int, int] = {
        number: member.layers[depth][0].weights[1].size(1)
        for number, member in enumerate(members)
        if len(member.layers) > depth
    }
    groups: list[list[int]] = []
    rows, widest = 0, 0
    for number in sorted(widths, key=lambda number: (-widths[number], number)):
        more = gates * len(members[number].layers[depth])
        is_full = rows + more * widest > MOST_ROWS
        if not groups or is_full or (rows >= LEAST_ROWS and widths[number] < FILLED * widest):
            groups.append([])
            rows, widest = 0, widths[number]
        groups[-1].append(number)
        rows += more * widest
    return [sorted(group) for group in groups]


def _padded(output: Tensor | None, rows: Tensor, features: int) -> Tensor:
    assert output is not None
    return pad(output.index_select(0, rows), (0, 0, 0, features - output.size(1)))


def _stacked(matrices: Sequence[Tensor]) -> Tensor:
    """Matrices with as many rows, padded to the widest."""
    widest = max(matrix.size(1) for matrix in matrices)
    return torch.stack([pad(matrix.detach(), (0, widest - matrix.size(1))) for matrix in matrices])
