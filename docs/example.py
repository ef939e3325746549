"""Train a small language model with gates, then shrink it to the units that stayed open."""

from pathlib import Path

import torch
from lightning import Trainer
from torch.utils.data import DataLoader, TensorDataset

from l0rnn import Budget, L0GatedLSTM, shrink

text = Path("LICENSE").read_text()[:10_501]  # any text; the model learns to guess the next letter
letters = sorted(set(text))
ids = torch.tensor([letters.index(letter) for letter in text])
inputs = ids[:-1].reshape(20, 15, 35).permute(1, 2, 0)  # (segment, time, batch)
targets = ids[1:].reshape(20, 15, 35).permute(1, 2, 0)  # the letter after each

model = L0GatedLSTM(
    len(letters), hidden_size=128, dropout=0.0, objective=Budget(density=0.2), optimizer="adam", learning_rate=0.01
)
trainer = Trainer(max_epochs=20, logger=False, enable_checkpointing=False, enable_model_summary=False)
trainer.fit(model, DataLoader(TensorDataset(inputs, targets), batch_size=None))
small = shrink(model)  # plain torch modules, compared with the gated model before they are returned

print(small)
difference = model.eval()(inputs[0])[0] - small.eval()(inputs[0])[0]
print(f"largest difference between the outputs: {difference.abs().max():.1e}")
