"""Networks from speech to text and back, and those that read images of text."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class DocTR(nn.Module):
    """docTR's CRNN: VGG with batch normalisation, height and channels into one, two bidirectional LSTM layers."""

    def __init__(self, rnn_units=10, vocabulary=13):
        super().__init__()
        layers = []
        for a, b, pool in ((3, 6, (2, 2)), (6, 8, (2, 1))):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(inplace=True), nn.MaxPool2d(pool)]
        self.feat_extractor = nn.Sequential(*layers)
        self.decoder = nn.LSTM(8 * 2, rnn_units, num_layers=2, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * rnn_units, vocabulary + 1)

    def forward(self, x):
        features = self.feat_extractor(x)
        c, h, w = features.shape[1:]
        features_seq = torch.reshape(features, shape=(-1, h * c, w))
        features_seq = torch.transpose(features_seq, 1, 2)
        logits, _ = self.decoder(features_seq)
        logits = self.linear(logits)
        return {"out_map": logits, "preds": logits.argmax(-1)}


class BidirectionalLSTM(nn.Module):
    def __init__(self, input_size, hidden_size, output_size):
        super().__init__()
        self.rnn = nn.LSTM(input_size, hidden_size, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(hidden_size * 2, output_size)

    def forward(self, input):
        self.rnn.flatten_parameters()
        recurrent, _ = self.rnn(input)
        return self.linear(recurrent)


class EasyOCR(nn.Module):
    """EasyOCR's recogniser: VGG, mean over the height, two bidirectional LSTMs each with a linear layer."""

    def __init__(self, channels=8, hidden_size=6, num_class=11):
        super().__init__()
        self.FeatureExtraction = nn.Sequential(
            nn.Conv2d(1, 5, 3, 1, 1), nn.ReLU(True), nn.MaxPool2d(2, 2),
            nn.Conv2d(5, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(True),
            nn.MaxPool2d((2, 1), (2, 1)),
        )  # fmt: skip
        self.AdaptiveAvgPool = nn.AdaptiveAvgPool2d((None, 1))
        self.SequenceModeling = nn.Sequential(
            BidirectionalLSTM(channels, hidden_size, hidden_size),
            BidirectionalLSTM(hidden_size, hidden_size, hidden_size),
        )
        self.Prediction = nn.Linear(hidden_size, num_class)

    def forward(self, input, text=None):
        visual = self.FeatureExtraction(input)
        visual = self.AdaptiveAvgPool(visual.permute(0, 3, 1, 2))
        visual = visual.squeeze(3)
        contextual = self.SequenceModeling(visual)
        return self.Prediction(contextual.contiguous())


class SincConv(nn.Module):
    """Band-pass filters that have two parameters each."""

    def __init__(self, out_channels=6, kernel_size=9):
        super().__init__()
        low = torch.linspace(0.01, 0.3, out_channels)
        self.low_hz_ = nn.Parameter(low[:, None])
        self.band_hz_ = nn.Parameter(torch.full((out_channels, 1), 0.05))
        half = (kernel_size - 1) // 2
        self.register_buffer("window_", torch.hamming_window(kernel_size)[:half])
        self.register_buffer("n_", 2 * torch.pi * torch.arange(-half, 0.0)[None])

    def forward(self, waveforms):
        low = 0.01 + torch.abs(self.low_hz_)
        high = torch.clamp(low + 0.02 + torch.abs(self.band_hz_), 0.01, 0.5)
        band = (high - low)[:, 0]
        ft_low, ft_high = torch.matmul(low, self.n_), torch.matmul(high, self.n_)
        left = ((torch.sin(ft_high) - torch.sin(ft_low)) / (self.n_ / 2)) * self.window_
        center = 2 * band.view(-1, 1)
        filters = torch.cat([left, center, torch.flip(left, dims=[1])], dim=1) / (2 * band[:, None])
        return F.conv1d(waveforms, filters.view(filters.size(0), 1, -1), stride=2)


class PyanNet(nn.Module):
    """pyannote's segmentation: SincNet, bidirectional LSTMs, linear layers, classes of each frame."""

    def __init__(self, hidden=8, linear=7, classes=4):
        super().__init__()
        self.wav_norm1d = nn.InstanceNorm1d(1, affine=True)
        self.sincnet = SincConv()
        self.norm1 = nn.InstanceNorm1d(6, affine=True)
        self.conv2 = nn.Conv1d(6, 5, 3)
        self.norm2 = nn.InstanceNorm1d(5, affine=True)
        self.lstm = nn.LSTM(5, hidden, num_layers=2, bidirectional=True, batch_first=True, dropout=0.5)
        self.linear = nn.ModuleList([nn.Linear(2 * hidden, linear), nn.Linear(linear, linear)])
        self.classifier = nn.Linear(linear, classes)

    def forward(self, waveforms):
        x = self.wav_norm1d(waveforms)
        x = F.leaky_relu(self.norm1(F.max_pool1d(torch.abs(self.sincnet(x)), 3, stride=3)))
        x = F.leaky_relu(self.norm2(F.max_pool1d(self.conv2(x), 2)))
        outputs, _ = self.lstm(x.transpose(1, 2))
        for linear in self.linear:
            outputs = F.leaky_relu(linear(outputs))
        return F.log_softmax(self.classifier(outputs), dim=-1)


class ReversibleLSTM(nn.Module):
    def __init__(self, size, insize, reverse):
        super().__init__()
        self.rnn = nn.LSTM(insize, size)
        self.reverse = reverse

    def forward(self, x):
        if self.reverse:
            x = x.flip(0)
        y, _ = self.rnn(x)
        return y.flip(0) if self.reverse else y


class Bonito(nn.Module):
    """Nanopore basecaller: convolutions, LSTMs in alternating directions, scores of a CRF."""

    def __init__(self, size=8, scores=10):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv1d(1, 4, 5, padding=2), nn.SiLU(), nn.Conv1d(4, 6, 5, padding=2), nn.SiLU(),
            nn.Conv1d(6, size, 7, stride=3, padding=3), nn.Tanh(),
        )  # fmt: skip
        self.rnns = nn.Sequential(*(ReversibleLSTM(size, size, reverse=i % 2 == 0) for i in range(5)))
        self.linear = nn.Linear(size, scores)

    def forward(self, x):
        x = self.conv(x).permute(2, 0, 1)
        scores = 5.0 * torch.tanh(self.linear(self.rnns(x)))
        t, n, c = scores.shape
        return F.pad(scores.view(t, n, c // 2, 2), (1, 0, 0, 0, 0, 0, 0, 0), value=2.0).view(t, n, -1)


class RNNT(nn.Module):
    """Transducer with an LSTM predictor and a joint network over all pairs of frames and labels."""

    def __init__(self, features=6, vocabulary=11, hidden=10, predictor=8, joint=9):
        super().__init__()
        self.encoder = nn.LSTM(features, hidden, num_layers=2, batch_first=True)
        self.embedding = nn.Embedding(vocabulary, 7, padding_idx=0)
        self.predictor = nn.LSTM(7, predictor, batch_first=True)
        self.joint_enc = nn.Linear(hidden, joint)
        self.joint_pred = nn.Linear(predictor, joint)
        self.joint = nn.Linear(joint, vocabulary)

    def forward(self, x, y):
        enc, _ = self.encoder(x)
        pred, _ = self.predictor(self.embedding(F.pad(y, (1, 0), value=0)))
        joined = torch.tanh(self.joint_enc(enc).unsqueeze(2) + self.joint_pred(pred).unsqueeze(1))
        return F.log_softmax(self.joint(joined), dim=-1)


class BasicNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.eps = nn.Parameter(torch.tensor(0.25).log())

    def forward(self, x):
        return x * (torch.mean(x**2, dim=-1, keepdim=True) + self.eps.exp()) ** -0.5


class IcefallLayer(nn.Module):
    def __init__(self, d_model, hidden, feedforward):
        super().__init__()
        self.lstm = nn.LSTM(d_model, hidden, proj_size=d_model)
        self.feed_forward = nn.Sequential(nn.Linear(d_model, feedforward), nn.SiLU(), nn.Linear(feedforward, d_model))
        self.norm_final = BasicNorm()

    def forward(self, src, states=None):
        src_lstm, new_states = self.lstm(src, states)
        src = src + src_lstm
        src = src + self.feed_forward(src)
        return self.norm_final(src), new_states


class Icefall(nn.Module):
    """lstm_transducer_stateless: convolutional subsampling, projected LSTMs with residuals, a stateless predictor."""

    def __init__(self, features=9, d_model=8, hidden=40, vocabulary=11, decoder=8, joiner=10):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.SiLU(), nn.Conv2d(3, 5, 3, stride=2), nn.SiLU())
        self.out = nn.Linear(5 * ((features - 1) // 2), d_model)
        self.layers = nn.ModuleList(IcefallLayer(d_model, hidden, 14) for _ in range(2))
        self.embedding = nn.Embedding(vocabulary, decoder)
        self.context = nn.Conv1d(decoder, decoder, 2, groups=decoder // 4, bias=False)
        self.encoder_proj = nn.Linear(d_model, joiner)
        self.decoder_proj = nn.Linear(decoder, joiner)
        self.output_linear = nn.Linear(joiner, vocabulary)

    def forward(self, x, y):
        x = self.conv(x.unsqueeze(1))
        b, c, t, f = x.size()
        x = self.out(x.transpose(1, 2).reshape(b, t, c * f)).permute(1, 0, 2)
        for layer in self.layers:
            x, _ = layer(x)
        encoder_out = x.permute(1, 0, 2)
        embedded = F.pad(self.embedding(y).permute(0, 2, 1), pad=(1, 0))
        decoder_out = F.relu(self.context(embedded).permute(0, 2, 1))
        logit = self.encoder_proj(encoder_out).unsqueeze(2) + self.decoder_proj(decoder_out).unsqueeze(1)
        return self.output_linear(torch.tanh(logit))


class ChannelNorm(nn.Module):
    def __init__(self, channels, eps=1e-5):
        super().__init__()
        self.channels = channels
        self.eps = eps
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        x = x.transpose(1, -1)
        x = F.layer_norm(x, (x.size(-1),), self.gamma, self.beta, self.eps)
        return x.transpose(1, -1)


class KokoroTextEncoder(nn.Module):
    """Text encoder of StyleTTS 2 and Kokoro: weight-normed convolutions, channel norm, a packed bidirectional LSTM."""

    def __init__(self, channels=8, kernel_size=5, depth=2, n_symbols=12, hidden=6, mels=5):
        super().__init__()
        self.embedding = nn.Embedding(n_symbols, channels)
        self.cnn = nn.ModuleList(
            nn.Sequential(
                weight_norm(nn.Conv1d(channels, channels, kernel_size, padding=kernel_size // 2)),
                ChannelNorm(channels),
                nn.LeakyReLU(0.2),
                nn.Dropout(0.2),
            )
            for _ in range(depth)
        )
        self.lstm = nn.LSTM(channels, hidden, 1, batch_first=True, bidirectional=True)
        self.to_mel = nn.Conv1d(2 * hidden, mels, 1)

    def forward(self, x, input_lengths, m):
        x = self.embedding(x).transpose(1, 2)
        m = m.unsqueeze(1)
        x = x.masked_fill(m, 0.0)
        for c in self.cnn:
            x = c(x)
            x = x.masked_fill(m, 0.0)
        x = pack_padded_sequence(x.transpose(1, 2), input_lengths, batch_first=True, enforce_sorted=False)
        x, _ = self.lstm(x)
        x, _ = pad_packed_sequence(x, batch_first=True)
        x = x.transpose(-1, -2)
        x_pad = torch.zeros([x.shape[0], x.shape[1], m.shape[-1]], device=x.device)
        x_pad[:, :, : x.shape[-1]] = x
        return self.to_mel(x_pad.masked_fill(m, 0.0))


class BatchRNN(nn.Module):
    def __init__(self, input_size, hidden_size, batch_norm=True):
        super().__init__()
        self.batch_norm = nn.BatchNorm1d(input_size) if batch_norm else None
        self.rnn = nn.GRU(input_size, hidden_size, bidirectional=True, bias=True)

    def forward(self, x, lengths):
        if self.batch_norm is not None:
            t, n = x.size(0), x.size(1)
            x = self.batch_norm(x.view(t * n, -1)).view(t, n, -1)
        x = pack_padded_sequence(x, lengths)
        x, _ = self.rnn(x)
        x, _ = pad_packed_sequence(x)
        return x.view(x.size(0), x.size(1), 2, -1).sum(2)  # (time, batch, direction, unit): the directions are summed


class DeepSpeech2(nn.Module):
    """deepspeech.pytorch: convolutions that are masked by length, batch norm between bidirectional GRUs."""

    def __init__(self, bins=12, hidden=8, labels=9):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, 4, (5, 3), stride=(2, 1), padding=(2, 1)), nn.BatchNorm2d(4), nn.Hardtanh(0, 20, inplace=True)
        )
        self.rnns = nn.ModuleList([BatchRNN(4 * bins // 2, hidden, batch_norm=False), BatchRNN(hidden, hidden)])
        self.fc = nn.Sequential(nn.BatchNorm1d(hidden), nn.Linear(hidden, labels, bias=False))

    def forward(self, x, lengths):
        for module in self.conv:
            x = module(x)
            mask = torch.zeros(x.size(), dtype=torch.bool)
            for i, length in enumerate(lengths):
                if mask[i].size(2) - int(length) > 0:
                    mask[i].narrow(2, int(length), mask[i].size(2) - int(length)).fill_(True)
            x = x.masked_fill(mask, 0)
        sizes = x.size()
        x = x.view(sizes[0], sizes[1] * sizes[2], sizes[3]).permute(2, 0, 1).contiguous()
        for rnn in self.rnns:
            x = rnn(x, lengths)
        t, n = x.size(0), x.size(1)
        x = self.fc(x.view(t * n, -1)).view(t, n, -1)
        return x.transpose(0, 1).log_softmax(-1)


class Tacotron2Decoder(nn.Module):
    """Location-sensitive attention in a loop of two LSTM cells, with a prenet and a gate."""

    def __init__(self, mels=5, encoder=6, prenet=7, attention_rnn=9, decoder_rnn=10, attention=8):
        super().__init__()
        self.n_mel = mels
        self.prenet = nn.ModuleList([nn.Linear(mels, prenet, bias=False), nn.Linear(prenet, prenet, bias=False)])
        self.attention_rnn = nn.LSTMCell(prenet + encoder, attention_rnn)
        self.decoder_rnn = nn.LSTMCell(attention_rnn + encoder, decoder_rnn)
        self.query = nn.Linear(attention_rnn, attention, bias=False)
        self.memory = nn.Linear(encoder, attention, bias=False)
        self.location_conv = nn.Conv1d(2, 4, 3, padding=1, bias=False)
        self.location_dense = nn.Linear(4, attention, bias=False)
        self.v = nn.Linear(attention, 1, bias=False)
        self.projection = nn.Linear(decoder_rnn + encoder, mels)
        self.gate = nn.Linear(decoder_rnn + encoder, 1)

    def forward(self, memory, mels):
        b, t, _ = memory.shape
        h1, c1 = (memory.new_zeros(b, self.attention_rnn.hidden_size) for _ in range(2))
        h2, c2 = (memory.new_zeros(b, self.decoder_rnn.hidden_size) for _ in range(2))
        weights, total = memory.new_zeros(b, t), memory.new_zeros(b, t)
        context = memory.new_zeros(b, memory.size(2))
        processed, frames, stops = self.memory(memory), [], []
        for frame in torch.cat((memory.new_zeros(b, 1, self.n_mel), mels[:, :-1]), 1).transpose(0, 1):
            for layer in self.prenet:
                frame = F.relu(layer(frame))
            h1, c1 = self.attention_rnn(torch.cat((frame, context), -1), (h1, c1))
            location = self.location_conv(torch.cat((weights.unsqueeze(1), total.unsqueeze(1)), dim=1))
            location = self.location_dense(location.transpose(1, 2))
            energies = self.v(torch.tanh(self.query(h1.unsqueeze(1)) + location + processed)).squeeze(-1)
            weights = F.softmax(energies, dim=1)
            total += weights
            context = torch.bmm(weights.unsqueeze(1), memory).squeeze(1)
            h2, c2 = self.decoder_rnn(torch.cat((h1, context), -1), (h2, c2))
            out = torch.cat((h2, context), dim=1)
            frames.append(self.projection(out))
            stops.append(self.gate(out))
        return torch.stack(frames, 1), torch.stack(stops, 1).squeeze(-1)
