"""The command line: ``l0rnn fit | shrink | export | generate | bench | compare``."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from l0rnn.foreign_text import printable
from l0rnn.version import __version__

DESCRIPTION = """\
Train a recurrent network with gates on its units, shrink it, and measure what that buys.

  fit       train a model from a YAML configuration (also: validate, test, predict)
  shrink    cut the closed units out of a trained checkpoint
  export    write a shrunken model in a format that runs elsewhere, and check it there
  generate  let a shrunken language model write
  bench     time dense and shrunken models side by side
  compare   train several pruning methods under the same conditions, and put them into one table

  l0rnn fit --config recipes/penn_treebank/configs/small.yaml
  l0rnn shrink out/small/checkpoints/last.ckpt --out out/small/shrunk
  l0rnn export out/small/shrunk --format onnx --out out/small/onnx
  l0rnn generate out/small/onnx --words 50 --prompt "the company"
  l0rnn bench out/small/checkpoints/last.ckpt out/small/shrunk
  l0rnn compare recipes/penn_treebank/configs/compare.yaml --out out/compare --jobs 2
"""
FORMATS = """\
formats
  native      config.json and model.safetensors, for this library; nothing in it can run code
  torch       a Python file and a state dict that need torch alone
  onnx        for ONNX Runtime: batch and length open, states in and out
  int8        as onnx, with weights in int8; says what that costs in quality
  program     a torch.export program: batch open, length fixed (--length, default 1: a stream of steps)
  executorch  one step for ExecuTorch, for phones and microcontrollers
  web         a folder for any web server: a page on which it writes in the browser, beside --dense if given

