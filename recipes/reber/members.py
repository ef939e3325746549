"""Plain classifiers as members of a stack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from recipes.reber.graph_rnn import GraphRNN
from recipes.reber.layered_graph import LayeredGraph
from recipes.reber.network import CLASSES, CODES, MODES, Classifier, at_step, check_cell
from recipes.reber.stack import Cell, Member

NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class GraphClassifier(nn.Module):
    """Embedding of as many units as the first layer has, then the graph's layers, then a Linear on the last of them.

    Args:
        cell: ``"tanh"``, ``"relu"``, ``"lstm"`` or ``"gru"``.
        graph: the structure.
    """

    def __init__(self, cell: str, graph: LayeredGraph) -> None:
        super().__init__()
        check_cell(cell)
        first, last = graph.layer_sizes[0], graph.layer_sizes[-1]
        self.embedding = nn.Embedding(CODES, first)
        self.encoder = GraphRNN(MODES[cell], first, graph)
        self.decoder = nn.Linear(last, CLASSES)

    def forward(self, codes: Tensor, last: Tensor | None = None) -> Tensor:
        """Scores `(batch, class)` of codes `(time, batch)`, read at the step ``last`` of each, or at the last."""
        return self.decoder(at_step(self.encoder(self.embedding(codes)), last))

    def connections(self) -> int:
        """Number of recurrent weights that are not masked, biases aside."""
        layers: list[Any] = [*self.encoder.layers, *self.encoder.skips]
        read = [layer.weight_ih_l0.numel() if layer.mask is None else int(layer.mask.sum()) for layer in layers]
        return sum(read) + sum(layer.weight_hh_l0.numel() for layer in layers)


def member_of_graph(network: GraphClassifier) -> Member:
    """A cell for each layer, and one more for each skip connection."""
    rnn = network.encoder
    layers = [[_graph_cell(layer, depth - 1)] for depth, layer in enumerate(rnn.layers)]
    for (source, target), layer in zip(rnn.graph.skips, rnn.skips, strict=True):
        layers[target].append(_graph_cell(layer, source))
    return Member(rnn.mode, network.embedding.weight, layers, (network.decoder.weight, network.decoder.bias))


def member_of(network: Classifier, masks: Mapping[str, Tensor] | None = None) -> Member:
    """A cell for each layer.

    Args:
        network: all its layers have one width.
        masks: which entries of recurrent weights stay, by the weight's name in the network.
    """
    encoder: Any = network.encoder
    kept = masks or {}
    layers = [
        [
            Cell(
                layer - 1,
                [encoder.get_parameter(f"{name}_l{layer}") for name in NAMES],
                (kept.get(f"encoder.weight_ih_l{layer}"), kept.get(f"encoder.weight_hh_l{layer}")),
            )
        ]
        for layer in range(encoder.num_layers)
    ]
    return Member(encoder.mode, network.embedding.weight, layers, (network.decoder.weight, network.decoder.bias))


def _graph_cell(layer: Any, source: int) -> Cell:
    return Cell(source, [layer.get_parameter(f"{name}_l0") for name in NAMES], (layer.mask, None))
