"""Cells that people write themselves."""

import torch
import torch.nn.functional as F
from torch import nn


class LayerNormLSTM(nn.Module):
    """An LSTM written by hand with normalised gates and cells."""

    def __init__(self, features=5, hidden=8, classes=4):
        super().__init__()
        self.hidden = hidden
        self.weight_ih = nn.Linear(features, 4 * hidden, bias=False)
        self.weight_hh = nn.Linear(hidden, 4 * hidden)
        self.norm_c = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x):
        h = c = torch.zeros(x.size(0), self.hidden)
        outputs = []
        for x_t in x.unbind(1):
            i, f, g, o = (self.weight_ih(x_t) + self.weight_hh(h)).chunk(4, dim=-1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(self.norm_c(c))
            outputs.append(h)
        return self.head(torch.stack(outputs, dim=1))


class SRU(nn.Module):
    """Simple recurrent units with raw parameters: one product for all steps, then a loop without products."""

    def __init__(self, width=8, layers=2, vocabulary=13):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.weights = nn.ParameterList(0.3 * torch.randn(width, 3 * width) for _ in range(layers))
        self.weight_c = nn.ParameterList(0.3 * torch.randn(2 * width) for _ in range(layers))
        self.biases = nn.ParameterList(torch.zeros(2 * width) for _ in range(layers))
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for weight, weight_c, bias in zip(self.weights, self.weight_c, self.biases, strict=True):
            length, batch, d = x.shape
            u = torch.mm(x.view(-1, d), weight).view(length, batch, d, 3)
            forget_wc, reset_wc = weight_c.view(2, d)
            forget_bias, reset_bias = bias.view(2, d)
            c, hidden = x.new_zeros(batch, d), []
            for t in range(length):
                f = (u[t, ..., 1] + c * forget_wc + forget_bias).sigmoid()
                r = (u[t, ..., 2] + c * reset_wc + reset_bias).sigmoid()
                c = u[t, ..., 0] + (c - u[t, ..., 0]) * f
                hidden.append((c - x[t]) * r + x[t])
            x = torch.stack(hidden)
        return self.head(x)


class MinGRU(nn.Module):
    """minGRU in its parallel form: a scan in log space by cumulative sums."""

    def __init__(self, features=5, hidden=10, classes=4):
        super().__init__()
        self.embed = nn.Linear(features, 7)
        self.to_hidden_and_gate = nn.Linear(7, 2 * hidden, bias=False)
        self.out = nn.Linear(hidden, classes)

    def forward(self, x):
        hidden, gate = self.to_hidden_and_gate(self.embed(x)).chunk(2, dim=-1)
        log_coeffs = -F.softplus(gate)
        log_z = -F.softplus(-gate)
        log_g = torch.where(hidden >= 0, (F.relu(hidden) + 0.5).log(), -F.softplus(-hidden))
        log_values = log_z + log_g
        a_star = F.pad(log_coeffs.cumsum(dim=1), (0, 0, 1, 0))
        log_values = F.pad(log_values, (0, 0, 1, 0), value=-30.0)
        log_h0_plus_b_star = (log_values - a_star).logcumsumexp(dim=1)
        h = (a_star + log_h0_plus_b_star).exp()[:, 1:]
        return self.out(h)


class SLSTM(nn.Module):
    """xLSTM's sLSTM: exponential gates with a stabiliser, recurrent weights in blocks of heads, group norm of heads."""

    def __init__(self, features=5, width=8, heads=2, classes=4):
        super().__init__()
        self.heads = heads
        self.up = nn.Linear(features, width)
        self.conv = nn.Conv1d(width, width, 3, groups=width, padding=2)
        self.gates = nn.Linear(width, 4 * width)
        self.recurrent = nn.Parameter(0.3 * torch.randn(4, heads, width // heads, width // heads))
        self.norm = nn.GroupNorm(heads, width)
        self.up_proj = nn.Linear(width, 2 * 12)
        self.down_proj = nn.Linear(12, width)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = self.up(x)
        b, t, w = x.shape
        conved = F.silu(self.conv(x.transpose(1, 2))[..., :t].transpose(1, 2))
        gates = self.gates(conved)
        h = c = n = m = x.new_zeros(b, w)
        outputs = []
        for step in range(t):
            ry = torch.einsum("bhd,ghde->bghe", h.view(b, self.heads, -1), self.recurrent).flatten(1)
            z, i, f, o = (gates[:, step] + ry).chunk(4, dim=-1)
            log_f = F.logsigmoid(f)
            m_new = torch.maximum(log_f + m, i)
            i, f = torch.exp(i - m_new), torch.exp(log_f + m - m_new)
            c, n, m = f * c + i * torch.tanh(z), f * n + i, m_new
            h = torch.sigmoid(o) * c / (n + 1e-6)
            outputs.append(h)
        y = x + self.norm(torch.stack(outputs, 1).reshape(b * t, w)).view(b, t, w)
        a, gate = self.up_proj(y).chunk(2, -1)
        return self.head(y + self.down_proj(a * F.gelu(gate)))


class Mamba(nn.Module):
    """A selective scan as in mamba-minimal."""

    def __init__(self, vocabulary=13, d_model=8, d_inner=12, d_state=4, dt_rank=3, d_conv=3):
        super().__init__()
        self.dt_rank, self.d_state = dt_rank, d_state
        self.embedding = nn.Embedding(vocabulary, d_model)
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, d_state + 1).repeat(d_inner, 1)))
        self.D = nn.Parameter(torch.ones(d_inner))
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)
        self.norm = nn.RMSNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocabulary, bias=False)

    def ssm(self, x):
        d_in, n = self.A_log.shape
        A = -torch.exp(self.A_log.float())
        delta, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = F.softplus(self.dt_proj(delta))
        deltaA = torch.exp(torch.einsum("bld,dn->bldn", delta, A))
        deltaB_u = torch.einsum("bld,bln,bld->bldn", delta, B, x)
        state = torch.zeros((x.size(0), d_in, n), device=x.device)
        ys = []
        for i in range(x.size(1)):
            state = deltaA[:, i] * state + deltaB_u[:, i]
            ys.append(torch.einsum("bdn,bn->bd", state, C[:, i, :]))
        return torch.stack(ys, dim=1) + x * self.D

    def forward(self, tokens):
        x = self.embedding(tokens)
        a, res = self.in_proj(self.norm(x)).chunk(2, dim=-1)
        a = self.conv1d(a.transpose(1, 2))[:, :, : x.size(1)].transpose(1, 2)
        x = x + self.out_proj(self.ssm(F.silu(a)) * F.silu(res))
        return self.lm_head(x)


