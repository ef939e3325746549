"""The networks of the study: fast forms compute what the plain ones do, masks hold, sizes are chosen by the rule."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from l0rnn import RaggedRNN
from recipes.reber.data import Batches, Example, make_examples, split
from recipes.reber.grammar import read_grammar
from recipes.reber.layered_graph import LayeredGraph
from recipes.reber.members import GraphClassifier
from recipes.reber.network import MODES, Classifier, Plateau, accuracy, at_step, fit, recurrent_weights
from recipes.reber.pruning import (
    KINDS,
    magnitude_masks,
    prune_and_retrain,
    safe_percentage,
    train_base,
)
from recipes.reber.published import ACCURACIES, BASE_ACCURACY, SAFE_PERCENTAGES
from recipes.reber.selection import hold_out, latency, scaled, smallest_enough, train_from_scratch, train_gated
from recipes.reber.structures import by_size, correlations, draw_graph, regressions, train_structures

CELLS = list(MODES)
PRUNING: dict[str, Any] = {
    **{"embedding": 4, "hidden": 5, "layers": 2, "readout": "last_symbol", "batch_size": 16, "learning_rate": 0.01},
    **{"base_epochs": 2, "stop_after_perfect": 0, "retrain_epochs": 2, "stop_after_recovery": 0},
    "recovery_tolerance": 0.01,
}
STRUCTURES: dict[str, Any] = {
    **{"nodes": [5, 9], "readout": "last_symbol", "train_strings": 40, "batch_size": 20, "learning_rate": 0.01},
    **{"epochs": 1, "stop_after_perfect": 0},
}
SELECTION: dict[str, Any] = {
    **{"embedding": 6, "hidden": 6, "readout": "last_symbol", "batch_size": 10, "learning_rate": 0.01, "epochs": 2},
    **{"gate_learning_rate": 0.1, "budget_start": 0.1, "budget_ramp": 0.2, "freeze": 0.5},
}


@pytest.fixture(scope="module")
def strings() -> tuple[list[Example], list[Example]]:
    return split(make_examples(read_grammar(), 80, 0, negatives="hard"), 0.25)


# --------------------------------------------------------------------------------------------------------- classifier


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("hidden", [(5, 5), (5, 3)])
def test_a_string_is_read_at_its_own_last_symbol(cell: str, hidden: tuple[int, ...], strings: Any):
    network = Classifier(cell, 4, hidden)
    assert isinstance(network.encoder, RaggedRNN) == (len(set(hidden)) > 1)
    codes, last, _ = next(iter(Batches(strings[0], 8, "last_symbol", 0)))
    together = network(codes, last)
    for column, step in enumerate(last.tolist()):
        torch.testing.assert_close(network(codes[: step + 1, column : column + 1])[0], together[column])


def test_padding_is_read_where_it_is_asked_for(strings: Any):
    network = Classifier("gru", 4, (5,))
    codes, last, _ = next(iter(Batches(strings[0], 8, "last_padded")))
    torch.testing.assert_close(network(codes, last), network(codes))


def test_at_step():
    output = torch.arange(12.0).view(3, 2, 2)
    assert at_step(output, torch.tensor([2, 0])).tolist() == [[8.0, 9.0], [2.0, 3.0]]
    assert at_step(output, None).tolist() == output[-1].tolist()


def test_bad_networks():
    with pytest.raises(ValueError, match="`cell` must be one of tanh, relu, lstm, gru, got 'rnn'"):
        Classifier("rnn")
    with pytest.raises(ValueError, match=r"widths of at least 1, got 3 and \(4, 0\)"):
        Classifier("gru", 3, (4, 0))


def test_accuracy_and_training(strings: Any):
    train, test = strings
    network = Classifier("gru", 8, (12,))
    evaluation = Batches(train, 7, "last_symbol")
    right = sum(
        int(network(torch.tensor([[ord(symbol)] for symbol in example.text])).argmax()) == example.label
        for example in train
    )
    assert accuracy(network, evaluation) == right / len(train)
    seen = []

    def after_epoch(epoch: int) -> bool:
        seen.append(epoch)
        return epoch == 40

    assert (
        fit(network, Batches(train, 8, "last_symbol", 0), epochs=99, learning_rate=0.02, after_epoch=after_epoch) == 40
    )
    assert seen == list(range(1, 41))
    assert accuracy(network, evaluation) > 0.9


def test_a_loss_that_is_no_number_is_refused(strings: Any):
    network = Classifier("relu", 4, (5,))
    network.decoder.bias.data.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="the loss became nan in epoch 1; lower the learning rate"):
        fit(network, Batches(strings[0], 8, "last_symbol", 0), epochs=2)


def test_plateau():
    patient = Plateau(0.9, 2)
    assert [patient(value) for value in (0.95, 0.8, 0.9, 1.0)] == [False, False, False, True]
    assert patient.history == [0.95, 0.8, 0.9, 1.0]
    assert not any(Plateau(0.0, 0)(1.0) for _ in range(3))


# ------------------------------------------------------------------------------------------------------ part 1: pruning


def percentile_by_hand(values: list[float], percentage: float) -> float:
    """Linear between the two nearest of the sorted values."""
    ranked = sorted(values)
    place = percentage / 100 * (len(ranked) - 1)
    low = int(place)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (place - low) * (ranked[high] - ranked[low])


@pytest.mark.parametrize("percentage", [0, 10, 33.3, 50, 90, 99.9, 100])
@pytest.mark.parametrize("kind", list(KINDS))
def test_masks_have_one_threshold_over_all_layers(kind: str, percentage: float):
    network = Classifier("lstm", 4, (5, 5, 5))
    network.get_parameter("encoder.weight_hh_l1").data.mul_(0.1)  # a layer of small weights loses more than its share
    weights = recurrent_weights(network, KINDS[kind])
    per_layer = {"both": 2, "i2h": 1, "h2h": 1}[kind]
    assert len(weights) == 3 * per_layer
    masks = magnitude_masks(weights, percentage)
    every = [abs(value) for weight in weights.values() for value in weight.flatten().tolist()]
    threshold = percentile_by_hand(every, percentage)
    for name, weight in weights.items():
        wanted = [abs(value) >= threshold for value in weight.flatten().tolist()]
        assert masks[name].flatten().tolist() == wanted
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert kept == {0: len(every), 100: 1}.get(int(percentage) if percentage in (0, 100) else -1, kept)
    assert abs(kept - len(every) * (1 - percentage / 100)) <= 1


@pytest.mark.parametrize("percentage", [-1, 100.5, math.nan])
def test_percentage_out_of_range(percentage: float):
    with pytest.raises(ValueError, match=r"`percentage` must be from 0 to 100, .* got"):
        magnitude_masks({"w": torch.ones(2)}, percentage)


def test_nothing_to_prune():
    with pytest.raises(ValueError, match="`weights` must not be empty"):
        magnitude_masks({}, 50)


@pytest.mark.parametrize(
    ("after", "safe"),
    [
        ({10: 1.0, 20: 0.96, 30: 0.95, 40: 1.0}, 20),  # a loss of 0.05 is too much, and nothing after it counts
        ({30: 0.99, 10: 1.0, 20: 1.0}, 30),
        ({10: 0.5}, 0),
        ({10: math.nan, 20: 1.0}, 0),
    ],
)
def test_safe_percentage(after: dict[float, float], safe: float):
    assert safe_percentage(after, base=1.0) == safe


def test_the_rule_agrees_with_the_published_safe_percentages():
    """Each published accuracy at or below the safe percentage is safe by the rule, and the next one above is not."""
    checked = 0
    for (kind, percentage), cells in ACCURACIES.items():
        for cell, (right_after, _) in cells.items():
            is_safe = BASE_ACCURACY[cell] - right_after < 0.05 - 1e-9
            assert is_safe == (percentage <= SAFE_PERCENTAGES[kind][cell]), (kind, percentage, cell)
            checked += 1
    assert checked == 28


def test_base_then_pruned(strings: Any, tmp_path: Path):
    train, test = strings
    weights = tmp_path / "bases" / "gru.pt"
    base = train_base(train, test, cell="gru", seed=1, config=PRUNING, weights=weights)
    assert len(base["history"]) == base["epochs"] == 2
    options = {"cell": "gru", "seed": 1, "config": PRUNING, "weights": weights, "base_accuracy": base["accuracy"]}
    members = [{"kind": "both", "percentage": 0}, {"kind": "h2h", "percentage": 100}]
    untouched, cut = prune_and_retrain(train, test, members, **options)
    assert untouched["right_after"] == base["accuracy"]
    assert (untouched["kind"], cut["kind"]) == ("both", "h2h")
    assert set(base["by_kind"]) == {"first", "swapped", "valid"}
    counts = {kind: sum(example.kind == kind for example in test) for kind in base["by_kind"]}
    right = sum(base["by_kind"][kind] * count for kind, count in counts.items())
    assert right / len(test) == pytest.approx(base["accuracy"])
    assert untouched["kept"] == untouched["of"] == 3 * 5 * (4 + 5) + 3 * 5 * (5 + 5)
    assert untouched["recovered"] == 0
    assert (cut["kept"], cut["of"], len(cut["history"])) == (1, 150, 2)
    early = {**options, "config": {**PRUNING, "stop_after_recovery": 1, "recovery_tolerance": 1.0}}
    assert [len(run["history"]) for run in prune_and_retrain(train, test, members, **early)] == [1, 1]


# --------------------------------------------------------------------------------------------------- part 2: structures


@pytest.mark.parametrize("kind", ["barabasi_albert", "watts_strogatz"])
def test_graphs_are_seeded_and_within_their_sizes(kind):
    sizes = set()
    for seed in range(20):
        graph = draw_graph(kind, seed, [10, 15])
        assert sorted(graph.edges) == sorted(draw_graph(kind, seed, [10, 15]).edges)
        sizes.add(graph.number_of_nodes())
    assert sizes <= set(range(10, 16))
    assert {10, 15} & sizes
    assert len(sizes) > 3


@pytest.mark.parametrize("nodes", [[1, 1], [2, 10], [10, 5]])
def test_graphs_too_small(nodes: list[int]):
    with pytest.raises(ValueError, match=re.escape(f"3 <= least <= largest, got {nodes}")):
        draw_graph("watts_strogatz", 0, nodes)


def test_a_graph_of_one_node_is_no_network():
    with pytest.raises(ValueError, match="`nodes` must be at least 2"):
        GraphClassifier("gru", LayeredGraph(1, []))


def test_graph_classifier_has_the_sizes_of_its_graph():
    graph = LayeredGraph(5, [(0, 2), (1, 2), (2, 3), (2, 4), (0, 4)])
    network = GraphClassifier("lstm", graph)
    assert network.embedding.weight.shape == (128, 2)
    assert network.decoder.weight.shape == (2, 2)
    assert network(torch.randint(128, (6, 3))).shape == (3, 2)
    # layers of 2, 1 and 2 units; what they read: the embedding, two edges, two edges; the skip: one; then own pasts
    assert network.connections() == 4 * (2 * 2 + 2 + 2 + 1 + 2 * 2 + 1 * 1 + 2 * 2 + 2 * 2)


@pytest.mark.parametrize("cell", CELLS)
def test_structure_run(cell: str, strings: Any):
    members = [{"kind": "watts_strogatz", "seed": 4}, {"kind": "barabasi_albert", "seed": 5}]
    runs = train_structures(*strings, members, cell=cell, seed=1, config=STRUCTURES)
    assert runs == train_structures(*strings, members, cell=cell, seed=1, config=STRUCTURES)
    assert [(run["graph"], run["seed"]) for run in runs] == [("watts_strogatz", 4), ("barabasi_albert", 5)]
    for run in runs:
        assert len(run["properties"]) == 23
        assert run["history"] == [run["accuracy"]]
    longer = {**STRUCTURES, "epochs": 3}
    once = train_structures(*strings, members, cell=cell, seed=1, config=longer)
    watched = {**longer, "stop_after_perfect": 9}
    every = train_structures(*strings, members, cell=cell, seed=1, config=watched)
    for one, other in zip(once, every, strict=True):
        assert len(other["history"]) == 3
        assert one["history"] == other["history"][-1:]


def test_graphs_in_order_of_size():
    graphs: Any = [(kind, seed) for kind in ("barabasi_albert", "watts_strogatz") for seed in range(5)]
    ranked = by_size(graphs, [5, 30])
    assert set(ranked) == set(graphs)
    layers = [len(LayeredGraph.from_networkx(draw_graph(*one, [5, 30])).layers) for one in ranked]
    assert layers == sorted(layers)


def made_up_rows(count: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(count, 3, generator=generator).tolist()
    return [
        {"accuracy": 0.5 + 0.4 * a, "properties": {"cause": a, "noise": b, "opposite": -a, "constant": 1.0}}
        for a, b, _ in values
    ]


def test_correlations():
    rows = made_up_rows(40)
    found = correlations(rows)
    assert found["cause"] == pytest.approx(1)
    assert found["opposite"] == pytest.approx(-1)
    assert found["constant"] is None
    x, y = ([row["properties"]["noise"] for row in rows], [row["accuracy"] for row in rows])
    mean_x, mean_y = sum(x) / 40, sum(y) / 40
    by_hand = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / math.sqrt(
        sum((a - mean_x) ** 2 for a in x) * sum((b - mean_y) ** 2 for b in y)
    )
    assert found["noise"] == pytest.approx(by_hand)


def test_regressions_find_a_cause_and_no_more():
    pytest.importorskip("sklearn")
    rows = made_up_rows(40)
    found = regressions(rows, folds=4, repeats=2)
    assert set(found) == {"BayesianRidge", "RandomForest", "AdaBoost"}
    assert found["BayesianRidge"]["mean"] > 0.99
    assert found["RandomForest"]["mean"] > 0.9
    assert found["RandomForest"]["most_important"]["property"] in ("cause", "opposite")
    for row in rows:
        row["properties"] = {"noise": row["properties"]["noise"]}
    assert regressions(rows, folds=4, repeats=2)["BayesianRidge"]["mean"] < 0.2
    with pytest.raises(ValueError, match="`folds` must leave two graphs or more for each, got 21 for 40 graphs"):
        regressions(rows, folds=21)


# ---------------------------------------------------------------------------------------------------- part 3: selection


@pytest.mark.parametrize("cell", CELLS)
def test_gated_run_and_its_control(cell: str, strings: Any):
    train, test = strings
    run = train_gated(train, test, cell=cell, layers=2, density=0.5, seed=1, config=SELECTION)
    assert len(run["hidden"]) == 2
    assert 1 <= run["embedding"] <= 6
    assert run["max_abs_difference"] < 1e-4
    gates = {"lstm": 4, "gru": 3}.get(cell, 1)
    widths = [run["embedding"], *run["hidden"]]
    wanted = sum(gates * own * (below + own) for below, own in zip(widths, run["hidden"], strict=False))
    assert run["multiply_adds"] == wanted + 2 * run["hidden"][-1]
    dense = gates * 6 * 12 * 2 + 12
    assert run["multiply_adds"] <= 0.5 * dense
    control = train_from_scratch(
        train, test, cell=cell, embedding=run["embedding"], hidden=run["hidden"], seed=1, config=SELECTION
    )
    assert control["multiply_adds"] == run["multiply_adds"]
    assert control["parameters"] == run["parameters"]


def test_sizes_are_chosen_by_validation_strings(strings: Any):
    used, held = hold_out(strings[0])
    assert used + held == strings[0]
    assert len(held) == 6

    def row(multiply_adds: int, valid: float) -> dict[str, float]:
        return {"multiply_adds": multiply_adds, "valid_accuracy": valid, "test_accuracy": 1 - valid}

    rows = [row(100, 1.0), row(50, 0.999), row(20, 0.99), row(30, 0.99)]
    assert smallest_enough(rows, 0.999) is rows[1]
    assert smallest_enough(rows[2:], 0.999) is rows[2]
    with pytest.raises(ValueError, match="`rows` must not be empty"):
        smallest_enough([], 0.999)


def test_scaled_widths():
    assert scaled([10, 3, 1], 1.0) == [10, 3, 1]
    assert scaled([10, 3, 1], 0.25) == [2, 1, 1]


def test_latency_rows():
    rows = latency(
        "gru", {"embedding": 8, "hidden": [8, 8]}, {"embedding": 3, "hidden": [2, 1]}, [[2, 5]], seconds=0.02
    )
    assert [row["network"] for row in rows] == ["dense", "small"]
    assert all(row["milliseconds"] > 0 and (row["batch"], row["steps"]) == (2, 5) for row in rows)
