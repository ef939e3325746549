"""The 16 kHz network of silero-vad in plain torch.

A chunk is 512 new samples after the last 64 of the chunk before. Its spectrum is a convolution with a fixed basis, four
convolutions make it one vector, an LSTM carries what was heard so far, and a linear layer says how likely it is speech.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RATE = 16_000
CHUNK, CONTEXT = 512, 64  # new samples of a chunk, and those it repeats
WINDOW, HOP = 256, 128
FRAMES = 4  # spectra of a chunk
KERNEL = 3


@dataclass(frozen=True)
class Widths:
    """How wide a network is; the defaults are those of silero-vad.

    Attributes:
        bins: frequencies of the spectrum.
        channels: of the four convolutions.
        units: of the LSTM.
    """

    bins: int = 129
    channels: tuple[int, int, int, int] = (128, 64, 64, 128)
    units: int = 128


class Spectrum(nn.Module):
    """Magnitudes of frequencies: `(chunk, 1, samples)` to `(chunk, bin, frame)`.

    Args:
        frequencies: which of the 129 frequencies of a window of 256 samples.
    """

    def __init__(self, frequencies: Tensor | None = None) -> None:
        super().__init__()
        chosen = torch.arange(WINDOW // 2 + 1) if frequencies is None else frequencies
        self.register_buffer("basis", fourier_basis(chosen))  # (2 * bins, 1, window): cosines, then sines

    def forward(self, samples: Tensor) -> Tensor:
        basis: Tensor = self.basis  # type: ignore[assignment]
        padded = F.pad(samples, (0, CONTEXT), mode="reflect")
        real, imaginary = F.conv1d(padded, basis, stride=HOP).chunk(2, dim=1)
        return (real.square() + imaginary.square()).sqrt()


class VoiceDetector(nn.Module):
    """Whether there is speech in each chunk of 32 ms.

    Args:
        widths: of the layers.
        frequencies: those that are read, `widths.bins` of them; without, the lowest.
    """

    def __init__(self, widths: Widths = Widths(), frequencies: Tensor | None = None) -> None:
        super().__init__()
        one, two, three, four = widths.channels
        self.spectrum = Spectrum(torch.arange(widths.bins) if frequencies is None else frequencies)
        self.encoder = nn.Sequential(
            nn.Conv1d(widths.bins, one, KERNEL, padding=1),
            nn.ReLU(),
            nn.Conv1d(one, two, KERNEL, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv1d(two, three, KERNEL, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv1d(three, four, KERNEL, padding=1),
            nn.ReLU(),
        )
        self.lstm = nn.LSTM(four, widths.units, batch_first=True)
        self.output = nn.Linear(widths.units, 1)

    def forward(self, audio: Tensor) -> Tensor:
        """Logits of whole streams.

        Args:
            audio: `(batch, samples)`; filled up with silence to whole chunks.

        Returns:
            `(batch, chunk)`
        """
        chunks = cut(audio)  # (batch, chunk, sample)
        batch, count, samples = chunks.shape
        heard = self.encoder(self.spectrum(chunks.reshape(batch * count, 1, samples)))  # (batch * chunk, channel, 1)
        hidden, _ = self.lstm(heard.reshape(batch, count, -1))
        return self.output(F.relu(hidden)).squeeze(-1)

    def step(self, chunk: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One chunk of a stream.

        Args:
            chunk: `(batch, 576)`, the last 64 samples of the chunk before and 512 new ones.
            state: `(2, batch, unit)`, zeros at first.

        Returns:
            Probabilities of speech `(batch, 1)`, and the next state.
        """
        heard = self.encoder(self.spectrum(chunk.unsqueeze(1)))
        hidden, (h, c) = self.lstm(heard.transpose(1, 2), (state[:1].contiguous(), state[1:].contiguous()))
        return self.output(F.relu(hidden)).squeeze(-1).sigmoid(), torch.cat([h, c])


def cut(audio: Tensor) -> Tensor:
    """Chunks with their context: `(batch, samples)` to `(batch, chunk, 576)`."""
    missing = -audio.size(1) % CHUNK
    return F.pad(audio, (CONTEXT, missing)).unfold(1, CONTEXT + CHUNK, CHUNK)


def fourier_basis(frequencies: Tensor) -> Tensor:
    """Cosines and sines under a Hann window, `(2 * bins, 1, window)`."""
    time = torch.arange(WINDOW, dtype=torch.float64)
    window = 0.5 - 0.5 * torch.cos(2 * math.pi * time / WINDOW)
    angles = 2 * math.pi * torch.outer(frequencies.double(), time) / WINDOW
    return torch.cat([angles.cos() * window, -angles.sin() * window]).float().unsqueeze(1)


def widths_of(network: VoiceDetector) -> Widths:
    """How wide a network is."""
    one, two, three, four = (layer.out_channels for layer in network.encoder if isinstance(layer, nn.Conv1d))
    return Widths(network.encoder[0].in_channels, (one, two, three, four), network.lstm.hidden_size)  # type: ignore[arg-type]


@torch.no_grad()
def probabilities(network: VoiceDetector, audio: Tensor) -> Tensor:
    """Probabilities of speech in each chunk of `(batch, samples)`, in evaluation mode."""
    was_training = network.training
    result = network.eval()(audio).sigmoid()
    network.train(was_training)
    return result
