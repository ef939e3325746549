"""What a call must read and multiply, against counts by hand; what the machine can do, against itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from l0rnn.bench import Roofline, Work, benchmark, measure, measure_roofline, roofline, work_of
from l0rnn.cost.cost import cost
from l0rnn.gates import GatedLSTM
from l0rnn.language.language_model import LanguageModel
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.sparse import sparse_form, stored_bytes
from l0rnn.tracing import trace
from tests.networks import CELLS, WordTagger

LIMIT = Roofline(1, ((1000, 4e9), (10_000, 2e9), (100_000, 1e9)), multiply_adds=5e9)
STEPS, BATCH = 7, 3


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("stack", [{}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True, "bias": False}])
def test_multiply_adds_are_those_of_the_cost_for_every_step_and_sequence(cell: str, stack: dict[str, Any]) -> None:
    network = WordTagger(cell, **stack).eval()
    per_step = cost(trace(network, torch.zeros(1, 1, dtype=torch.int64))).multiply_adds
    size = (BATCH, STEPS) if stack.get("batch_first") else (STEPS, BATCH)
    assert work_of(network, (torch.randint(11, size),)).multiply_adds == per_step * STEPS * BATCH


def test_state_weights_are_read_in_every_step_and_others_once() -> None:
    layer = nn.LSTM(4, 5, proj_size=3)
    work = work_of(layer, (torch.randn(STEPS, BATCH, 4),))
    state_bytes = 4 * (20 * 3 + 3 * 5)  # (gate unit) × projected unit, and projected unit × unit
    once = 4 * (20 * 4 + 2 * 20)
    assert work.bytes_read == once + STEPS * state_bytes
    packed = nn.utils.rnn.pack_sequence([torch.randn(7, 4), torch.randn(2, 4)])
    work = work_of(layer, (packed,))
    assert work.bytes_read == once + 7 * state_bytes
    assert work.multiply_adds == 9 * (20 * (4 + 3) + 15)
    assert work_of(layer, (torch.randn(STEPS, 4),)).multiply_adds == STEPS * (20 * (4 + 3) + 15)


def test_an_embedding_is_read_by_its_rows_and_a_tied_weight_whole_by_its_decoder() -> None:
    network = LanguageModel(50, 8, 8, num_layers=1, tied=True)
    words = torch.tensor([[1, 1], [2, 1]])
    work = work_of(network, (words,))
    layer = 4 * (32 * 8 + 2 * 32), 4 * 32 * 8
    assert work.bytes_read == 2 * 8 * 4 + layer[0] + 2 * layer[1] + 4 * (50 * 8 + 50)


def test_single_steps_are_counted_though_they_run_as_cells() -> None:
    ragged = RaggedRNN("LSTM", 4, [[5], [3]]).eval()
    work = work_of(ragged, (torch.randn(1, 1, 4),))
    assert work.multiply_adds == 20 * (4 + 5) + 12 * (5 + 3)


@pytest.mark.parametrize(("layout", "options"), [("csr", {}), ("bsr", {"block": 4})])
def test_sparse_layers_count_what_they_store(layout: Any, options: dict[str, int]) -> None:
    network = LanguageModel(20, 16, 16, num_layers=1)
    with torch.no_grad():
        for weight in (network.encoder.weight_hh_l0, network.decoder.weight):
            weight[:, 4:] = 0
    words = torch.randint(20, (STEPS, BATCH))
    sparse = sparse_form(network, layout=layout, example_inputs=words, **options)
    work = work_of(sparse, (words,))
    kept = 64 * 4 + 20 * 4
    assert work.multiply_adds == STEPS * BATCH * (64 * 16 + kept)
    state, decoder = sparse.encoder.cells["l0"].weight_hh, sparse.decoder
    rows = len(words.unique()) * 16 * 4
    assert work.bytes_read == rows + 4 * 64 * 16 + STEPS * stored_bytes(state) + stored_bytes(decoder)


def test_hooks_are_gone_even_after_an_error() -> None:
    network = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(RuntimeError):
        work_of(network, (torch.randn(2, 5),))
    assert not any(module._forward_hooks for module in network.modules())


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(6))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values * self.factor


def test_other_modules_count_with_their_own_parameters() -> None:
    assert work_of(nn.Sequential(Scale(), nn.Linear(6, 2)), (torch.ones(1, 6),)) == Work(((24, 1), (48, 1), (8, 1)), 12)


def test_the_bound_is_the_longer_of_reading_and_multiplying() -> None:
    # 12,000 bytes at the bandwidth of 10 KB, then twice 2,000 bytes at that of 1 KB
    reading = 12_000 / 2e9 + 2 * 2000 / 4e9
    assert Work(((10_000, 1), (2000, 3)), 10).bound_seconds(LIMIT) == pytest.approx(reading)
    assert Work(((10_000, 1), (2000, 3)), 10**6).bound_seconds(LIMIT) == pytest.approx(10**6 / 5e9)


def test_a_larger_array_that_was_read_faster_counts_as_the_limit() -> None:
    noisy = Roofline(1, ((1000, 2e9), (10_000, 3e9), (100_000, 1e9)), 1.0)
    assert [noisy.bandwidth_of(size) for size in (10, 1000, 9999, 10_000, 10**6)] == [3e9, 3e9, 3e9, 3e9, 1e9]


def test_measured_figures_are_of_this_world() -> None:
    threads = torch.get_num_threads()
    arrays = (roofline.ARRAYS[0], roofline.ARRAYS[2])
    found = measure_roofline(1, arrays=arrays, seconds=0.01)
    assert [size for size, _ in found.read_bandwidth] == list(arrays)
    assert all(1e8 < bandwidth < 1e13 for _, bandwidth in found.read_bandwidth)
    assert 1e8 < found.multiply_adds < 1e14
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "`threads` must be from 1 to"),
        ({"seconds": 0.0}, "`seconds` must be > 0, got 0.0"),
        ({"arrays": ()}, r"`arrays` must hold sizes of at least 8192 bytes, got \(\)"),
        ({"arrays": (100,)}, r"`arrays` must hold sizes of at least 8192 bytes, got \(100,\)"),
    ],
)
def test_bad_input_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure_roofline(**{"threads": 1, **options})


def test_each_row_has_its_limit_but_not_that_of_a_gated_network(monkeypatch) -> None:
    asked = []

    def measured(threads: int, *, device: Any) -> Roofline:
        asked.append(threads)
        return Roofline(threads, ((1000, threads * 1e9),), 1e15)

    monkeypatch.setattr(measure, "measure_roofline", measured)
    networks = {"dense": nn.LSTM(4, 6), "gated": GatedLSTM(4, 6)}
    report = benchmark(
        networks,
        lambda batch, steps: (torch.randn(steps, batch, 4),),
        grid=[(1, 1), (2, 3)],
        threads=(1, 2),
        seconds=0.002,
        rounds=1,
        roofline=True,
    )
    assert asked == [1, 2]
    assert [limit["threads"] for limit in report.roofline] == [1, 2]
    assert all((row.bound_milliseconds is None) == (row.network == "gated") for row in report.rows)
    once, state = 4 * (24 * 4 + 2 * 24), 4 * 24 * 6
    for row in report.rows:
        if row.network == "dense":
            bound = (once + row.steps * state) / (row.threads * 1e9)
            assert row.bound_milliseconds == pytest.approx(bound * 1e3)
            assert row.share_of_limit == pytest.approx(row.bound_milliseconds / row.milliseconds)
