"""Words as features: a vector and a character CNN, through highway layers, once per distinct word of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WordVectors(nn.Module):
    """Vectors of words: rows with a pre-trained vector are fixed, the others are trained, padding is 0.

    Args:
        features: width of a vector.
    """

    fixed: Tensor
    slots: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("fixed", torch.zeros(1, features))
        self.register_buffer("slots", torch.zeros(1, dtype=torch.long))  # word → row of `learned`; row 0 stays 0
        self.learned = nn.Parameter(torch.zeros(1, features))

    def load_(self, vectors: Tensor, is_learned: Tensor) -> None:
        """Take a vocabulary.

        Args:
            vectors: `(word, feature)`; word 0 is padding.
            is_learned: bool `(word,)`, the words whose vectors are trained.

        Raises:
            ValueError: if the widths differ.
        """
        if vectors.dim() != 2 or vectors.size(1) != self.features:
            raise ValueError(f"`vectors` must be (word, {self.features}), got {tuple(vectors.shape)}")
        is_learned = is_learned.clone()
        is_learned[0] = False
        self.slots = torch.where(is_learned, is_learned.cumsum(0), 0)
        self.learned = nn.Parameter(torch.cat((torch.zeros(1, self.features), vectors[is_learned].float())))
        self.fixed = vectors.float().masked_fill(is_learned[:, None], 0.0)
        self.fixed[0] = 0.0

    def forward(self, words: Tensor) -> Tensor:
        """`(…)` → `(…, feature)`."""
        slots = self.slots[words]
        learned = nn.functional.embedding(slots, self.learned, padding_idx=0)
        return self.fixed[words] + learned


class CharacterCNN(nn.Module):
    """The largest response over a word's characters, for each filter.

    Args:
        filters: output features.
        characters: rows of the table of characters; ids beyond it count as unknown (1).
        features: width of a character's vector.
        width: characters that a filter sees.
        dropout: on the vectors of the characters.
    """

    def __init__(
        self, filters: int, *, characters: int = 512, features: int = 8, width: int = 5, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.table = nn.Embedding(characters, features, padding_idx=0)
        self.convolution = nn.Conv1d(features, filters, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, characters: Tensor) -> Tensor:
        """`(word, character)` → `(word, filter)`."""
        known = torch.where(characters < self.table.num_embeddings, characters, 1)
        vectors = self.dropout(self.table(known)).transpose(1, 2)  # (word, feature, character)
        return torch.relu(self.convolution(vectors)).amax(-1)


class Highway(nn.Module):
    """Layers of ``gate * relu(transform(x)) + (1 - gate) * x``.

    Reference:
        Srivastava, Greff, Schmidhuber: Highway Networks (2015), arXiv 1505.00387.
    """

    def __init__(self, features: int, layers: int = 2) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(nn.Linear(features, features) for _ in range(layers))
        self.gates = nn.ModuleList(nn.Linear(features, features) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """`(…, feature)` → the same."""
        for transform, gate in zip(self.transforms, self.gates, strict=True):
            share = torch.sigmoid(gate(x))
            x = share * torch.relu(transform(x)) + (1 - share) * x
        return x


class WordFeatures(nn.Module):
    """Word vector beside character CNN, through the highway.

    Args:
        vectors: width of a word vector.
        filters: of the character CNN.
        characters: see `CharacterCNN`.
        dropout: see `CharacterCNN`.
    """

    def __init__(self, vectors: int, filters: int, *, characters: int = 512, dropout: float = 0.2) -> None:
        super().__init__()
        self.words = WordVectors(vectors)
        self.characters = CharacterCNN(filters, characters=characters, dropout=dropout)
        self.highway = Highway(vectors + filters)
        self.size = vectors + filters

    def forward(self, words: Tensor, characters: Tensor) -> Tensor:
        """`(token,)` and `(token, character)` → `(token, feature)`, computed once for tokens that are alike."""
        rows, inverse = distinct(torch.cat((words[:, None], characters), 1))
        vectors = torch.cat((self.words(rows[:, 0]), self.characters(rows[:, 1:])), -1)
        return self.highway(vectors).index_select(0, inverse)


def distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct rows of an int64 matrix, and which of them each row is.

    Sorting one number per row is much faster than sorting rows; should two rows share a number, nothing is joined.

    Example:
        >>> kept, inverse = distinct(torch.tensor([[3, 1], [2, 2], [3, 1]]))
        >>> len(kept), kept[inverse].tolist()
        (2, [[3, 1], [2, 2], [3, 1]])
    """
    factors = torch.full((rows.size(1),), 6364136223846793005).cumprod(0)  # wraps around
    numbers = (rows * factors.to(rows.device)).sum(1)
    values, inverse = numbers.unique(return_inverse=True)
    first = torch.zeros_like(values).scatter_(0, inverse, torch.arange(len(rows), device=rows.device))
    kept = rows[first]
    if not torch.equal(kept[inverse], rows):
        return rows, torch.arange(len(rows), device=rows.device)
    return kept, inverse
