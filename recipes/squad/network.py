"""BiDAF in plain torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recipes.squad.attention import AttentionFlow
from recipes.squad.highway import WordFeatures

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


CONTEXT, QUESTION, CHARACTERS = 131, 11, 16  # lengths of SQuAD's middle question
TWO_WAY = ("contextual", "modelling1", "modelling2", "output")  # the layers of two LSTMs each


class TwoWayLSTM(nn.Module):
    """An LSTM that reads forwards beside one that reads backwards, over sequences with padding at their end.

    Each sequence is turned round within its own length, so padding is always read last and changes nothing. That is a
    packed bidirectional LSTM, on torch's fast path for padded batches, which packed sequences do not have.

    Args:
        features: width of the input.
        hidden: units forwards and backwards.
    """

    def __init__(self, features: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.forwards = nn.LSTM(features, hidden[0], batch_first=True)
        self.backwards = nn.LSTM(features, hidden[1], batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """`(batch, time, feature)` and `(batch,)` → `(batch, time, 2 · unit)`; what it gives for padding is unused."""
        mirror = mirrored(lengths, x.size(1))
        behind = _taken(self.backwards(_taken(x, mirror))[0], mirror)
        return torch.cat((self.forwards(x)[0], behind), -1)


class Bidaf(nn.Module):
    """Bidirectional attention flow: where in a context the answer to a question starts and ends.

    The layers are those of Seo et al., with the input of the output layer of Wen et al. (ISS), ``[G; M; a~; M∘a~]``,
    where ``a~`` is ``M`` under the distribution of the start.

    Args:
        hidden: units of each direction of each LSTM; or layer of `TWO_WAY` → those forwards and backwards.
        vectors: width of the word vectors.
        filters: of the character CNN.
        characters: rows of the table of characters.
        dropout: on the input of each LSTM and pointer, and on characters.

    Reference:
        Seo et al. 2017 (arXiv 1611.01603); Wen et al. 2018 (arXiv 1709.05027), section 4.2.
    """

    def __init__(
        self,
        hidden: int | Mapping[str, Sequence[int]] = 100,
        *,
        vectors: int = 100,
        filters: int = 100,
        characters: int = 512,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.features = WordFeatures(vectors, filters, characters=characters, dropout=dropout)
        widths = dict.fromkeys(TWO_WAY, (hidden, hidden)) if isinstance(hidden, int) else hidden
        contextual, modelling1, modelling2, output = (sum(widths[layer]) for layer in TWO_WAY)
        self.contextual = TwoWayLSTM(self.features.size, widths["contextual"])
        self.attention = AttentionFlow(contextual)
        # h, u~, h∘u~ and h∘h~ are four readings of the same units; M, a~ and M∘a~ are three
        self.modelling1 = TwoWayLSTM(4 * contextual, widths["modelling1"])
        self.modelling2 = TwoWayLSTM(modelling1, widths["modelling2"])
        self.output = TwoWayLSTM(4 * contextual + 3 * modelling2, widths["output"])
        self.start = nn.Linear(4 * contextual + modelling2, 1)
        self.end = nn.Linear(4 * contextual + output, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        context_words: Tensor,
        context_characters: Tensor,
        question_words: Tensor,
        question_characters: Tensor,
        context_lengths: Tensor,
        question_lengths: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Scores of each context word as the first and as the last of the answer.

        Args:
            context_words: `(batch, context)`, 0 for padding, which comes last.
            context_characters: `(batch, context, character)`.
            question_words: `(batch, question)`.
            question_characters: `(batch, question, character)`.
            context_lengths: words, `(batch,)`.
            question_lengths: words, `(batch,)`.

        Returns:
            Two tensors `(batch, context)`, before the softmax; -inf for padding.
        """
        context, question = self._features(context_words, context_characters, question_words, question_characters)
        in_context = within(context_lengths, context_words.size(1))
        in_question = within(question_lengths, question_words.size(1))
        drop = self.dropout
        h = self.contextual(drop(context), context_lengths)
        u = self.contextual(drop(question), question_lengths)
        attended_question, attended_context = self.attention(h, u, in_context, in_question)
        g = torch.cat((h, attended_question, h * attended_question, h * attended_context), -1)
        m = self.modelling2(drop(self.modelling1(drop(g), context_lengths)), context_lengths)
        start = self.start(drop(torch.cat((g, m), -1))).squeeze(-1).masked_fill(~in_context, -torch.inf)
        guess = start.softmax(-1).to(m.dtype)[:, None, :] @ m  # (batch, 1, unit)
        m2 = self.output(drop(torch.cat((g, m, guess.expand_as(m), m * guess), -1)), context_lengths)
        end = self.end(drop(torch.cat((g, m2), -1))).squeeze(-1).masked_fill(~in_context, -torch.inf)
        return start, end

    def _features(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        """Context and question in one go: they share words."""
        context_words, context_characters, question_words, question_characters = parts
        words = torch.cat((context_words.flatten(), question_words.flatten()))
        characters = torch.cat((context_characters.flatten(0, 1), question_characters.flatten(0, 1)))
        features = self.features(words, characters)
        context, question = features.split([context_words.numel(), question_words.numel()])
        return context.view(*context_words.shape, -1), question.view(*question_words.shape, -1)


def within(lengths: Tensor, time: int) -> Tensor:
    """Which positions are not padding, bool `(batch, time)`.

    Example:
        >>> within(torch.tensor([1, 2]), 2).tolist()
        [[True, False], [True, True]]
    """
    return torch.arange(time, device=lengths.device) < lengths[:, None]


def mirrored(lengths: Tensor, time: int) -> Tensor:
    """Positions of each sequence back to front, with padding left at the end: `(batch, time)`.

    Example:
        >>> mirrored(torch.tensor([2, 3]), 3).tolist()
        [[1, 0, 2], [2, 1, 0]]
    """
    positions = torch.arange(time, device=lengths.device).expand(len(lengths), time)
    return torch.where(within(lengths, time), lengths[:, None] - 1 - positions, positions)


def _taken(x: Tensor, positions: Tensor) -> Tensor:
    return x.gather(1, positions[:, :, None].expand(*positions.shape, x.size(-1)))


def inputs_of(batch: object) -> Inputs:
    """The arguments of `Bidaf.forward` from a batch."""
    return tuple(
        getattr(batch, name)
        for name in (
            "context_words",
            "context_characters",
            "question_words",
            "question_characters",
            "context_lengths",
            "question_lengths",
        )
    )  # type: ignore[return-value]


def example_question(words: int, characters: int) -> Inputs:
    """A question of the middle lengths, of random words.

    Args:
        words: ids are below it.
        characters: likewise.
    """
    generator = torch.Generator().manual_seed(0)

    def numbers(most: int, *shape: int) -> Tensor:
        return torch.randint(min(2, most - 1), most, (1, *shape), generator=generator)

    return (
        numbers(words, CONTEXT),
        numbers(characters, CONTEXT, CHARACTERS),
        numbers(words, QUESTION),
        numbers(characters, QUESTION, CHARACTERS),
        torch.tensor([CONTEXT]),
        torch.tensor([QUESTION]),
    )


def span_loss(network: nn.Module, batch: object) -> Tensor:
    """Mean negative log-likelihood of the first and of the last word of the answer, summed, in nats per question."""
    start, end = network(*inputs_of(batch))
    entropy = nn.functional.cross_entropy
    return entropy(start.float(), batch.starts) + entropy(end.float(), batch.ends)  # type: ignore[attr-defined]
