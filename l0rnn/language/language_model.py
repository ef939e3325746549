"""The language model of the recipes and ready-made modules, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from l0rnn.arguments import checked
from l0rnn.gates.dropout import RecurrentDropout, run_layers
from l0rnn.gates.recurrence import GatedRecurrence
from l0rnn.language.cross_entropy import cross_entropy
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.recurrent.single_steps import run_recurrent


@checked
class LanguageModel(nn.Module):
    """Embedding → recurrent stack → Linear over the vocabulary, with dropout before and after the stack.

    In inference on a CPU, calls of one or two steps go round oneDNN, see `l0rnn.recurrent.single_steps.run_recurrent`.

    Args:
        vocabulary_size: number of words.
        embedding_size: units of the embedding.
        hidden_size: units of each recurrent layer; a list with one width per layer where they differ.
        num_layers: recurrent layers.
        cell: ``"LSTM"`` or ``"GRU"``.
        dropout: dropout probability on the embedding, between layers and on the output.
        tied: whether embedding and decoder share their weight, which needs equal sizes.
        init_range: weights start uniform in ± this; None for torch's own.
        locked_dropout: whether ``dropout`` has one mask for all steps of a segment (Gal, Ghahramani 2016).
        weight_dropout: dropout probability on the weights from hidden to hidden units (Merity et al. 2017).
        word_dropout: probability that a word is read as zeros wherever it stands in a segment (Gal, Ghahramani 2016).

    The last three act in training alone, may be changed between two calls, and are no part of what is saved.

    Raises:
        ValueError: if a size is ≤ 0, a probability is not in [0, 1), or ``tied`` with different sizes.

    Example:
        >>> import torch
        >>> network = LanguageModel(100, 8, 8, num_layers=2)
        >>> logits, state = network(torch.randint(100, (5, 3)))  # (time, batch)
        >>> logits.shape
        torch.Size([5, 3, 100])

    Reference:
        Zaremba, Sutskever, Vinyals: Recurrent Neural Network Regularization (2014), arXiv 1409.2329. Gal, Ghahramani:
        arXiv 1512.05287. Merity, Keskar, Socher: arXiv 1708.02182.
    """

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int,
        hidden_size: int | Sequence[int],
        *,
        num_layers: int = 2,
        cell: Literal["LSTM", "GRU"] = "LSTM",
        dropout: float = 0.0,
        tied: bool = False,
        init_range: float | None = None,
        locked_dropout: bool = False,
        weight_dropout: float = 0.0,
        word_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [hidden_size] * num_layers if isinstance(hidden_size, int) else list(hidden_size)
        sizes = {"vocabulary_size": vocabulary_size, "embedding_size": embedding_size, "num_layers": num_layers}
        for name, size in {**sizes, "hidden_size": min(widths, default=0)}.items():
            if size <= 0:
                raise ValueError(f"`{name}` must be > 0, got {size}")
        if len(widths) != num_layers:
            raise ValueError(f"`hidden_size` must have one width for each of {num_layers} layers, got {widths}")
        if tied and embedding_size != widths[-1]:
            raise ValueError(
                f"`tied` needs `embedding_size` equal to `hidden_size`, got {embedding_size} and {widths[-1]}"
            )
        rates = {"dropout": dropout, "weight_dropout": weight_dropout, "word_dropout": word_dropout}
        for name, rate in rates.items():
            if not 0 <= rate < 1:
                raise ValueError(f"`{name}` must be in [0, 1), got {rate}")
        if init_range is not None and not init_range >= 0:
            raise ValueError(f"`init_range` must be >= 0, or None for torch's own, got {init_range}")
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        between = dropout if num_layers > 1 else 0.0
        if len(set(widths)) == 1:
            layer = {"LSTM": nn.LSTM, "GRU": nn.GRU}[cell]
            self.encoder: nn.Module = layer(embedding_size, widths[0], num_layers, dropout=between)
        else:
            self.encoder = RaggedRNN(cell, embedding_size, [[width] for width in widths], dropout=between)
        self.decoder = nn.Linear(widths[-1], vocabulary_size)
        self.dropout = nn.Dropout(dropout)
        self.locked_dropout, self.weight_dropout, self.word_dropout = locked_dropout, weight_dropout, word_dropout
        if tied:
            self.decoder.weight = self.embedding.weight
        if init_range is not None:
            for parameter in self.parameters():
                nn.init.uniform_(parameter, -init_range, init_range)

    def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Predict the next word at every step.

        Args:
            tokens: `(time, batch)`, int64.
            state: recurrent state to go on from; zeros when None.

        Returns:
            Logits `(time, batch, word)` and the state after the last step.
        """
        if self.dropout.training:  # in a single step even a dropout that does nothing takes its share of the time
            return self._forward_in_training(tokens, state)
        output, state = run_recurrent(self.encoder, self.embedding(tokens), state)
        return self.decoder(output), state

    def _forward_in_training(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        dropout = RecurrentDropout(self.locked_dropout, self.weight_dropout)
        vectors = self.embedding(tokens)
        if self.word_dropout:
            words = vectors.new_ones(self.embedding.num_embeddings)
            vectors = vectors * nn.functional.dropout(words, self.word_dropout)[tokens].unsqueeze(-1)
        vectors = dropout.of_units(vectors, self.dropout.p)
        if isinstance(self.encoder, GatedRecurrence):
            self.encoder.recurrent_dropout = dropout
            output, state = self.encoder(vectors, state)
        elif dropout.acts():
            output, state = run_layers(self.encoder, dropout, vectors, state)
        else:
            output, state = self.encoder(vectors, state)
        return self.decoder(dropout.of_units(output, self.dropout.p)), state


def next_word_loss(network: nn.Module, batch: tuple[Tensor, Tensor], state: Any) -> tuple[Tensor, Any]:
    """Mean cross-entropy of the next word, in nats per token.

    Args:
        network: a `LanguageModel`, or any network called like it.
        batch: tokens and next tokens, both `(time, batch)`.
        state: recurrent state carried over from the previous segment, or None.

    Returns:
        The mean loss and the state after the segment.

    Raises:
        ValueError: if there is not one target for each token.
    """
    tokens, targets = batch
    check_targets(tokens, targets)
    logits, state = network(tokens, state)
    return cross_entropy(logits.flatten(0, 1), targets.flatten()), state


def check_targets(tokens: Tensor, targets: Tensor) -> None:
    """Refuse targets that are not one for each token: laid flat, others of the same number would pass unnoticed.

    Raises:
        ValueError: if they have another shape.

    Example:
        >>> import torch
        >>> check_targets(torch.zeros(5, 2), torch.zeros(5, 2))
    """
    if tokens.shape != targets.shape:
        raise ValueError(
            f"`batch` must be tokens and next tokens of one shape (time, batch), got {tuple(tokens.shape)} and "
            f"{tuple(targets.shape)}"
        )
