"""Ready-made LightningModules: recurrent language models that prune themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from l0rnn.arguments import check_arguments, checked
from l0rnn.cost.budget import Budget
from l0rnn.cost.objective import Objective, Penalty
from l0rnn.foreign_text import printable
from l0rnn.gates.hard_concrete import HardConcrete
from l0rnn.language.language_model import LanguageModel, next_word_loss
from l0rnn.methods import METHODS, Dense, L0Gates, Method
from l0rnn.training import PrunableModule
from l0rnn.training.foreign_checkpoint import check_gated_model, check_weights, is_local
from l0rnn.training.resuming import model_in
from l0rnn.training.settings import from_settings, settings_of

if TYPE_CHECKING:
    from typing_extensions import Self

CLASSES: dict[str, type] = {
    **{method.__name__: method for method in METHODS.values()},
    **{part.__name__: part for part in (Budget, Penalty, HardConcrete)},
}


class L0GatedLSTM(PrunableModule):
    """An LSTM language model with a gate on every input and hidden unit, ready for `Trainer.fit`.

    The data are batches ``(tokens, next tokens)`` of shape `(time, batch)`, consecutive segments of one text, so that
    the state is carried from each to the next. Reports perplexity, exp of the mean loss in nats per token.

    Args:
        vocabulary_size: number of words.
        hidden_size: units of each recurrent layer; a list with one width per layer where they differ, for a network
            that is trained as it is (`Dense`).
        num_layers: recurrent layers.
        objective: `Budget` or `Penalty`; ``method`` may be given instead.
        method: a pruning method; default `L0Gates(objective)`, or `Dense()` without an objective.
        embedding_size: units of the embedding; that of the first recurrent layer if None.
        dropout: dropout probability on embedding, between layers and on the output.
        tied: whether embedding and decoder share their weight.
        init_range: weights start uniform in ± this; None for torch's own.
        locked_dropout: whether ``dropout`` has one mask for all steps of a segment.
        weight_dropout: dropout probability on the weights from hidden to hidden units.
        word_dropout: probability that a word is read as zeros wherever it stands in a segment.
        optimizer: ``"sgd"`` or ``"adam"``, for the weights.
        learning_rate: of the weights.
        weight_decay: of the weights.
        flat_epochs: epochs at the full learning rate.
        decay: factor of the learning rate in each epoch after those.
        gate_learning_rate: of the gates; None for what the method takes for the number of steps.

    Raises:
        ValueError: if an argument is out of range, or both ``objective`` and ``method`` are given.

    Example:
        >>> from l0rnn import Budget
        >>> model = L0GatedLSTM(vocabulary_size=50, hidden_size=8, objective=Budget(density=0.3))
        >>> model(torch.randint(50, (5, 2)))[0].shape
        torch.Size([5, 2, 50])

    Reference:
        Wen et al. 2019 (arXiv 1906.06847) on the model of Zaremba et al. 2014 (arXiv 1409.2329).
    """

    cell: Literal["LSTM", "GRU"] = "LSTM"

    def __init__(
        self,
        vocabulary_size: int,
        hidden_size: int | list[int] = 650,
        num_layers: int = 2,
        objective: Objective | dict[str, Any] | None = None,
        *,
        method: Method | dict[str, Any] | None = None,
        embedding_size: int | None = None,
        dropout: float = 0.5,
        tied: bool = False,
        init_range: float | None = 0.05,
        locked_dropout: bool = False,
        weight_dropout: float = 0.0,
        word_dropout: float = 0.0,
        optimizer: Literal["sgd", "adam"] = "sgd",
        learning_rate: float = 1.0,
        weight_decay: float = 0.0,
        flat_epochs: int = 6,
        decay: float = 1 / 1.2,
        gate_learning_rate: float | None = None,
    ) -> None:
        # no decorator: Lightning looks for the arguments of a user's subclass in the frame that called this one
        given = dict(locals())
        check_arguments(L0GatedLSTM.__init__, {name: value for name, value in given.items() if name != "self"})
        if objective is not None and method is not None:
            raise ValueError("`objective` belongs to the default method: give it, or `method`, not both")
        for name, value in {"learning_rate": learning_rate, "decay": decay}.items():
            if not value > 0:
                raise ValueError(f"`{name}` must be > 0, got {value}")
        for name, value in {"weight_decay": weight_decay, "flat_epochs": flat_epochs}.items():
            if not value >= 0:
                raise ValueError(f"`{name}` must be >= 0, got {value}")
        chosen = _method(objective, method)
        widths = [hidden_size] if isinstance(hidden_size, int) else hidden_size
        network = LanguageModel(
            vocabulary_size,
            max(widths[:1], default=0) if embedding_size is None else embedding_size,
            hidden_size,
            num_layers=num_layers,
            cell=self.cell,
            dropout=dropout,
            tied=tied,
            init_range=init_range,
            locked_dropout=locked_dropout,
            weight_dropout=weight_dropout,
            word_dropout=word_dropout,
        )

        def make_optimizer(parameters: list[nn.Parameter]) -> Optimizer:
            told = self.hparams  # which Lightning's learning rate finder changes
            kind = {"sgd": SGD, "adam": Adam}[told["optimizer"]]
            return kind(parameters, lr=told["learning_rate"], weight_decay=told["weight_decay"])

        def make_scheduler(joint: Optimizer) -> LambdaLR:
            told = self.hparams
            return LambdaLR(joint, lambda epoch: told["decay"] ** max(0, epoch + 1 - told["flat_epochs"]))

        super().__init__(
            network,
            next_word_loss,
            chosen,
            optimizer=make_optimizer,
            scheduler=make_scheduler,
            gate_learning_rate=gate_learning_rate,
            carries_state=True,
            example_inputs=torch.arange(10).remainder(vocabulary_size).reshape(5, 2),
        )
        self.save_hyperparameters(ignore=["objective", "method"])
        # plain data instead of objects, so that a checkpoint loads without unpickling code
        self.save_hyperparameters({"objective": None, "method": settings_of(chosen)})

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

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is no checkpoint of this class, asks for sizes that are not those of its weights,
                or for a file to be read or written.
        """
        if cls in MODELS.values() and is_local(checkpoint_path) and hparams_file is None:
            check_gated_model(checkpoint_path, cls.cell, CLASSES, kwargs)
        try:
            return super().load_from_checkpoint(  # type: ignore[no-any-return, misc]
                checkpoint_path, map_location, hparams_file, strict, weights_only, **kwargs
            )
        except (TypeError, AttributeError, KeyError, RuntimeError) as error:
            raise ValueError(
                f"{checkpoint_path} does not hold what a {cls.__name__} is built by: {printable(error)}"
            ) from error

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add which of the ready-made models this is, for `load_model`."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["l0rnn"]["model"] = type(self).__name__

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Check the token ids: on the CPU every batch, on a device that would have to be waited for the first."""
        super().on_train_batch_start(batch, batch_idx)
        words = self.hparams["vocabulary_size"]
        for tokens in batch if batch_idx == 0 or batch[0].device.type == "cpu" else ():
            low, high = int(tokens.min()), int(tokens.max())
            if low < 0 or high >= words:
                raise ValueError(
                    f"token ids must be in [0, {words}), the vocabulary, got {low if low < 0 else high}; "
                    f"set `vocabulary_size` to that of the data"
                )

    def inputs_of_size(self, batch: int, steps: int) -> tuple[Any, ...]:
        """Random words, `(time, batch)`."""
        return (torch.randint(self.hparams["vocabulary_size"], (steps, batch)),)

    def evaluation_figures(self, stage: str, loss: Tensor) -> dict[str, Tensor]:
        """Mean loss and perplexity."""
        return {f"{stage}/loss": loss, f"{stage}/perplexity": torch.exp(loss)}


class L0GatedGRU(L0GatedLSTM):
    """As `L0GatedLSTM`, with GRU cells.

    Example:
        >>> from l0rnn import Penalty
        >>> model = L0GatedGRU(vocabulary_size=50, hidden_size=8, objective=Penalty(0.1))
        >>> type(model.network.encoder).__name__
        'GatedGRU'
    """

    cell: Literal["LSTM", "GRU"] = "GRU"


def _method(objective: Objective | Mapping[str, Any] | None, method: Method | Mapping[str, Any] | None) -> Method:
    if isinstance(method, Mapping):
        return from_settings(method, CLASSES, "method")
    if method is not None:
        return method
    if objective is None:
        return Dense()
    if isinstance(objective, Mapping):
        return L0Gates(from_settings(objective, {kind.__name__: kind for kind in (Budget, Penalty)}, "objective"))
    return L0Gates(objective)


MODELS: dict[str, type[L0GatedLSTM]] = {"L0GatedLSTM": L0GatedLSTM, "L0GatedGRU": L0GatedGRU}


@checked
def load_model(checkpoint: str | Path) -> L0GatedLSTM:
    """Load a checkpoint of a ready-made model, of whichever class it is.

    Args:
        checkpoint: path of a Lightning checkpoint.

    Returns:
        The model, in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a checkpoint of a ready-made model.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise FileNotFoundError(f"`checkpoint` {path} does not exist; `l0rnn fit` writes one")
    name = model_in(path)
    if name is None:
        raise ValueError(f"{path} is not a checkpoint of {' or '.join(MODELS)}, or is damaged")
    if name not in MODELS:
        raise ValueError(
            f"`checkpoint` must be of {' or '.join(MODELS)}, got one of {name} in {path}; a shrunken model is loaded "
            "by `l0rnn.training.shrunken.load_shrunken`, and `l0rnn export` and `l0rnn bench` take its checkpoints"
        )
    model = MODELS[name].load_from_checkpoint(path, map_location="cpu")
    check_weights(model.network, path)
    return model.eval()
