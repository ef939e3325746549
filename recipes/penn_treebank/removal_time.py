"""What a training saves when closed units are removed while it runs: three trainings, one after another.

    python -m recipes.penn_treebank.removal_time --out recipes/penn_treebank/results/removal_time.json

The dense network, L0 gates whose closed units stay in the network until the end, and L0 gates with RemoveClosedUnits;
each in a process of its own with the same seed, data and number of steps. The seconds are those of the training alone.
What is finished is not trained again, and what was stopped goes on from its last checkpoint. Nothing else should run on
the machine. The table is also written as Markdown, beside the JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from l0rnn.bench.report import environment
from l0rnn.compare import Plan, Run, run_all

BASE = Path(__file__).parent / "configs" / "compare_base.yaml"
METHOD = {
    "class_path": "l0rnn.L0Gates",
    "init_args": {
        "objective": {"class_path": "l0rnn.Budget", "init_args": {"density": 0.15, "start": 0.02, "ramp": 0.2}},
        "open_probability": 0.99,
        "freeze": 0.3,
    },
}
DENSE, STAYING, REMOVED = "dense", "L0, closed units stay", "L0, closed units removed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON to write; the table goes to the same name in .md")
    parser.add_argument("--runs", type=Path, default=Path("out/removal_time"), help="folder of the three trainings")
    parser.add_argument("--config", type=Path, default=BASE, help="YAML that the three share")
    parser.add_argument("--data-dir", type=Path, help="folder with ptb.{train,valid,test}.txt")
    parser.add_argument("--epochs", type=int, help="instead of those of the configuration")
    parser.add_argument("--train-tokens", type=int, help="train on so many tokens only")
    parser.add_argument(
        "--every", type=int, default=200, help="optimiser steps from one look for closed units to the next"
    )
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    plan = make_plan(
        yaml.safe_load(options.config.read_text(encoding="utf-8")),
        every=options.every,
        epochs=options.epochs,
        data_dir=options.data_dir,
        train_tokens=options.train_tokens,
    )
    results = run_all(plan, options.runs, threads=options.threads)
    rows = compared({name: result for (name, _), result in results.items()})
    method, versions = METHOD["init_args"], results[DENSE, plan.runs[0].seed]["versions"]
    told = {"rows": rows, "method": method, "every": options.every, "versions": versions}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({**told, "environment": environment("cpu")}, indent=2) + "\n", encoding="utf-8")
    options.out.with_suffix(".md").write_text(table(rows) + "\n", encoding="utf-8")
    print(table(rows))


def make_plan(
    base: dict[str, Any],
    *,
    every: int = 200,
    epochs: int | None = None,
    data_dir: Path | None = None,
    train_tokens: int | None = None,
) -> Plan:
    """The three runs, which differ in method and callback alone."""
    shared = {
        "trainer.max_epochs": epochs,
        "data.init_args.data_dir": None if data_dir is None else str(data_dir),
        "data.init_args.train_tokens": train_tokens,
    }
    shared = {name: value for name, value in shared.items() if value is not None}
    callbacks = base["trainer"].get("callbacks", [])
    removal = {"class_path": "l0rnn.training.RemoveClosedUnits", "init_args": {"every": every}}
    gated = {**shared, "model.init_args.method": METHOD}
    changes = {DENSE: shared, STAYING: gated, REMOVED: {**gated, "trainer.callbacks": [*callbacks, removal]}}
    seed = int(base.get("seed_everything", 1))
    runs = [Run(name, seed, changed) for name, changed in changes.items()]
    return Plan(base, runs, quality="valid/perplexity", final="test/perplexity")


def compared(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per run: seconds, also as a share of the dense run's, quality and size."""
    failed = {name: result["error"] for name, result in results.items() if "error" in result}
    if failed:
        raise SystemExit("\n".join(f"{name} failed: {error}" for name, error in failed.items()))
    dense = results[DENSE]
    return [
        {
            "run": name,
            **{f"{kind}_seconds": seconds for kind, seconds in result["training_seconds"].items()},
            **{f"{kind}_ratio": _share(result, dense, kind) for kind in result["training_seconds"]},
            "steps": result["steps"],
            "valid_perplexity": result["quality"],
            "test_perplexity": result["final"],
            "multiply_adds": result["multiply_adds"],
            # of the dense network's, since the network of the third run is smaller by the end of its training
            "density": result["multiply_adds"] / dense["multiply_adds"],
            "widths": result["widths"],
        }
        for name, result in results.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    titles = [
        "run",
        "seconds",
        "of dense",
        "processor seconds",
        "of dense",
        "validation perplexity",
        "multiply-adds kept",
    ]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in rows:
        lines.append(
            f"| {row['run']} | {row['wall_seconds']:.0f} | {row['wall_ratio']:.2f} | {row['processor_seconds']:.0f} | "
            f"{row['processor_ratio']:.2f} | {row['valid_perplexity']:.1f} | {row['density']:.1%} |"
        )
    return "\n".join(lines)


def _share(result: Mapping[str, Any], dense: Mapping[str, Any], kind: str) -> float:
    return round(result["training_seconds"][kind] / max(dense["training_seconds"][kind], 1e-9), 4)


if __name__ == "__main__":
    main()
