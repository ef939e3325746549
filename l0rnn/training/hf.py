"""The callback of Hugging Face's Trainer that prunes what it trains; needs the extra ``hf``."""

from __future__ import annotations

import base64
import io
import logging
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from l0rnn.arguments import checked
from l0rnn.extras import require
from l0rnn.methods.method import Method
from l0rnn.recurrent.nested import moved_to
from l0rnn.training.length import what_is_open
from l0rnn.training.pruner import Pruner

require("accelerate", "hf")
require("transformers", "hf", at_least=(5, 24))

from transformers import TrainerCallback  # noqa: E402 - after the error that says how to install it
from transformers.trainer_callback import ExportableState  # noqa: E402

log = logging.getLogger(__name__)


@checked
class PruneCallback(TrainerCallback, ExportableState):
    """Prunes the model of a `transformers.Trainer` while that trains it.

    The Trainer's loss, optimiser, clipping, accumulation, precision and checkpoints stay as they are. The method's
    penalty is back-propagated before the batches of a step; gates have an Adam of their own, and neither the Trainer's
    optimiser nor its ``max_grad_norm`` sees them. What the method remembers is in ``trainer_state.json`` of every
    checkpoint, so ``resume_from_checkpoint`` goes on exactly. Its figures are in the log history, beside the loss.

    From the step on at which the method has chosen what to keep, the search for the best checkpoint begins anew: the
    ones from before are of a larger network.

    Args:
        method: the pruning method.
        example_inputs: keyword arguments of the model's forward as a dict, such as a batch of the data collator. The
            model is run on them to find its units, and `shrink` compares the outputs on them.
        gate_learning_rate: of the gates' Adam.
        fixed: layers or axes that have to stay whole, see `l0rnn.tracing.trace`.
        tied: groups of axes whose units have to be removed together.

    Raises:
        ValueError: by the Trainer's constructor, if there is nothing to prune or its arguments do not go with it.

    Example:
        >>> from l0rnn import Budget, L0Gates
        >>> PruneCallback(L0Gates(Budget(density=0.5)), {"input_ids": torch.ones(2, 7, dtype=torch.int64)}).shrink()
        Traceback (most recent call last):
        ...
        RuntimeError: no Trainer has had this callback; give it to the constructor: Trainer(…, callbacks=[callback])
    """

    def __init__(
        self,
        method: Method,
        example_inputs: Any,
        *,
        gate_learning_rate: float = 0.03,
        fixed: Sequence[str] = (),
        tied: Sequence[Sequence[str]] = (),
    ) -> None:
        if not gate_learning_rate > 0:
            raise ValueError(f"`gate_learning_rate` must be > 0, got {gate_learning_rate}")
        self.method = method
        self.example_inputs = example_inputs
        self.gate_learning_rate = gate_learning_rate
        self.fixed, self.tied = fixed, tied
        self._pruner: Pruner | None = None
        self._scale = 1.0  # of the loss, at half precision

    @property
    def pruner(self) -> Pruner:
        """The core that does the work.

        Raises:
            RuntimeError: if no Trainer has been built with the callback.
        """
        if self._pruner is None:
            raise RuntimeError(
                "no Trainer has had this callback; give it to the constructor: Trainer(…, callbacks=[callback])"
            )
        return self._pruner

    def shrink(self, **options: Any) -> nn.Module:
        """The smaller dense model with the same outputs, see `l0rnn.shrink`, which has the options.

        Its ``config`` still tells the sizes of the whole model: save it by `l0rnn.export.save_dense`.
        """
        own = self.pruner.network.__dict__
        # half precision has put a forward of its own over the model's: it would be copied, and is no ground for proofs
        names = ("forward", "_original_forward") if "_original_forward" in own else ()
        put_over = {name: own.pop(name) for name in names}
        try:
            return self.pruner.shrink(**options)
        finally:
            own.update(put_over)

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Find the model's units and give it gates, before the Trainer makes its optimiser."""
        _refuse_arguments(args)
        model = kwargs["model"]
        self.example_inputs = moved_to(self.example_inputs, next(model.parameters()).device)
        was_training = model.training
        self._pruner = Pruner(
            model,
            self.method,
            self.example_inputs,
            gate_learning_rate=self.gate_learning_rate,
            fixed=self.fixed,
            tied=self.tied,
        )
        model.train(was_training)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Go on with the state of a checkpoint, if there is one, and let the gates learn."""
        if kwargs["model"] is not self.pruner.network:
            raise ValueError(
                "the Trainer trains another model than the one it was built with, as `model_init` makes it do; give it "
                "`model` instead"
            )
        if state.global_step:
            saved = state.stateful_callbacks.get(type(self).__name__, {})
            if "pruner" not in saved.get("attributes", {}):
                raise ValueError(
                    f"the checkpoint of step {state.global_step} is of a training without {type(self).__name__}; start "
                    "from its model without `resume_from_checkpoint`"
                )
            self.pruner.load_state_dict(_unpacked(saved["attributes"]["pruner"]))
        self.pruner.begin(state.max_steps)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Back-propagate the penalty, once per optimiser step, into gradients that are still empty."""
        scaler = getattr(kwargs.get("optimizer"), "scaler", None)
        self._scale = 1.0 if scaler is None else float(scaler.get_scale())
        penalty = self.pruner.penalty()
        if penalty.requires_grad:
            (penalty * self._scale).backward()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let gates and price follow the optimiser's step."""
        if self._scale != 1:
            self.pruner.unscale_(self._scale)
        had_chosen = self.pruner.has_chosen
        self.pruner.step()
        if self.pruner.has_chosen and not had_chosen:
            state.best_metric = state.best_model_checkpoint = state.best_global_step = None

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Add density, price and units kept beside the loss; the Trainer's own reporters have read theirs by then."""
        if logs and "loss" in logs:
            figures = self.pruner.figures()
            logs.update(figures)
            state.log_history[-1].update(figures)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say so if the method has not chosen what to keep."""
        if open_question := what_is_open(self.pruner.method, state.global_step, state.max_steps):
            log.warning("%s", open_question)

    def state(self) -> dict[str, Any]:
        """What the Trainer writes into ``trainer_state.json``."""
        return {
            "args": {},
            "attributes": {} if self._pruner is None else {"pruner": _packed(self._pruner.state_dict())},
        }


def _refuse_arguments(args: Any) -> None:
    """Raise ValueError for arguments of a Trainer that do not go with pruning; it names them."""
    reasons = {
        "fsdp": "each process would have a part of every weight; a unit is removed with all its rows and columns",
        "deepspeed": "it steps parameters of its own, of which gates are none",
        "restore_callback_states_from_checkpoint": "PruneCallback restores itself, and cannot be built from JSON",
    }
    for name, reason in reasons.items():
        if getattr(args, name, None):
            raise ValueError(f"`{name}` of the TrainingArguments must be left out with PruneCallback: {reason}")
    if args.n_gpu > 1:
        raise ValueError(
            f"PruneCallback needs a process for each GPU, got one for {args.n_gpu}: start it by `torchrun "
            f"--nproc-per-node {args.n_gpu}`, or set CUDA_VISIBLE_DEVICES to one"
        )


def _packed(state: Any) -> str:
    """A nested state of tensors and numbers as text."""
    buffer = io.BytesIO()
    torch.save(moved_to(state, torch.device("cpu")), buffer)
    return base64.b64encode(zlib.compress(buffer.getvalue())).decode()


def _unpacked(text: str) -> Any:
    content = io.BytesIO(zlib.decompress(base64.b64decode(text)))
    return torch.load(content, weights_only=True)
