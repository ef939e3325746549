"""Latency as a function of widths: what is measured, how it is interpolated, and budgets in milliseconds."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l0rnn.axes import is_by_columns
from l0rnn.bench.latency import measurement as latency_measurement
from l0rnn.bench.latency.grid import CallSize, LayerGrid, LayerPlace
from l0rnn.bench.latency.layers import Chain, LayerAlone, kept_units, layout
from l0rnn.bench.latency.measurement import find_table, measure_latency
from l0rnn.bench.latency.table import LatencyTable
from l0rnn.bench.report import environment
from l0rnn.blueprint import draw_blueprint
from l0rnn.cost.budget import Budget
from l0rnn.cost.cost import cost
from l0rnn.cost.objective import Penalty
from l0rnn.gates import Gates
from l0rnn.language.language_model import LanguageModel
from l0rnn.methods import L0Gates
from l0rnn.models import CLASSES, load_model
from l0rnn.surgery.shrink import operate, units_to_keep
from l0rnn.training.configuration import build_run, last_checkpoint
from l0rnn.training.settings import from_settings, settings_of
from l0rnn.wiring import OUTSIDE, Wiring, reads
from tests.networks import CELLS, StateClassifier, TiedLanguageModel, TwoReaders, WordTagger

SIZE = CallSize(batch=2, steps=3)
CALL: dict[str, Any] = {"batch": 2, "steps": 3}
NETWORKS = [
    *(
        lambda cell=cell: WordTagger(cell, num_layers=2, bidirectional=True)
        for cell in CELLS
        if cell != "LSTM_projected"
    ),
    lambda: WordTagger("LSTM", batch_first=True, normalise=True, bias=False),
    StateClassifier,
    TiedLanguageModel,
    TwoReaders,
]


def work(module: nn.Module) -> float:
    """Multiply-adds of a time step, from the matrices themselves."""
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    linears = {id(part.weight) for part in module.modules() if isinstance(part, nn.Linear)}
    matrices = [p for p in module.parameters() if p.dim() == 2 and (id(p) not in embeddings or id(p) in linears)]
    return float(sum(matrix.numel() for matrix in matrices))


class Clock:
    """Stands in for the measuring: a millisecond for 1000 multiply-adds, so that what follows is exact."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.timed: list[nn.Module] = []
        self.sets = 0
        self.slowness = {"onednn": 2.0, "native": 1.0}
        monkeypatch.setattr(latency_measurement, "milliseconds", self)

    def __call__(self, networks: Mapping[str, nn.Module], make_inputs: Any, size: CallSize, _: float) -> Any:
        self.timed += networks.values()
        self.sets += 1
        with torch.no_grad():
            for network in networks.values():
                network(*make_inputs(size.batch, size.steps))
        return {
            name: {runtime: slow * work(network) / 1000 for runtime, slow in self.slowness.items()}
            for name, network in networks.items()
        }


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def attached(network: Any, budget: Budget, **options: Any) -> L0Gates:
    method = L0Gates(budget, **options)
    method.attach(network, network.wiring)
    return method


def made_up_table() -> LatencyTable:
    """Two layers, two runtimes, and curves that bend."""
    grids = (
        LayerGrid("LSTM", True, reads=(1, 4, 16), units=(1, 5, 20)),
        LayerGrid("Linear", True, reads=(1, 20), units=(30,)),
    )
    places = {"rnn": LayerPlace(0, ("in",), ("hidden",)), "out": LayerPlace(1, ("hidden",), ("words",))}
    lstm = [[0.1, 0.2, 0.9], [0.2, 0.4, 1.0], [0.7, 1.1, 3.0]]
    layers = [
        {"onednn": lstm, "native": [[2 * time for time in row] for row in lstm]},
        {"onednn": [[0.3], [1.0]], "native": [[0.01], [0.4]]},
    ]
    wholes = [
        ({"in": 1, "hidden": 1, "words": 30}, {"onednn": 0.6, "native": 0.5}),
        ({"in": 4, "hidden": 10, "words": 30}, {"onednn": 1.8, "native": 2.1}),
        ({"in": 16, "hidden": 20, "words": 30}, {"onednn": 5.0, "native": 6.2}),
    ]
    return LatencyTable.from_measurements(SIZE, places, grids, layers=layers, wholes=wholes, environment=environment())


