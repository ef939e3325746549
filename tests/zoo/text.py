"""Networks on text, items and time series."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class LanguageModel(nn.Module):
    """pytorch/examples word_language_model: states in and out, the decoder tied to the embedding or not."""

    def __init__(self, ntoken=17, ninp=8, nhid=10, nlayers=2, tie_weights=False):
        super().__init__()
        self.ntoken = ntoken
        self.drop = nn.Dropout(0.5)
        self.encoder = nn.Embedding(ntoken, ninp)
        self.rnn = nn.LSTM(ninp, nhid, nlayers, dropout=0.5)
        self.decoder = nn.Linear(nhid, ntoken)
        if tie_weights:
            self.decoder.weight = self.encoder.weight

    def forward(self, input, hidden=None):
        emb = self.drop(self.encoder(input))
        output, hidden = self.rnn(emb, hidden)
        decoded = self.decoder(self.drop(output)).view(-1, self.ntoken)
        return F.log_softmax(decoded, dim=1), hidden


class WeightDrop(nn.Module):
    """DropConnect on the hidden-to-hidden weights, as fastai writes it."""

    def __init__(self, module, weight_p=0.5, layer_names=("weight_hh_l0",)):
        super().__init__()
        self.module, self.weight_p, self.layer_names = module, weight_p, layer_names
        for layer in layer_names:
            w = getattr(module, layer)
            delattr(module, layer)
            self.register_parameter(f"{layer}_raw", nn.Parameter(w.data))
            setattr(module, layer, w.detach().clone())

    def forward(self, *args):
        for layer in self.layer_names:
            raw_w = getattr(self, f"{layer}_raw")
            w = F.dropout(raw_w, p=self.weight_p) if self.training else raw_w.clone()
            setattr(self.module, layer, w)
            self.module._flat_weights[self.module._flat_weights_names.index(layer)] = w
        return self.module(*args)


class AWDLSTM(nn.Module):
    """Embedding dropout, locked dropout, weight drop, a stack of single LSTMs, tied weights."""

    def __init__(self, vocabulary=17, emb=8, hidden=11, layers=3):
        super().__init__()
        self.encoder = nn.Embedding(vocabulary, emb)
        self.rnns = nn.ModuleList(
            WeightDrop(nn.LSTM(emb if i == 0 else hidden, hidden if i < layers - 1 else emb)) for i in range(layers)
        )
        self.decoder = nn.Linear(emb, vocabulary)
        self.decoder.weight = self.encoder.weight

    def locked(self, x, dropout=0.4):
        if not self.training:
            return x
        return x * x.new_empty(1, x.size(1), x.size(2)).bernoulli_(1 - dropout) / (1 - dropout)

    def forward(self, input):
        mask = None
        if self.training:
            mask = self.encoder.weight.new_empty(self.encoder.num_embeddings, 1).bernoulli_(0.9) / 0.9
        weight = self.encoder.weight if mask is None else mask.expand_as(self.encoder.weight) * self.encoder.weight
        raw = self.locked(F.embedding(input, weight, self.encoder.padding_idx))
        new_hidden = []
        for rnn in self.rnns:
            raw, state = rnn(raw)
            new_hidden.append(state)
            raw = self.locked(raw)
        return self.decoder(raw.view(raw.size(0) * raw.size(1), raw.size(2))), new_hidden


class Attention(nn.Module):
    """Bahdanau's attention."""

    def __init__(self, encoder, decoder, size):
        super().__init__()
        self.attn = nn.Linear(encoder + decoder, size)
        self.v = nn.Linear(size, 1, bias=False)

    def forward(self, hidden, encoder_outputs, mask):
        hidden = hidden.unsqueeze(1).repeat(1, encoder_outputs.size(1), 1)
        energy = torch.tanh(self.attn(torch.cat((hidden, encoder_outputs), dim=2)))
        attention = self.v(energy).squeeze(2).masked_fill(mask == 0, -1e10)
        return F.softmax(attention, dim=1)


