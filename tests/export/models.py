"""Small shrunken models, as surgery leaves them, and a plain way to run an ONNX export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from l0rnn import Budget, L0GatedLSTM
from l0rnn.gates.network import network_gates
from l0rnn.language.language_model import LanguageModel
from l0rnn.recurrent.ragged_rnn import RaggedRNN

WORDS = ("<eos>", "the", "cat", "sat", "on", "mat", "and", "<unk>", "dog", "ran", "far")


def language_model(mode: str = "LSTM", hidden_sizes: list[int] | None = None, *, tied: bool = False) -> LanguageModel:
    """A model of `WORDS`; of unequal widths if ``hidden_sizes`` says so."""
    sizes = hidden_sizes or [6, 6]
    network = LanguageModel(len(WORDS), sizes[-1], sizes[0], num_layers=len(sizes), tied=tied)
    if len(set(sizes)) == 1 and mode in ("LSTM", "GRU"):
        network.encoder = {"LSTM": nn.LSTM, "GRU": nn.GRU}[mode](sizes[-1], sizes[0], len(sizes))
    else:
        network.encoder = RaggedRNN(mode, sizes[-1], [[size] for size in sizes])
        network.decoder = nn.Linear(sizes[-1], len(WORDS))
    for parameter in network.parameters():
        nn.init.uniform_(parameter, -0.8, 0.8)  # large enough for states to matter
    return network.eval()


def half_closed(words: int) -> L0GatedLSTM:
    """A gated model of 6 units, as after training, with 3 of each kind closed."""
    trained = L0GatedLSTM(words, 6, objective=Budget(density=0.5))
    trained.method.steps.fill_(1)  # type: ignore[union-attr, operator]
    gates = network_gates(trained.network)
    assert gates is not None
    for axis in trained.units.axes.values():
        gates.log_alpha.data[axis.start : axis.start + 3] = -5.0
    return trained


def write_checkpoint(module: LightningModule, path: Path) -> None:
    """A checkpoint as a Trainer writes it."""
    trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)


def run_onnx(directory: Path, inputs: Tensor, states: list[Tensor] | None = None) -> list[Tensor]:
    """Output and states of a model, through ONNX Runtime alone."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(directory / "model.onnx"), providers=["CPUExecutionProvider"])
    interface: dict[str, Any] = json.loads((directory / "config.json").read_text())["interface"]
    batch = inputs.shape[interface["input"]["axes"].index("batch")]
    feed = {interface["input"]["name"]: inputs.numpy()}
    for index, state in enumerate(interface["states"]):
        shape = [batch if size == "batch" else size for size in state["shape"]]
        feed[state["input"]] = np.zeros(shape, np.float32) if states is None else states[index].numpy()
    return [torch.from_numpy(part) for part in session.run(None, feed)]