# ---------------------------------------------------------------------------------------------------------------------
# the table


def test_the_table_is_exact_where_it_was_measured() -> None:
    table = made_up_table()
    for i, inputs in enumerate((1, 4, 16)):
        for j, hidden in enumerate((1, 5, 20)):
            widths = {"in": inputs, "hidden": hidden, "words": 30}
            share = {1: 0.0, 5: torch.tensor(5.0).log() / torch.tensor(20.0).log(), 20: 1.0}[hidden]
            linear = 0.3 * (1.0 / 0.3) ** float(share)  # between two points, a power law
            lstm = [[0.1, 0.2, 0.9], [0.2, 0.4, 1.0], [0.7, 1.1, 3.0]][i][j]
            assert table.sums(widths)[0].item() == pytest.approx(lstm + linear, rel=1e-7)
    assert table({"in": 1, "hidden": 1, "words": 30}) == pytest.approx(0.5)  # the faster runtime counts
    assert table({"in": 4, "hidden": 10, "words": 30}) == pytest.approx(1.8)
    assert table({"in": 16, "hidden": 20, "words": 30}) == pytest.approx(5.0)
    assert table({"in": 99, "hidden": 99, "words": 30}) == pytest.approx(5.0)
    assert table({"in": 0, "hidden": 0.2, "words": 30}) == pytest.approx(0.5)


@pytest.mark.parametrize("inputs", [1.7, 3.0, 9.1, 15.5])
@pytest.mark.parametrize("hidden", [1.2, 4.4, 6.0, 19.0])
def test_gradients_are_finite_differences(inputs: float, hidden: float) -> None:
    table = made_up_table()
    widths = torch.tensor([inputs, hidden], dtype=torch.float64, requires_grad=True)

    def latency(both: Tensor) -> Tensor:
        return table({"in": both[0], "hidden": both[1], "words": 30})

    assert torch.autograd.gradcheck(latency, widths, eps=1e-5, atol=1e-6)
    (slope,) = torch.autograd.grad(latency(widths), widths)
    assert bool((slope > 0).all())


def test_noise_is_made_monotone() -> None:
    generator = torch.Generator().manual_seed(0)
    grid = LayerGrid("GRU", True, reads=(1, 2, 4, 8), units=(1, 3, 9))
    noisy = torch.rand(4, 3, generator=generator) + 0.1
    wholes = [({"a": n, "b": m}, {"native": time}) for n, m, time in ((1, 1, 0.4), (4, 3, 0.3), (8, 9, 2.0))]
    table = LatencyTable.from_measurements(
        SIZE, {"rnn": LayerPlace(0, ("a",), ("b",))}, (grid,), layers=[{"native": noisy.tolist()}], wholes=wholes
    )
    middle = [[(noisy[: i + 1, : j + 1].max() * noisy[i:, j:].min()).sqrt().item() for j in range(3)] for i in range(4)]
    torch.testing.assert_close(table.milliseconds[0][0].tolist(), middle)
    widths = [0.5, 1, 1.5, 2, 3, 5, 7, 8]
    latencies = torch.tensor([[table({"a": n, "b": m}) for m in widths] for n in widths])
    assert bool((latencies.diff(dim=0) >= -1e-9).all())
    assert bool((latencies.diff(dim=1) >= -1e-9).all())
    assert latencies[-1, -1] > latencies[0, 0]


def test_whole_and_expected_widths_agree() -> None:
    table = made_up_table()
    whole = {"in": 7, "hidden": 11, "words": 30}
    expected = table({name: torch.tensor(float(width)) for name, width in whole.items()})
    assert isinstance(table(whole), float)
    assert expected.dtype == torch.float64
    assert expected.item() == pytest.approx(table(whole), rel=1e-6)