class Seq2Seq(nn.Module):
    """Bidirectional GRU encoder, attention, a decoder loop of an LSTM cell started from the encoder's end."""

    def __init__(self, source=13, target=11, emb=7, enc=6, dec=9):
        super().__init__()
        self.source_embedding = nn.Embedding(source, emb)
        self.encoder = nn.GRU(emb, enc, bidirectional=True, batch_first=True)
        self.bridge = nn.Linear(2 * enc, dec)
        self.attention = Attention(2 * enc, dec, 8)
        self.target_embedding = nn.Embedding(target, 5)
        self.cell = nn.LSTMCell(5 + 2 * enc, dec)
        self.out = nn.Linear(dec + 2 * enc + 5, target)

    def forward(self, source, lengths, target):
        mask = torch.arange(source.size(1))[None] < lengths[:, None]
        packed = pack_padded_sequence(
            self.source_embedding(source), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        memory, last = self.encoder(packed)
        memory, _ = pad_packed_sequence(memory, batch_first=True)
        h = torch.tanh(self.bridge(torch.cat((last[-2, :, :], last[-1, :, :]), dim=1)))
        c = torch.zeros_like(h)
        outputs = torch.zeros(target.size(0), target.size(1), self.out.out_features)
        for t in range(target.size(1)):
            embedded = self.target_embedding(target[:, t])
            weighted = torch.bmm(self.attention(h, memory, mask).unsqueeze(1), memory).squeeze(1)
            h, c = self.cell(torch.cat((embedded, weighted), dim=1), (h, c))
            outputs[:, t] = self.out(torch.cat((h, weighted, embedded), dim=1))
        return outputs


class GRU4Rec(nn.Module):
    """Session recommendations: scores of the items of a sample only, by rows of the output matrix."""

    def __init__(self, items=19, embedding=7, hidden=10):
        super().__init__()
        self.E = nn.Embedding(items, embedding)
        self.G = nn.ModuleList([nn.GRUCell(embedding, hidden)])
        self.Wy = nn.Embedding(items, hidden)
        self.By = nn.Embedding(items, 1)

    def forward(self, X, H, Y):
        x = self.E(X)
        new = []
        for cell, h in zip(self.G, H, strict=True):
            x = cell(x, h)
            new.append(x)
        O, B = self.Wy(Y), self.By(Y)
        return torch.mm(x, O.T) + B.T, new


class ResidualLSTM(nn.Module):
    """Pre-norm residual blocks of LSTM and feed-forward."""

    def __init__(self, features=5, width=8, hidden=10, layers=3, classes=4):
        super().__init__()
        self.embed = nn.Linear(features, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.lstms = nn.ModuleList(nn.LSTM(width, hidden, batch_first=True) for _ in range(layers))
        self.projections = nn.ModuleList(nn.Linear(hidden, width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = self.embed(x)
        for norm, lstm, projection in zip(self.norms, self.lstms, self.projections, strict=True):
            x = x + projection(lstm(norm(x))[0])
        return self.head(self.norm(x).mean(1))


class Autoencoder(nn.Module):
    """The last state is repeated for each step of the decoder."""

    def __init__(self, features=5, hidden=10, code=6):
        super().__init__()
        self.rnn1 = nn.LSTM(features, hidden, batch_first=True)
        self.rnn2 = nn.LSTM(hidden, code, batch_first=True)
        self.rnn3 = nn.LSTM(code, code, batch_first=True)
        self.rnn4 = nn.LSTM(code, hidden, batch_first=True)
        self.output_layer = nn.Linear(hidden, features)

    def forward(self, x):
        seq_len = x.size(1)
        x, _ = self.rnn1(x)
        _, (code, _) = self.rnn2(x)
        x = code[-1].unsqueeze(1).repeat(1, seq_len, 1)
        x, _ = self.rnn3(x)
        x, _ = self.rnn4(x)
        return self.output_layer(x)


class GatedResidual(nn.Module):
    def __init__(self, size, hidden, output=None, context=None):
        super().__init__()
        output = output or size
        self.skip = nn.Linear(size, output) if size != output else nn.Identity()
        self.fc1 = nn.Linear(size, hidden)
        self.context = nn.Linear(context, hidden, bias=False) if context else None
        self.fc2 = nn.Linear(hidden, hidden)
        self.glu = nn.Linear(hidden, 2 * output)
        self.norm = nn.LayerNorm(output)

    def forward(self, x, context=None):
        hidden = self.fc1(x)
        if context is not None:
            hidden = hidden + self.context(context)
        return self.norm(self.skip(x) + F.glu(self.glu(self.fc2(F.elu(hidden))), dim=-1))


class VariableSelection(nn.Module):
    def __init__(self, inputs, size):
        super().__init__()
        self.transforms = nn.ModuleList(nn.Linear(1, size) for _ in range(inputs))
        self.weights = GatedResidual(inputs * size, size, inputs, context=size)
        self.networks = nn.ModuleList(GatedResidual(size, size) for _ in range(inputs))

    def forward(self, x, context):
        embedded = [transform(x[..., i : i + 1]) for i, transform in enumerate(self.transforms)]
        weights = torch.softmax(self.weights(torch.cat(embedded, -1), context), -1).unsqueeze(-2)
        values = torch.stack([network(one) for network, one in zip(self.networks, embedded, strict=True)], -1)
        return (values * weights).sum(-1)


class TFT(nn.Module):
    """Temporal fusion transformer: selection of variables, an LSTM that hands its state on, interpretable attention."""

    def __init__(self, statics=3, past=3, future=2, size=8, heads=2, quantiles=3):
        super().__init__()
        self.heads = heads
        self.static = nn.Linear(statics, size)
        self.contexts = nn.ModuleList(GatedResidual(size, size) for _ in range(4))
        self.select_past = VariableSelection(past, size)
        self.select_future = VariableSelection(future, size)
        self.lstm_encoder = nn.LSTM(size, size, batch_first=True)
        self.lstm_decoder = nn.LSTM(size, size, batch_first=True)
        self.gate = nn.Linear(size, 2 * size)
        self.norm = nn.LayerNorm(size)
        self.q, self.k = nn.Linear(size, size), nn.Linear(size, size)
        self.v, self.o = nn.Linear(size, size // heads), nn.Linear(size // heads, size)
        self.feed = GatedResidual(size, size)
        self.out = nn.Linear(size, quantiles)

    def forward(self, static, past, future):
        select, h0, c0, enrich = (context(self.static(static)) for context in self.contexts)
        past = self.select_past(past, select.unsqueeze(1))
        future = self.select_future(future, select.unsqueeze(1))
        encoded, state = self.lstm_encoder(past, (h0.unsqueeze(0), c0.unsqueeze(0)))
        decoded, _ = self.lstm_decoder(future, state)
        x = torch.cat([encoded, decoded], 1)
        x = self.norm(F.glu(self.gate(x), -1) + torch.cat([past, future], 1)) + enrich.unsqueeze(1)
        b, t, _ = x.shape
        q, k = (linear(x).view(b, t, self.heads, -1).transpose(1, 2) for linear in (self.q, self.k))
        scores = torch.softmax(q @ k.transpose(-1, -2) / 2.0, -1).mean(1)
        x = x + self.o(scores @ self.v(x))
        return self.out(self.feed(x)[:, encoded.size(1) :])


class CharCNN(nn.Module):
    def __init__(self, characters=15, size=4, filters=6):
        super().__init__()
        self.embedding = nn.Embedding(characters, size, padding_idx=0)
        self.conv = nn.Conv1d(size, filters, 3, padding=1)

    def forward(self, characters):
        b, w, c = characters.shape
        x = self.embedding(characters.view(b * w, c)).transpose(1, 2)
        x = F.max_pool1d(torch.tanh(self.conv(x)), c).squeeze(-1)
        return x.view(b, w, -1)


class BiLSTMCRF(nn.Module):
    """Ma and Hovy's tagger: words and characters, a packed bidirectional LSTM, scores of a CRF summed in a loop."""

    def __init__(self, words=20, tags=5, hidden=9):
        super().__init__()
        self.words = nn.Embedding(words, 8)
        self.characters = CharCNN()
        self.lstm = nn.LSTM(8 + 6, hidden, bidirectional=True, batch_first=True)
        self.hidden2tag = nn.Linear(2 * hidden, tags)
        self.transitions = nn.Parameter(torch.randn(tags, tags))

    def forward(self, words, characters, lengths):
        x = torch.cat([self.words(words), self.characters(characters)], -1)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        x, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        emissions = self.hidden2tag(x)
        score = emissions[:, 0]
        for i in range(1, emissions.size(1)):
            following = torch.logsumexp(score.unsqueeze(2) + self.transitions + emissions[:, i].unsqueeze(1), dim=1)
            score = torch.where((i < lengths).unsqueeze(1), following, score)
        return torch.logsumexp(score, dim=1), emissions


class AttentionOverGRU(nn.Module):
    """torch's multi-head attention over a bidirectional GRU, with a linear layer between them."""

    def __init__(self, features=6, hidden=7, width=8, classes=4):
        super().__init__()
        self.gru = nn.GRU(features, hidden, batch_first=True, bidirectional=True)
        self.to_width = nn.Linear(2 * hidden, width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x, key_padding_mask=None):
        x = self.to_width(self.gru(x)[0])
        attended, _ = self.attention(x, x, x, key_padding_mask=key_padding_mask, need_weights=False)
        return self.head(self.norm(x + attended).max(dim=1).values)


class SelfAttentiveLSTM(nn.Module):
    """An LSTM with heads of its own written by hand, read straight from the LSTM."""

    def __init__(self, features=6, hidden=10, width=8, heads=2, classes=4):
        super().__init__()
        self.heads = heads
        self.lstm = nn.LSTM(features, hidden, batch_first=True)
        self.qkv = nn.Linear(hidden, 3 * width)
        self.out = nn.Linear(width, classes)

    def forward(self, x):
        x, _ = self.lstm(x)
        b, t, _ = x.shape
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (part.view(b, t, self.heads, -1).transpose(1, 2) for part in (q, k, v))
        x = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(x.transpose(1, 2).reshape(b, t, -1))


class Classifier(nn.Module):
    """The last states of both directions side by side, as every tutorial has it."""

    def __init__(self, vocabulary=20, embedding=6, hidden=8, classes=3):
        super().__init__()
        self.hidden = hidden
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.lstm = nn.LSTM(embedding, hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(2 * hidden, classes)

    def forward(self, text):
        out, _ = self.lstm(self.embedding(text))
        ends = torch.cat((out[:, -1, : self.hidden], out[:, 0, self.hidden :]), dim=-1)
        return self.fc(torch.relu(ends))
