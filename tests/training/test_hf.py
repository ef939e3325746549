"""Hugging Face's Trainer with the callback, on a small model with a recurrent part."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from l0rnn import Budget, L0Gates
from l0rnn.methods import GroupLasso, Method
from l0rnn.training import PruneCallback
from tests.training.several import in_processes

transformers = pytest.importorskip("transformers")
from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainingArguments  # noqa: E402
from transformers.modeling_outputs import SequenceClassifierOutput  # noqa: E402

STEPS = 24


class TaggerConfig(PretrainedConfig):
    model_type = "tagger"

    def __init__(self, vocabulary: int = 20, features: int = 8, hidden: int = 16, labels: int = 2, **rest: Any) -> None:
        super().__init__(**rest)
        self.vocabulary, self.features, self.hidden, self.labels = vocabulary, features, hidden, labels


class Tagger(PreTrainedModel):
    """An embedding, a GRU in both directions and a head, as many have it under the library's classes."""

    config_class = TaggerConfig

    def __init__(self, config: TaggerConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocabulary, config.features)
        self.encoder = nn.GRU(config.features, config.hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * config.hidden, config.labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        pass

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> SequenceClassifierOutput:
        logits = self.head(self.encoder(self.embedding(input_ids))[0].mean(1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class Words(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = torch.randint(20, (6,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": ids, "labels": int((ids < 10).sum() > 3)}


def gates(**options: Any) -> L0Gates:
    return L0Gates(Budget(density=0.4, start=0.0, ramp=0.3), **options)


def training(
    folder: Path, method: Method | None = None, *, loss: Any = None, prune: bool = True, **options: Any
) -> tuple[Trainer, PruneCallback]:
    torch.manual_seed(0)
    callback = PruneCallback(method or gates(), {"input_ids": torch.randint(20, (2, 6))})
    defaults = {
        "per_device_train_batch_size": 4,
        "max_steps": STEPS,
        "logging_strategy": "steps",
        "learning_rate": 0.01,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    args = TrainingArguments(output_dir=str(folder), **(defaults | options))
    data = Words()
    trainer = Trainer(
        Tagger(TaggerConfig()),
        args,
        train_dataset=data,
        eval_dataset=data,
        callbacks=[callback] if prune else [],
        compute_loss_func=loss,
    )
    return trainer, callback


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 3}, {"bf16": True}])
def test_a_trainer_with_one_more_callback_gives_a_small_network(tmp_path: Path, options: Any) -> None:
    trainer, callback = training(tmp_path, **options)
    trainer.train()
    small = callback.shrink()
    ids = torch.randint(20, (3, 9))
    whole = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).eval()
    torch.testing.assert_close(small.eval()(ids).logits, whole(ids).logits, rtol=1e-4, atol=1e-5)
    figures = callback.pruner.figures()
    assert 0 < figures["density"] <= 0.4
    assert sum(p.numel() for p in small.parameters()) == figures["parameters"]
    history = [entry["density"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(history) == STEPS
    assert history[-1] == figures["density"] < history[0]


def test_a_training_goes_on_bit_for_bit_before_and_after_the_choice(tmp_path: Path) -> None:
    whole, first = training(tmp_path, save_strategy="steps", save_steps=6)
    whole.train()
    expected = whole.model.state_dict()
    for step in (6, 18):
        folder = tmp_path / f"moved{step}"  # the state travels with the checkpoint
        (tmp_path / f"checkpoint-{step}").rename(folder)
        again, callback = training(tmp_path / "again")
        again.train(resume_from_checkpoint=str(folder))
        assert again.state.global_step == STEPS
        for name, value in expected.items():
            assert torch.equal(value, again.model.state_dict()[name]), (step, name)
        assert callback.pruner.figures() == first.pruner.figures()


def test_neither_optimiser_nor_clipping_of_the_trainer_meets_the_gates(tmp_path: Path) -> None:
    """A norm over weights and gates would let the one shrink the other's steps."""
    norms = []
    for stiffness in (10.0, 1e6):
        method = L0Gates(Budget(density=0.4, start=0.0, ramp=0.3, stiffness=stiffness))
        trainer, _ = training(tmp_path, method, max_grad_norm=0.5, max_steps=2)
        trainer.train()
        trained = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
        assert not trained & {id(gate) for gate in method.gate_parameters()}
        assert len(trained) == len(trainer.model.state_dict()) - 3  # all but log alpha and the two buffers of gates
        norms.append([entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry])
    assert norms[0] == norms[1]  # the second is the first step that the stiffness is in


def test_a_penalty_on_weights_and_a_loss_of_ones_own(tmp_path: Path) -> None:
    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        return nn.functional.cross_entropy(outputs.logits, labels, label_smoothing=0.1)

    trainer, callback = training(tmp_path, GroupLasso(0.05, density=0.5), loss=loss, gradient_accumulation_steps=2)
    before = trainer.model.encoder.weight_hh_l0.detach().norm().clone()
    trainer.train()
    assert float(callback.pruner.figures()["density"]) <= 0.5
    plain, _ = training(tmp_path, prune=False, loss=loss, gradient_accumulation_steps=2)
    plain.train()
    assert trainer.model.encoder.weight_hh_l0.norm() < plain.model.encoder.weight_hh_l0.norm()
    assert before > 0


def test_the_best_checkpoint_is_looked_for_after_the_choice(tmp_path: Path) -> None:
    trainer, callback = training(
        tmp_path,
        eval_strategy="steps",
        eval_steps=4,
        save_strategy="steps",
        save_steps=4,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
    )
    trainer.train()
    assert trainer.state.best_global_step >= 0.6 * STEPS
    assert callback.pruner.figures()["density"] <= 0.4
    callback.shrink()


def test_a_training_that_ends_before_the_choice_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Stop(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 5

    trainer, _ = training(tmp_path)
    trainer.add_callback(Stop())
    trainer.train()
    assert "the training ended after step 5 of 24, before L0Gates had chosen what to keep" in caplog.text


def test_what_does_not_go_together_is_refused_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`restore_callback_states_from_checkpoint` of the TrainingArguments must be"):
        training(tmp_path, restore_callback_states_from_checkpoint=True)
    with pytest.raises(ValueError, match=r"`network` fails on the `example_inputs`"):
        Trainer(
            Tagger(TaggerConfig()),
            TrainingArguments(str(tmp_path), report_to=[], use_cpu=True),
            callbacks=[PruneCallback(gates(), {"input_ids": torch.ones(2, 6)})],
        )
    late, _ = training(tmp_path, prune=False)
    late.add_callback(PruneCallback(gates(), {"input_ids": torch.ones(2, 6, dtype=torch.int64)}))
    with pytest.raises(RuntimeError, match=r"no Trainer has had this callback; give it to the constructor"):
        late.train()


def test_a_second_training_and_a_foreign_checkpoint_are_refused(tmp_path: Path) -> None:
    plain, _ = training(tmp_path, prune=False, save_strategy="steps", save_steps=6, max_steps=6)
    plain.train()
    trainer, _ = training(tmp_path)
    with pytest.raises(ValueError, match="the checkpoint of step 6 is of a training without PruneCallback"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    trainer, _ = training(tmp_path / "second", max_steps=3)
    trainer.train()
    with pytest.raises(RuntimeError, match="`begin` must come before the first step, but 3 have been made"):
        trainer.train()


def test_the_state_in_a_checkpoint_is_small_and_plain(tmp_path: Path) -> None:
    trainer, _ = training(tmp_path, save_strategy="steps", save_steps=6, max_steps=6)
    trainer.train()
    state = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    assert len(state["stateful_callbacks"]["PruneCallback"]["attributes"]["pruner"]) < 10_000


def in_one_of_two(rank: int, folder: str) -> dict[str, Any]:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="0")
    trainer, callback = training(Path(folder), save_strategy="steps", save_steps=8, ddp_backend="gloo")
    trainer.train()
    again, _ = training(Path(folder) / "again", ddp_backend="gloo")
    again.train(resume_from_checkpoint=f"{folder}/checkpoint-8")
    return {
        "processes": trainer.args.world_size,
        "whole": trainer.model.state_dict(),
        "resumed": again.model.state_dict(),
        "figures": callback.pruner.figures(),
        "small": callback.shrink().state_dict(),
    }


@pytest.mark.slow
def test_two_processes_keep_the_same_and_go_on_bit_for_bit(tmp_path: Path) -> None:
    first, second = in_processes(2, in_one_of_two, str(tmp_path))
    assert first["processes"] == 2
    assert first["figures"] == second["figures"]
    assert first["figures"]["density"] <= 0.4
    for name, value in first["whole"].items():
        for other in (second["whole"], first["resumed"], second["resumed"]):
            assert torch.equal(value, other[name]), name
    assert all(torch.equal(value, second["small"][name]) for name, value in first["small"].items())
