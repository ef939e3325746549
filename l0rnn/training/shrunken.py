"""Go on training a shrunken language model, in checkpoints that know its widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from l0rnn.export.config import Config, config_of
from l0rnn.export.native import build_from, load_dense
from l0rnn.foreign_text import printable
from l0rnn.language.distillation import DistilledLoss
from l0rnn.language.language_model import LanguageModel, next_word_loss
from l0rnn.methods import Dense
from l0rnn.training.foreign_checkpoint import check_shrunken_model, check_weights, is_local
from l0rnn.training.module import PrunableModule
from l0rnn.training.resuming import model_in

if TYPE_CHECKING:
    from typing_extensions import Self

NAME = "ShrunkenLanguageModel"


class ShrunkenLanguageModel(PrunableModule):
    """Trains a shrunken `LanguageModel` as it is, without gates.

    Its hyper-parameters describe every layer of the small network, so `load_from_checkpoint` builds just that one.

    Args:
        network: what `shrink` returned, the directory it was saved to, or its description in a checkpoint.
        learning_rate: of stochastic gradient descent.
        weight_decay: of the weights.
        dropout: dropout probability, for the size that is left; that of the network if None.
        flat_epochs: epochs at the full learning rate.
        decay: factor of the learning rate in each epoch after those.
        teacher: directory of a saved network whose predictions it learns from as well (`DistilledLoss`), or several
            such, or None.
        teacher_weight: share of the teacher in the loss, in (0, 1].
        noise: share of the words read that are replaced by others, in [0, 1), while it has a teacher.
        locked_dropout: whether ``dropout`` has one mask for all steps of a segment, see `LanguageModel`.
        weight_dropout: dropout probability on the weights from hidden to hidden units.
        word_dropout: probability that a word is read as zeros wherever it stands in a segment.

    Raises:
        FileNotFoundError: if there is no such teacher.
        ValueError: if the network has gates, or is no `LanguageModel`, or an argument is out of range.

    Example:
        >>> model = ShrunkenLanguageModel(LanguageModel(50, 4, 6), learning_rate=0.1)
        >>> model.hparams["network"]["widths"]
        {'embedding': 4, 'encoder.l0': 6, 'encoder.l1': 6, 'decoder': 50}
    """

    def __init__(
        self,
        network: nn.Module | dict[str, Any] | str,
        *,
        learning_rate: float = 0.1,
        weight_decay: float = 0.0,
        dropout: float | None = None,
        flat_epochs: int = 1,
        decay: float = 1.0,
        teacher: str | Sequence[str] | None = None,
        teacher_weight: float = 0.5,
        noise: float = 0.0,
        locked_dropout: bool = False,
        weight_dropout: float = 0.0,
        word_dropout: float = 0.0,
    ) -> None:
        rates = {"dropout": dropout or 0.0, "weight_dropout": weight_dropout, "word_dropout": word_dropout}
        for name, rate in rates.items():
            if not 0 <= rate < 1:
                raise ValueError(f"`{name}` must be in [0, 1), got {rate}")
        if not decay > 0:
            raise ValueError(f"`decay` must be > 0, got {decay}")
        if isinstance(network, str):
            network = load_dense(network)
        is_description = isinstance(network, Mapping)
        config = Config(**network) if is_description else config_of(network)  # type: ignore[arg-type]
        small: Any = build_from(config) if is_description else network
        if type(small) is not LanguageModel:
            raise ValueError(f"`network` must be a LanguageModel, got a {type(small).__name__}")
        if noise and teacher is None:
            raise ValueError(
                f"`noise` needs a `teacher`, who knows what follows a changed text, got {noise} without one"
            )
        if dropout is not None:
            set_dropout_(small, dropout)
        small.locked_dropout, small.weight_dropout, small.word_dropout = locked_dropout, weight_dropout, word_dropout

        loss: Any = next_word_loss
        if teacher is not None:
            paths = [teacher] if isinstance(teacher, str) else teacher
            loss = DistilledLoss([load_dense(path) for path in paths], teacher_weight, noise)

        def make_scheduler(optimizer: Optimizer) -> LambdaLR:
            told = self.hparams  # which Lightning's learning rate finder changes
            return LambdaLR(optimizer, lambda epoch: told["decay"] ** max(0, epoch + 1 - told["flat_epochs"]))

        def make_optimizer(parameters: list[nn.Parameter]) -> Optimizer:
            return SGD(parameters, lr=self.hparams["learning_rate"], weight_decay=self.hparams["weight_decay"])

        words = small.embedding.num_embeddings
        super().__init__(
            small,
            loss,
            Dense(),
            optimizer=make_optimizer,
            scheduler=make_scheduler,
            carries_state=True,
            example_inputs=torch.arange(10).remainder(words).reshape(5, 2),
        )
        small.train()  # what load_dense returns is in evaluation mode
        settings = {"learning_rate": learning_rate, "weight_decay": weight_decay, "dropout": dropout}
        settings |= {"flat_epochs": flat_epochs, "decay": decay}
        settings |= {"teacher": teacher, "teacher_weight": teacher_weight, "noise": noise}
        settings |= {"locked_dropout": locked_dropout, "weight_dropout": weight_dropout, "word_dropout": word_dropout}
        self.save_hyperparameters({"network": asdict(config), **settings})

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = True,
        **kwargs: Any,
    ) -> Self:
        """As Lightning's, but nothing is unpickled, and sizes are held against the weights before anything is built.

        A checkpoint that was trained with a ``teacher`` is loaded with the teacher given anew, or with None.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is no checkpoint of this class, or asks for sizes that are not those of its weights.
        """
        if is_local(checkpoint_path) and hparams_file is None:
            check_shrunken_model(checkpoint_path, kwargs)
        try:
            return super().load_from_checkpoint(  # type: ignore[no-any-return, misc]
                checkpoint_path, map_location, hparams_file, strict, weights_only, **kwargs
            )
        except (TypeError, AttributeError, KeyError, RuntimeError) as error:
            raise ValueError(
                f"{checkpoint_path} does not hold what a {cls.__name__} is built by: {printable(error)}"
            ) from error

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add which model this is, for `load_shrunken`."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["l0rnn"]["model"] = NAME

    def evaluation_figures(self, stage: str, loss: torch.Tensor) -> dict[str, torch.Tensor]:
        """Mean loss and perplexity."""
        return {f"{stage}/loss": loss, f"{stage}/perplexity": torch.exp(loss)}


def set_dropout_(network: nn.Module, rate: float) -> None:
    """Set the rate of every nn.Dropout and of the dropout between the layers of recurrent modules."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = rate  # type: ignore[assignment]


def load_shrunken(checkpoint: str | Path) -> nn.Module | None:
    """The network in a checkpoint of a `ShrunkenLanguageModel`, or None if it is a checkpoint of something else."""
    if model_in(checkpoint) != NAME:
        return None
    # without the teacher, which need not be here
    options: dict[str, Any] = {"map_location": "cpu", "teacher": None, "noise": 0.0}
    network = ShrunkenLanguageModel.load_from_checkpoint(checkpoint, **options).network
    check_weights(network, checkpoint)
    return network.eval()
