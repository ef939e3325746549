"""The published network in plain torch: letters into a GRU, its last state into a second GRU, phonemes out of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from recipes.g2p.symbols import BEGIN, END, LETTERS, LONGEST, PAD, PHONEMES
from recipes.g2p.words import letter_numbers

_NAMES = {
    "enc_emb": "letter_features.weight",
    "enc_w_ih": "encoder.weight_ih_l0",
    "enc_w_hh": "encoder.weight_hh_l0",
    "enc_b_ih": "encoder.bias_ih_l0",
    "enc_b_hh": "encoder.bias_hh_l0",
    "dec_emb": "phoneme_features.weight",
    "dec_w_ih": "decoder.weight_ih_l0",
    "dec_w_hh": "decoder.weight_hh_l0",
    "dec_b_ih": "decoder.bias_ih_l0",
    "dec_b_hh": "decoder.bias_hh_l0",
    "fc_w": "output.weight",
    "fc_b": "output.bias",
}


class G2P(nn.Module):
    """Letters to phonemes.

    Args:
        letter_features: features of a letter, the encoder's input.
        phoneme_features: features of the phoneme before, the decoder's input.
        units: hidden units of the encoder and of the decoder, which goes on from the encoder's last state.
    """

    def __init__(self, letter_features: int = 256, phoneme_features: int = 256, units: int = 256) -> None:
        super().__init__()
        self.letter_features = nn.Embedding(len(LETTERS), letter_features)
        self.encoder = nn.GRU(letter_features, units, batch_first=True)
        self.phoneme_features = nn.Embedding(len(PHONEMES), phoneme_features)
        self.decoder = nn.GRU(phoneme_features, units, batch_first=True)
        self.output = nn.Linear(units, len(PHONEMES))

    def forward(self, letters: Tensor, lengths: Tensor, phonemes: Tensor) -> Tensor:
        """Logits of each next phoneme, given those before it.

        Args:
            letters: numbers of the letters with the end mark, then padding, `(batch, letter)`.
            lengths: letters of each word with its end mark, `(batch,)`.
            phonemes: numbers of the phonemes with the begin mark, then padding, `(batch, phoneme)`.

        Returns:
            `(batch, phoneme, 74)`.
        """
        state = self.encode(letters, lengths)
        states, _ = self.decoder(self.phoneme_features(phonemes), state.unsqueeze(0))  # (batch, phoneme, unit)
        return self.output(states)

    def encode(self, letters: Tensor, lengths: Tensor) -> Tensor:
        """The encoder's state after the last letter of each word, `(batch, unit)`; padding comes later."""
        states, _ = self.encoder(self.letter_features(letters))  # (batch, letter, unit)
        return states[torch.arange(len(letters), device=letters.device), lengths - 1]

    @torch.no_grad()
    def greedy(self, letters: Tensor, lengths: Tensor) -> list[list[int]]:
        """The phonemes of each word, at each step the likeliest, as the package's code does it."""
        state = self.encode(letters, lengths).unsqueeze(0)
        last = torch.full((len(letters),), BEGIN, device=letters.device)
        steps: list[Tensor] = []
        going = torch.ones(len(letters), dtype=torch.bool, device=letters.device)
        for _ in range(LONGEST):
            states, state = self.decoder(self.phoneme_features(last)[:, None], state)
            last = self.output(states[:, 0]).argmax(dim=1)
            steps.append(last)
            going &= last != END
            if not going.any():
                break
        table = torch.stack(steps, dim=1).tolist()
        return [row[: row.index(END)] if END in row else row for row in table]

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> G2P:
        """The network of arrays with the package's names; its sizes come from them."""
        network = cls(arrays["enc_w_ih"].shape[1], arrays["dec_w_ih"].shape[1], arrays["enc_w_hh"].shape[1])
        network.load_state_dict({_NAMES[name]: torch.tensor(np.asarray(array)) for name, array in arrays.items()})
        return network

    def arrays(self) -> dict[str, np.ndarray]:
        """The weights by the package's names, float32."""
        state = self.state_dict()
        return {name: state[ours].detach().cpu().float().numpy() for name, ours in _NAMES.items()}


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rows of numbers as one tensor, filled up with padding, `(row, longest)`, and their lengths, `(row,)`."""
    lengths = torch.tensor([len(row) for row in rows])
    table = torch.full((len(rows), int(lengths.max())), PAD)
    for number, row in enumerate(rows):
        table[number, : len(row)] = torch.tensor(row)
    return table, lengths


class Pronouncer(Protocol):
    """A network that pronounces letters, at each step the likeliest phoneme."""

    def greedy(self, letters: Tensor, lengths: Tensor) -> list[list[int]]: ...


def pronounce(network: Pronouncer, words: Sequence[str], *, batch_size: int = 500) -> list[tuple[str, ...]]:
    """The phonemes of words of the letters a to z."""
    numbers = [letter_numbers(word) for word in words]
    order = sorted(range(len(words)), key=lambda place: len(numbers[place]))  # little padding
    found: list[tuple[str, ...]] = [()] * len(words)
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        letters, lengths = padded([numbers[place] for place in places])
        for place, row in zip(places, network.greedy(letters, lengths), strict=True):
            found[place] = tuple(PHONEMES[number] for number in row)
    return found
