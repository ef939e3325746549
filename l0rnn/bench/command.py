"""What `l0rnn bench` does, after its options are read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from l0rnn.bench.runtimes import benchmark_in
from l0rnn.bench.zeros import forms_with_zeros


def run(options: Any, load: Callable[[Path], Any]) -> None:
    """Measure, print the tables, and write what was asked for.

    Args:
        options: as the command line has them.
        load: path → `LanguageModel`.

    Raises:
        ValueError: if a size, a thread count or anything else asked for is not what it should be.
        ModuleNotFoundError: if a runtime is not installed; it names the extra that brings it.
    """
    grid = [_batch_and_steps(pair) for pair in options.grid]
    threads = [_thread_count(text) for text in options.threads]
    networks = {str(path): load(path) for path in options.models}
    words = min(network.embedding.num_embeddings for network in networks.values())
    if options.density is not None:
        baseline = networks[str(options.models[0])]
        example = torch.randint(words, (3, 2))
        networks |= forms_with_zeros(baseline, options.density, example_inputs=example)
    report = benchmark_in(
        options.runtimes,
        networks,
        lambda batch, steps: (torch.randint(words, (steps, batch)),),
        grid=grid,
        threads=threads,
        device=options.device,
        seconds=options.seconds,
        roofline=True,
        progress=True,
    )
    print(report.to_json() if options.json else report.table())
    if options.out is not None:
        report.save(options.out)
    if options.plot is not None:
        report.plot(options.plot)


def _batch_and_steps(pair: str) -> tuple[int, int]:
    batch, _, steps = pair.partition("x")
    if not (batch.isdigit() and steps.isdigit()):
        raise ValueError(f"`--grid` must be like 1x35 (batch x steps), got {pair!r}")
    return int(batch), int(steps)


def _thread_count(text: str) -> int:
    if text != "all" and not text.isdigit():
        raise ValueError(f"`--threads` must be numbers or `all`, got {text!r}")
    return (os.cpu_count() or 1) if text == "all" else int(text)