class ConvGRUCell(nn.Module):
    def __init__(self, channels, hidden, kernel=3):
        super().__init__()
        self.hidden = hidden
        self.conv_gates = nn.Conv2d(channels + hidden, 2 * hidden, kernel, padding=kernel // 2)
        self.conv_can = nn.Conv2d(channels + hidden, hidden, kernel, padding=kernel // 2)

    def forward(self, x, h):
        reset, update = torch.split(torch.sigmoid(self.conv_gates(torch.cat([x, h], dim=1))), self.hidden, dim=1)
        candidate = torch.tanh(self.conv_can(torch.cat([x, reset * h], dim=1)))
        return (1 - update) * h + update * candidate


class ConvGRU(nn.Module):
    """Nowcasting: two layers of convolutional GRUs over frames, a picture out."""

    def __init__(self, channels=1, hidden=(6, 5)):
        super().__init__()
        self.cells = nn.ModuleList([ConvGRUCell(channels, hidden[0]), ConvGRUCell(hidden[0], hidden[1])])
        self.out = nn.Conv2d(hidden[1], 1, 1)

    def forward(self, frames):
        b, t, _, height, width = frames.shape
        states = [torch.zeros(b, cell.hidden, height, width) for cell in self.cells]
        for i in range(t):
            x = frames[:, i]
            for k, cell in enumerate(self.cells):
                states[k] = x = cell(x, states[k])
        return self.out(states[-1])


class QuasiRNN(nn.Module):
    """QRNN: gates from a causal convolution, pooled by a loop that writes into one tensor in place."""

    def __init__(self, features=5, hidden=8, classes=3):
        super().__init__()
        self.conv = nn.Conv1d(features, 3 * hidden, 2)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x):
        gates = self.conv(F.pad(x.transpose(1, 2), (1, 0))).transpose(1, 2)
        z, f, o = gates.tensor_split(3, dim=2)
        z, f = z.tanh(), f.sigmoid_()
        c = torch.empty_like(z)
        c[:, 0] = (1 - f[:, 0]) * z[:, 0]
        for t in range(1, x.size(1)):
            torch.lerp(z[:, t], c[:, t - 1], f[:, t], out=c[:, t])
        return self.head(c.mul_(o.sigmoid()))
