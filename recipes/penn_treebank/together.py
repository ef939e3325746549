"""What saved networks predict alone, and what their mean prediction is worth: how good a teacher they make together.

    python -m recipes.penn_treebank.together out/teacher out/second_teacher \\
        --out recipes/penn_treebank/results/together.json
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.export.native import load_dense
from recipes.penn_treebank.data import PennTreebank
from recipes.penn_treebank.train import perplexity, write_json


class MeanPrediction(nn.Module):
    """Several language models as one, whose probabilities are the mean of theirs.

    Raises:
        ValueError: if there is no network.

    Example:
        >>> from l0rnn.language.language_model import LanguageModel
        >>> both = MeanPrediction([LanguageModel(50, 8, 8), LanguageModel(50, 4, 4)])
        >>> logits, states = both(torch.randint(50, (5, 2)))  # (time, batch)
        >>> logits.shape, len(states)
        (torch.Size([5, 2, 50]), 2)
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        if not networks:
            raise ValueError("`networks` must be one or several, got none")
        self.networks = nn.ModuleList(networks)

    def forward(self, tokens: Tensor, states: Sequence[Any] | None = None) -> tuple[Tensor, list[Any]]:
        """Logarithms of the mean probabilities, `(time, batch, word)`, and the states of all."""
        before = states or [None] * len(self.networks)
        told = [network(tokens, state) for network, state in zip(self.networks, before, strict=True)]
        logarithms = torch.stack([logits.log_softmax(-1) for logits, _ in told])
        return logarithms.logsumexp(0) - math.log(len(told)), [state for _, state in told]


@torch.no_grad()
def together(folders: Sequence[Path], data: PennTreebank) -> dict[str, Any]:
    """Perplexities and parameters of each network and, as "together", of their mean prediction.

    That of the train text, beside that of validation, says whether a network lacks units or regularisation.
    """
    networks: dict[str, nn.Module] = {str(folder): load_dense(folder).eval() for folder in folders}
    networks["together"] = MeanPrediction(list(networks.values())).eval()
    data.prepare_data()
    data.setup()
    return {
        name: {
            "train/perplexity": perplexity(network, data.train_dataloader()),
            "valid/perplexity": perplexity(network, data.val_dataloader()),
            "test/perplexity": perplexity(network, data.test_dataloader()),
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
        }
        for name, network in networks.items()
    }


def main() -> None:
    """Print and write down what the networks of some folders are worth together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="of saved networks")
    parser.add_argument("--data-dir", type=Path, help="folder with ptb.{train,valid,test}.txt")
    parser.add_argument("--batch-size", type=int, default=20, help="columns of the text")
    parser.add_argument("--steps", type=int, default=35, help="words read at a time")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    told = parser.parse_args()
    sizes = {"batch_size": told.batch_size, "evaluation_batch_size": told.batch_size, "steps": told.steps}
    data = PennTreebank(**sizes, data_dir=told.data_dir)
    result = together(told.folders, data)
    for name, row in result.items():
        print(f"{name}: {row}")
    write_json(result, told.out)


if __name__ == "__main__":
    main()
