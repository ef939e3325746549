"""Train a language model on Penn Treebank, shrink it, and write down what came out.

    python -m recipes.penn_treebank.train --config recipes/penn_treebank/configs/small.yaml --out out/small

A run that was stopped goes on from its last checkpoint. Anything after the options is passed on to Lightning's command
line, such as `--model.init_args.method.class_path=l0rnn.Dense` or `--trainer.max_epochs=2`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from torch import nn

from l0rnn.cost.cost import cost
from l0rnn.export import save_dense
from l0rnn.language.language_model import next_word_loss
from l0rnn.models import L0GatedLSTM
from l0rnn.recurrent.nested import moved_to
from l0rnn.surgery.shrink import Surgery, operate
from l0rnn.tracing import trace
from l0rnn.training.batches import detached
from l0rnn.training.configuration import build_run, last_checkpoint, training_seconds
from recipes.penn_treebank.data import PennTreebank


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="YAML as `l0rnn fit` takes it")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, logs, model and result.json")
    parser.add_argument("--data-dir", type=Path, help="folder with ptb.{train,valid,test}.txt")
    options, extra = parser.parse_known_args()
    print(json.dumps(run(options.config, options.out, data_dir=options.data_dir, extra=extra), indent=2))


def run(config: Path, out: Path, *, data_dir: Path | None = None, extra: list[str] | None = None) -> dict[str, Any]:
    """Train, evaluate, shrink and save; returns what it writes to `out/result.json`."""
    model, data, trainer = build(config, out, data_dir=data_dir, extra=extra)
    trainer.fit(model, data, ckpt_path=last_checkpoint(out))
    figures, surgery = shrink_and_evaluate(model.eval(), data, out)
    result = {
        "config": str(config),
        "epochs": trainer.current_epoch,
        "training_seconds": training_seconds(trainer),
        **figures,
    }
    result["widths"] = {axis: kept for axis, (kept, _) in surgery.widths.items()}
    result["versions"] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    write_json(result, out / "result.json")
    return result


def build(
    config: Path, out: Path, *, data_dir: Path | None = None, extra: list[str] | None = None
) -> tuple[L0GatedLSTM, PennTreebank, Trainer]:
    """Model, data and trainer of a YAML configuration."""
    options = [] if data_dir is None else [f"--data.init_args.data_dir={data_dir}"]
    return build_run(config, out, extra=[*options, *(extra or [])], tensorboard=True, report=True)


def shrink_and_evaluate(model: L0GatedLSTM, data: PennTreebank, out: Path) -> tuple[dict[str, Any], Surgery]:
    """Perplexity and cost of the trained network and of the shrunken one, which is saved."""
    surgery = operate(model)
    trained = describe(model.network, model, data)
    shrunk = describe(surgery.network, model, data)
    save_dense(surgery.network, out / "shrunk", vocabulary=data.vocabulary.words, figures=shrunk, overwrite=True)
    return {
        "trained": trained,
        "shrunk": shrunk,
        "max_abs_difference": surgery.max_abs_difference,
        "not_pruned": surgery.untouched,
    }, surgery


def describe(network: nn.Module, model: L0GatedLSTM, data: PennTreebank) -> dict[str, Any]:
    """Perplexity on both held-out splits, and cost, of a network as it is."""
    device = next(network.parameters()).device
    whole = cost(trace(network, moved_to(model.example_input_array, device)))
    data.setup("validate")
    data.setup("test")
    return {
        "valid_perplexity": perplexity(network, data.val_dataloader()),
        "test_perplexity": perplexity(network, data.test_dataloader()),
        "parameters": whole.parameters,
        "parameters_without_embedding": whole.parameters_without_embedding,
        "multiply_adds": whole.multiply_adds,
    }


@torch.no_grad()
def perplexity(network: nn.Module, segments: Any) -> float:
    """exp of the mean loss in nats per token, with the state carried from segment to segment."""
    network.eval()
    total, tokens, state = 0.0, 0, None
    device = next(network.parameters()).device
    for inputs, targets in segments:
        loss, state = next_word_loss(network, (inputs.to(device), targets.to(device)), state)
        state = detached(state)
        total += loss.item() * targets.numel()
        tokens += targets.numel()
    return round(float(torch.tensor(total / tokens).exp()), 3)


def write_json(result: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
