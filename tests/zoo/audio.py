"""Networks on sound: noise suppression, codecs, voice activity, vocoders, separation."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm


class RNNoise(nn.Module):
    """RNNoise 0.2: two convolutions, three GRUs that all feed the gains, states in and out."""

    def __init__(self, input_dim=10, output_dim=6, cond_size=8, gru_size=12):
        super().__init__()
        self.gru_size = gru_size
        self.conv1 = nn.Conv1d(input_dim, cond_size, kernel_size=3, padding="valid")
        self.conv2 = nn.Conv1d(cond_size, gru_size, kernel_size=3, padding="valid")
        self.gru1 = nn.GRU(gru_size, gru_size, batch_first=True)
        self.gru2 = nn.GRU(gru_size, gru_size, batch_first=True)
        self.gru3 = nn.GRU(gru_size, gru_size, batch_first=True)
        self.dense_out = nn.Linear(4 * gru_size, output_dim)
        self.vad_dense = nn.Linear(4 * gru_size, 1)

    def forward(self, features, states=None):
        if states is None:
            states = [torch.zeros((1, features.size(0), self.gru_size), device=features.device) for _ in range(3)]
        x = features.permute(0, 2, 1)
        x = torch.tanh(self.conv1(x))
        x = torch.tanh(self.conv2(x))
        x = x.permute(0, 2, 1)
        gru1_out, gru1_state = self.gru1(x, states[0])
        gru2_out, gru2_state = self.gru2(gru1_out, states[1])
        gru3_out, gru3_state = self.gru3(gru2_out, states[2])
        out_cat = torch.cat([x, gru1_out, gru2_out, gru3_out], dim=-1)
        gain = torch.sigmoid(self.dense_out(out_cat))
        vad = torch.sigmoid(self.vad_dense(out_cat))
        return gain, vad, [gru1_state, gru2_state, gru3_state]


class InstantLayerNorm(nn.Module):
    """Layer normalisation of each frame by itself, as DTLN writes it."""

    def __init__(self, channels, epsilon=1e-7):
        super().__init__()
        self.epsilon = epsilon
        self.gamma = nn.Parameter(torch.ones(1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, channels))

    def forward(self, x):
        mean = x.mean(dim=-1, keepdim=True)
        variance = torch.mean(torch.square(x - mean), dim=-1, keepdim=True)
        return (x - mean) / torch.sqrt(variance + self.epsilon) * self.gamma + self.beta


class SeparationBlock(nn.Module):
    """DTLN: two LSTMs and a mask; both states are one tensor."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.rnn1 = nn.LSTM(input_size, hidden_size, batch_first=True)
        self.rnn2 = nn.LSTM(hidden_size, hidden_size, batch_first=True)
        self.dense = nn.Linear(hidden_size, input_size)

    def forward(self, x, states):
        h1, c1, h2, c2 = states[0], states[1], states[2], states[3]
        x, (h1, c1) = self.rnn1(x, (h1, c1))
        x, (h2, c2) = self.rnn2(x, (h2, c2))
        return torch.sigmoid(self.dense(x)), torch.stack((h1, c1, h2, c2), dim=0)


