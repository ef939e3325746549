"""The core in a plain loop with torch's DistributedDataParallel."""

from __future__ import annotations

import contextlib
import copy
import re
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from l0rnn import Budget, L0Gates, Pruner
from l0rnn.methods import GroupLasso
from l0rnn.training.processes import Replicas
from tests.training.several import in_processes, message_of

STEPS = 24
PROCESSES = 2


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.GRU(3, 16, batch_first=True), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x)[1][-1])


class Around(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def gates(density: float = 0.4) -> L0Gates:
    return L0Gates(Budget(density=density, start=0.0, ramp=0.3))


def whole_batch(step: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(16, 5, 3, generator=torch.Generator().manual_seed(step))
    return x, (x[..., 0].sum(1) > 0).long()


def train(
    network: nn.Module, pruner: Pruner, rank: int, count: int, *, small_last: bool = False, accumulate: int = 1
) -> list[float]:
    """Each process has its share of every batch; the price after each step."""
    optimizer = torch.optim.Adam(pruner.network.parameters(), lr=0.01)
    prices = []
    for step in range(1, STEPS + 1):
        x, y = whole_batch(step)
        x, y = x[rank::count], y[rank::count]
        if small_last and step % 4 == 0 and rank:
            x, y = x[:3], y[:3]
        optimizer.zero_grad()
        for part in range(accumulate):
            held = part + 1 < accumulate and isinstance(network, DistributedDataParallel)
            with network.no_sync() if held else contextlib.nullcontext():  # type: ignore[operator]
                loss = nn.functional.cross_entropy(network(x[part::accumulate]), y[part::accumulate])
                ((loss + pruner.penalty()) / accumulate).backward()
        optimizer.step()
        pruner.step()
        prices.append(pruner.figures()["price"])
    return prices


def outcome(pruner: Pruner, prices: list[float]) -> dict[str, Any]:
    small = pruner.shrink()  # which proves it equal
    return {
        "state": {name: value.clone() for name, value in pruner.network.state_dict().items()},
        "pruner": pruner.state_dict(),
        "prices": prices,
        "small": small.state_dict(),
        "density": pruner.figures()["density"],
        "draw": torch.rand(1),
    }


def trainings(rank: int) -> dict[str, Any]:
    results: dict[str, Any] = {}
    torch.manual_seed(rank)  # other weights, gates and draws in every process
    network = Classifier()
    pruner = Pruner(network, gates(), torch.randn(2, 5, 3), steps=STEPS)
    prices = train(DistributedDataParallel(network), pruner, rank, PROCESSES, small_last=True)
    results["gates"] = outcome(pruner, prices)

    around = Around(Classifier())
    ddp = DistributedDataParallel(around)  # before the Pruner, which it does not mind
    pruner = Pruner(around.network, gates(), torch.randn(2, 5, 3), steps=STEPS)
    results["around, accumulated"] = outcome(pruner, train(ddp, pruner, rank, PROCESSES, accumulate=2))

    torch.manual_seed(7)
    network = Classifier()
    pruner = Pruner(network, GroupLasso(0.02, density=0.4), torch.randn(2, 5, 3), steps=STEPS)
    results["lasso"] = outcome(pruner, train(DistributedDataParallel(network), pruner, rank, PROCESSES))

    # a training that goes on has to be what it was before
    torch.manual_seed(rank)
    network = Classifier()
    pruner = Pruner(network, gates(), torch.randn(2, 5, 3), steps=STEPS)
    if rank == 0:
        state = copy.deepcopy(results["gates"]["pruner"])
        network.load_state_dict(results["gates"]["state"])
        pruner.load_state_dict(state)
    ddp = DistributedDataParallel(network)
    results["errors"] = {"state": message_of(lambda: train(ddp, pruner, rank, PROCESSES))}
    results["errors"] |= errors(rank)
    results["averaged"] = averaged(rank)
    return results


def averaged(rank: int) -> list[Tensor | None]:
    """Gradients of three gates: all processes have the first, one the second, none the third."""
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad = torch.tensor([1.0, 2.0]) + rank
    parameters[1].grad = torch.ones(2) if rank else None
    Replicas(dist.group.WORLD, torch.device("cpu")).average_gradients_(parameters)
    return [parameter.grad for parameter in parameters]


def errors(rank: int) -> dict[str, str]:
    x = torch.randn(2, 5, 3)
    told = {}
    told["wrapped"] = message_of(lambda: Pruner(DistributedDataParallel(Classifier()), gates(), x))

    network = Classifier()
    other = Pruner(network, gates(0.4 + rank / 10), x, steps=STEPS + rank)
    ddp = DistributedDataParallel(network)
    told["steps"] = message_of(lambda: train(ddp, other, rank, PROCESSES))

    network = Classifier()
    joined = Pruner(network, gates(), x, steps=STEPS)
    ddp = DistributedDataParallel(network)

    def join() -> None:
        with ddp.join():
            train(ddp, joined, rank, PROCESSES)

    told["join"] = message_of(join)

    network = Classifier()
    sharded = Pruner(network, gates(), x, steps=STEPS)
    mesh = init_device_mesh("cpu", (PROCESSES,))
    fully_shard(network, mesh=mesh)
    told["fsdp"] = message_of(lambda: train(network, sharded, rank, PROCESSES))
    told["fsdp before"] = message_of(lambda: Pruner(fully_shard(Classifier(), mesh=mesh), gates(), x))
    return told


@pytest.fixture(scope="module")
def results() -> list[dict[str, Any]]:
    return in_processes(PROCESSES, trainings)


@pytest.mark.parametrize("name", ["gates", "around, accumulated", "lasso"])
def test_all_processes_end_with_the_same_network(results: list[dict[str, Any]], name: str) -> None:
    first, *others = [result[name] for result in results]
    for other in others:
        assert other["prices"] == first["prices"]
        for part in ("state", "small"):
            assert first[part].keys() == other[part].keys()
            for key, value in first[part].items():
                assert torch.equal(value, other[part][key]), (part, key)
    assert first["density"] <= 0.4
    assert any(price > 0 for price in first["prices"])


def test_each_process_draws_gates_of_its_own(results: list[dict[str, Any]]) -> None:
    assert results[0]["gates"]["draw"] != results[1]["gates"]["draw"]


def test_gradients_of_gates_are_means_over_processes(results: list[dict[str, Any]]) -> None:
    for result in results:
        first, second, third = result["averaged"]
        assert first.tolist() == [1.5, 2.5]
        assert second.tolist() == [0.5, 0.5]
        assert third is None


def test_two_processes_do_what_one_does_with_the_whole_batch(results: list[dict[str, Any]]) -> None:
    """A method that draws nothing: halves of a batch, averaged, are the batch."""
    torch.manual_seed(7)
    network = Classifier()
    pruner = Pruner(network, GroupLasso(0.02, density=0.4), torch.randn(2, 5, 3), steps=STEPS)
    alone = outcome(pruner, train(network, pruner, 0, 1))
    assert alone["prices"] == results[0]["lasso"]["prices"]
    for key, value in alone["small"].items():
        torch.testing.assert_close(value, results[0]["lasso"]["small"][key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("wrapped", r"`network` must not be wrapped in DistributedDataParallel yet; make the Pruner first"),
        ("steps", "must prune alike, but the number of steps differs: 25 in process 1 and 24 in process 0"),
        ("state", "must prune alike, but the state of the method differs: process 1"),
        ("join", r"cannot follow a training inside of `ddp.join\(\)`: a process that has run out of batches"),
        ("fsdp", "must be whole in every process, but all of it is spread over them .FSDP or tensor parallelism"),
        ("fsdp before", "must be whole in every process, but 'encoder.weight_ih_l0' is spread over them"),
    ],
)
def test_what_would_take_processes_apart_is_refused_in_each(
    results: list[dict[str, Any]], case: str, message: str
) -> None:
    for result in results:
        assert re.search(message, result["errors"][case]), result["errors"][case]
