"""Every family of operations: which units it ties, which it keeps whole, and that what it leaves free is exact."""

import time
import warnings

import einops
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from l0rnn import shrink
from l0rnn.tracing import rule, trace
from l0rnn.tracing.rules import RULES
from l0rnn.tracing.rules.atoms import compact
from tests.tracing.probe import FREE, HALVES, PAIRS, THIRDS, WHOLE, WIDTH, assert_exact, groups, probe


def parameter(*shape):
    return nn.Parameter(torch.randn(shape))


def in_place(h, p):
    h = h.clone()
    h.mul_(2).add_(1).tanh_()
    h += h.sigmoid()
    return h


def into_view(h, p):
    out = torch.zeros_like(h)
    for t in range(h.size(1)):
        out[:, t].copy_(h[:, t])
    return out


def into_slices(h, p):
    out = h.new_zeros(h.shape)
    for t in range(h.size(1)):
        out[:, t] = h[:, t] * 2
    return out


def alias_of_a_clone(h, p):
    first = h.clone()
    second = first.clone()
    second.copy_(h.flip(-1))  # only the second is another order of units now
    return first


def alias_of_a_view(h, p):
    out = h.clone()
    view = out[:, 0]
    view.copy_(h.flip(-1)[:, 0])
    return out


def add_out(h, p):
    out = torch.empty_like(h)
    torch.add(h, h, out=out)
    return out


def out_of_a_view(h, p):
    out = torch.zeros_like(h)
    torch.mul(h[:, 0], 2, out=out[:, 0])
    return out


def expanded_mask(h, p):
    mask = (torch.arange(h.size(1)) < 3)[None, :, None].expand(h.size()).float()
    return (h * mask).sum(1) / mask.sum(1)


