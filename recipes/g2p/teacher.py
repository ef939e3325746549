"""A larger network with attention, trained on the dictionary alone, whose opinion the small ones learn from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recipes.g2p.batches import Examples
from recipes.g2p.symbols import BEGIN, END, LETTERS, LONGEST, PAD, PHONEMES

_CHOICES = 8  # phonemes of a teacher's opinion that are kept; the others share less than a thousandth


class Teacher(nn.Module):
    """Letters in both directions, phonemes that look back at all letters.

    Args:
        units: hidden units of each decoder layer, and of the encoder's two directions together.
        features: features of letters and phonemes.
        dropout: share of values that are dropped in training.
    """

    def __init__(self, units: int = 192, features: int = 64, dropout: float = 0.3) -> None:
        super().__init__()
        self.letter_features = nn.Embedding(len(LETTERS), features)
        self.phoneme_features = nn.Embedding(len(PHONEMES), features)
        self.drop = nn.Dropout(dropout)
        self.encoder = nn.GRU(features, units // 2, 2, batch_first=True, bidirectional=True, dropout=dropout)
        self.start = nn.Linear(units, units)
        self.first = nn.GRU(features, units, batch_first=True)
        self.ask, self.answer = nn.Linear(units, units), nn.Linear(units, units)
        self.second = nn.GRU(2 * units, units, batch_first=True)
        self.output = nn.Sequential(
            nn.Linear(2 * units, units), nn.Tanh(), nn.Dropout(dropout), nn.Linear(units, len(PHONEMES))
        )

    def forward(self, letters: Tensor, lengths: Tensor, phonemes: Tensor) -> Tensor:
        """Logits of each next phoneme, `(batch, phoneme, 74)`, of the same arguments as those of `G2P`."""
        return self._decode(self._encode(letters, lengths), letters != PAD, phonemes, None)[0]

    @torch.no_grad()
    def greedy(self, letters: Tensor, lengths: Tensor) -> list[list[int]]:
        """The phonemes of each word, at each step the likeliest."""
        read, there, state = self._encode(letters, lengths), letters != PAD, None
        last = torch.full((len(letters), 1), BEGIN)
        steps: list[Tensor] = []
        going = torch.ones_like(last, dtype=torch.bool)
        for _ in range(LONGEST):
            logits, state = self._decode(read, there, last, state)
            last = logits.argmax(dim=2)  # (batch, 1)
            steps.append(last)
            going &= last != END
            if not going.any():
                break
        table = torch.cat(steps, dim=1).tolist()
        return [row[: row.index(END)] if END in row else row for row in table]

    def _encode(self, letters: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(
            self.drop(self.letter_features(letters)), lengths, batch_first=True, enforce_sorted=False
        )
        read, _ = self.encoder(packed)
        unpacked, _ = nn.utils.rnn.pad_packed_sequence(read, batch_first=True, total_length=letters.shape[1])
        return self.drop(unpacked)  # (batch, letter, unit)

    def _decode(
        self, read: Tensor, there: Tensor, phonemes: Tensor, state: tuple[Tensor, Tensor | None] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if state is None:  # padding was read as zeros only where it was packed; its dropout changes nothing
            mean = read.masked_fill(~there[..., None], 0).sum(dim=1) / there.sum(dim=1, keepdim=True)
            state = torch.tanh(self.start(mean))[None], None
        first, first_state = self.first(self.drop(self.phoneme_features(phonemes)), state[0])
        first = self.drop(first)  # (batch, phoneme, unit)
        likeness = self.ask(first) @ self.answer(read).transpose(1, 2) / math.sqrt(first.shape[-1])
        found = likeness.masked_fill(~there[:, None], -1e9).softmax(dim=-1) @ read
        second, second_state = self.second(torch.cat([first, found], dim=-1), state[1])
        return self.output(torch.cat([self.drop(second), found], dim=-1)), (first_state, second_state)


@torch.no_grad()
def add_opinions(examples: Examples, teachers: Sequence[Teacher], *, batch_size: int = 500) -> None:
    """Put the mean opinion of teachers at every step of the examples' own phonemes beside them."""
    length = examples.phonemes.shape[1]
    examples.likely = torch.zeros(len(examples), length, _CHOICES, dtype=torch.uint8)
    examples.shares = torch.zeros(len(examples), length, _CHOICES, dtype=torch.float16)
    for rows in examples.lengths.argsort(stable=True).split(batch_size):
        batch = examples.batch(rows)
        opinions = [
            teacher.eval()(batch.letters, batch.lengths, batch.phonemes).softmax(dim=-1) for teacher in teachers
        ]
        shares, likely = torch.stack(opinions).mean(dim=0).topk(_CHOICES)
        steps = likely.shape[1]
        examples.likely[rows, :steps] = likely.byte()
        examples.shares[rows, :steps] = (shares / shares.sum(dim=-1, keepdim=True)).half()