class DTLN(nn.Module):
    """Dual-signal transformation LSTM network on overlapping frames; the second stage learns its own basis."""

    def __init__(self, frame_len=16, encoder_size=14, hidden_size=9):
        super().__init__()
        self.frame_len = frame_len
        self.sep1 = SeparationBlock(frame_len // 2 + 1, hidden_size)
        self.encoder_conv1 = nn.Conv1d(frame_len, encoder_size, kernel_size=1, bias=False)
        self.encoder_norm1 = InstantLayerNorm(encoder_size)
        self.sep2 = SeparationBlock(encoder_size, hidden_size)
        self.decoder_conv1 = nn.Conv1d(encoder_size, frame_len, kernel_size=1, bias=False)

    def forward(self, frames, state1, state2):
        spectrum = torch.fft.rfft(frames, dim=-1)
        mag, phase = torch.abs(spectrum), torch.angle(spectrum)
        mask, state1 = self.sep1(mag, state1)
        estimate = mag * mask
        frames = torch.fft.irfft(torch.polar(estimate, phase), n=self.frame_len, dim=-1)
        encoded = self.encoder_conv1(frames.permute(0, 2, 1)).permute(0, 2, 1)
        mask2, state2 = self.sep2(self.encoder_norm1(encoded), state2)
        decoded = self.decoder_conv1((encoded * mask2).permute(0, 2, 1)).permute(0, 2, 1)
        return decoded, state1, state2


class GroupedLinear(nn.Module):
    """DeepFilterNet's GroupedLinearEinsum."""

    def __init__(self, input_size, hidden_size, groups):
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(0.3 * torch.randn(groups, input_size // groups, hidden_size // groups))

    def forward(self, x):
        x = x.unflatten(-1, (self.groups, -1))
        return torch.einsum("btgi,gih->btgh", x, self.weight).flatten(2, 3)


class SqueezedGRU(nn.Module):
    def __init__(self, input_size, hidden_size, output_size, groups, num_layers=1):
        super().__init__()
        self.linear_in = nn.Sequential(GroupedLinear(input_size, hidden_size, groups), nn.ReLU())
        self.gru = nn.GRU(hidden_size, hidden_size, num_layers=num_layers, batch_first=True)
        self.linear_out = nn.Sequential(GroupedLinear(hidden_size, output_size, groups), nn.ReLU())

    def forward(self, x, h=None):
        x, h = self.gru(self.linear_in(x), h)
        return self.linear_out(x), h


class DeepFilterNet(nn.Module):
    """Separable convolutions over bands, a squeezed GRU with grouped linears, ERB mask and filter coefficients."""

    def __init__(self, bands=8, channels=4, hidden=16, groups=2, order=3):
        super().__init__()
        self.order = order
        self.erb_conv0 = nn.Sequential(
            nn.Conv2d(1, channels, (1, 3), padding=(0, 1)), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.erb_conv1 = nn.Sequential(
            nn.Conv2d(channels, channels, (1, 3), stride=(1, 2), padding=(0, 1), groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        self.emb_gru = SqueezedGRU(channels * bands // 2, hidden, channels * bands // 2, groups)
        self.erb_up = nn.ConvTranspose2d(channels, channels, (1, 4), stride=(1, 2), padding=(0, 1))
        self.mask = nn.Sequential(nn.Conv2d(channels, 1, (1, 1)), nn.Sigmoid())
        self.df_gru = SqueezedGRU(channels * bands // 2, hidden, hidden, groups, num_layers=2)
        self.df_out = nn.Sequential(nn.Linear(hidden, bands * order * 2), nn.Tanh())

    def forward(self, feat_erb, h=None):
        e0 = self.erb_conv0(feat_erb)  # (batch, channel, time, band)
        e1 = self.erb_conv1(e0)
        b, _, t, _ = e1.shape
        emb = e1.permute(0, 2, 3, 1).flatten(2)
        emb, h = self.emb_gru(emb, h)
        d1 = emb.view(b, t, e1.size(3), -1).permute(0, 3, 1, 2)
        mask = self.mask(self.erb_up(d1 + e1) + e0)
        coefs, _ = self.df_gru(emb)
        coefs = self.df_out(coefs).view(b, t, -1, self.order * 2)
        return mask, coefs, h


class SLSTM(nn.Module):
    """EnCodec's LSTM without the hassle of hidden states, and a skip connection."""

    def __init__(self, dimension, num_layers=2):
        super().__init__()
        self.lstm = nn.LSTM(dimension, dimension, num_layers)

    def forward(self, x):
        x = x.permute(2, 0, 1)
        y, _ = self.lstm(x)
        y = y + x
        return y.permute(1, 2, 0)


class CausalConv1d(nn.Module):
    def __init__(self, channels, out_channels, kernel_size, stride=1, norm=lambda conv: conv):
        super().__init__()
        self.conv = norm(nn.Conv1d(channels, out_channels, kernel_size, stride))

    def forward(self, x):
        return self.conv(F.pad(x, (self.conv.kernel_size[0] - self.conv.stride[0], 0), mode="reflect"))


class ResnetBlock(nn.Module):
    def __init__(self, dim, hidden, norm=lambda conv: conv):
        super().__init__()
        self.block = nn.Sequential(
            nn.ELU(), CausalConv1d(dim, hidden, 3, norm=norm), nn.ELU(), CausalConv1d(hidden, dim, 1, norm=norm)
        )
        self.shortcut = CausalConv1d(dim, dim, 1, norm=norm)

    def forward(self, x):
        return self.shortcut(x) + self.block(x)


class EnCodec(nn.Module):
    """SEANet encoder and decoder with LSTMs in between; the quantiser is left out, as when the encoder is exported."""

    def __init__(self, filters=4, dimension=10, norm=lambda conv: conv):
        super().__init__()
        self.encoder = nn.Sequential(
            CausalConv1d(1, filters, 7, norm=norm),
            ResnetBlock(filters, filters // 2, norm),
            nn.ELU(),
            CausalConv1d(filters, 2 * filters, 4, 2, norm=norm),
            SLSTM(2 * filters),
            nn.ELU(),
            CausalConv1d(2 * filters, dimension, 3, norm=norm),
        )
        self.decoder = nn.Sequential(
            CausalConv1d(dimension, 2 * filters, 3, norm=norm),
            SLSTM(2 * filters),
            nn.ELU(),
            norm(nn.ConvTranspose1d(2 * filters, filters, 4, 2)),
            ResnetBlock(filters, filters // 2, norm),
            nn.ELU(),
            CausalConv1d(filters, 1, 7, norm=norm),
        )

    def forward(self, x):
        codes = self.encoder(x)
        return self.decoder(codes)[..., : x.shape[-1]]


class EnCodecWeightNorm(EnCodec):
    """As it is trained: every convolution has weight normalisation."""

    def __init__(self):
        super().__init__(norm=weight_norm)


class SileroVAD(nn.Module):
    """A fixed STFT as a convolution, four convolutions, an LSTM cell; the state is one tensor in and out."""

    def __init__(self, n_fft=16, hidden=12):
        super().__init__()
        bins = n_fft // 2 + 1
        angle = 2 * torch.pi * torch.arange(bins)[:, None] * torch.arange(n_fft) / n_fft
        basis = torch.cat([torch.cos(angle), -torch.sin(angle)]) * torch.hann_window(n_fft)
        self.register_buffer("forward_basis_buffer", basis[:, None])
        self.cutoff = bins
        self.hop = n_fft // 4
        sizes = (bins, 10, 6, 6, hidden)
        self.encoder = nn.ModuleList(
            nn.Conv1d(sizes[i], sizes[i + 1], 3, stride=2 if i in (1, 2) else 1, padding=1) for i in range(4)
        )
        self.rnn = nn.LSTMCell(hidden, hidden)
        self.decoder = nn.Sequential(nn.Dropout(0.1), nn.ReLU(), nn.Conv1d(hidden, 1, 1), nn.Sigmoid())

    def forward(self, x, state):
        x = F.pad(x, (0, 8), mode="reflect").unsqueeze(1)
        spectrum = F.conv1d(x, self.forward_basis_buffer, stride=self.hop)
        real, imaginary = spectrum[:, : self.cutoff], spectrum[:, self.cutoff :]
        x = torch.sqrt(real**2 + imaginary**2)
        for conv in self.encoder:
            x = F.relu(conv(x))
        x = x[:, :, -1]
        h, c = self.rnn(x, (state[0], state[1]))
        out = self.decoder(h.unsqueeze(-1)).squeeze(1).mean(dim=1, keepdim=True)
        return out, torch.stack([h, c])


class GLU(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.gate = nn.Linear(size, size, bias=False)

    def forward(self, x):
        return x * torch.sigmoid(self.gate(x))


class FARGAN(nn.Module):
    """Frame-wise autoregressive vocoder: a conditioning network, then GRU cells with gated units for each subframe."""

    def __init__(self, feature_dim=7, cond_size=12, subframe_size=6, gru1_size=10, gru2_size=8):
        super().__init__()
        self.subframe_size = subframe_size
        self.gru1_size, self.gru2_size = gru1_size, gru2_size
        self.fdense1 = nn.Linear(feature_dim, 9, bias=False)
        self.fconv1 = nn.Conv1d(9, 11, kernel_size=3, padding="same", bias=False)
        self.fdense2 = nn.Linear(11, 4 * cond_size, bias=False)
        self.fwc0 = nn.Linear(2 * (cond_size + subframe_size), 14, bias=False)
        self.fwc0_glu = GLU(14)
        self.gru1 = nn.GRUCell(14 + subframe_size, gru1_size, bias=False)
        self.gru1_glu = GLU(gru1_size)
        self.gru2 = nn.GRUCell(gru1_size + subframe_size, gru2_size, bias=False)
        self.gru2_glu = GLU(gru2_size)
        self.skip_dense = nn.Linear(14 + gru1_size + gru2_size + subframe_size, 13, bias=False)
        self.skip_glu = GLU(13)
        self.sig_dense_out = nn.Linear(13, subframe_size, bias=False)

    def forward(self, features):
        batch, frames, _ = features.shape
        cond = torch.tanh(self.fdense1(features)).permute(0, 2, 1)
        cond = torch.tanh(self.fconv1(cond)).permute(0, 2, 1)
        cond = torch.tanh(self.fdense2(cond)).reshape(batch, 4 * frames, -1)
        h1 = torch.zeros(batch, self.gru1_size)
        h2 = torch.zeros(batch, self.gru2_size)
        prev = torch.zeros(batch, self.subframe_size)
        fwc_state = torch.zeros(batch, cond.size(-1) + self.subframe_size)
        signal = []
        for n in range(4 * frames):
            x = torch.cat([cond[:, n, :], prev], 1)
            fwc = self.fwc0_glu(torch.tanh(self.fwc0(torch.cat([fwc_state, x], 1))))
            fwc_state = x
            h1 = self.gru1(torch.cat([fwc, prev], 1), h1)
            g1 = self.gru1_glu(h1)
            h2 = self.gru2(torch.cat([g1, prev], 1), h2)
            g2 = self.gru2_glu(h2)
            skip = torch.tanh(self.skip_dense(torch.cat([g1, g2, fwc, prev], 1)))
            prev = torch.tanh(self.sig_dense_out(self.skip_glu(skip)))
            signal.append(prev)
        return torch.cat(signal, 1)


class WaveRNN(nn.Module):
    """fatchord's WaveRNN: upsampled mel, auxiliary features in four parts, residual GRUs, two dense layers."""

    def __init__(self, feat_dims=8, rnn_dims=12, fc_dims=10, aux_dims=3, n_classes=9):
        super().__init__()
        self.aux_dims = aux_dims
        self.resnet = nn.Sequential(
            nn.Conv1d(feat_dims, 6, 3, padding=1, bias=False),
            nn.BatchNorm1d(6),
            nn.ReLU(),
            nn.Conv1d(6, 4 * aux_dims, 1),
        )
        self.up = nn.Conv2d(1, 1, (1, 5), padding=(0, 2), bias=False)
        self.I = nn.Linear(feat_dims + aux_dims + 1, rnn_dims)
        self.rnn1 = nn.GRU(rnn_dims, rnn_dims, batch_first=True)
        self.rnn2 = nn.GRU(rnn_dims + aux_dims, rnn_dims, batch_first=True)
        self.fc1 = nn.Linear(rnn_dims + aux_dims, fc_dims)
        self.fc2 = nn.Linear(fc_dims + aux_dims, fc_dims)
        self.fc3 = nn.Linear(fc_dims, n_classes)

    def forward(self, x, mels):
        aux = self.resnet(mels).repeat_interleave(2, dim=-1).transpose(1, 2)
        mels = self.up(F.interpolate(mels.unsqueeze(1), scale_factor=(1.0, 2.0))).squeeze(1).transpose(1, 2)
        h1 = torch.zeros(1, x.size(0), self.rnn1.hidden_size)
        h2 = torch.zeros(1, x.size(0), self.rnn2.hidden_size)
        d = [self.aux_dims * i for i in range(5)]
        a1, a2, a3, a4 = (aux[:, :, d[i] : d[i + 1]] for i in range(4))
        x = self.I(torch.cat([x.unsqueeze(-1), mels, a1], dim=2))
        res = x
        x, _ = self.rnn1(x, h1)
        x = x + res
        res = x
        x, _ = self.rnn2(torch.cat([x, a2], dim=2), h2)
        x = x + res
        x = F.relu(self.fc1(torch.cat([x, a3], dim=2)))
        x = F.relu(self.fc2(torch.cat([x, a4], dim=2)))
        return self.fc3(x)


class DPRNN(nn.Module):
    """Dual-path RNN for speech separation: chunks, LSTMs within and across them, masks, overlap-add left out."""

    def __init__(self, channels=8, hidden=6, chunk=4, speakers=2):
        super().__init__()
        self.chunk = chunk
        self.speakers = speakers
        self.encoder = nn.Conv1d(1, channels, 4, stride=2, bias=False)
        self.intra_rnn = nn.LSTM(channels, hidden, batch_first=True, bidirectional=True)
        self.intra_linear = nn.Linear(2 * hidden, channels)
        self.intra_norm = nn.GroupNorm(1, channels)
        self.inter_rnn = nn.LSTM(channels, hidden, batch_first=True, bidirectional=True)
        self.inter_linear = nn.Linear(2 * hidden, channels)
        self.inter_norm = nn.GroupNorm(1, channels)
        self.conv2d = nn.Conv2d(channels, channels * speakers, 1)
        self.decoder = nn.ConvTranspose1d(channels, 1, 4, stride=2, bias=False)

    def forward(self, x):
        e = F.relu(self.encoder(x.unsqueeze(1)))
        b, n, length = e.shape
        y = e.view(b, n, length // self.chunk, self.chunk).transpose(2, 3)  # (batch, channel, within, chunk)
        for rnn, linear, norm, is_intra in (
            (self.intra_rnn, self.intra_linear, self.intra_norm, True),
            (self.inter_rnn, self.inter_linear, self.inter_norm, False),
        ):
            order = (0, 3, 2, 1) if is_intra else (0, 2, 3, 1)
            z = y.permute(*order).contiguous()
            out, _ = rnn(z.view(b * z.size(1), z.size(2), n))
            out = linear(out).view(*z.shape).permute(*([0, 3, 2, 1] if is_intra else [0, 3, 1, 2])).contiguous()
            y = y + norm(out)
        masks = F.relu(self.conv2d(y)).transpose(2, 3).reshape(b * self.speakers, n, length)
        separated = masks.view(b, self.speakers, n, length) * e.unsqueeze(1)
        return self.decoder(separated.reshape(b * self.speakers, n, length)).view(b, self.speakers, -1)


class StreamingGRU(nn.Module):
    """A denoiser that keeps its state in a buffer from one call to the next."""

    def __init__(self, bins=5, hidden=8):
        super().__init__()
        self.register_buffer("state", torch.zeros(1, 1, hidden))
        self.encode = nn.Linear(bins, 7)
        self.gru = nn.GRU(7, hidden)
        self.mask = nn.Linear(hidden, bins)

    def forward(self, frame):
        out, state = self.gru(torch.relu(self.encode(frame)), self.state)
        self.state.copy_(state)
        return frame * torch.sigmoid(self.mask(out))