def fused(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.tanh(a + b) * torch.sigmoid(a)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecated, and still everywhere
    scripted = torch.jit.script(fused)


def lstm_from_hidden(h, p):
    c = torch.zeros_like(h[:, 0])
    return p.cell(h[:, 0], (torch.zeros_like(c), c))[0]


ELEMENTWISE = {
    "activation": (lambda h, p: torch.relu(input=h), FREE, {}),
    "in place": (in_place, FREE, {}),
    "into views": (into_view, FREE, {}),
    "into slices": (into_slices, FREE, {}),
    "out": (add_out, FREE, {}),
    "out into a view": (out_of_a_view, FREE, {}),
    "sum with itself in another order": (lambda h, p: h + h.flip(-1), [[0, 5], [1, 4], [2, 3]], {}),
    "a clone is no alias": (alias_of_a_clone, FREE, {}),
    "a view is an alias": (alias_of_a_view, [[0, 5], [1, 4], [2, 3]], {}),
    "bias": (lambda h, p: h + p.bias, FREE, {"bias": parameter(WIDTH)}),
    "bias of size 1": (lambda h, p: h + p.bias, FREE, {"bias": parameter(1)}),
    "number that is a parameter": (lambda h, p: h * p.scale, FREE, {"scale": parameter()}),
    "where": (lambda h, p: torch.where(h > 0, h, p.bias), FREE, {"bias": parameter(WIDTH)}),
    "mask": (lambda h, p: h.masked_fill(torch.arange(5)[:, None] > 2, 0.0), FREE, {}),
    "expanded mask": (expanded_mask, FREE, {}),
    "masked select by index": (lambda h, p: h[torch.ones(2, 5, dtype=torch.bool)], FREE, {}),
    "set by a mask": (lambda h, p: h.clone().index_put((torch.tensor([0]),), torch.zeros(())), WHOLE, {}),
    "positions over units": (lambda h, p: h * torch.arange(6.0), WHOLE, {}),
    "buffer of positions": (lambda h, p: h + p.pe[:, : h.size(1)], FREE, {"pe": torch.randn(1, 9, WIDTH)}),
    "noise": (lambda h, p: h + 0 * torch.randn_like(h), WHOLE, {}),
    "glu": (lambda h, p: F.glu(h, -1), HALVES, {}),
    "prelu": (lambda h, p: p.act(h.transpose(1, 2)).transpose(1, 2), FREE, {"act": nn.PReLU(WIDTH)}),
    "prelu with one slope": (lambda h, p: p.act(h), FREE, {"act": nn.PReLU()}),
    "three in one": (lambda h, p: torch.addcmul(h, h, p.bias), FREE, {"bias": parameter(WIDTH)}),
    "lerp": (lambda h, p: torch.lerp(h, h * 2, torch.sigmoid(h)), FREE, {}),
    "one unit over the others": (lambda h, p: h[..., :1] * h, WHOLE, {}),
    "integers made of units": (lambda h, p: (h > 0).long().float(), FREE, {}),
    "a number taken out": (lambda h, p: h * float(h[0, 0, 0] > -100), WHOLE, {}),
    "an array taken out": (lambda h, p: h + torch.from_numpy(h.detach().numpy()) * 0, WHOLE, {}),
    "scripted": (lambda h, p: scripted(h, p.bias), FREE, {"bias": parameter(WIDTH)}),
    "checkpoint": (lambda h, p: checkpoint(torch.tanh, h, use_reentrant=False), FREE, {}),
    "old checkpoint": (lambda h, p: checkpoint(torch.tanh, h, use_reentrant=True), FREE, {}),
    "vmap": (lambda h, p: torch.vmap(torch.sin)(h), WHOLE, {}),
    "unknown": (lambda h, p: torch.special.bessel_j0(h), WHOLE, {}),
}
SHAPES = {
    "permute and back": (lambda h, p: h.permute(2, 0, 1).permute(1, 2, 0), FREE, {}),
    "negative dims": (lambda h, p: h.transpose(-1, -2).transpose(-2, -1), FREE, {}),
    "flatten time": (lambda h, p: h.flatten(0, 1), FREE, {}),
    "time into units": (lambda h, p: h.flatten(1), FREE, {}),
    "heads and back": (lambda h, p: h.view(2, 5, 2, -1).flatten(2), HALVES, {}),
    "groups by their size": (lambda h, p: h.view(2, 5, -1, 2).sum(-1), PAIRS, {}),
    "heads by unflatten": (lambda h, p: h.unflatten(-1, (3, -1)).flatten(-2), THIRDS, {}),
    "einops heads": (lambda h, p: einops.rearrange(h, "b t (k d) -> b k t d", k=2).sum(1), HALVES, {}),
    "einops split": (lambda h, p: einops.rearrange(h, "b t (k d) -> k b t d", k=2)[0], HALVES, {}),
    "einops mean": (lambda h, p: einops.reduce(h, "b t d -> b d", "mean"), FREE, {}),
    "chunk": (lambda h, p: h.chunk(2, -1)[0], HALVES, {}),
    "chunk in unequal pieces": (lambda h, p: h.chunk(4, dim=-1)[0], THIRDS, {}),
    "split by a size": (lambda h, p: h.split(h.size(-1) // 3, dim=-1)[1], THIRDS, {}),
    "split by sizes": (lambda h, p: h.split([h.size(-1) // 3, h.size(-1) // 3 * 2], dim=-1)[1], THIRDS, {}),
    "split by odd sizes": (lambda h, p: h.split([1, 5], dim=-1)[1], WHOLE, {}),
    "slices": (lambda h, p: h[..., : h.size(-1) // 2] + h[..., h.size(-1) // 2 :], HALVES, {}),
    "slice at a number": (lambda h, p: h[..., :5], WHOLE, {}),
    "slice of half": (lambda h, p: h[..., h.size(-1) // 2 :], HALVES, {}),
    "every second": (lambda h, p: h[..., ::2], WHOLE, {}),
    "one unit": (lambda h, p: h[..., 2:3], WHOLE, {}),
    "one unit by select": (lambda h, p: h.select(-1, 2).unsqueeze(-1), WHOLE, {}),
    "last step": (lambda h, p: h[:, -1], FREE, {}),
    "steps one by one": (lambda h, p: torch.stack(list(h.unbind(1)), 1), FREE, {}),
    "iteration": (lambda h, p: torch.stack([row * 2 for row in h]), FREE, {}),
    "steps by number": (lambda h, p: h[torch.arange(2), torch.tensor([1, 3])], FREE, {}),
    "units by number": (lambda h, p: h[..., torch.tensor([5, 4, 3, 2, 1, 0])], WHOLE, {}),
    "units by index_select": (lambda h, p: h.index_select(-1, torch.tensor([1, 0])), WHOLE, {}),
    "steps by index_select": (lambda h, p: h.index_select(1, torch.tensor([1, 0])), FREE, {}),
    "steps by gather": (
        lambda h, p: h.gather(1, torch.tensor([2, 1])[:, None, None].expand(-1, 1, h.size(-1))),
        FREE,
        {},
    ),
    "flip": (lambda h, p: h.flip(-1), FREE, {}),
    "roll of units": (lambda h, p: h.roll(1, -1), WHOLE, {}),
    "roll of time": (lambda h, p: h.roll(1, 1), FREE, {}),
    "pad of time": (lambda h, p: F.pad(h, (0, 0, 2, 0)), FREE, {}),
    "reflected pad of time": (lambda h, p: F.pad(h.transpose(1, 2), (2, 1), mode="reflect").transpose(1, 2), FREE, {}),
    "pad of units": (lambda h, p: F.pad(h, (2, 1)), FREE, {}),
    "negative pad of units": (lambda h, p: F.pad(h, (-2, 0)), WHOLE, {}),
    "cat with itself": (lambda h, p: torch.cat([h, h * 2], -1), FREE, {}),
    "cat with the input": (lambda h, p: torch.cat([h, torch.ones(2, 5, 2)], -1), FREE, {}),
    "cat of time": (lambda h, p: torch.cat([h, h.flip(-1)], dim=1), [[0, 5], [1, 4], [2, 3]], {}),
    "stack of orders": (lambda h, p: torch.stack([h, h.flip(-1)]), [[0, 5], [1, 4], [2, 3]], {}),
    "hstack": (lambda h, p: torch.hstack([h[:, 0], h[:, 1]]), FREE, {}),
    "repeat": (lambda h, p: h[:, :1].repeat(1, 4, 1), FREE, {}),
    "repeat of units": (lambda h, p: h.repeat(1, 1, 2), FREE, {}),
    "repeat_interleave": (lambda h, p: h.repeat_interleave(2, dim=-1), FREE, {}),
    "windows of time": (lambda h, p: h.unfold(1, 2, 1).mean(-1), FREE, {}),
    "windows of units": (lambda h, p: h.unfold(-1, 2, 1).flatten(-2), WHOLE, {}),
    "scatter of steps": (lambda h, p: torch.zeros_like(h).index_add(1, torch.tensor([0, 0, 1, 1, 2]), h), FREE, {}),
    "interleaved gates": (lambda h, p: torch.tanh(h.view(2, 5, -1, 2)[..., 0]), PAIRS, {}),
    "contiguous of strange strides": (lambda h, p: h.transpose(0, 1).contiguous().view(-1, h.size(-1)), FREE, {}),
}
REDUCTIONS = {
    "mean over time": (lambda h, p: h.mean(1), FREE, {}),
    "mean by axis": (lambda h, p: h.mean(axis=1, keepdim=True), FREE, {}),
    "mean over units": (lambda h, p: h - h.mean(-1, keepdim=True), WHOLE, {}),
    "max over time": (lambda h, p: h.max(dim=1).values, FREE, {}),
    "max of two": (lambda h, p: torch.max(h, h * 2), FREE, {}),
    "sum over groups": (lambda h, p: h.view(2, 5, 2, -1).sum(2), HALVES, {}),
    "cumsum over time": (lambda h, p: h.cumsum(dim=1), FREE, {}),
    "cumsum over units": (lambda h, p: h.cumsum(-1), WHOLE, {}),
    "softmax over time": (lambda h, p: F.softmax(h, dim=1), FREE, {}),
    "softmax over units": (lambda h, p: h.softmax(-1), WHOLE, {}),
    "sorted over time": (lambda h, p: h.sort(dim=1)[0], FREE, {}),
    "topk over time": (lambda h, p: h.topk(2, dim=1).values, FREE, {}),
    "norm over units": (lambda h, p: F.normalize(h, dim=-1), WHOLE, {}),
    "norm over time": (lambda h, p: h / torch.linalg.vector_norm(h, 2, 1, keepdim=True), FREE, {}),
    "cosine similarity": (lambda h, p: h * F.cosine_similarity(h, h * 2, dim=-1)[..., None], WHOLE, {}),
    "spectrum over time": (lambda h, p: torch.fft.rfft(h, dim=1).abs(), FREE, {}),
    "spectrum in pairs": (lambda h, p: torch.view_as_real(torch.fft.rfft(h, dim=1)).sum(-1), FREE, {}),
    "spectrum over units": (lambda h, p: torch.fft.rfft(h, dim=-1).abs(), WHOLE, {}),
    "argmax": (lambda h, p: h * h.argmax(-1, keepdim=True), WHOLE, {}),
}
NORMS = {
    "batch norm": (lambda h, p: p.norm(h.transpose(1, 2)).transpose(1, 2), FREE, {"norm": nn.BatchNorm1d(WIDTH)}),
    "batch norm of rows": (lambda h, p: p.norm(h.flatten(0, 1)), FREE, {"norm": nn.BatchNorm1d(WIDTH)}),
    "instance norm": (lambda h, p: p.norm(h.transpose(1, 2)).mT, FREE, {"norm": nn.InstanceNorm1d(WIDTH, affine=True)}),
    "layer norm": (lambda h, p: p.norm(h), FREE, {"norm": nn.LayerNorm(WIDTH)}),
    "rms norm": (lambda h, p: p.norm(h), FREE, {"norm": nn.RMSNorm(WIDTH)}),
    "layer norm over time": (lambda h, p: p.norm(h.mT).mT, FREE, {"norm": nn.LayerNorm(5)}),
    "layer norm over both": (lambda h, p: p.norm(h), WHOLE, {"norm": nn.LayerNorm((5, WIDTH))}),
    "group norm": (lambda h, p: p.norm(h.transpose(1, 2)).mT, WHOLE, {"norm": nn.GroupNorm(2, WIDTH)}),
}
PRODUCTS = {
    "matmul with a parameter": (lambda h, p: h @ p.w, FREE, {"w": parameter(WIDTH, 4)}),
    "matmul of rows with a parameter": (lambda h, p: torch.mm(h.flatten(0, 1), p.w), FREE, {"w": parameter(WIDTH, 4)}),
    "matmul with a vector": (lambda h, p: torch.matmul(h, p.w)[..., None], FREE, {"w": parameter(WIDTH)}),
    "mv": (lambda h, p: torch.mv(h[0], p.w)[..., None], FREE, {"w": parameter(WIDTH)}),
    "a vector times a matrix": (lambda h, p: h[0, 0] @ p.w, FREE, {"w": parameter(WIDTH, 4)}),
    "addmm": (lambda h, p: torch.addmm(p.b, h[0], p.w), FREE, {"w": parameter(WIDTH, 4), "b": parameter(4)}),
    "inner": (lambda h, p: torch.inner(h, p.w), FREE, {"w": parameter(4, WIDTH)}),
    "tensordot": (lambda h, p: torch.tensordot(h, p.w, dims=([2], [0])), FREE, {"w": parameter(WIDTH, 4)}),
    "einsum": (lambda h, p: torch.einsum("bti,oi->bto", h, p.w), FREE, {"w": parameter(4, WIDTH)}),
    "einsum with dots": (lambda h, p: torch.einsum("...i,oi->...o", h, p.w), FREE, {"w": parameter(4, WIDTH)}),
    "einsum without an arrow": (lambda h, p: torch.einsum("bti,io", h, p.w), FREE, {"w": parameter(WIDTH, 4)}),
    "einsum of each unit": (lambda h, p: torch.einsum("bti,i->bti", h, p.w), FREE, {"w": parameter(WIDTH)}),
    "einsum of three": (
        lambda h, p: torch.einsum("bti,io,oq->btq", h, p.w, p.v),
        FREE,
        {"w": parameter(WIDTH, 4), "v": parameter(4, 3)},
    ),
    "einsum of one": (lambda h, p: torch.einsum("bti->bi", h), FREE, {}),
    "einsum with a diagonal": (lambda h, p: h * torch.einsum("tt->t", h[0, :, :5])[None, :, None], WHOLE, {}),
    "grouped linear": (
        lambda h, p: torch.einsum("btgi,gio->btgo", h.view(2, 5, 2, -1), p.w).flatten(2),
        HALVES,
        {"w": parameter(2, 3, 4)},
    ),
    "grouped linear by bmm": (
        lambda h, p: torch.bmm(h.view(10, 2, -1).transpose(0, 1), p.w).transpose(0, 1).flatten(1),
        HALVES,
        {"w": parameter(2, 3, 4)},
    ),
    "mixing time by a parameter": (lambda h, p: torch.einsum("bti,st->bsi", h, p.w), FREE, {"w": parameter(4, 5)}),
    "low rank": (lambda h, p: F.linear(h, p.a @ p.b), FREE, {"a": parameter(4, 2), "b": parameter(2, WIDTH)}),
    "weight and its mask": (
        lambda h, p: F.linear(h, p.w * p.mask), FREE, {"w": parameter(4, WIDTH), "mask": torch.ones(4, WIDTH)},
    ),
    "bilinear": (lambda h, p: p.two(h, h), FREE, {"two": nn.Bilinear(WIDTH, WIDTH, 3)}),
    "linear over time": (lambda h, p: p.steps(h.mT).mT, FREE, {"steps": nn.Linear(5, 4)}),
    "queries and keys": (lambda h, p: h @ h.mT @ h.detach(), WHOLE, {}),
    "attention": (lambda h, p: torch.softmax(p.q(h) @ p.k(h).mT, -1) @ h, FREE,
                  {"q": nn.Linear(WIDTH, 4), "k": nn.Linear(WIDTH, 4)}),
    "fused attention": (
        lambda h, p: F.scaled_dot_product_attention(p.q(h), p.q(h), value=h), FREE, {"q": nn.Linear(WIDTH, 4)},
    ),
    "attention of torch": (
        lambda h, p: p.mha(h, h, h)[0], WHOLE, {"mha": nn.MultiheadAttention(WIDTH, 2, batch_first=True)},
    ),
    "attention of torch over memory": (
        lambda h, p: p.mha(p.q.expand(2, 3, 4), h, h)[0],
        FREE,
        {"mha": nn.MultiheadAttention(4, 2, batch_first=True, kdim=WIDTH, vdim=WIDTH), "q": parameter(1, 3, 4)},
    ),
    "sum with ones": (lambda h, p: h @ torch.ones(6, 1), WHOLE, {}),
    "weights that come from units": (lambda h, p: F.linear(torch.ones(2, 3), h.mean(1).view(4, 3)), WHOLE, {}),
}  # fmt: skip
CONVOLUTIONS = {
    "conv1d": (lambda h, p: p.conv(h.mT).mT, FREE, {"conv": nn.Conv1d(WIDTH, 4, 3)}),
    "causal conv1d": (lambda h, p: p.conv(F.pad(h.mT, (2, 0))).mT, FREE, {"conv": nn.Conv1d(WIDTH, 4, 3)}),
    "transposed": (lambda h, p: p.conv(h.mT).mT, FREE, {"conv": nn.ConvTranspose1d(WIDTH, 4, 3, stride=2)}),
    "depthwise": (lambda h, p: p.conv(h.mT).mT, FREE, {"conv": nn.Conv1d(WIDTH, WIDTH, 3, groups=WIDTH)}),
    "grouped": (lambda h, p: p.conv(h.mT).mT, HALVES, {"conv": nn.Conv1d(WIDTH, 4, 3, groups=2)}),
    "grouped transposed": (lambda h, p: p.conv(h.mT).mT, HALVES, {"conv": nn.ConvTranspose1d(WIDTH, 4, 3, groups=2)}),
    "picture of units": (lambda h, p: p.conv(h[:, None]).flatten(2).mT, WHOLE, {"conv": nn.Conv2d(1, 4, 3)}),
    "channels times bands": (
        lambda h, p: p.conv(h.view(2, 5, -1, 3).transpose(1, 2)).transpose(1, 2).flatten(2), [[0, 1, 2], [3, 4, 5]],
        {"conv": nn.Conv2d(2, 4, (1, 2))},
    ),
    "max pool": (lambda h, p: F.max_pool1d(h.mT, 2).mT, FREE, {}),
    "average pool of units": (lambda h, p: F.avg_pool1d(h, 2), WHOLE, {}),
    "pool of one size": (lambda h, p: F.max_pool2d(h[:, None], (2, 1)).squeeze(1), FREE, {}),
    "mean over the height": (lambda h, p: F.adaptive_avg_pool2d(h.unsqueeze(-1), (None, 1)).squeeze(3), FREE, {}),
    "stretched": (lambda h, p: F.interpolate(h.mT, scale_factor=2.0).mT, FREE, {}),
    "conv by units": (lambda h, p: F.conv1d(torch.ones(1, 1, 9), h[0, :, None, :3]).mT, WHOLE, {}),
}  # fmt: skip
RECURRENT = {
    "lstm": (lambda h, p: p.rnn(h)[0], FREE, {"rnn": nn.LSTM(WIDTH, 4, batch_first=True)}),
    "unbatched": (lambda h, p: p.rnn(h[0])[0], FREE, {"rnn": nn.GRU(WIDTH, 4)}),
    "cell": (lstm_from_hidden, FREE, {"cell": nn.LSTMCell(WIDTH, WIDTH)}),
    "units as a first state": (
        lambda h, p: p.rnn(torch.ones(5, 2, 2), h[:, 0][None].contiguous())[0], FREE, {"rnn": nn.GRU(2, WIDTH)},
    ),
    "packed": (
        lambda h, p: nn.utils.rnn.pad_packed_sequence(
            p.rnn(nn.utils.rnn.pack_padded_sequence(h, torch.tensor([3, 5]), True, enforce_sorted=False))[0], True
        )[0],
        FREE,
        {"rnn": nn.GRU(WIDTH, 4, bidirectional=True, batch_first=True)},
    ),
    "work on packed data": (
        lambda h, p: torch.tanh(nn.utils.rnn.pack_sequence([h[0], h[1, :3]]).data), FREE, {},
    ),
    "padded list": (lambda h, p: nn.utils.rnn.pad_sequence([h[0], h[1, :3]], batch_first=True), FREE, {}),
    "all states as one tensor": (
        lambda h, p: p.rnn(h)[1].transpose(0, 1).flatten(1),
        FREE,
        {"rnn": nn.GRU(WIDTH, 4, bidirectional=True, batch_first=True)},
    ),
}  # fmt: skip
FAMILIES = {
    f"{family}: {name}": case
    for family, cases in {
        "elementwise": ELEMENTWISE, "shapes": SHAPES, "reductions": REDUCTIONS, "norms": NORMS, "products": PRODUCTS,
        "convolutions": CONVOLUTIONS, "recurrent": RECURRENT,
    }.items()
    for name, case in cases.items()
}  # fmt: skip


@pytest.mark.parametrize("case", FAMILIES)
@pytest.mark.filterwarnings("ignore")
def test_operation_ties_what_it_must_and_the_rest_is_exact(case):
    operation, expected, parts = FAMILIES[case]

    network, units = probe(operation, **parts)

    assert groups(units) == expected, units.whole
    if expected == WHOLE:
        assert units.whole["make"]
    assert set(units.unknown) <= {"special_bessel_j0", "index_put"}
    for seed in range(2 if units.axes else 0):
        assert_exact(network, units, seed)


class Encoder(nn.Module):
    """An embedding, a stack, a decoder, with whatever happens between them."""

    def __init__(self, between=lambda h, module: h, hidden=6, **stack):
        super().__init__()
        self.hidden = hidden
        self.embedding = nn.Embedding(9, 5)
        self.rnn = nn.GRU(5, hidden, batch_first=True, **stack)
        self.between = between
        self.decoder = nn.Linear(hidden * (2 if stack.get("bidirectional") else 1), 4)

    def forward(self, words, state=None):
        h, state = self.rnn(self.embedding(words), state)
        return self.decoder(self.between(h, self)), state


def axes(network, *inputs):
    units = trace(network.eval(), inputs)
    assert not units.unknown
    return {axis.name: axis.size for axis in units.axes.values()}


@pytest.mark.parametrize("shape", [(3, 5), (1, 5), (3, 1), (1, 1), (5,), (1,)])
def test_batches_and_sequences_of_one_are_no_units(shape):
    assert axes(Encoder(), torch.ones(shape, dtype=torch.int64)) == {"embedding": 5, "rnn.l0": 6}


@pytest.mark.parametrize("length", [1, 4])
def test_mask_of_any_size_is_no_unit(length):
    network = Encoder(lambda h, module: h * (torch.arange(h.size(1)) < 3)[None, :, None])

    assert axes(network, torch.ones(1, length, dtype=torch.int64)) == {"embedding": 5, "rnn.l0": 6}


def test_one_unit_stays():
    units = trace(Encoder(hidden=1), (torch.ones(2, 5, dtype=torch.int64),))

    assert list(units.axes) == ["embedding"]
    assert units.whole["rnn.l0"] == "`linear` in 'decoder' reads one unit by itself"


def test_constants_of_one_number_hold_their_layers_to_one_width():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = 6
            self.a, self.b = nn.GRUCell(3, 6), nn.GRUCell(6, 6)
            self.head = nn.Linear(6, 2)

        def forward(self, x):
            a, b = torch.zeros(2, self.hidden), torch.zeros(2, self.hidden)
            return self.head(self.b(self.a(x, a), b))

    network, x = Two().eval(), torch.randn(2, 3)
    units = trace(network, (x,))

    assert [axis.size for axis in units.axes.values()] == [6]
    small = shrink(network, {"a": torch.tensor([1.0, 0.0, 0.5, 0.0, 0.0, 1.0])}, example_inputs=(x,))
    assert small.hidden == small.a.hidden_size == small.b.hidden_size == 3


def test_states_of_layers_may_differ_in_width_while_they_are_taken_one_by_one():
    words = torch.ones(2, 5, dtype=torch.int64)
    one_by_one = Encoder(num_layers=2)
    as_one = Encoder(num_layers=2)
    as_one.forward = lambda words: as_one.decoder(as_one.rnn(as_one.embedding(words))[1].sum(0))

    assert axes(one_by_one, words) == {"embedding": 5, "rnn.l0": 6, "rnn.l1": 6}
    assert axes(as_one, words) == {"embedding": 5, "rnn.l0": 6}  # unit i of both


def test_buffer_that_is_written_into_has_the_units_of_what_is_written():
    class Streaming(Encoder):
        def __init__(self):
            super().__init__()
            self.register_buffer("state", torch.zeros(1, 2, 6))

        def forward(self, words):
            h, state = self.rnn(self.embedding(words), self.state)
            self.state.zero_()
            self.state.copy_(state)
            return self.decoder(h)

    units = trace(Streaming(), (torch.ones(2, 5, dtype=torch.int64),))

    assert torch.equal(units.weights["state"].units[2], units.weights["decoder.weight"].units[1])


def test_reason_names_the_operation_and_the_module():
    network = Encoder()
    network.rnn = nn.GRU(5, 6, batch_first=True)
    network.norm = nn.GroupNorm(2, 6)
    network.between = lambda h, module: module.norm(h.transpose(1, 2)).transpose(1, 2)

    units = trace(network, (torch.ones(2, 5, dtype=torch.int64),))

    assert units.whole["rnn.l0"] == "`group_norm` in 'norm' normalises over it"


def test_rule_that_fails_keeps_what_it_touched():
    def broken(call):
        raise KeyError("no such thing")

    rule("sinc")(broken)
    try:
        network, units = probe(lambda h, p: torch.sinc(h))
    finally:
        rule("sinc")(RULES["tanh"])

    assert units.whole["make"] == "the rule of `sinc` failed: KeyError: 'no such thing'"
    assert units.unknown == {"sinc": ""}


@pytest.mark.parametrize("parametrization", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrized_weight_is_not_cut_along_what_is_normalised(parametrization):
    layer = getattr(nn.utils.parametrizations, parametrization)(nn.Linear(WIDTH, 8))
    network, units = probe(lambda h, p: p.layer(h), layer=layer)

    assert groups(units) == WHOLE
    rows = units.weights[f"parts.layer.parametrizations.weight.{'original0' if 'w' in parametrization else 'original'}"]
    assert bool((rows.units[0] != -1).all()) == (parametrization == "weight_norm")


def test_tracing_a_loop_takes_time_in_proportion_to_its_steps():
    def seconds(steps):
        network = Encoder(lambda h, module: torch.stack([module.cell(h[:, t]) for t in range(steps)], 1))
        network.cell = nn.GRUCell(6, 6)
        words = torch.ones(2, steps, dtype=torch.int64)
        trace(network, (words,))
        start = time.process_time()
        trace(network, (words,))
        return time.process_time() - start

    assert seconds(160) < 3 * 4 * seconds(40)


def test_labels_take_less_memory_than_the_activations():
    sizes = []

    def watch(h, module):
        tracer = next(mode for mode in torch.overrides._get_current_function_mode_stack())
        sizes.append(
            sum(labels.numel() for _, shadow in list(tracer._shadows.values()) for labels in map(compact, shadow.sides))
        )
        return h

    trace(Encoder(watch, hidden=40), (torch.ones(20, 30, dtype=torch.int64),))

    assert sizes[0] < 20 * 30 * 40
