"""A budget in milliseconds: what is asked for, what the table predicts, and what the shrunken model takes.

    python -m recipes.penn_treebank.latency_budget --out recipes/penn_treebank/results/latency_budget.json

Measures the table of latencies over widths, trains the language model with a budget of some fraction of the dense
latency, shrinks it, and times the dense and the shrunken network against each other in one benchmark. To be run on an
idle machine: both the table and the benchmark are of it. Anything after the options goes to Lightning's command line.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from l0rnn.bench import benchmark
from l0rnn.bench.latency.grid import CallSize
from l0rnn.bench.latency.measurement import measure_latency
from l0rnn.blueprint import draw_blueprint
from l0rnn.cost.budget import Budget
from l0rnn.cost.cost import cost
from l0rnn.gates.network import axes_to_gate
from l0rnn.methods import L0Gates
from l0rnn.models import L0GatedLSTM
from l0rnn.surgery.shrink import operate
from recipes.penn_treebank.train import build, perplexity, write_json

CONFIG = Path(__file__).parent / "configs" / "compare_base.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", type=Path, default=CONFIG, help="YAML as `l0rnn fit` takes it; its method is unused"
    )
    parser.add_argument("--fraction", type=float, default=0.3, help="of the dense latency, to ask for (default: 0.3)")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=35)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the calls that are timed")
    parser.add_argument("--seconds", type=float, default=2.0, help="measuring time per figure of the benchmark")
    parser.add_argument("--data-dir", type=Path, help="folder with ptb.{train,valid,test}.txt")
    parser.add_argument("--out", type=Path, required=True, help="where to write the result as JSON")
    options, extra = parser.parse_known_args()
    if not 0 < options.fraction <= 1:
        parser.error(f"--fraction must be in (0, 1], got {options.fraction}")
    size = CallSize(options.batch, options.steps, options.threads)
    with tempfile.TemporaryDirectory() as folder:
        dense, data, trainer = build(options.config, Path(folder), data_dir=options.data_dir, extra=extra)
        result = run(dense, data, trainer, size, fraction=options.fraction, seconds=options.seconds)
    write_json({"config": options.config.name, **result}, options.out)
    print(json.dumps({name: value for name, value in result.items() if name not in ("rows", "environment")}, indent=2))


def run(
    dense: L0GatedLSTM, data: Any, trainer: Any, size: CallSize, *, fraction: float, seconds: float
) -> dict[str, Any]:
    """Measure, train, shrink and measure again.

    Args:
        dense: a model of the configuration, for its arguments; not trained.
        data: the data module.
        trainer: a Trainer that has not trained yet.
        size: the call that has the budget.
        fraction: of the dense latency, in (0, 1].
        seconds: measuring time per figure of the benchmark.
    """
    arguments = {name: dense.hparams[name] for name in inspect.signature(type(dense)).parameters}
    arguments |= {"objective": None, "method": None}
    network = type(dense)(**arguments).network
    blueprint = draw_blueprint(network, dense.wiring)
    started = time.monotonic()
    table = measure_latency(network, dense.wiring, size, gated=axes_to_gate(network, blueprint, "both"))
    table_seconds = time.monotonic() - started
    whole = cost(blueprint, latency=table)
    call = {"batch": size.batch, "steps": size.steps, "threads": size.threads, "device": size.device}
    asked = fraction * whole.milliseconds
    budget = Budget(milliseconds=asked, **call, table=table.plain(), start=0.02, ramp=0.2)
    model = type(dense)(**{**arguments, "method": L0Gates(budget, open_probability=0.99, freeze=0.3)})
    trainer.fit(model, data)
    kept = model.method.kept_cost()  # type: ignore[operator]
    surgery = operate(model.eval())
    report = benchmark(
        {"dense": network, "shrunken": surgery.network},
        model.inputs_of_size,
        grid=[(size.batch, size.steps)],
        threads=[size.threads],
        device=size.device,
        seconds=seconds,
    )
    best = {row.network: row for row in report.rows if row.is_best}
    measured = best["shrunken"].milliseconds
    return {
        "fraction": fraction,
        "call": call,
        "asked_ms": asked,
        "predicted_ms": kept.milliseconds,
        "measured_ms": measured,
        "measured_over_asked": measured / asked,
        "measured_over_predicted": measured / kept.milliseconds,
        "dense_predicted_ms": whole.milliseconds,
        "dense_measured_ms": best["dense"].milliseconds,
        "speedup": best["shrunken"].speedup,
        "table_seconds": round(table_seconds, 1),
        "widths": {axis: units for axis, (units, _) in surgery.widths.items()},
        "density": kept.multiply_adds / whole.multiply_adds,
        "valid_perplexity": perplexity(surgery.network, data.val_dataloader()),
        "epochs": trainer.current_epoch,
        "rows": [row.__dict__ for row in report.rows],
        "environment": {**report.environment, "load_average": os.getloadavg(), "threads": torch.get_num_threads()},
    }


if __name__ == "__main__":
    main()
