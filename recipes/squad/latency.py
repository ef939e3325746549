"""How long one question takes.

    python -m recipes.squad.latency recipes/squad/results/*.json

times networks of the widths in the results of trainings anew, all in one go on this machine, and writes the times into
the files: widths alone, since latency does not depend on the values of weights.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from l0rnn.bench import benchmark
from recipes.squad.network import Inputs, example_question
from recipes.squad.sizes import plain_network
from recipes.squad.training import BidafModule

SECONDS = 2.0  # spent on each latency
CONFIGS = Path(__file__).parent / "configs"
WORDS = 66_000  # about SQuAD's vocabulary


def main() -> None:
    """Time the networks of result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="result files of trainings")
    for path in parser.parse_args().results:
        result = json.loads(path.read_text(encoding="utf-8"))
        result["latency"] = latency_of_widths(result)
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        times = result["latency"]
        print(
            f"{path.stem}: {times['dense_milliseconds']:.2f} ms dense, {times['milliseconds']:.2f} ms shrunken, "
            f"{times['speedup']:.2f} times as fast, {times['single_milliseconds']:.2f} ms with one unit per LSTM",
            flush=True,
        )


def latency_of_widths(result: Mapping[str, Any]) -> dict[str, Any]:
    """`latency` of networks with the widths of a result and fresh weights, for an `example_question`."""
    config = yaml.safe_load((CONFIGS / result["config"]).read_text(encoding="utf-8"))
    given = {name: value for name, value in config["model"]["init_args"].items() if name != "method"}
    arguments = BidafModule(**given).arguments
    kept: dict[str, int] = result["shrunk"]["widths"]
    dense, small, single = (
        plain_network(arguments, widths).eval()
        for widths in (dict.fromkeys(kept, int(result["hidden"])), kept, dict.fromkeys(kept, 1))
    )
    vectors = torch.randn(WORDS, arguments["vectors"])
    dense.features.words.load_(vectors, torch.zeros(WORDS, dtype=torch.bool))
    small.features = single.features = dense.features
    return latency(dense, small, single, example_question(WORDS, 90))


def latency(dense: nn.Module, small: nn.Module, single: nn.Module, question: Inputs) -> dict[str, Any]:
    """Milliseconds for one question on one thread, the best runtime of each network.

    Args:
        dense: the network before it was pruned.
        small: the shrunken one.
        single: one with a single unit in each LSTM, whose time is that of all that cannot be pruned.
        question: arguments of their forward.
    """
    words = question[0].size(1)
    networks = {"dense": dense, "shrunk": small, "single": single}
    report = benchmark(networks, lambda *_: question, grid=[(1, words)], seconds=SECONDS)
    best = {row.network: row for row in report.rows if row.is_best}
    return {
        "context_words": words,
        "dense_milliseconds": round(best["dense"].milliseconds, 3),
        "milliseconds": round(best["shrunk"].milliseconds, 3),
        "single_milliseconds": round(best["single"].milliseconds, 3),
        "speedup": round(best["shrunk"].speedup, 2),
        "runtimes": {name: row.runtime for name, row in best.items()},
        "environment": report.environment,
    }


if __name__ == "__main__":
    main()