def test_a_table_survives_json_and_a_vector(tmp_path: Path) -> None:
    table = made_up_table()
    again = LatencyTable.from_plain(json.loads(json.dumps(table.plain())))
    assert again.plain() == table.plain()
    assert (again.size, again.grids, again.places) == (table.size, table.grids, table.places)
    table.save(tmp_path / "table.json")
    widths = {"in": 3, "hidden": 4, "words": 30}
    assert LatencyTable.load(tmp_path / "table.json")(widths) == table(widths)
    slower = table.with_values(2 * table.values())
    assert slower(widths) == pytest.approx(2 * table(widths))
    assert slower.with_values(table.values()).plain() == table.plain()


@pytest.mark.parametrize(
    "damage",
    [
        lambda plain: plain.pop("whole"),
        lambda plain: plain.update(grids=3),
        lambda plain: plain["grids"][0].update(reads=[1, 2]),
        lambda plain: plain["grids"][0]["milliseconds"].pop(),
        lambda plain: plain["size"].update(batch=0),
        lambda plain: plain.update(runtimes=["native"]),
    ],
)
def test_a_damaged_table_is_refused(damage: Any) -> None:
    plain = made_up_table().plain()
    damage(plain)
    with pytest.raises(ValueError, match="`table` must be a latency table as `LatencyTable.plain` gives it"):
        LatencyTable.from_plain(plain)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_a_table_of_impossible_times_is_refused(wrong: float) -> None:
    plain = made_up_table().plain()
    plain["grids"][0]["milliseconds"][0][1][2] = wrong
    with pytest.raises(ValueError, match="`table` must hold milliseconds > 0 for every layer"):
        LatencyTable.from_plain(plain)


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text("{batch")
    with pytest.raises(ValueError, match=r"`table` must be a JSON file of a latency table, but .*table.json is not"):
        LatencyTable.load(tmp_path / "table.json")


@pytest.mark.parametrize("options", [{"batch": 0}, {"steps": None}, {"threads": -1}, {"batch": 1.5}, {"steps": True}])
def test_a_call_without_a_size_is_refused(options: dict[str, Any]) -> None:
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"`{name}` must be a whole number > 0 .*, got {value}"):
        CallSize(**{"batch": 1, "steps": 1, **options})


# ---------------------------------------------------------------------------------------------------------------------
# measuring