Every export is run against the model before it is moved to its place.
"""
EXPORT_OPTIONS = {  # option of `export` → its argument of the Python function, and the formats that have it
    "text": ("text", ("int8",)),
    "tolerance": ("tolerance", ("int8",)),
    "opset": ("opset", ("onnx", "int8")),
    "length": ("length", ("program",)),
    "compile": ("compiled", ("program",)),
    "dense": ("dense", ("web",)),
}
INTERRUPTED = 130  # what shells give for a command that Ctrl-C has ended
LIGHTNING_COMMANDS = ("fit", "validate", "test", "predict")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 2 after an error in what was asked, or 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        kept = "what is trained is kept; to go on" if arguments[0] == "compare" else "to begin again"
        print(f"\nl0rnn {arguments[0]}: stopped; {kept}: {shlex.join(['l0rnn', *arguments])}", file=sys.stderr)
        return INTERRUPTED


def _run(arguments: list[str]) -> int:
    if arguments and arguments[0] in LIGHTNING_COMMANDS:
        from l0rnn.training.configuration import run_command

        return run_command(arguments)
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        # what is wrong with a file may be told in its own words, which a terminal must not obey
        print(f"l0rnn {options.command}: {printable(error, 2000)}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "l0rnn", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"l0rnn {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name in LIGHTNING_COMMANDS:  # handled by Lightning before this parser sees them; listed for the help
        commands.add_parser(name, add_help=False)

    shrinks = commands.add_parser("shrink", help="cut the closed units out of a trained checkpoint")
    shrinks.add_argument("checkpoint", type=Path, help="a Lightning checkpoint of L0GatedLSTM or L0GatedGRU")
    shrinks.add_argument("--out", type=Path, required=True, help="directory for config.json and model.safetensors")
    shrinks.add_argument("--multiple-of", type=int, default=1, help="round widths up to a multiple (default: 1)")
    shrinks.add_argument("--overwrite", action="store_true", help="replace a model that is in the directory")
    shrinks.set_defaults(run=_shrink)

    _add_export(commands)
    _add_generate(commands)
    benches = commands.add_parser("bench", help="time dense and shrunken models side by side")
    benches.add_argument("models", type=Path, nargs="+", help="checkpoints or shrunken directories, the baseline first")
    sizes = ["1x1", "1x35", "10x30", "20x35"]
    benches.add_argument("--grid", nargs="+", default=sizes, help="batch x steps (default: %(default)s)")
    benches.add_argument("--threads", nargs="+", default=["1"], help="CPU threads, numbers or `all` (default: 1)")
    benches.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    benches.add_argument("--seconds", type=float, default=1.0, help="measuring time per figure (default: 1.0)")
    benches.add_argument(
        "--runtimes", nargs="+", default=["torch"], help="torch, streamer, onnxruntime, openvino (default: torch)"
    )
    benches.add_argument(
        "--density", type=float, help="time the first model at this share of its weights, CSR and BSR too"
    )
    benches.add_argument("--out", type=Path, help="where to write the result as JSON")
    benches.add_argument("--plot", type=Path, help="where to draw it, as .png or .svg")
    benches.set_defaults(run=_bench)
    _add_compare(commands)
    for name in ("shrink", "export", "generate", "bench", "compare"):
        commands.choices[name].add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _add_export(commands: Any) -> None:
    parser = commands.add_parser(
        "export",
        help="write a shrunken model in a format that runs elsewhere, and check it there",
        epilog=FORMATS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="a shrunken directory, or a checkpoint, which is shrunk on the way")
    kinds = [line.split()[0] for line in FORMATS.splitlines() if line.startswith("  ")]
    parser.add_argument("--format", choices=kinds, required=True, help="see below")
    parser.add_argument("--out", type=Path, required=True, help="directory to write to")
    parser.add_argument("--overwrite", action="store_true", help="replace an export that is in the directory")
    parser.add_argument("--vocabulary", type=Path, help="JSON list of the words, for a model that has none with it")
    parser.add_argument(
        "--text", type=Path, help="int8: text to measure perplexity on (default: text of its own making)"
    )
    parser.add_argument("--tolerance", type=float, help="int8: largest loss of quality (default: 0.1)")
    parser.add_argument("--opset", type=int, help="onnx, int8: version of the operators (default: 20)")
    parser.add_argument("--length", type=int, help="program: its fixed number of time steps (default: 1)")
    parser.add_argument("--compile", action="store_true", default=None, help="program: with AOTInductor, too")
    parser.add_argument("--dense", type=Path, help="web: a model to stand beside it, a directory or a checkpoint")
    parser.set_defaults(run=_export)


def _add_generate(commands: Any) -> None:
    parser = commands.add_parser("generate", help="let a shrunken language model write")
    parser.add_argument("model", type=Path, help="directory of a native, onnx or int8 export with a vocabulary")
    parser.add_argument("--words", type=int, default=50, help="how many words (default: 50)")
    parser.add_argument("--prompt", default="", help="words to go on from (default: the start of a sentence)")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 takes the likeliest word (default: 1.0)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same text (default: 0)")
    parser.set_defaults(run=_generate)


def _add_compare(commands: Any) -> None:
    parser = commands.add_parser(
        "compare", help="train several pruning methods under the same conditions, and put them into one table"
    )
    parser.add_argument("plan", type=Path, help="Python file of a task, or YAML: `task` or `base`, see docs/compare.md")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, and of compare.{md,json,csv,png}")
    tasks = parser.add_argument_group("a task file")
    tasks.add_argument("--methods", nargs="+", help="names of methods (default: four that remove units)")
    tasks.add_argument("--densities", nargs="+", type=float, help="fractions to keep (default: 0.3 0.1)")
    tasks.add_argument("--seeds", nargs="+", type=int, help="of weights, gates and batches (default: 1 2 3)")
    tasks.add_argument("--epochs", type=int, help="(default: what the file says, or 10)")
    tasks.add_argument("--device", help="where to train, such as cuda (default: cpu)")
    runs = parser.add_argument_group("what is run")
    runs.add_argument("--only", nargs="+", metavar="RUN", help="train only these runs, and what they refer to")
    runs.add_argument("--minutes", type=float, help="time limit of this call (default: none)")
    runs.add_argument("--seconds", type=float, default=0.5, help="measuring time per latency (default: 0.5)")
    searches = parser.add_argument_group("search for settings of the run that --only names")
    searches.add_argument("--search", nargs="+", metavar="NAME=LOW:HIGH[:log]", help="what varies; or NAME=A,B,C")
    searches.add_argument("--trials", type=int, default=20, help="in all, those of calls before too (default: 20)")
    searches.add_argument("--storage", help="a database, as sqlite:///FILE (default: search.db in the folder)")
    where = parser.add_argument_group("where it is run")
    where.add_argument("--engine", choices=["local", "slurm", "ray"], default="local", help="(default: local)")
    where.add_argument("--jobs", type=int, help="trainings side by side (default: 1; Slurm 100; Ray as CPUs allow)")
    where.add_argument("--threads", type=int, help="CPU threads of each (default: cores / jobs; Slurm and Ray 1)")
    where.add_argument("--gpus", type=int, help="slurm, ray: GPUs of each training (default: 0)")
    where.add_argument("--partition", help="slurm: (default: the cluster's)")
    where.add_argument("--time-limit", type=int, metavar="MINUTES", help="slurm: of one job (default: 240)")
    where.add_argument("--requeues", type=int, help="slurm: how often a job may meet its time limit (default: 20)")
    where.add_argument("--sbatch", nargs="+", metavar="KEY=VALUE", help="slurm: more options, such as account=mine")
    where.add_argument("--address", help="ray: HOST:PORT of a cluster, or auto (default: Ray is started here)")
    where.add_argument("--retries", type=int, help="ray: starts after a node has died (default: 5)")
    parser.set_defaults(run=_compare)


def _shrink(options: argparse.Namespace) -> None:
    from l0rnn.export import save_dense
    from l0rnn.models import load_model
    from l0rnn.surgery.shrink import operate

    surgery = operate(load_model(options.checkpoint), multiple_of=options.multiple_of)
    save_dense(surgery.network, options.out, overwrite=options.overwrite)
    if options.json:
        kept = {axis: {"kept": width, "of": full} for axis, (width, full) in surgery.widths.items()}
        found = {"units": kept, "not_pruned": surgery.untouched, "max_abs_difference": surgery.max_abs_difference}
        print(json.dumps({"out": str(options.out), **found}))
    else:
        print(f"{surgery}\nwritten to {options.out}")


def _export(options: argparse.Namespace) -> None:
    from l0rnn import export

    chosen = {name: getattr(options, name) for name in EXPORT_OPTIONS if getattr(options, name) is not None}
    for name in chosen:
        if options.format not in EXPORT_OPTIONS[name][1]:
            formats = " or ".join(EXPORT_OPTIONS[name][1])
            raise ValueError(f"--{name} is for --format {formats}, got {options.format}; leave it out")
    network, vocabulary, figures = _shrunken(options.model)
    if options.vocabulary is not None:
        vocabulary = export.checked_vocabulary(export.read_json(options.vocabulary))
    if "text" in chosen:
        chosen["text"] = export.text_columns(vocabulary, options.text.read_text(encoding="utf-8"))
    if "dense" in chosen:
        chosen["dense"], _, _ = _shrunken(options.dense)
    arguments = {EXPORT_OPTIONS[name][0]: value for name, value in chosen.items()}
    arguments |= {"vocabulary": vocabulary, "figures": figures, "overwrite": options.overwrite}
    writers = {
        "native": export.save_dense,
        "torch": export.export_torch,
        "onnx": export.export_onnx,
        "int8": export.export_int8,
        "program": export.export_program,
        "executorch": export.export_executorch,
        "web": export.export_web,
    }
    written = writers[options.format](network, options.out, **arguments)
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    if options.json:
        found = written.figures() if options.format == "int8" else {}
        print(json.dumps({"format": options.format, "out": str(options.out), "bytes": size, **found}))
        return
    if options.format == "int8":
        print(written)
    print(f"{options.format} export checked and written to {options.out}, {size:,} bytes")


def _shrunken(path: Path) -> tuple[Any, Any, Any]:
    """The shrunken network of a directory or checkpoint, with its vocabulary and figures where it has them."""
    from l0rnn.export import load_dense, read_config, read_vocabulary
    from l0rnn.models import load_model
    from l0rnn.surgery.shrink import shrink
    from l0rnn.training.shrunken import load_shrunken

    if path.is_dir():
        config = read_config(path)
        return load_dense(path), read_vocabulary(path) if config.has_vocabulary else None, config.figures
    if not path.is_file():
        raise FileNotFoundError(f"`model` {path} does not exist; name a shrunken directory or a checkpoint")
    network = load_shrunken(path)
    return shrink(load_model(path)) if network is None else network, None, None


def _generate(options: argparse.Namespace) -> None:
    import torch

    from l0rnn.export import open_streamer
    from l0rnn.export.vocabulary import decode, encode
    from l0rnn.models import generate

    streamer = open_streamer(options.model)
    if streamer.vocabulary is None:
        raise ValueError(f"{options.model} has no vocabulary; export it again with --vocabulary")
    prompt = encode(streamer.vocabulary, options.prompt)
    generator = torch.Generator().manual_seed(options.seed)
    words = list(generate(streamer, options.words, prompt=prompt, temperature=options.temperature, generator=generator))
    text = decode(streamer.vocabulary, [*prompt, *words])
    print(json.dumps({"text": text, "words": len(words)}) if options.json else text)


def _bench(options: argparse.Namespace) -> None:
    from l0rnn.bench.command import run

    run(options, _network)


def _compare(options: argparse.Namespace) -> None:
    from l0rnn.compare.command import run

    run(options)


def _network(path: Path) -> Any:
    """The dense network of a path: a directory of `save_dense`, or a checkpoint, ungated at its full width."""
    from l0rnn.export import load_dense
    from l0rnn.language.language_model import LanguageModel
    from l0rnn.models import load_model
    from l0rnn.training.shrunken import load_shrunken

    if path.is_dir():
        return load_dense(path)
    network = load_shrunken(path)
    if network is not None:
        return network
    model = load_model(path)
    hyper = model.hparams
    widths = hyper["hidden_size"] if isinstance(hyper["hidden_size"], list) else [hyper["hidden_size"]]
    sizes = (hyper["vocabulary_size"], hyper["embedding_size"] or widths[0], hyper["hidden_size"])
    return LanguageModel(*sizes, num_layers=hyper["num_layers"], cell=model.cell, tied=hyper["tied"]).eval()


if __name__ == "__main__":
    sys.exit(main())
