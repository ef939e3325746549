"""Train the runs of a plan side by side, in as many sittings as it takes, and put their results into one table.

    python -m recipes.penn_treebank.queue --plan recipes/penn_treebank/configs/large_plan.yaml --out out/large \
        --jobs 3 --minutes 9.5 --device cuda --data-dir data/ptb

At the time limit, at SIGTERM and at Ctrl-C each run writes a checkpoint after its current step and stops; the same
command goes on from exactly there. A run whose result is in the folder of results is not trained again.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from l0rnn.compare import read_plan, run_all
from l0rnn.compare.engines import LocalEngine
from l0rnn.compare.results import results_so_far, results_table
from recipes.penn_treebank.captured_run import ROUNDED
from recipes.penn_treebank.captured_steps import PRODUCTS

CAPTURED = "recipes.penn_treebank.captured_run:train_run"
RESULTS = Path(__file__).parent / "results"
INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the plan; the exit status is 0 if all is trained, 1 if something is left, 130 after an interruption."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.products and not options.captured:
        parser.error("--products needs --captured: Lightning's loop takes `trainer.precision` of the configuration")
    plan = read_plan(options.plan)
    extra = [] if options.device is None else [f"--trainer.accelerator={options.device}", "--trainer.devices=1"]
    extra += [] if options.data_dir is None else [f"--data.init_args.data_dir={options.data_dir.resolve()}"]
    if options.products is not None:
        os.environ[ROUNDED] = options.products  # of the runs' processes, which inherit it
    status, failed = 0, {}
    try:
        trained = run_all(
            plan,
            options.out,
            engine=LocalEngine(options.jobs),
            threads=options.threads,
            only=options.only,
            seconds=None if options.minutes is None else options.minutes * 60,
            kept=options.results,
            extra=extra,
            trainer=CAPTURED if options.captured else None,
        )
        failed = {key: result for key, result in trained.items() if "error" in result}
    except KeyboardInterrupt:
        status = INTERRUPTED
    results = {**results_so_far(plan, options.out, options.results), **failed}
    table = results_table(plan, results)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.md").write_text(table + "\n", encoding="utf-8")
    print(table)
    wanted = {(run.name, run.seed) for run in plan.runs if options.only is None or run.name in options.only}
    return status or int(bool(failed) or not wanted <= set(results))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, required=True, help="YAML as `l0rnn compare` takes it")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, which has to last between calls")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side (default: 1)")
    parser.add_argument("--threads", type=int, help="CPU threads of each run (default: cores / jobs)")
    parser.add_argument("--minutes", type=float, help="time limit of this call (default: none)")
    parser.add_argument("--only", nargs="+", metavar="RUN", help="train only these runs, and what they refer to")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: as the configuration says")
    parser.add_argument(
        "--captured",
        action="store_true",
        help="train by captured steps, on a GPU CUDA graphs, instead of Lightning's loop",
    )
    parser.add_argument(
        "--products",
        choices=PRODUCTS,
        help="with --captured: what matrix products round their factors to in training (default: tf32, on a GPU)",
    )
    parser.add_argument("--data-dir", type=Path, help="folder with ptb.{train,valid,test}.txt")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of results (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