@pytest.mark.parametrize("make", NETWORKS)
def test_a_table_meets_the_whole_network(make: Any, clock: Clock) -> None:
    """With a clock that only counts multiply-adds, and at the widths measured, the table is their number."""
    network = make()
    table = measure_latency(network, network.wiring, SIZE)
    blueprint = draw_blueprint(network, network.wiring)
    dense = cost(blueprint, latency=table)
    assert dense.milliseconds == pytest.approx(dense.multiply_adds / 1000, rel=1e-9)
    one = units_to_keep(blueprint, {axis.name: torch.zeros(axis.size) for axis in blueprint.prunable()})
    least = cost(blueprint, one, latency=table)
    assert least.milliseconds == pytest.approx(least.multiply_adds / 1000, rel=1e-9)
    assert not any(isinstance(module, Chain) for module in clock.timed), "the network itself runs"
    half = {axis.name: torch.arange(axis.size) < axis.size // 2 for axis in blueprint.prunable()}
    between = cost(blueprint, half, latency=table)
    assert between.milliseconds == pytest.approx(between.multiply_adds / 1000, rel=0.1)


def test_equal_layers_are_measured_once(clock: Clock) -> None:
    network = WordTagger("LSTM", num_layers=3, hidden=7, embedding=7)
    table = measure_latency(network, network.wiring, SIZE)
    assert [(grid.layer, grid.units) for grid in table.grids] == [("LSTM", (1, 2, 4, 7)), ("Linear", (5,))]
    assert {name: place.grid for name, place in table.places.items()} == {
        "encoder.l0": 0,
        "encoder.l1": 0,
        "encoder.l2": 0,
        "decoder": 1,
    }
    layers = 4 * 4 + len(table.grids[1].reads)
    assert len(clock.timed) == layers + len(latency_measurement.SHARES)


def test_axes_without_gates_are_measured_at_their_width_alone() -> None:
    network = TwoReaders()
    places, grids = layout(network, draw_blueprint(network, network.wiring), {"left.l0", "join"})
    assert {name: (grids[place.grid].reads, grids[place.grid].units[0]) for name, place in places.items()} == {
        "left.l0": ((6,), 1),
        "left.l0_reverse": ((6,), 5),
        "right.l0": ((6,), 4),
        "join": ((16, 24), 1),  # left.l0, of 1 to 5 units, is read twice, beside 5 + 4 + 5 units that stay
        "top.l0": ((1, 2, 3, 4, 6, 8), 5),
        "decoder": ((5,), 3),
    }


def test_layers_of_a_stack_are_unequal_between_the_ends() -> None:
    blueprint = draw_blueprint(network := WordTagger("LSTM", num_layers=2, hidden=16, embedding=16), network.wiring)
    gated = {axis.name for axis in blueprint.prunable()}
    for share, widths in ((0.0, [1, 1, 1]), (0.5, [8, 7, 8]), (1.0, [16, 16, 16])):
        keep = kept_units(blueprint, gated, share)
        assert [int(keep[axis].sum()) for axis in ("embedding", "encoder.l0", "encoder.l1")] == widths
        assert int(keep["decoder"].sum()) == 5


class TwoArguments(nn.Module):
    """Cannot be called without knowing what its second argument is."""

    wiring = Wiring({"encoder": reads(OUTSIDE), "decoder": reads("encoder")})

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.GRU(3, 6), nn.Linear(6, 2)

    def forward(self, features: Tensor, scale: Tensor) -> Tensor:
        return self.decoder(self.encoder(features * scale)[0])


class Particular(TwoArguments):
    """Has one argument, but does not run on any features."""

    def forward(self, features: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(features["x"], torch.ones(3))


@pytest.mark.parametrize("kind", [TwoArguments, Particular])
def test_a_network_that_cannot_be_called_is_timed_by_its_layers(kind: Any, clock: Clock, caplog: Any) -> None:
    network = kind()
    with caplog.at_level(logging.INFO):
        table = measure_latency(network, network.wiring, SIZE)
    assert sum(isinstance(module, Chain) for module in clock.timed) == len(latency_measurement.SHARES)
    assert "timed without the code around them" in caplog.text
    widths = {"encoder.l0": 6, "outside→encoder": 3, "decoder": 2}
    assert table(widths) == pytest.approx((3 * 6 * (3 + 6) + 6 * 2) / 1000)
    if kind is TwoArguments:
        clock.timed.clear()
        measure_latency(network, network.wiring, SIZE, make_inputs=lambda b, s: (torch.randn(s, b, 3), torch.ones(3)))
        assert sum(isinstance(module, TwoArguments) for module in clock.timed) == len(latency_measurement.SHARES)


def test_measuring_leaves_no_trace() -> None:
    """With the real clock, on a real network."""
    network = WordTagger("LSTM")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    threads, random = torch.get_num_threads(), torch.get_rng_state()
    table = measure_latency(network, network.wiring, CallSize(2, 3, threads=2), seconds=0.001)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.get_num_threads() == threads
    assert network.training
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert table.environment == environment()
    assert set(table.runtimes) == ({"onednn", "native"} if torch.backends.mkldnn.is_available() else {"native"})
    assert bool((table.values() > 0).all())


def test_projected_layers_have_no_table() -> None:
    network = WordTagger("LSTM_projected")
    with pytest.raises(ValueError, match="`milliseconds` cannot be a budget with the `proj_size` of 'encoder'"):
        attached(network, Budget(milliseconds=1.0, **CALL))
    assert type(network.encoder) is nn.LSTM


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:63", r"`device` must be one that torch finds here, got 'cuda:63' with \d+ CUDA GPUs; use 'cpu'"),
        ("tpu", "`device` must be 'cpu' or 'cuda', got 'tpu'"),
        ("meta", "`device` must be one that torch finds here, got 'meta'"),
    ],
)
def test_a_device_that_is_not_there_is_refused(device: str, message: str) -> None:
    network = WordTagger("LSTM")
    budget = Budget(milliseconds=1.0, **CALL, device=device)
    random = torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        attached(network, budget)
    assert type(network.encoder) is nn.LSTM
    assert not any(isinstance(module, Gates) for module in network.modules())
    assert torch.equal(torch.get_rng_state(), random)
    assert set(budget.state_dict()) == {"price", "target"}


