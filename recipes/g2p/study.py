"""The controls: the dense network trained alike, and networks of given widths from scratch.

    python -m recipes.g2p.study dense --epochs 4 --invented 0 [--out out/g2p]
    python -m recipes.g2p.study scratch --widths 27 29 110 --seed 1

Both use the teachers and invented words in the folder, and write `NAME/result.json` there. `--epochs` is how often each
pronunciation is seen, `--invented` how many invented words are beside them in each. Called again with the same options,
they go on where they stopped.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from recipes.g2p.lessons import prepared
from recipes.g2p.network import G2P
from recipes.g2p.package import published_arrays
from recipes.g2p.report import figures
from recipes.g2p.shrink import Plan, finetuned
from recipes.g2p.words import read_dictionary, split

_DENSE_RATE = 1e-3  # of a network that has learnt already


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start", choices=("dense", "scratch"), help="the published weights, or new ones")
    parser.add_argument("--widths", type=int, nargs=3, metavar=("LETTER", "PHONEME", "UNITS"), default=(27, 29, 110))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--invented", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/g2p"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser


def main(argv: list[str] | None = None) -> None:
    options = arguments().parse_args(argv)
    torch.set_num_threads(options.threads)
    plan, sides, published = Plan(), split(read_dictionary()), published_arrays()
    lessons = prepared(sides, plan.teacher, options.out)
    settings = replace(plan.finetuning, seed=options.seed)
    if options.epochs is not None:
        settings = replace(settings, epochs=options.epochs)
    if options.invented is not None:
        settings = replace(settings, invented=options.invented)
    torch.manual_seed(options.seed)
    if options.start == "dense":
        name, title, network = f"dense_{options.seed}", "published, trained on", G2P.from_arrays(published)
        settings = replace(settings, learning_rate=_DENSE_RATE)
    else:
        name, network = f"scratch_{options.widths[2]}_{options.seed}", G2P(*options.widths)
        title = f"the same widths from scratch, seed {options.seed}"
    folder = options.out / name
    folder.mkdir(parents=True, exist_ok=True)
    trained = finetuned(network, lessons, settings, folder / "training.ckpt", name)
    run = {"name": title, "seed": settings.seed, "epochs": settings.epochs, "invented": settings.invented}
    result = run | figures(trained.arrays(), published, sides, folder)
    (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
