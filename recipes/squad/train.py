"""Train BiDAF on SQuAD under a pruning method, shrink it, and write down what came out.

    python -m recipes.squad.train --config recipes/squad/configs/cpu_l0.yaml --data-dir DIR --vectors FILE \
        --out out/squad_l0 [--time-limit-minutes N]

A run that was stopped goes on from its last checkpoint. Anything after the options is passed on to Lightning's command
line, such as `--trainer.max_epochs=2` or `--trainer.precision=bf16-mixed`.
"""

from __future__ import annotations

import argparse
import json
import platform
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer

from l0rnn.surgery.shrink import operate
from l0rnn.training.callbacks import PauseOnSignal
from l0rnn.training.configuration import build_run, last_checkpoint, training_seconds
from l0rnn.training.resuming import Paused
from l0rnn.version import __version__
from recipes.squad.articles import find_squad, read_squad
from recipes.squad.averaging import AverageWeights, TimeLimit
from recipes.squad.batches import Batches, answer_text
from recipes.squad.evaluate import predict
from recipes.squad.latency import latency
from recipes.squad.metric import evaluate
from recipes.squad.network import Inputs, inputs_of
from recipes.squad.sizes import plain_network, save_model, sizes, widths
from recipes.squad.training import BidafModule, SquadData


def main() -> None:
    """Read the options, run, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="YAML as `l0rnn fit` takes it")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, logs, model and result.json")
    parser.add_argument("--data-dir", type=Path, help="folder with SQuAD's JSON files (default: download them)")
    parser.add_argument("--vectors", type=Path, help="file of word vectors (default: those of the configuration)")
    parser.add_argument("--time-limit-minutes", type=float, help="stop after a checkpoint when this time is over")
    options, extra = parser.parse_known_args()
    result = run(
        options.config,
        options.out,
        data_dir=options.data_dir,
        vectors=options.vectors,
        minutes=options.time_limit_minutes,
        extra=extra,
    )
    if result is None:
        print(f"stopped; the same command goes on from {last_checkpoint(options.out)}")
    else:
        print(json.dumps(result, indent=2))


def run(
    config: Path,
    out: Path,
    *,
    data_dir: Path | None = None,
    vectors: Path | None = None,
    minutes: float | None = None,
    extra: list[str] | None = None,
) -> dict[str, Any] | None:
    """Train, evaluate, shrink and save; returns what it writes to `out/result.json`, or None if the time was over.

    Raises:
        ValueError: if an option is out of range.
    """
    pause = PauseOnSignal(out / "checkpoints" / "last.ckpt")
    limit = TimeLimit(minutes, pause)
    given = {"data_dir": data_dir, "vectors": vectors}
    options = [f"--data.init_args.{name}={path}" for name, path in given.items() if path is not None]
    model, data, trainer = build_run(config, out, extra=[*options, *(extra or [])], report=True)
    average = next((c for c in trainer.callbacks if isinstance(c, AverageWeights)), AverageWeights(0.0))  # type: ignore[attr-defined]
    model.load_vocabulary_(data.vocabulary)
    pause.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    trainer.callbacks.extend([limit, pause])  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            trainer.fit(model, data, ckpt_path=last_checkpoint(out))
    except Paused as paused:
        print(paused)
        return None
    average.apply_(model)
    result = {
        "config": config.name,
        "method": type(model.method).__name__,
        "hidden": model.arguments["hidden"],
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "training_seconds": training_seconds(trainer),
        **finish(model.eval(), data, out, trainer),
        "data": asdict(data.prepared[2]),
        "versions": {"l0rnn": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def finish(model: BidafModule, data: SquadData, out: Path, trainer: Trainer) -> dict[str, Any]:
    """Shrink the network, answer the dev set with both, save the small one, and measure it."""
    dev = data.prepared[1]
    proof = first_questions(data, 8)
    surgery = operate(model.cpu(), example_inputs=proof)
    device = trainer.strategy.root_device
    batches = Batches(dev, data.batch_size, train=False)
    spans = {
        name: predict(network.to(device), batches, device)
        for name, network in (("trained", model.network), ("shrunk", surgery.network))
    }
    same = sum(spans["trained"][number][:2] == spans["shrunk"][number][:2] for number in spans["trained"])
    answers = {dev.ids[number]: answer_text(dev, number, *span[:2]) for number, span in spans["shrunk"].items()}
    figures = evaluate(answers, dev_paragraphs(data, set(answers)))
    (out / "answers.json").write_text(json.dumps(answers, ensure_ascii=False))
    small = surgery.network.cpu()
    hidden: int = model.arguments["hidden"]
    dense = plain_network(model.arguments, dict.fromkeys(widths(small), hidden))
    single = plain_network(model.arguments, dict.fromkeys(widths(small), 1))
    dense.features = single.features = small.features  # type: ignore[assignment]
    extra = {"word_length": data.lengths["word_length"], "max_context": data.lengths["max_context"]}
    save_model(small, out / "model", arguments=model.arguments, vocabulary=data.vocabulary, extra=extra)
    return {
        "exact_match": round(figures["exact_match"], 2),
        "f1": round(figures["f1"], 2),
        "questions": int(figures["questions"]),
        "identical_answers": same,
        "max_abs_difference": surgery.max_abs_difference,
        "dense": sizes(dense),
        "shrunk": sizes(small),
        "latency": latency(dense, small, single, first_questions(data, 1, skip=len(dev) // 2)),
    }


def first_questions(data: SquadData, count: int, *, skip: int = 0) -> Inputs:
    """Real questions of the dev set, in the order of the length of their contexts."""
    for place, batch in enumerate(Batches(data.prepared[1], count, train=False)):
        if (place + 1) * count > skip:
            return inputs_of(batch)
    raise ValueError(f"`skip` must be less than the number of questions, got {skip}")


def dev_paragraphs(data: SquadData, answered: set[str]) -> list[Any]:
    """Paragraphs to evaluate on; with a limit or a held out part those whose questions were prepared."""
    paragraphs = read_squad(find_squad("train" if data.held_out else "dev", data.data_dir))
    if data.limit is None and not data.held_out:
        return paragraphs
    return [paragraph for paragraph in paragraphs if any(question.id in answered for question in paragraph.questions)]


if __name__ == "__main__":
    main()