# ---------------------------------------------------------------------------------------------------------------------
# tables that are there already


def test_a_table_given_is_not_measured_again(clock: Clock, tmp_path: Path) -> None:
    network = TwoReaders()
    gated = {"embedding", "join"}
    path = str(tmp_path / "latency" / "table.json")
    table = find_table(network, network.wiring, SIZE, gated=gated, given=path)
    assert clock.sets == 2
    for given in (path, table.plain()):
        again = find_table(network, network.wiring, SIZE, gated=gated, given=given)
        assert again.plain() == table.plain()
    assert clock.sets == 2
    cases: dict[str, Any] = {
        "measured for batch 2, steps 3, threads 1, on cpu, but batch 1, steps 3": {"size": CallSize(1, 3)},
        "measured on a network of other layers or widths": {"gated": {"embedding"}},
        "other layers or widths; make a new budget": {"network": TiedLanguageModel(), "gated": {"encoder.l0"}},
    }
    for message, changes in cases.items():
        options = {"network": network, "size": SIZE, "gated": gated} | changes
        net = options.pop("network")
        with pytest.raises(ValueError, match=f"`table` was .*{message}"):
            find_table(net, net.wiring, given=path, **options)


def test_a_table_from_elsewhere_is_used_and_said_to_be(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    network = TwoReaders()
    table = measure_latency(network, network.wiring, SIZE)
    gated = {axis.name for axis in draw_blueprint(network, network.wiring).prunable()}
    options: dict[str, Any] = {"gated": gated}
    assert find_table(network, network.wiring, SIZE, given=table.plain(), **options).plain() == table.plain()
    assert not caplog.records
    plain = table.plain()
    plain["environment"] = {**plain["environment"], "cpu": "abacus", "python": "2.7"}
    theirs = find_table(network, network.wiring, SIZE, given=plain, **options)
    assert theirs.values().equal(table.values())
    (record,) = caplog.records
    assert "another environment (cpu: abacus, now " in record.getMessage()
    assert "python" not in record.getMessage()
    plain["size"]["device"] = "cuda:63"  # measured on a GPU that is not here
    assert find_table(network, network.wiring, CallSize(2, 3, device="cuda:63"), given=plain, **options)


# ---------------------------------------------------------------------------------------------------------------------
# budgets


@pytest.mark.parametrize("make", [lambda: WordTagger("LSTM", num_layers=2, hidden=40, embedding=30), TwoReaders])
@pytest.mark.parametrize("density", [0.15, 0.4, 0.8])
def test_latency_in_proportion_to_multiply_adds_is_a_budget_of_multiply_adds(
    make: Any, density: float, clock: Clock
) -> None:
    reached = []
    for kind in ("milliseconds", "multiply_adds"):
        torch.manual_seed(0)
        network = make()
        whole = cost(draw_blueprint(network, network.wiring)).multiply_adds
        wanted = round(density * whole)
        same: dict[str, Any] = {"start": 0.0, "ramp": 0.1}
        budget = (
            Budget(multiply_adds=wanted, **same)
            if kind == "multiply_adds"
            else Budget(milliseconds=wanted / 1000, **CALL, **same)
        )
        method = attached(network, budget, freeze=0.9)
        optimizer = torch.optim.Adam(method.gate_parameters(), lr=0.1)
        method.begin(60)
        for step in range(1, 61):
            optimizer.zero_grad()
            penalty = method.penalty()
            if penalty.requires_grad:
                penalty.backward()
                optimizer.step()
            method.after_step(step)
        assert method.is_frozen
        if kind == "milliseconds":
            assert method.kept_cost().milliseconds <= wanted / 1000
            assert method.figures()["milliseconds"] == method.kept_cost().milliseconds
        else:
            assert "milliseconds" not in method.figures()
        reached.append(method.kept_cost().multiply_adds)
        small: Any = operate(network.eval(), network.wiring, example_inputs=torch.randint(11, (5, 2))).network
        assert work(small) == reached[-1]
        assert reached[-1] == pytest.approx(wanted, rel=0.1)
    assert reached[0] == pytest.approx(reached[1], rel=0.1)
    assert clock.sets == 2


@pytest.mark.usefixtures("clock")
def test_the_budget_is_refused_below_the_floor_and_above_the_whole() -> None:
    network = WordTagger("LSTM", num_layers=2)
    blueprint = draw_blueprint(network, network.wiring)
    one = units_to_keep(blueprint, {axis.name: torch.zeros(axis.size) for axis in blueprint.prunable()})
    floor, whole = (cost(blueprint, keep).multiply_adds / 1000 for keep in (one, None))
    below = f"`milliseconds` = {floor / 2} cannot be had: one unit per layer already takes {floor:.3g} ms of the whole"
    above = (
        rf"`milliseconds` must be at most the whole network's {whole:.3g} ms \(batch 2, steps 3, threads 1, on cpu\), "
        rf"got {2 * whole}; ask for less, or use `Dense`"
    )
    for asked, message in ((floor / 2, below), (2 * whole, above)):
        budget = Budget(milliseconds=asked, **CALL)
        with pytest.raises(ValueError, match=message):
            attached(network, budget)
        assert type(network.encoder) is nn.LSTM
        assert set(budget.state_dict()) == {"price", "target"}
        assert budget.table is None
    for asked in (floor * 1.001, whole * 0.999):
        attached(WordTagger("LSTM", num_layers=2), Budget(milliseconds=asked, **CALL))


@pytest.mark.usefixtures("clock")
def test_the_price_follows_the_expected_milliseconds() -> None:
    network = WordTagger("GRU", num_layers=2)
    method = attached(network, Budget(milliseconds=0.2, **CALL, rate=1.0, start=0.0, ramp=0.0))
    method.begin(100)
    method.after_step(1)
    dense, expected = method.dense.milliseconds, method.expected_cost().milliseconds
    assert expected.requires_grad
    excess = expected.item() / dense - 0.2 / dense
    state = method.state_dict()
    assert state["objective.target"].item() == pytest.approx(0.2 / dense)
    assert state["objective.price"].item() == pytest.approx(excess)
    assert method.penalty().item() == pytest.approx(excess * excess + 10 / 2 * excess**2, rel=1e-5)
    method.penalty().backward()
    for log_alpha in method.gate_parameters():
        assert log_alpha.grad is not None
        assert bool((log_alpha.grad > 0).all())


def test_settings_hold_the_table_and_build_without_measuring(clock: Clock) -> None:
    first = attached(WordTagger("LSTM"), Budget(milliseconds=0.2, **CALL, threads=1))
    assert clock.sets == 2
    settings = json.loads(json.dumps(settings_of(first)))
    again = from_settings(settings, CLASSES)
    again.attach(network := WordTagger("LSTM"), network.wiring)
    assert clock.sets == 2
    assert settings_of(again) == settings
    assert again.dense.milliseconds == first.dense.milliseconds


def test_a_checkpoint_brings_its_own_table(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    first = attached(WordTagger("LSTM"), Budget(milliseconds=0.2, **CALL))
    clock.slowness = {"onednn": 2.2, "native": 1.1}  # a slower day
    same_machine = attached(WordTagger("LSTM"), Budget(milliseconds=0.2, **CALL))
    assert same_machine.kept_cost().milliseconds == pytest.approx(1.1 * first.kept_cost().milliseconds)
    same_machine.load_state_dict(first.state_dict())
    assert same_machine.kept_cost().milliseconds == first.kept_cost().milliseconds
    assert settings_of(same_machine) == settings_of(first)
    assert not caplog.records
    other_machine = attached(WordTagger("LSTM"), Budget(milliseconds=0.2, **CALL))
    state = first.state_dict()
    state["objective.environment"] = state["objective.environment"] + 1
    other_machine.load_state_dict(state)
    assert other_machine.kept_cost().milliseconds == first.kept_cost().milliseconds
    (record,) = caplog.records
    assert "are from another environment" in record.getMessage()
    assert other_machine.objective.latency is not None
    assert other_machine.objective.latency.environment == {}, "it is not this machine's table"


def test_only_l0_gates_measure() -> None:
    blueprint = draw_blueprint(network := WordTagger("LSTM"), network.wiring)
    dense = cost(blueprint)
    assert dense.milliseconds is None
    with pytest.raises(ValueError, match="`milliseconds` can only be a budget of `L0Gates`"):
        Budget(milliseconds=1.0, **CALL).check(dense, dense)
    with pytest.raises(TypeError, match="Penalty prices no milliseconds"):
        Penalty(0.1).use_table_(made_up_table())


# ---------------------------------------------------------------------------------------------------------------------
# under Lightning

CONFIG = """
seed_everything: 1
model:
  class_path: l0rnn.L0GatedLSTM
  init_args:
    vocabulary_size: 12
    hidden_size: 10
    objective:
      class_path: l0rnn.Budget
      init_args: {milliseconds: 0.8, batch: 2, steps: 3, TABLE}
data: {class_path: tests.tiny_text.TinyText}
trainer:
  max_epochs: 2
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {save_last: true}
"""


@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("has_file", [False, True])
def test_a_run_from_a_configuration_resumes_with_its_own_table(*, has_file: bool, clock: Clock, tmp_path: Path) -> None:
    config, out = tmp_path / "config.yaml", tmp_path / "out"
    config.write_text(CONFIG.replace("TABLE", f"table: {tmp_path / 'table.json'}" if has_file else "threads: 1"))
    model, data, trainer = build_run(config, out)
    trainer.fit(model, data)
    assert clock.sets == 2
    table = model.method.objective.latency
    assert model.method.is_frozen
    assert model.method.kept_cost().milliseconds <= 0.8
    clock.slowness = {"onednn": 2.2, "native": 1.1}  # another day
    resumed, data, trainer = build_run(config, out, extra=["--trainer.max_epochs=3"])
    assert clock.sets == (2 if has_file else 4)
    trainer.fit(resumed, data, ckpt_path=last_checkpoint(out))
    assert trainer.current_epoch == 3
    assert resumed.method.objective.latency.plain() == table.plain()
    measured = clock.sets
    loaded = load_model(str(last_checkpoint(out)))
    assert clock.sets == measured, "the checkpoint has the table"
    assert loaded.method.objective.latency.plain() == table.plain()
    assert loaded.method.kept_cost().milliseconds == model.method.kept_cost().milliseconds


@pytest.mark.parametrize("tied", [False, True])
def test_a_linear_layer_is_timed_in_the_order_of_memory_of_the_network(tied: bool) -> None:
    network = LanguageModel(11, 4, 4, num_layers=1, tied=tied)
    alone = LayerAlone(LayerGrid("Linear", True, (4,), (11,)), 4, 11, network, CallSize(1, 1))
    assert is_by_columns(alone.layer.weight) == (not tied)
