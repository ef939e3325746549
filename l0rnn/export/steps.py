"""Steps of an LSTM language model with nothing between the kernels.

Called module by module, a step of a small network spends as much time in Python as in reading its weights. Here the
weights are looked up once. The network has to stay as it is: this is for a copy that nobody else holds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from l0rnn.language.language_model import LanguageModel
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.recurrent.single_steps import MOST_SEQUENCES, MOST_STEPS, is_plain

_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class LanguageModelSteps:
    """Runs calls of one or two steps as the network would.

    With several threads, the decoder of one word is a batch of as many products, since MKL multiplies one vector on one
    thread.

    Args:
        network: one that `steps_of` has looked at.
        threads: of torch.
    """

    def __init__(self, network: LanguageModel, *, threads: int = 1) -> None:
        encoder, decoder = network.encoder, network.decoder
        # detached, so that nothing records gradients, without the few microseconds of a context that says so
        self.vectors = network.embedding.weight.detach()
        self.decoder = decoder.weight.detach(), decoder.bias.detach()
        self.is_stacked = isinstance(encoder, nn.LSTM)  # its state is one tensor for all layers
        self.layers = [
            [getattr(layer, f"{kind}_l{depth}").detach() for kind in _WEIGHTS] for layer, depth in _layers(encoder)
        ]
        self.widths = [layer[1].size(1) for layer in self.layers]
        self.parts: tuple[Tensor, Tensor] | None = None
        if threads > 1 and decoder.out_features % threads == 0:
            weight, bias = self.decoder
            weights = torch.stack([part.t().contiguous() for part in weight.chunk(threads)])
            self.parts = weights, bias.view(threads, 1, -1)

    @staticmethod
    def takes(tokens: Tensor) -> bool:
        """Whether a call is one for cells, see `l0rnn.recurrent.single_steps.is_for_cells`."""
        return tokens.dim() == 2 and 0 < tokens.size(0) <= MOST_STEPS and 0 < tokens.size(1) <= MOST_SEQUENCES

    def __call__(self, tokens: Tensor, state: Sequence[Tensor] | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits `(time, batch, word)` and the flat state of tokens `(time, batch)` and a flat state."""
        depths = len(self.layers)
        if state is None:
            h = c = [self.vectors.new_zeros(tokens.size(1), width) for width in self.widths]
        elif self.is_stacked:
            h, c = (list(part.unbind(0)) for part in state)
        else:
            h, c = list(state[:depths]), list(state[depths:])
        h, c, outputs = list(h), list(c), []
        for words in tokens.unbind(0):
            data = embedding(words, self.vectors)
            for depth, weights in enumerate(self.layers):
                h[depth], c[depth] = torch.lstm_cell(data, (h[depth], c[depth]), *weights)
                data = h[depth]
            outputs.append(self._decoded(data))
        return _stacked(outputs), (_stacked(h), _stacked(c)) if self.is_stacked else (*h, *c)

    def _decoded(self, data: Tensor) -> Tensor:
        if self.parts is None or len(data) > 1:
            return linear(data, *self.decoder)
        weights, bias = self.parts
        return torch.baddbmm(bias, data.expand(len(weights), 1, -1), weights).view(1, -1)


def _stacked(parts: list[Tensor]) -> Tensor:
    return parts[0].unsqueeze(0) if len(parts) == 1 else torch.stack(parts)


def steps_of(network: nn.Module, *, threads: int = 1) -> LanguageModelSteps | None:
    """The steps of a network in evaluation mode, or None where only its own call gives what it gives.

    Example:
        >>> network = LanguageModel(50, 4, 6).eval()
        >>> steps = steps_of(network)
        >>> logits, state = steps(torch.tensor([[7, 3]]), None)
        >>> logits.shape, [tuple(part.shape) for part in state]
        (torch.Size([1, 2, 50]), [(2, 2, 6), (2, 2, 6)])
    """
    if type(network) is not LanguageModel or any(
        module._forward_hooks or module._forward_pre_hooks for module in network.modules()
    ):
        return None
    layers = _layers(network.encoder)
    is_known = (
        type(network.embedding) is nn.Embedding
        and network.embedding.max_norm is None
        and type(network.decoder) is nn.Linear
        and network.decoder.bias is not None
        and bool(layers)
        and all(is_plain(layer) and layer.bias for layer, _ in layers)
        and all(parameter.dtype == torch.float32 for parameter in network.parameters())
    )
    return LanguageModelSteps(network, threads=threads) if is_known else None


def _layers(encoder: nn.Module) -> list[tuple[nn.LSTM, int]]:
    """Each layer of a stack as an nn.LSTM and the number of its layer; none for another kind of network."""
    if type(encoder) is nn.LSTM:
        return [(encoder, depth) for depth in range(encoder.num_layers)]
    if type(encoder) is RaggedRNN and encoder.mode == "LSTM" and not (encoder.bidirectional or encoder.batch_first):
        return [(directions[0], 0) for directions in encoder.layers]  # type: ignore[index]
    return []
