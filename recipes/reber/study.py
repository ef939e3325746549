"""The Reber grammar study: what pruning, random structure and neuron selection do to four recurrent cells.

    python -m recipes.reber.study --config recipes/reber/configs/quick.yaml --out out/reber_quick

Every training has a result file; a study that was stopped goes on with the trainings that have none.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from l0rnn.compare.engines import Engine, LocalEngine
from l0rnn.compare.outcome import write_json
from recipes.reber import report
from recipes.reber.config import StudyConfig, differences, read_config
from recipes.reber.data import figures, make_examples, read_examples, write_examples
from recipes.reber.grammar import read_grammar
from recipes.reber.jobs import Job, chosen, first_jobs, read_results, second_jobs, work
from recipes.reber.pruning import safe_percentage
from recipes.reber.selection import latency
from recipes.reber.structures import correlations, regressions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="YAML of the study")
    parser.add_argument("--out", type=Path, required=True, help="folder for strings, results, tables and figures")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="trainings side by side")
    parser.add_argument("--no-training", action="store_true", help="tables of the trainings that have a result")
    options = parser.parse_args()
    torch.set_num_threads(1)
    run(read_config(options.config), options.out, engine=LocalEngine(options.processes), train=not options.no_training)
    print(f"written: {options.out / 'report.md'}")


def run(config: StudyConfig, out: Path, *, engine: Engine | None = None, train: bool = True) -> dict[str, Any]:
    """Train all that is missing, and write ``summary.json``, CSV files, figures and ``report.md``.

    Args:
        config: the study.
        out: folder for all it writes.
        engine: where networks are trained; on this machine, one after the other, if None.
        train: False for the tables of an unfinished study.

    Raises:
        ValueError: if the folder holds results of another configuration.
    """
    started, engine = time.perf_counter(), engine or LocalEngine()
    grammar = read_grammar(Path(config.grammar))
    claim_(out, {**config.plain(), "grammar": {state: dict(ways) for state, ways in grammar.transitions.items()}})
    for name in config.data_sets():
        path = out / "data" / f"{name}.csv"
        if not path.is_file():
            data = config.data
            write_examples(
                make_examples(grammar, data.strings, config.seed, negatives=name, shortest=data.shortest),  # type: ignore[arg-type]
                path,
            )

    def done(jobs: Sequence[Job], title: str) -> dict[str, dict[str, Any]]:
        return work(jobs, out, engine=engine, title=title) if train else read_results(jobs, out)

    first = first_jobs(config)
    results = done(first, "networks from scratch")
    second = second_jobs(config, results)
    results |= done(second, "pruned networks and controls")
    summary = summarise(config, results, out)
    summary["conditions"] = {
        "jobs": len(results),
        "of": len(first) + len(second),
        "cpu_seconds": round(sum(result["cpu_seconds"] for result in results.values())),
        "last_start_seconds": round(time.perf_counter() - started),
        "processes": engine.jobs,
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
    }
    write_json(summary, out / "summary.json")
    report.write(summary, out)
    return summary


def claim_(out: Path, config: Mapping[str, Any]) -> None:
    """Note the configuration in the folder, or check that it is the one noted there.

    Raises:
        ValueError: if the folder holds results of another configuration.
    """
    path = out / "config.json"
    told = json.loads(json.dumps(config))
    if path.is_file():
        others = differences(json.loads(path.read_text(encoding="utf-8")), told)
        if others:
            raise ValueError(
                f"`out` holds results of another configuration ({others[0]}"
                f"{f', and {len(others) - 1} more differences' if len(others) > 1 else ''}; there, here): "
                f"name another folder than {out}, or remove it"
            )
    else:
        write_json(told, path)


def summarise(config: StudyConfig, results: Mapping[str, Mapping[str, Any]], out: Path) -> dict[str, Any]:
    """All figures of the study, from the results of its trainings."""
    good = {name: result for name, result in results.items() if "failed" not in result}

    def of(training: str) -> list[Mapping[str, Any]]:
        return [result for name, result in good.items() if name.startswith(f"{training}-")]

    structure = {cell: [row for row in of("structure") if row["cell"] == cell] for cell in config.cells}
    enough_rows = {cell: rows for cell, rows in structure.items() if len(rows) >= 2 * config.structures.folds}
    best = chosen(config, good)
    return {
        "cells": config.cells,
        "data": {name: figures(read_examples(out / "data" / f"{name}.csv")) for name in config.data_sets()},
        "failed": {name: result["failed"] for name, result in results.items() if "failed" in result},
        "bases": of("base"),
        "pruned": of("pruned"),
        "safe": _safe(config, of("pruned")),
        "structures": of("structure"),
        "correlations": {cell: correlations(rows) for cell, rows in structure.items() if rows},
        "regressions": {
            cell: regressions(rows, folds=config.structures.folds, repeats=config.structures.repeats)
            for cell, rows in enough_rows.items()
        },
        "gated": of("gated"),
        "chosen": best,
        "controls": of("control"),
        "enough": config.selection.enough,
        "latency": _latency(config, best, out),
    }


def _safe(config: StudyConfig, rows: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for data in config.pruning.data:
        for kind in config.pruning.kinds:
            for cell in config.cells:
                own = [row for row in rows if (row["data"], row["kind"], row["cell"]) == (data, kind, cell)]
                if own:
                    after = {row["percentage"]: row["right_after"] for row in own}
                    safe = safe_percentage(after, own[0]["base"])
                    found.append({"data": data, "kind": kind, "cell": cell, "percentage": safe})
    return found


def _latency(config: StudyConfig, best: Mapping[str, Mapping[str, Any]], out: Path) -> list[dict[str, Any]]:
    """Measured once, and kept: nothing else should run meanwhile."""
    path = out / "latency.json"
    if not path.is_file():
        part = config.selection
        rows = []
        for cell, small in best.items():
            dense = {"embedding": part.embedding, "hidden": [part.hidden] * small["layers"]}
            rows += latency(cell, dense, small, part.latency_grid, part.latency_seconds)
        write_json(rows, path)
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
