"""Sparse forms give what the dense networks give, say what stayed dense, and refuse what they cannot run."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from l0rnn.bench import benchmark, parameter_bytes
from l0rnn.gates.network import gate_network_
from l0rnn.language.language_model import LanguageModel
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.sparse import (
    BSRMatrix,
    CSRMatrix,
    SparseLinear,
    SparseRNN,
    bsr,
    density_of,
    matrix,
    sparse_form,
    stored_bytes,
)
from l0rnn.tracing import trace
from tests.networks import CELLS, StateClassifier, TiedLanguageModel, TwoReaders, WordTagger

STACKS: list[dict[str, Any]] = [
    {"num_layers": 1, "bidirectional": False, "bias": True, "batch_first": False},
    {"num_layers": 2, "bidirectional": True, "bias": True, "batch_first": True},
    {"num_layers": 2, "bidirectional": False, "bias": False, "batch_first": True},
    {"num_layers": 1, "bidirectional": True, "bias": False, "batch_first": False},
]
SIZES = {"hidden": 19, "embedding": 14}  # no multiples of the block
BLOCK = 4
TOLERANCE = {"atol": 2e-6, "rtol": 2e-6}


@torch.no_grad()
def set_zeros(network: nn.Module, block: int = BLOCK, density: float = 0.25) -> None:
    """Zeros in blocks at random, in every matrix, at this density; at least one block stays."""
    for parameter in network.parameters():
        if parameter.dim() == 2:
            rows, columns = (-(-size // block) for size in parameter.shape)
            keep = torch.zeros(rows * columns)
            keep[torch.randperm(rows * columns)[: max(1, int(density * rows * columns))]] = 1.0
            whole = keep.view(rows, columns).repeat_interleave(block, 0).repeat_interleave(block, 1)
            parameter.mul_(whole[: parameter.shape[0], : parameter.shape[1]])


def words(*shape: int) -> Tensor:
    return torch.randint(11, shape)


def tagger(cell: str = "LSTM", **options: Any) -> WordTagger:
    network = WordTagger(cell, **{**SIZES, **options}).eval()
    set_zeros(network)
    return network


def sparse_tagger(network: WordTagger, layout: Any = "csr", **options: Any) -> Any:
    return sparse_form(network, layout=layout, block=BLOCK, **{"example_inputs": words(3, 2), **options})


def flat(state: Any) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else [tensor for part in state for tensor in flat(part)]


def assert_same(got: Any, expected: Any, **tolerance: float) -> None:
    pairs = list(zip(flat(got), flat(expected), strict=True))
    assert pairs
    for a, b in pairs:
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, **(tolerance or TOLERANCE))


# ---------------------------------------------------------------------------------------------------------------------
# matrices


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("columns", [1, 2, 13, 130])
@pytest.mark.parametrize("block", [None, 1, 4, 16, 40])
def test_every_kernel_gives_the_product_written_out(block: int | None, columns: int, dtype: torch.dtype) -> None:
    weight = torch.randn(21, 34, dtype=dtype)
    keep = torch.rand(7, 12) < 0.4
    weight *= keep.repeat_interleave(3, 0).repeat_interleave(3, 1)[:, :34]
    weight[4] = 0
    weight[:, 5] = 0
    held = CSRMatrix(weight) if block is None else BSRMatrix(weight, block)
    right = torch.randn(34, columns, dtype=dtype)
    product = torch.stack([(weight * column).sum(1) for column in right.t()], 1)
    steps = torch.randn(21, 3, columns, dtype=dtype)
    assert torch.equal(held.dense(), weight)
    for addend in (steps[:, 1], steps[:, 1].contiguous()):  # a view of one time step, as in a recurrent layer
        before = addend.clone()
        for kernel in [*held.kernels(columns), None]:
            got = held.multiplier(columns, kernel)(right, addend)
            torch.testing.assert_close(got, product + addend, atol=1e-5, rtol=1e-5)
            assert torch.equal(addend, before)


@pytest.mark.parametrize("columns", [1, 5, 40])
@pytest.mark.parametrize("block", [None, 2, 16])
def test_a_matrix_of_zeros_adds_nothing(block: int | None, columns: int) -> None:
    weight = torch.zeros(9, 6)
    held = CSRMatrix(weight) if block is None else BSRMatrix(weight, block)
    assert held.stored == 0
    addend = torch.randn(9, columns)
    for kernel in held.kernels(columns):
        assert torch.equal(held.multiplier(columns, kernel)(torch.randn(6, columns), addend), addend)


def test_csr_stores_each_weight_that_is_not_zero_and_bsr_each_block() -> None:
    weight = torch.zeros(5, 7)
    weight[0, 6], weight[4, 1], weight[4, 0] = 1.0, 2.0, 3.0
    csr = CSRMatrix(weight)
    assert csr.values.tolist() == [1.0, 3.0, 2.0]
    assert csr.column_numbers.tolist() == [6, 0, 1]
    assert csr.row_starts.tolist() == [0, 1, 1, 1, 1, 3]
    blocks = BSRMatrix(weight, 2)
    assert blocks.values.tolist() == [[[1, 0], [0, 0]], [[3, 2], [0, 0]]]
    assert (blocks.column_numbers.tolist(), blocks.row_starts.tolist()) == ([3, 0], [0, 1, 1, 2])
    assert csr.column_numbers.dtype == csr.row_starts.dtype == torch.int32
    assert blocks.column_numbers.dtype == blocks.row_starts.dtype == torch.int32


def test_stored_bytes_are_those_of_values_and_indices() -> None:
    weight = torch.eye(12)
    assert stored_bytes(CSRMatrix(weight)) == 12 * 4 + 12 * 4 + 13 * 4
    assert stored_bytes(BSRMatrix(weight, 4)) == 3 * 16 * 4 + 3 * 4 + 4 * 4
    assert stored_bytes(CSRMatrix(weight.double())) == 12 * 8 + 12 * 4 + 13 * 4
    tied = TiedLanguageModel(units=6, words=11, num_layers=1)
    assert stored_bytes(tied) == 4 * (66 + 2 * 4 * 36 + 2 * 24 + 11)


def test_without_mkl_blocks_are_multiplied_by_bmm_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    held = BSRMatrix(torch.randn(6, 6), 2)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert held.kernels(1) == ("bmm",)
    assert held.fastest(1) == "bmm"
    monkeypatch.undo()
    monkeypatch.setattr(bsr.sys, "platform", "win32")
    assert held.kernels(1) == ("bmm",)


def test_the_kernel_follows_from_block_and_columns() -> None:
    """As measured; a kernel table that says otherwise is a reason to change this."""
    if not torch.backends.mkl.is_available():
        pytest.skip("torch has no MKL here")
    weight = torch.eye(64)
    assert [CSRMatrix(weight).fastest(columns) for columns in (1, 2, 12, 13)] == [
        "addmv",
        "addmm",
        "addmm",
        "embedding_bag",
    ]
    assert CSRMatrix(weight.double()).fastest(64) == "addmm"
    assert [BSRMatrix(weight, 8).fastest(columns) for columns in (1, 20, 300)] == ["addmm"] * 3
    assert [BSRMatrix(weight, 16).fastest(columns) for columns in (7, 8, 32, 33)] == ["addmm", "bmm", "bmm", "addmm"]
    assert [BSRMatrix(weight, 32).fastest(columns) for columns in (7, 8, 300)] == ["addmm", "bmm", "bmm"]


def test_a_kernel_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="`kernel` must be one of addmm, embedding_bag for 2 columns, got 'addmv'"):
        CSRMatrix(torch.eye(3)).multiplier(2, "addmv")


@pytest.mark.parametrize("weight", [torch.ones(3), torch.ones(3, 3).half(), torch.ones(3, 3, device="meta")])
def test_a_matrix_that_no_kernel_takes_is_refused(weight: Tensor) -> None:
    with pytest.raises(ValueError, match="`weight` must be a matrix of float32 or float64 on the CPU"):
        CSRMatrix(weight)


@pytest.mark.parametrize("block", [0, -1, 2.0, True])
def test_a_block_must_be_a_whole_number(block: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="`block` must be (int|a whole number > 0), got"):
        BSRMatrix(torch.eye(3), block)


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [("column_numbers", 0, 99), ("column_numbers", 1, -1), ("row_starts", 1, 5), ("row_starts", 4, 3)],
)
def test_indices_that_would_read_past_the_end_are_not_loaded(name: str, place: int, value: int) -> None:
    held = CSRMatrix(torch.eye(4))
    state = {key: part.clone() for key, part in held.state_dict().items()}
    state[name][place] = value
    with pytest.raises(ValueError, match="`state_dict` must hold row starts and column numbers of a 4 × 4 matrix"):
        held.load_state_dict(state)
    assert torch.equal(held.dense(), torch.eye(4))


def test_torch_says_no_word_of_beta_even_when_told_to_say_it_every_time() -> None:
    torch.set_warn_always(True)
    try:
        held = [CSRMatrix(torch.eye(4)), BSRMatrix(torch.eye(4), 2)]
        for part in held:
            part.multiplier(3, "addmm")(torch.randn(4, 3), torch.zeros(4, 3))
    finally:
        torch.set_warn_always(False)


# ---------------------------------------------------------------------------------------------------------------------
# networks


@pytest.mark.parametrize("stack", STACKS, ids=str)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layout", ["csr", "bsr"])
def test_a_stack_gives_what_torch_gives(layout: str, cell: str, stack: dict[str, Any]) -> None:
    network = tagger(cell, **stack)
    sparse = sparse_tagger(network, layout)
    assert isinstance(sparse.encoder, SparseRNN)
    assert any("weight_hh" in name for name in sparse.sparse_report.converted)
    assert any("weight_ih" in name for name in sparse.sparse_report.converted)
    for batch, steps in ((1, 1), (1, 4), (3, 5), (13, 2)):
        tokens = words(batch, steps) if stack["batch_first"] else words(steps, batch)
        with torch.no_grad():
            logits, state = network(tokens)
            again, carried = network(tokens, state)
        got, got_state = sparse(tokens)
        handed = [part.clone() for part in flat(got_state)]
        got_again, got_carried = sparse(tokens, got_state)
        assert_same([got, got_again], [logits, again])
        assert_same(got_state, state)
        assert_same(got_carried, carried)
        assert all(map(torch.equal, handed, flat(got_state))), "the state that was given must stay as it was"
        assert got.is_contiguous()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layout", ["csr", "bsr"])
def test_in_double_precision_the_difference_is_that_of_double_precision(layout: str, cell: str) -> None:
    network = tagger(cell, num_layers=2, bidirectional=True).double()
    sparse = sparse_tagger(network, layout)
    tokens = words(6, 20)
    with torch.no_grad():
        expected = network(tokens)
    assert_same(sparse(tokens), expected, atol=1e-13, rtol=1e-13)
    assert sparse.sparse_report.max_abs_difference < 1e-13


@pytest.mark.parametrize("layout", ["csr", "bsr"])
@pytest.mark.parametrize("mode", ["LSTM", "GRU", "RNN_TANH", "RNN_RELU"])
def test_a_ragged_stack_keeps_the_form_of_its_states(mode: str, layout: Any) -> None:
    network = nn.Sequential()
    network.rnn = RaggedRNN(mode, 9, [[17, 12], [14, 20]], batch_first=True).eval()
    set_zeros(network)
    sparse: Any = sparse_form(network, layout=layout, block=BLOCK, example_inputs=torch.randn(2, 3, 9))
    features = torch.randn(3, 5, 9)
    with torch.no_grad():
        output, state = network.rnn(features)
        again = network.rnn(features, state)
    got, got_state = sparse.rnn(features)
    assert isinstance(got_state[0], type(state[0]))
    assert_same(got, output)
    assert_same(got_state, state)
    assert_same(sparse.rnn(features, got_state), again)


def test_a_ragged_stack_with_projections() -> None:
    network = nn.Sequential()
    network.rnn = RaggedRNN("LSTM", 9, [[17], [20]], proj_sizes=[[8], [5]]).eval()
    set_zeros(network)
    sparse: Any = sparse_form(network, layout="csr", example_inputs=torch.randn(3, 2, 9))
    features = torch.randn(4, 2, 9)
    with torch.no_grad():
        expected = network.rnn(features)
    assert_same(sparse.rnn(features), expected)
    assert "rnn.layers.1.0.weight_hr_l0" in sparse.sparse_report.converted


@pytest.mark.parametrize("layout", ["csr", "bsr"])
@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_a_language_model_streams_word_by_word_as_it_reads_a_segment(cell: Any, layout: Any) -> None:
    network = LanguageModel(50, 18, 22, num_layers=2, cell=cell, dropout=0.5).eval()
    set_zeros(network)
    tokens = torch.randint(50, (12, 3))
    sparse: Any = sparse_form(network, layout=layout, block=BLOCK, example_inputs=tokens[:4])
    with torch.no_grad():
        whole, end = network(tokens)
    first, state = sparse(tokens[:5])
    second, state = sparse(tokens[5:], state)
    assert_same(torch.cat([first, second]), whole)
    assert_same(state, end)
    state, logits = None, []
    for token in tokens:
        output, state = sparse(token[None], state)
        logits.append(output)
    assert_same(torch.cat(logits), whole)
    assert_same(state, end)


def test_networks_of_other_shapes() -> None:
    joined = TwoReaders().eval()
    set_zeros(joined, block=1, density=0.2)
    sparse: Any = sparse_form(joined, layout="csr", example_inputs=words(4, 2))
    tokens = words(6, 3)
    with torch.no_grad():
        assert_same(sparse(tokens), joined(tokens))
    classifier = StateClassifier("GRU", num_layers=2, bidirectional=True).eval()
    set_zeros(classifier, block=1, density=0.2)
    sparse = sparse_form(classifier, layout="csr", example_inputs=torch.randn(4, 2, 3))
    features = torch.randn(5, 3, 3)
    with torch.no_grad():
        assert_same(sparse(features), classifier(features))


def test_a_layer_whose_rows_and_matrices_are_zero() -> None:
    network = tagger("LSTM", num_layers=2)
    with torch.no_grad():
        network.encoder.weight_hh_l0.zero_()
        network.encoder.weight_ih_l1[:30].zero_()
        network.decoder.weight.zero_()
    tokens = words(4, 3)
    with torch.no_grad():
        expected = network(tokens)
    for layout in ("csr", "bsr"):
        sparse = sparse_tagger(network, layout)
        assert sparse.sparse_report.converted["encoder.weight_hh_l0"][:2] == (0, 0)
        assert_same(sparse(tokens), expected)


def test_dense_and_sparse_matrices_in_one_layer() -> None:
    network = tagger("GRU", num_layers=2)
    with torch.no_grad():
        network.encoder.weight_hh_l0.normal_()
        network.encoder.weight_ih_l1.normal_()
        network.decoder.weight.normal_()
    sparse = sparse_tagger(network)
    assert list(sparse.sparse_report.converted) == ["encoder.weight_ih_l0", "encoder.weight_hh_l1"]
    assert isinstance(sparse.decoder, nn.Linear)
    for tokens in (words(1, 1), words(4, 3)):
        with torch.no_grad():
            assert_same(sparse(tokens), network(tokens))


def test_the_original_stays_as_it_was_and_shares_nothing() -> None:
    network = tagger("LSTM", num_layers=2).train()
    with torch.no_grad():
        network.encoder.weight_hh_l1.normal_()  # stays dense inside a sparse layer
    before = copy.deepcopy(network.state_dict())
    sparse = sparse_tagger(network)
    assert network.training
    assert not sparse.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any(parameter.requires_grad for parameter in sparse.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    tokens = words(3, 2)
    expected = sparse(tokens)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(7.0)
    assert_same(sparse(tokens), expected, atol=0.0, rtol=0.0)


def test_a_sparse_network_can_be_saved_copied_and_timed() -> None:
    network = tagger("LSTM", num_layers=2)
    tokens = words(3, 2)
    for layout in ("csr", "bsr"):
        sparse = sparse_tagger(network, layout)
        expected = sparse(tokens)
        for other in (copy.deepcopy(sparse), pickle.loads(pickle.dumps(sparse))):
            assert_same(other(tokens), expected, atol=0.0, rtol=0.0)
            for value in other.state_dict().values():
                value.zero_()
            other.load_state_dict(sparse.state_dict())
            assert_same(other(tokens), expected, atol=0.0, rtol=0.0)
        assert parameter_bytes(sparse) == stored_bytes(sparse)
    report = benchmark(
        {"dense": network, "sparse": sparse}, lambda batch, steps: (words(steps, batch),), grid=[(1, 1)], seconds=0.01
    )
    assert all(row.is_state_carried for row in report.rows)


# ---------------------------------------------------------------------------------------------------------------------
# what is said


def test_the_report_has_what_was_converted_and_what_was_not_and_why() -> None:
    network = tagger("LSTM", hidden=24, num_layers=2)
    with torch.no_grad():
        network.encoder.weight_hh_l0.normal_()
        network.encoder.weight_ih_l1.copy_((torch.rand(96, 24) < 0.9).float())
        network.encoder.weight_hh_l1.copy_(torch.eye(24).repeat(4, 1))
    sparse = sparse_tagger(network)
    report = sparse.sparse_report
    kept = int(network.encoder.weight_ih_l0.count_nonzero())
    assert report.converted["encoder.weight_ih_l0"] == (kept, kept, 96 * 14)
    assert report.converted["encoder.weight_hh_l1"] == (96, 96, 96 * 24)
    assert report.left["encoder.weight_hh_l0"] == "it has no zeros"
    assert report.left["encoder.weight_ih_l1"].startswith("as csr it would take ")
    assert report.left["encoder.weight_ih_l1"].endswith(" bytes, and dense 9216")
    assert report.left["embedding.weight"] == "its rows are looked up, not multiplied"
    weights = {name for name, parameter in network.named_parameters() if parameter.dim() == 2}
    assert set(report.converted) | set(report.left) == weights
    assert (report.layout, report.block) == ("csr", 1)
    assert report.bytes_before == stored_bytes(network)
    assert report.bytes_after == stored_bytes(sparse)
    assert "encoder.weight_hh_l0: it has no zeros" in str(report)
    assert "encoder.weight_hh_l1: 96 of 2304 weights, 96 stored" in str(report)


def test_single_zeros_are_no_blocks() -> None:
    network = tagger("LSTM", hidden=24)
    with torch.no_grad():
        network.encoder.weight_hh_l0.copy_(torch.eye(4).repeat(24, 6))
    report = sparse_tagger(network, "bsr").sparse_report
    assert report.left["encoder.weight_hh_l0"] == "it has no block of 4 × 4 zeros"
    assert "bsr, blocks of 4 × 4" in str(report)
    kept, stored, size = report.converted["encoder.weight_ih_l0"]
    assert kept <= stored < size
    assert stored % 16 == 0


def test_a_tied_embedding_stays_dense_beside_its_sparse_decoder() -> None:
    network = TiedLanguageModel(units=20).eval()
    set_zeros(network)
    sparse: Any = sparse_form(network, layout="csr", example_inputs=words(3, 2))
    assert isinstance(sparse.decoder, SparseLinear)
    assert "decoder.weight" in sparse.sparse_report.converted
    assert sparse.sparse_report.left == {"embedding.weight": "its rows are looked up, not multiplied"}
    tokens = words(5, 3)
    with torch.no_grad():
        assert_same(sparse(tokens), network(tokens))


def test_layers_without_a_sparse_form_are_left_and_listed() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    class Cells(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.own, self.decoder = nn.GRUCell(6, 8), Doubled(8, 8), nn.Linear(8, 16)

        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(x.shape[1], 8)
            for step in x:
                h = self.cell(step, h)
            return self.decoder(self.own(h))

    network = Cells().eval()
    set_zeros(network)
    sparse: Any = sparse_form(network, layout="csr", example_inputs=torch.randn(4, 2, 6))
    assert list(sparse.sparse_report.converted) == ["decoder.weight"]
    why = "there is no sparse form of its layer"
    assert sparse.sparse_report.left == dict.fromkeys(("cell.weight_ih", "cell.weight_hh", "own.weight"), why)


def test_density_is_that_of_what_is_multiplied() -> None:
    network = LanguageModel(50, 8, 8, num_layers=1)
    with torch.no_grad():
        network.embedding.weight.zero_()
        network.encoder.weight_ih_l0.fill_(1.0)
        network.encoder.weight_hh_l0.zero_()
        network.decoder.weight.copy_(torch.eye(50)[:, :8])
    assert density_of(network, words(3, 2)) == (32 * 8 + 8) / (2 * 32 * 8 + 50 * 8)
    with pytest.raises(ValueError, match="`network` must have a recurrent or Linear layer with a matrix, found none"):
        density_of(nn.Embedding(11, 3), words(3, 2))


# ---------------------------------------------------------------------------------------------------------------------
# what is refused


def test_an_unknown_layout() -> None:
    with pytest.raises(ValueError, match="`layout` must be 'csr' or 'bsr', got 'coo'"):
        sparse_tagger(tagger(), "coo")


def test_example_inputs_are_needed() -> None:
    with pytest.raises(ValueError, match="`example_inputs` must be given"):
        sparse_tagger(tagger(), example_inputs=None)


@pytest.mark.parametrize("block", [0, -4, 20, 4.0, True])
def test_a_block_must_fit_into_one_of_the_matrices(block: Any) -> None:
    network = tagger()
    with pytest.raises(
        (TypeError, ValueError), match="`block` must be (int, got|a whole number > 0|a whole number from 1 to 19, so)"
    ):
        sparse_form(network, layout="bsr", block=block, example_inputs=words(3, 2))


def test_a_gated_network_is_to_be_shrunk_first() -> None:
    network = tagger()
    gate_network_(network, trace(network, words(3, 2)))
    with pytest.raises(ValueError, match="`network` must be plain, got one with gates; .*shrink` first"):
        sparse_tagger(network)


def test_a_network_on_another_device() -> None:
    network = tagger()
    network.decoder.to("meta")
    with pytest.raises(ValueError, match=r"`network` must be on the CPU, .*'decoder.weight' is on meta; move it"):
        sparse_tagger(network)


def test_half_precision() -> None:
    with pytest.raises(ValueError, match="`network` must be float32 or float64, .* is torch.bfloat16"):
        sparse_tagger(tagger().to(torch.bfloat16))


@torch.no_grad()
def test_a_network_without_zeros_has_no_sparse_form() -> None:
    network = WordTagger("LSTM")
    with pytest.raises(ValueError, match="has none: .*encoder.weight_hh_l0: it has no zeros.*; run it dense"):
        sparse_form(network, layout="csr", example_inputs=words(3, 2))


class ReadsWeights(WordTagger):
    def forward(self, words: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        output, state = self.encoder(self.embedding(words), state)
        return nn.functional.linear(output, self.decoder.weight), state


class Hooked(WordTagger):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.decoder.register_forward_hook(lambda module, inputs, output: output + 1)


def test_a_forward_that_reads_weights_is_told_so() -> None:
    network = ReadsWeights("LSTM", **SIZES)
    set_zeros(network)
    with pytest.raises(ValueError, match="`network` does not run with sparse layers .*'weight'"):
        sparse_tagger(network)


def test_a_difference_is_refused() -> None:
    network = Hooked("LSTM", **SIZES)
    set_zeros(network)
    with pytest.raises(ValueError, match="the sparse network differs from the dense one by 1, more than"):
        sparse_tagger(network)
    assert sparse_tagger(network, tolerance=2.0).sparse_report.max_abs_difference == pytest.approx(1, abs=1e-5)


def test_sparse_layers_do_not_train() -> None:
    sparse = sparse_tagger(tagger())
    for module in (sparse, sparse.encoder, sparse.decoder):
        with pytest.raises(ValueError, match="`mode` must be False, got True: sparse layers are for inference"):
            module.train()
        assert not module.eval().training
    features = torch.randn(2, 3, 14, requires_grad=True)
    assert not sparse.encoder(features)[0].requires_grad


def test_inputs_that_a_sparse_layer_does_not_take() -> None:
    encoder = sparse_tagger(tagger()).encoder
    packed = pack_padded_sequence(torch.randn(3, 2, 14), torch.tensor([3, 1]))
    with pytest.raises(ValueError, match="`input` must be a tensor, got a PackedSequence"):
        encoder(packed)
    with pytest.raises(ValueError, match=r"`input` must have 3 dimensions, a batch of sequences, got shape \(3, 14\)"):
        encoder(torch.randn(3, 14))
    with pytest.raises(ValueError, match="`input` must have 14 units in its last dimension, got 13"):
        encoder(torch.randn(3, 2, 13))
    with pytest.raises(ValueError, match="`input` must have 19 units in its last dimension, got 18"):
        sparse_tagger(tagger()).decoder(torch.randn(3, 18))


@pytest.mark.parametrize(
    "state",
    [
        torch.zeros(1, 2, 19),  # h alone
        (torch.zeros(1, 3, 19), torch.zeros(1, 3, 19)),  # of another batch
        (torch.zeros(2, 2, 19), torch.zeros(2, 2, 19)),  # of more layers
    ],
)
def test_a_state_of_another_stack(state: Any) -> None:
    encoder = sparse_tagger(tagger()).encoder
    with pytest.raises(ValueError, match="`hx` must hold states of shapes .*; pass on what `forward` returned"):
        encoder(torch.randn(3, 2, 14), state)


def test_wide_products_are_cut_into_parts() -> None:
    widths: list[int] = []

    def multiply(right: Tensor, addend: Tensor) -> Tensor:
        widths.append(right.shape[1])
        return right + addend

    for columns in (23, 24, 40):
        right, addend = torch.randn(2, columns), torch.randn(2, columns)
        assert torch.equal(matrix.in_parts(multiply, 16)(right, addend), right + addend)
    assert widths == [23, 16, 8, 16, 16, 8]
