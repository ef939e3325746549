"""Gradual magnitude pruning: threshold and density by the number, exact ranks, masks that only lose entries."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from l0rnn.cost.schedule import cubic_density
from l0rnn.export import save_dense
from l0rnn.language.language_model import LanguageModel
from l0rnn.methods.magnitude import GradualMagnitude
from l0rnn.methods.thresholds import (
    largest_within,
    magnitude_quantile,
    start_slope,
    step_of,
    two_slope_threshold,
)
from l0rnn.training.settings import from_settings, settings_of
from tests.methods.loops import traced
from tests.networks import CELLS, StateClassifier, TiedLanguageModel, TwoReaders, WordTagger

# ---------------------------------------------------------------------------------------------------------------------
# thresholds and densities


def thresholds_of_algorithm_1(
    iterations: int, start_itr: int, ramp_itr: int, end_itr: int, theta: float, phi: float, freq: int
) -> dict[int, float]:
    """The loop of Narang et al. 2017 (arXiv 1704.05119), Algorithm 1, as it stands: current_itr → eps."""
    found = {}
    current_itr = 0
    while current_itr < iterations:
        if start_itr < current_itr < end_itr and current_itr % freq == 0:
            if current_itr < ramp_itr:
                eps = theta * (current_itr - start_itr + 1) / freq
            else:
                eps = (theta * (ramp_itr - start_itr + 1) + phi * (current_itr - ramp_itr + 1)) / freq
            found[current_itr] = eps
        current_itr += 1
    return found


@pytest.mark.parametrize(
    ("start", "ramp", "end", "freq", "slope"),
    [(100, 500, 1000, 10, 1.5), (37, 411, 803, 1, 2.0), (0, 200, 400, 7, 1.2), (50, 50, 300, 25, 1.5)],
)
def test_the_threshold_is_that_of_algorithm_1(start: int, ramp: int, end: int, freq: int, slope: float) -> None:
    theta = start_slope(0.1, start, ramp, end, freq)
    slow = thresholds_of_algorithm_1(end + 100, start, ramp, end, theta, slope * theta, freq)
    assert len(slow) > 5
    for iteration, eps in slow.items():
        # the iterations of the algorithm count from 0; from its ramp on it adds 1 a second time, a rise of theta / freq
        twice = 0.0 if iteration < ramp else theta / freq
        fast = two_slope_threshold(iteration + 1, start, ramp, end, theta, slope * theta, freq)
        assert fast == pytest.approx(eps - twice, rel=1e-12)


@pytest.mark.parametrize(("start", "ramp", "end"), [(100, 500, 1000), (0, 0, 90), (0, 90, 90), (2.5, 12.5, 25.0)])
def test_the_threshold_ends_at_q_with_a_second_slope_of_one_and_a_half(start: float, ramp: float, end: float) -> None:
    theta = start_slope(0.23, start, ramp, end, freq=100)

    def threshold(step: float, slope: float = 1.5) -> float:
        return two_slope_threshold(step, start, ramp, end, theta, slope * theta, freq=100)

    assert threshold(end) == pytest.approx(0.23, rel=1e-12)
    assert threshold(end + 1) == threshold(end + 1000) == threshold(end)
    assert [threshold(step) for step in (-1, 0, start)] == [0.0, 0.0, 0.0]
    assert threshold(end - 0.5) < 0.23
    if ramp < end:
        assert threshold(end, slope=2.0) > 0.23


@pytest.mark.parametrize("density", [1.0, 0.9, 0.5, 0.1, 0.003])
def test_the_quantile_leaves_the_density_at_or_above_it(density: float) -> None:
    weight = torch.randn(20, 30)
    assert int((weight.abs() >= magnitude_quantile(weight, density)).sum()) == max(1, round(density * 600))


def test_a_step_is_the_first_at_which_the_fraction_is_done() -> None:
    for total in (1, 3, 7, 10, 100, 1000):
        for hundredths in range(101):
            expected = next(step for step in range(1, total + 1) if 100 * step >= hundredths * total)
            assert step_of(hundredths / 100, total) == expected


@pytest.mark.parametrize("scope", ["matrix", "network"])
@pytest.mark.parametrize("density", [0.001, 0.2, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("is_even", [True, False])
def test_the_largest_within_a_density_against_a_loop(scope: Any, density: float, *, is_even: bool) -> None:
    scores = {"a": torch.rand(7, 3), "b": torch.rand(5)}
    kept = {name: torch.rand(score.shape) < 0.8 for name, score in scores.items()}
    sizes = {name: torch.randint(3, 4 if is_even else 9, score.shape) for name, score in scores.items()}
    fast = largest_within(scores, kept, sizes, density, scope)
    for names in [["a", "b"]] if scope == "network" else [["a"], ["b"]]:
        groups = [(name, place) for name in names for place in range(scores[name].numel())]
        there = [(n, p) for n, p in groups if kept[n].flatten()[p]]
        limit = density * sum(int(sizes[name].sum()) for name in names)
        chosen: set[tuple[str, int]] = set()
        spent = 0
        for name, place in sorted(there, key=lambda group: -float(scores[group[0]].flatten()[group[1]])):
            spent += int(sizes[name].flatten()[place])
            if spent > limit and chosen:
                break
            chosen.add((name, place))
        assert {(n, p) for n, p in groups if fast[n].flatten()[p]} == chosen
        assert fast[names[0]].shape == scores[names[0]].shape


# ---------------------------------------------------------------------------------------------------------------------
# the method


def attached(network: Any, density: float | None = None, **options: Any) -> GradualMagnitude:
    inputs = torch.zeros(5, 2, 3) if isinstance(network, StateClassifier) else None
    method = GradualMagnitude(density, **options)
    method.attach(network, traced(network, inputs))
    return method


NETWORKS: dict[str, Any] = {
    "language model": lambda: LanguageModel(50, 16, 16),
    "tied": lambda: LanguageModel(50, 16, 16, tied=True),
    **{f"{cell} bidirectional": lambda cell=cell: WordTagger(cell, num_layers=2, bidirectional=True) for cell in CELLS},
    "state": StateClassifier,
    "two readers": TwoReaders,
}


def fake_training(method: GradualMagnitude, total: int, first: int = 1) -> dict[int, dict[str, Tensor]]:
    """Weights set at random before every step; the masks after each."""
    masks: dict[int, dict[str, Tensor]] = {}
    for step in range(first, total + 1):
        for parameter in method.targets().values():
            parameter.data.copy_(torch.randn_like(parameter))
        method.after_step(step)
        masks[step] = {name: mask.clone() for name, mask in method.masks().items()}
        assert all(bool((method.targets()[name][~mask] == 0).all()) for name, mask in masks[step].items())
    return masks


def lost(before: dict[str, Tensor], after: dict[str, Tensor]) -> int:
    """How many entries the masks have lost; none has come back."""
    assert not any(bool((after[name] & ~before[name]).any()) for name in before)
    return sum(int((before[name] & ~after[name]).sum()) for name in before)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("scope", ["matrix", "network"])
def test_the_density_is_reached_exactly_and_masks_only_lose_entries(network: str, scope: Any) -> None:
    net = NETWORKS[network]()
    biases = {name: p.detach().clone() for name, p in net.named_parameters() if p.ndim == 1}
    method = attached(net, 0.13, start=0.2, end=0.7, frequency=9, scope=scope)
    method.begin(50)
    masks = fake_training(method, 50)
    changed = [step for step in range(2, 51) if lost(masks[step - 1], masks[step])]
    assert changed == [19, 28, 35]  # every 9 from step 10, where the density is still 1, and at the end
    total = sum(mask.numel() for mask in masks[50].values())
    for step in (19, 28, 35, 50):
        density = cubic_density(step / 50, 0.2, 0.7, 0.13)
        counts = {name: (int(mask.sum()), mask.numel()) for name, mask in masks[step].items()}
        assert sum(kept for kept, _ in counts.values()) <= density * total
        if scope == "matrix":
            assert all(kept == max(1, math.floor(density * size)) for kept, size in counts.values())
        else:
            assert sum(kept for kept, _ in counts.values()) == math.floor(density * total)
    assert method.kept_fraction() == pytest.approx(0.13, abs=len(masks[50]) / total)
    assert all(torch.equal(dict(net.named_parameters())[name], bias) for name, bias in biases.items())
    assert ("embedding.weight" in method.masks()) == (network == "tied")


@pytest.mark.parametrize("scope", ["matrix", "network"])
def test_at_each_update_the_largest_of_those_still_kept_stay(scope: Any) -> None:
    method = attached(LanguageModel(50, 16, 16), 0.3, start=0.0, end=1.0, frequency=1, scope=scope)
    method.begin(10)
    before = {name: torch.ones_like(mask) for name, mask in method.masks().items()}
    for step in range(1, 9):  # in the last two steps the density hardly falls
        for parameter in method.targets().values():
            parameter.data.copy_(torch.randn_like(parameter))
        weights = {name: weight.detach().clone() for name, weight in method.targets().items()}
        method.after_step(step)
        masks = {name: mask.clone() for name, mask in method.masks().items()}
        for names in [list(masks)] if scope == "network" else [[name] for name in masks]:
            stays = torch.cat([weights[name][masks[name]].abs() for name in names])
            goes = torch.cat([weights[name][before[name] & ~masks[name]].abs() for name in names])
            assert len(goes) > 0
            assert stays.min() >= goes.max()
        before = masks


@pytest.mark.parametrize(("total", "frequency", "end"), [(5, 100, 0.5), (1, 100, 0.5), (7, 3, 1.0), (30, 100, 0.1)])
def test_a_short_training_reaches_the_density_at_the_end_step(total: int, frequency: int, end: float) -> None:
    method = attached(LanguageModel(50, 16, 16), 0.25, start=0.0, end=end, frequency=frequency)
    method.begin(total)
    last = math.ceil(round(end * total, 6))
    masks = fake_training(method, total)
    assert all(int(mask.sum()) == mask.numel() // 4 for mask in masks[last].values())
    if last > 1:
        assert any(int(mask.sum()) > mask.numel() // 4 for mask in masks[last - 1].values())


@pytest.mark.parametrize("moment", [0.0, 0.1 + 0.2, 0.5, 1.0])  # 0.1 + 0.2 is a little more than 0.3
def test_when_the_end_is_the_start_all_are_pruned_at_once(moment: float) -> None:
    method = attached(LanguageModel(50, 16, 16), 0.25, start=moment, end=moment)
    method.begin(10)
    masks = fake_training(method, 10)
    first = max(1, round(moment * 10))
    assert [step for step in masks if all(bool(mask.all()) for mask in masks[step].values())] == [*range(1, first)]
    assert all(int(mask.sum()) == mask.numel() // 4 for mask in masks[first].values())
    assert lost(masks[first], masks[10]) == 0


def test_at_least_one_weight_of_each_matrix_stays() -> None:
    method = attached(LanguageModel(50, 16, 16), 1e-9, start=0.0, end=0.0)
    method.begin(1)
    method.after_step(1)
    assert [int(mask.sum()) for mask in method.masks().values()] == [1] * 5


@pytest.mark.parametrize(("embedding", "density"), [(False, 1.0), (True, 0.5)])
def test_embeddings_are_pruned_if_asked_for(*, embedding: bool, density: float) -> None:
    network = LanguageModel(50, 16, 16)
    method = attached(network, 0.5, start=0.0, end=0.0, embedding=embedding)
    method.begin(1)
    method.after_step(1)
    assert float((network.embedding.weight != 0).float().mean()) == density


def test_a_tied_matrix_is_pruned_once() -> None:
    network = TiedLanguageModel()
    method = attached(network, 0.5, start=0.0, end=0.0, embedding=True)
    method.begin(1)
    method.after_step(1)
    assert [name for name in method.masks() if "encoder" not in name] == ["embedding.weight"]
    assert int((network.embedding.weight != 0).sum()) == 33
    assert network.embedding.weight is network.decoder.weight


def q_of(method: GradualMagnitude) -> dict[str, float]:
    """The thresholds at the end of the training."""
    return method.thresholds(method.end)


def test_two_slopes_prune_below_the_threshold_of_algorithm_1() -> None:
    options: dict[str, Any] = {"start": 0.1, "ramp": 0.3, "end": 0.6, "frequency": 5, "ramp_slope": 2.0}
    method = attached(LanguageModel(50, 16, 16), schedule="two_slope", q=0.2, **options)
    method.begin(100)
    theta = start_slope(0.2, 10, 30, 60, 5)
    expected = {name: torch.ones_like(mask) for name, mask in method.masks().items()}
    for step in range(1, 101):
        for name, weight in method.targets().items():
            weight.data.copy_(torch.randn_like(weight) * 0.3)
            if 10 <= step <= 60 and step % 5 == 0:
                threshold = two_slope_threshold(step, 10, 30, 60, theta, 2 * theta, 5)
                expected[name] &= weight.abs() >= threshold
        method.after_step(step)
        assert all(torch.equal(mask, expected[name]) for name, mask in method.masks().items())
    assert 0.0 < method.kept_fraction() < 0.5


def test_a_threshold_for_all_or_by_kind_or_by_name() -> None:
    def ends(q: Any, network: nn.Module | None = None) -> dict[str, float]:
        method = attached(network or LanguageModel(50, 16, 16, num_layers=1), schedule="two_slope", q=q)
        method.begin(1000)
        return {name: round(value, 9) for name, value in q_of(method).items()}

    ih, hh, decoder = "encoder.weight_ih_l0", "encoder.weight_hh_l0", "decoder.weight"
    assert ends(0.2) == {ih: 0.2, hh: 0.2, decoder: 0.2}
    assert ends({"weight_ih": 0.1, "weight_hh": 0.2, "weight": 0.3}) == {ih: 0.1, hh: 0.2, decoder: 0.3}
    assert ends({"weight_hh": 0.2}) == {hh: 0.2}
    assert ends({"weight_hh": 0.2, hh: 0.5, decoder: 0.4}) == {hh: 0.5, decoder: 0.4}
    both = ends({"weight_hh": 0.2, "encoder.weight_hh_l0_reverse": 0.3}, WordTagger("GRU", bidirectional=True))
    assert both == {hh: 0.2, "encoder.weight_hh_l0_reverse": 0.3}
    for name in ("embedding.weight", decoder):  # a tied matrix is known by either name
        assert ends({name: 0.3}, TiedLanguageModel()) == {"embedding.weight": 0.3}


def test_matrices_without_a_threshold_stay_whole() -> None:
    method = attached(LanguageModel(50, 16, 16, num_layers=1), schedule="two_slope", q={"weight_hh": 100.0})
    method.begin(2)
    method.after_step(1)
    densities = {name: float(mask.float().mean()) for name, mask in method.masks().items()}
    assert densities == {"encoder.weight_ih_l0": 1.0, "encoder.weight_hh_l0": 0.0, "decoder.weight": 1.0}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("is_file", [False, True])
def test_thresholds_from_a_dense_model(tmp_path: Path, *, tied: bool, is_file: bool) -> None:
    dense = LanguageModel(50, 16, 16, tied=tied)
    path = save_dense(dense, tmp_path / "dense")
    path = path / "model.safetensors" if is_file else path
    network = LanguageModel(50, 16, 16, tied=tied)
    method = attached(network, 0.1, schedule="two_slope", dense=path, embedding=True, start=0.0, ramp=0.5, end=1.0)
    method.begin(1)
    assert len(method.masks()) == 5 if tied else 6
    for name, q in q_of(method).items():
        values = sorted(dense.get_parameter(name).detach().abs().flatten().tolist())
        assert q == pytest.approx(values[round(0.9 * len(values))], rel=1e-9)
    network.load_state_dict(dense.state_dict())
    method.after_step(1)
    assert method.kept_fraction() == pytest.approx(0.1, abs=0.003)


def test_a_tied_matrix_is_found_under_either_name(tmp_path: Path) -> None:
    dense = LanguageModel(50, 16, 16, tied=True)
    state = {name: value.clone() for name, value in dense.state_dict().items()}
    for name in ("embedding.weight", "decoder.weight"):
        path = tmp_path / f"{name}.safetensors"
        save_file({other: value for other, value in state.items() if other != name}, path)
        method = attached(LanguageModel(50, 16, 16, tied=True), 0.1, schedule="two_slope", dense=str(path))
        method.begin(100)
        assert q_of(method)["embedding.weight"] == pytest.approx(magnitude_quantile(state["decoder.weight"], 0.1))


def test_a_method_that_read_its_thresholds_needs_the_file_no_more(tmp_path: Path) -> None:
    path = tmp_path / "dense.safetensors"
    save_file({name: value.clone() for name, value in LanguageModel(50, 16, 16).state_dict().items()}, path)
    method = attached(LanguageModel(50, 16, 16), 0.1, schedule="two_slope", dense=str(path))
    path.unlink()
    again = from_settings(settings_of(method), {"GradualMagnitude": GradualMagnitude})
    network = LanguageModel(50, 16, 16)
    again.attach(network, traced(network))
    method.begin(100)
    again.begin(100)
    assert q_of(again) == q_of(method)
    assert len(q_of(again)) == 5


def test_a_training_resumed_beyond_the_end_is_pruned_at_once() -> None:
    method = attached(LanguageModel(50, 16, 16), 0.5, start=0.0, end=0.5, frequency=100)
    method.begin(20)
    method.after_step(8)
    method.begin(12)
    method.after_step(9)
    assert all(int(mask.sum()) == mask.numel() // 2 for mask in method.masks().values())


# ---------------------------------------------------------------------------------------------------------------------
# errors

TWO: dict[str, Any] = {"schedule": "two_slope"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"density": 0.0}, r"`density` must be in \(0, 1\].*got 0.0"),
        ({"density": 1.5}, r"`density` must be in \(0, 1\].*got 1.5"),
        ({"density": math.nan}, "`density` must be finite, got nan"),
        ({}, "`density` must be given for the schedule 'cubic', got None"),
        ({"density": 0.5, "schedule": "square"}, "`schedule` must be 'cubic' or 'two_slope', got 'square'"),
        ({"density": 0.5, "scope": "layer"}, "`scope` must be 'matrix' or 'network', got 'layer'"),
        ({"density": 0.5, "start": 0.6}, "`start` and `end` must be fractions.*got 0.6 and 0.5"),
        ({"density": 0.5, "start": -0.1}, "`start` and `end` must be fractions.*got -0.1 and 0.5"),
        ({"density": 0.5, "end": 1.1}, "`start` and `end` must be fractions.*got 0.05 and 1.1"),
        ({**TWO, "q": 0.1, "ramp": 0.01}, "`ramp` must be from `start` to `end`.*got 0.01, 0.05 and 0.5"),
        ({**TWO, "q": 0.1, "ramp": 0.6}, "`ramp` must be from `start` to `end`.*got 0.6, 0.05 and 0.5"),
        ({**TWO, "q": 0.1, "start": 0.25, "end": 0.25}, "`ramp` must be from .* and these not equal"),
        ({"density": 0.5, "ramp_slope": 0.0}, "`ramp_slope` must be > 0.*got 0.0"),
        ({"density": 0.5, "frequency": 0}, "`frequency` must be a fraction of the training in .*, got 0"),
        ({**TWO, "q": 0.0}, "`q` must be > 0.*got 0.0"),
        ({**TWO, "q": {"weight_hh": 0.1, "weight_ih": -1.0}}, "`q` must be > 0.*got -1.0 for 'weight_ih'"),
        ({"density": 0.5, "q": 0.1}, "`q` must be None for 'cubic', which has no threshold, got 0.1"),
        ({"density": 0.5, "dense": "d"}, "`dense` must be None for 'cubic', which has no threshold, got 'd'"),
        (TWO, "exactly one of `q` and `dense` must be given for 'two_slope', got None and None"),
        ({**TWO, "q": 0.1, "dense": "d"}, "exactly one of `q` and `dense` must be given for 'two_slope', got 0.1"),
        ({**TWO, "q": 0.1, "density": 0.5}, "`density` must go with `dense`.*got 0.5 with `dense` = None"),
        ({**TWO, "dense": "d"}, "`density` must go with `dense`.*got None with `dense` = 'd'"),
        ({**TWO, "q": 0.1, "scope": "network"}, "`scope` must be 'matrix' for 'two_slope'.*got 'network'"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradualMagnitude(**arguments)


def refused(network: Any, error: type[Exception], message: str, **options: Any) -> None:
    """Attaching fails, and changes neither the method nor the network."""
    method = GradualMagnitude(**options)
    settings, state = settings_of(method), method.state_dict()
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(error, match=message):
        method.attach(network, traced(network))
    assert settings_of(method) == settings
    assert method.state_dict().keys() == state.keys()
    assert method.targets() == {}
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("q", [{"weight_ho": 0.1}, {"weight_hh": 0.1, "encoder.weight_hh_l7": 0.1}, {}])
def test_a_threshold_that_no_matrix_has(q: dict[str, float]) -> None:
    wrong = list(q)[-1] if q else "nothing"
    message = f"`q` must name .* among weight_ih, weight_hh, weight, encoder.weight_ih_l0, .*; got .*{wrong}"
    refused(LanguageModel(50, 16, 16), ValueError, message, schedule="two_slope", q=q)


def test_a_dense_model_that_is_not_there_or_no_safetensors(tmp_path: Path) -> None:
    network = LanguageModel(50, 16, 16)
    options: dict[str, Any] = {"schedule": "two_slope", "density": 0.1}
    message = "`dense` must be a directory that save_dense wrote, or a .safetensors file; .* does not exist"
    refused(network, FileNotFoundError, message, dense=str(tmp_path / "nowhere"), **options)
    refused(network, FileNotFoundError, message, dense=str(tmp_path), **options)
    (tmp_path / "model.safetensors").write_bytes(b"no header at all")
    refused(network, ValueError, "`dense` must be a safetensors file, .* is none", dense=str(tmp_path), **options)


def test_a_dense_model_of_another_network(tmp_path: Path) -> None:
    options: dict[str, Any] = {"schedule": "two_slope", "density": 0.1, "dense": str(tmp_path / "d")}
    save_dense(LanguageModel(50, 16, 8), tmp_path / "d")
    message = r"`dense` must be a model of the network's size; 'encoder.weight_ih_l0' is \(32, 16\) in .*\(64, 16\)"
    refused(LanguageModel(50, 16, 16), ValueError, message, **options)
    save_dense(LanguageModel(50, 16, 16, num_layers=1), tmp_path / "d", overwrite=True)
    message = "`dense` must be a model of the network's layers; .* has no 'encoder.weight_ih_l1'"
    refused(LanguageModel(50, 16, 16), ValueError, message, **options)


def test_a_dense_model_that_is_pruned_already(tmp_path: Path) -> None:
    dense = LanguageModel(50, 16, 16)
    dense.encoder.weight_hh_l1.data[:, 1:] = 0
    path = str(save_dense(dense, tmp_path / "d"))
    message = r"`dense` must be a model whose weights are not 0, but a density of 0.1 of 'encoder.weight_hh_l1' .* 0.0"
    refused(LanguageModel(50, 16, 16), ValueError, message, schedule="two_slope", density=0.1, dense=path)


def test_a_dense_model_without_the_package_that_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(save_dense(LanguageModel(50, 16, 16), tmp_path / "d"))
    monkeypatch.setitem(sys.modules, "safetensors", None)
    message = r"the package 'safetensors' is not installed; install it with: pip install 'l0rnn\[export\]'"
    refused(LanguageModel(50, 16, 16), ModuleNotFoundError, message, schedule="two_slope", density=0.1, dense=path)
