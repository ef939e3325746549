"""Two processes against one: how many words per second a training gets through, and whether all keep the same.

    python -m recipes.several_processes                              # two processes of one thread, on CPU
    python -m recipes.several_processes --device cuda --hidden 1500 --batch 256

A language model of random words is pruned by L0 gates, once by one process alone and once by all together with torch's
DistributedDataParallel, each process with a batch of the size that the one alone has. The two take turns, so that both
meet the same machine: a round is a few steps of the one and then as many of the other, and the ratio of their words per
second is taken round by round. Both trainings go through the choice of the units to their end. What all processes end
with is then compared: weights, gates, prices, and the shrunken networks.

On a GPU each process has one of its own (nccl). Where there are fewer, they share (gloo): the comparison of what they
keep means the same, the words per second then say nothing about several GPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

from l0rnn import Budget, L0Gates, Pruner
from l0rnn.bench.report import environment
from l0rnn.language import LanguageModel


class Training:
    """A network that is pruned in a plain loop."""

    def __init__(self, options: argparse.Namespace, device: torch.device, *, is_shared: bool) -> None:
        self.options, self.device = options, device
        self.network = LanguageModel(options.vocabulary, options.hidden, options.hidden, num_layers=1).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.001)
        words = torch.randint(options.vocabulary, (4, 2), device=device)
        method = L0Gates(Budget(density=options.density))
        self.pruner = Pruner(self.network, method, words, steps=options.rounds * options.steps)
        self.run: nn.Module = DistributedDataParallel(self.network) if is_shared else self.network

    def steps(self, count: int) -> float:
        """Make optimiser steps; the seconds they took."""
        self._wait()
        start = time.perf_counter()
        for _ in range(count):
            shape = (self.options.length + 1, self.options.batch)
            words = torch.randint(self.options.vocabulary, shape, device=self.device)
            logits = self.run(words[:-1])[0]
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), words[1:].flatten()) + self.pruner.penalty()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.pruner.step()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def outcome(self) -> Tensor:
        """Everything it ended with, in one vector."""
        parts = [*self.network.state_dict().values(), *self.pruner.shrink().state_dict().values()]
        numbers = torch.tensor(list(self.pruner.figures().values()), dtype=torch.float64)
        return torch.cat([*(part.detach().double().reshape(-1).cpu() for part in parts), numbers])


def one_process(rank: int, folder: str, options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    gpus = torch.cuda.device_count() if options.device == "cuda" else 0
    device = torch.device("cuda", rank % gpus) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)
    store = f"file://{folder}/store"
    backend = "nccl" if gpus >= options.processes else "gloo"
    dist.init_process_group(backend, init_method=store, rank=rank, world_size=options.processes)
    torch.manual_seed(rank)
    together = Training(options, device, is_shared=True)
    alone = Training(options, device, is_shared=False) if rank == 0 else None
    rounds = []
    for _ in range(options.rounds):
        of_one = 0.0 if alone is None else alone.steps(options.steps)
        dist.barrier()
        of_all = together.steps(options.steps)
        dist.barrier()
        rounds.append((of_one, of_all))
    every: list[Any] = [None] * options.processes
    dist.all_gather_object(every, together.outcome())
    if rank == 0:
        difference = max(float((other - every[0]).abs().max()) for other in every)
        figures = together.pruner.figures()
        Path(folder, "found.json").write_text(json.dumps([rounds, difference, figures]), encoding="utf-8")
    dist.destroy_process_group()


def ratios(rounds: list[tuple[float, float]], processes: int) -> list[float]:
    """Words per second of all over those of one, round by round."""
    return [processes * of_one / of_all for of_one, of_all in rounds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--hidden", type=int, default=512, help="units of the embedding and of the LSTM")
    parser.add_argument("--vocabulary", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32, help="sequences of each process")
    parser.add_argument("--length", type=int, default=35, help="words of a sequence")
    parser.add_argument("--density", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=4, help="of the one, and then of all, in a round")
    parser.add_argument("--out", type=Path, help="JSON to write")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("`--device cuda` needs a GPU, and torch finds none; leave it out")
    if options.processes < 2:
        parser.error(f"`--processes` must be at least 2, got {options.processes}")
    if options.rounds < 2 or options.rounds * options.steps < 20:
        parser.error("`--rounds` times `--steps` must be at least 20 optimiser steps, in two rounds or more")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        start_processes(one_process, (folder, options), nprocs=options.processes, start_method="spawn")
        rounds, difference, figures = json.loads(Path(folder, "found.json").read_text(encoding="utf-8"))
    found = ratios(rounds[1:], options.processes)  # the first round warms up
    quartiles = statistics.quantiles(found, n=4) if len(found) > 2 else [min(found), statistics.mean(found), max(found)]
    words = options.batch * options.length * options.steps
    rates = [words / statistics.median(seconds) for seconds in zip(*rounds[1:], strict=True)]
    told = {
        "environment": environment(options.device),
        "options": {name: value for name, value in vars(options).items() if name != "out"},
        "load before": load,
        "words per second of one": rates[0],
        "words per second of all": rates[1] * options.processes,
        "ratio": quartiles,
        "largest difference between processes": difference,
        "density": figures["density"],
    }
    print(
        f"{options.processes} processes against one, {options.threads} thread(s) each, LSTM of {options.hidden} units, "
        f"{options.batch} sequences of {options.length} words per process\n"
        f"{'words per second of one':40} {rates[0]:12,.0f}\n"
        f"{'words per second of all':40} {rates[1] * options.processes:12,.0f}\n"
        f"{'ratio, median of ' + str(len(found)) + ' pairs [quartiles]':40} {quartiles[1]:12.2f} "
        f"[{quartiles[0]:.2f}, {quartiles[2]:.2f}]\n"
        f"{'density kept':40} {figures['density']:12.3f}\n"
        f"{'largest difference between processes':40} {difference:12}\n"
        f"{'load of the machine before (1 minute)':40} {load:12.2f}"
    )
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(told, indent=1), encoding="utf-8")
    if difference:
        raise SystemExit("the processes have come apart")


if __name__ == "__main__":
    main()
