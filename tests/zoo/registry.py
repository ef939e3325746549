"""The zoo: networks as they run in production, at small size, each with example inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tests.zoo import audio, cells, speech, text


@dataclass(frozen=True)
class Entry:
    """How a network is built and called."""

    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]

    def network(self, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return self.build().eval()

    def example_inputs(self, seed: int = 0) -> Any:
        torch.manual_seed(seed + 1)
        return self.inputs()


def words(vocabulary: int, *shape: int) -> torch.Tensor:
    return torch.randint(1, vocabulary, shape)


ZOO: dict[str, Entry] = {
    "RNNoise": Entry(audio.RNNoise, lambda: (torch.randn(2, 9, 10),)),
    "DTLN": Entry(audio.DTLN, lambda: (torch.randn(2, 5, 16), torch.randn(4, 1, 2, 9), torch.randn(4, 1, 2, 9))),
    "DeepFilterNet": Entry(audio.DeepFilterNet, lambda: (torch.randn(2, 1, 5, 8),)),
    "EnCodec": Entry(audio.EnCodec, lambda: (torch.randn(2, 1, 40),)),
    "EnCodec weight norm": Entry(audio.EnCodecWeightNorm, lambda: (torch.randn(2, 1, 40),)),
    "Silero VAD": Entry(audio.SileroVAD, lambda: (torch.randn(2, 48), torch.randn(2, 2, 12))),
    "FARGAN": Entry(audio.FARGAN, lambda: (torch.randn(2, 3, 7),)),
    "WaveRNN": Entry(audio.WaveRNN, lambda: (torch.randn(2, 10), torch.randn(2, 8, 5))),
    "DPRNN": Entry(audio.DPRNN, lambda: (torch.randn(2, 34),)),
    "streaming GRU": Entry(audio.StreamingGRU, lambda: (torch.randn(3, 1, 5),)),
    "docTR CRNN": Entry(speech.DocTR, lambda: (torch.randn(2, 3, 8, 12),)),
    "EasyOCR": Entry(speech.EasyOCR, lambda: {"input": torch.randn(2, 1, 8, 12), "text": None}),
    "pyannote": Entry(speech.PyanNet, lambda: (torch.randn(2, 1, 120),)),
    "bonito": Entry(speech.Bonito, lambda: (torch.randn(2, 1, 24),)),
    "RNN-T": Entry(speech.RNNT, lambda: (torch.randn(2, 6, 6), words(11, 2, 4))),
    "icefall": Entry(speech.Icefall, lambda: (torch.randn(2, 9, 9), words(11, 2, 4))),
    "Kokoro": Entry(
        speech.KokoroTextEncoder,
        lambda: {
            "x": words(12, 2, 7),
            "input_lengths": torch.tensor([5, 6]),
            "m": torch.arange(7)[None] >= torch.tensor([5, 6])[:, None],
        },
    ),
    "DeepSpeech 2": Entry(speech.DeepSpeech2, lambda: (torch.randn(2, 1, 12, 7), torch.tensor([7, 5]))),
    "Tacotron 2": Entry(speech.Tacotron2Decoder, lambda: (torch.randn(2, 7, 6), torch.randn(2, 3, 5))),
    "language model": Entry(text.LanguageModel, lambda: (words(17, 6, 2),)),
    "tied language model": Entry(
        lambda: text.LanguageModel(ninp=10, tie_weights=True),
        lambda: (words(17, 6, 2), (torch.randn(2, 2, 10), torch.randn(2, 2, 10))),
    ),
    "AWD-LSTM": Entry(text.AWDLSTM, lambda: (words(17, 6, 2),)),
    "attention seq2seq": Entry(text.Seq2Seq, lambda: (words(13, 2, 5), torch.tensor([4, 5]), words(11, 2, 3))),
    "GRU4Rec": Entry(text.GRU4Rec, lambda: (words(19, 4), [torch.randn(4, 10)], words(19, 6))),
    "residual LSTM": Entry(text.ResidualLSTM, lambda: (torch.randn(2, 6, 5),)),
    "autoencoder": Entry(text.Autoencoder, lambda: (torch.randn(2, 6, 5),)),
    "TFT": Entry(text.TFT, lambda: (torch.randn(2, 3), torch.randn(2, 5, 3), torch.randn(2, 4, 2))),
    "BiLSTM-CRF": Entry(text.BiLSTMCRF, lambda: (words(20, 2, 5), words(15, 2, 5, 4), torch.tensor([4, 5]))),
    "attention over GRU": Entry(
        text.AttentionOverGRU,
        lambda: {"x": torch.randn(2, 5, 6), "key_padding_mask": torch.tensor([[False] * 5, [False] * 3 + [True] * 2])},
    ),
    "self-attentive LSTM": Entry(text.SelfAttentiveLSTM, lambda: (torch.randn(2, 5, 6),)),
    "LSTM classifier": Entry(text.Classifier, lambda: (words(20, 3, 5),)),
    "LayerNorm LSTM": Entry(cells.LayerNormLSTM, lambda: (torch.randn(2, 5, 5),)),
    "SRU": Entry(cells.SRU, lambda: (words(13, 5, 2),)),
    "minGRU": Entry(cells.MinGRU, lambda: (torch.randn(2, 6, 5),)),
    "sLSTM": Entry(cells.SLSTM, lambda: (torch.randn(2, 5, 5),)),
    "Mamba": Entry(cells.Mamba, lambda: (words(13, 2, 5),)),
    "ConvGRU": Entry(cells.ConvGRU, lambda: (torch.randn(2, 3, 1, 6, 5),)),
    "QRNN": Entry(cells.QuasiRNN, lambda: (torch.randn(2, 6, 5),)),
}
