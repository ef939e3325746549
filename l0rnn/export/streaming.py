"""Run a network on whole sequences or step by step, in the same way whatever format it is in."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.arguments import checked
from l0rnn.export.describe import refuse_gates
from l0rnn.export.interface import Interface, State, example_input_of, flat, interface_of, nested
from l0rnn.export.steps import steps_of
from l0rnn.recurrent.single_steps import fits, is_for_cells, run_stack_as_cells


class Streamer(ABC):
    """A network with its state in the caller's hands.

    `run` takes a whole sequence and `step` one step of it; both take the state that the other returned. The state is a
    flat tuple of tensors, the same in every format of a network, see `Interface.states`.
    """

    interface: Interface
    vocabulary: tuple[str, ...] | None

    @abstractmethod
    def run(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run the network on sequences.

        Args:
            inputs: `(time, batch, …)`, or `(batch, time, …)` if the interface is batch first.
            state: as `run` or `step` returned it; zeros if None.

        Returns:
            The output, for a language model logits `(time, batch, word)`, and the state after the last step.
        """

    def step(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run the network on one step of each sequence.

        Args:
            inputs: `(batch, …)`, for a language model word ids `(batch,)`.
            state: as `run` or `step` returned it; zeros if None.

        Returns:
            The output of the step, for a language model logits `(batch, word)`, and the state after it.

        Raises:
            ValueError: if the network cannot be run step by step.
        """
        if not self.interface.is_streamable:
            raise ValueError("the network cannot be run step by step: it takes no state, or reads its input backwards")
        axis = self.interface.time_axis
        output, state = self.run(inputs.unsqueeze(axis), state)
        return output.squeeze(axis), state

    def initial_state(self, batch: int = 1) -> State:
        """The state before the first step, for a number of sequences."""
        return self.interface.zero_state(batch)


@checked
class TorchStreamer(Streamer):
    """Steps through a network in torch; a copy of it, in evaluation mode on the CPU.

    A call of one or two steps goes round oneDNN, whose LSTM re-packs its weights at every call: a single step of a
    large network is several times as fast without, see `l0rnn.recurrent.single_steps`. The copy's matrices lie in
    memory column by column, in the order in which a step reads them fastest. An LSTM language model is stepped through
    kernel by kernel, see `l0rnn.export.steps`, its decoder divided among the threads that torch has when the streamer
    is made. A change of the network's weights does not reach the copy.

    Args:
        network: a `LanguageModel`, a recurrent layer, or any network called as ``network(input)`` or
            ``network(input, state)``.
        example_input: an input that it runs on, `(time, batch, …)` or `(batch, time, …)`; None for a network of the
            first two kinds.
        vocabulary: the words of a language model.

    Raises:
        ValueError: if the network has gates, or ``example_input`` is missing or does not fit.

    Example:
        >>> from l0rnn.language.language_model import LanguageModel
        >>> streamer = TorchStreamer(LanguageModel(50, 4, 6))
        >>> logits, state = streamer.step(torch.tensor([7]))
        >>> logits.shape, [tuple(part.shape) for part in state]
        (torch.Size([1, 50]), [(2, 1, 6), (2, 1, 6)])
    """

    def __init__(
        self,
        network: nn.Module,
        example_input: Tensor | None = None,
        *,
        vocabulary: tuple[str, ...] | None = None,
    ) -> None:
        refuse_gates(network)
        example_input = example_input_of(network) if example_input is None else example_input
        if example_input is None:
            raise ValueError(
                f"`example_input` must be given for a {type(network).__name__}: a tensor `(time, batch, …)`, or "
                "`(batch, time, …)` if its recurrent layers are batch_first"
            )
        if not isinstance(example_input, Tensor):
            raise ValueError(
                f"`example_input` must be one tensor, got a {type(example_input).__name__}: an export has one input, "
                "and a state; for a network with more, wrap it in a module that joins them"
            )
        if example_input.dim() < 2 or not example_input.numel():
            raise ValueError(
                f"`example_input` must have axes of time and batch, got shape {tuple(example_input.shape)}"
            )
        self.network = copy.deepcopy(network).cpu().eval()
        self.example_input = example_input.cpu()
        self.interface, self.nesting = interface_of(self.network, self.example_input)
        self.vocabulary = vocabulary
        column_major_(self.network)
        self._steps = steps_of(self.network, threads=torch.get_num_threads())
        for module in self.network.modules():
            if type(module) is nn.LSTM:
                module.__class__ = _SteppedLSTM

    def run(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """See `Streamer.run`."""
        if self._steps is not None and self._steps.takes(inputs):
            return self._steps(inputs, state)
        with torch.inference_mode():
            if not self.interface.states:
                found = self.network(inputs)
                return found[0] if isinstance(found, tuple) else found, ()
            given = None if state is None else nested(list(state), self.nesting)
            output, state = self.network(inputs, given)
        return output, tuple(flat(state))


class _SteppedLSTM(nn.LSTM):
    """An nn.LSTM in evaluation mode whose calls of few steps run as cells; in the networks of users, too."""

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As nn.LSTM."""
        turns = self.batch_first and isinstance(input, Tensor) and input.dim() == 3
        data = input.transpose(0, 1) if turns else input
        if self.bidirectional or self.proj_size or not (is_for_cells(data) and fits(self, data, hx)):
            return super().forward(input, hx)
        output, state = run_stack_as_cells(self, data, hx)
        return output.transpose(0, 1) if turns else output, state


@torch.no_grad()
def column_major_(network: nn.Module) -> None:
    """Store the matrices of recurrent and Linear layers column by column, for a network that runs single steps.

    Names, shapes and values stay as they are; only the order in memory changes. A product with one vector then adds up
    columns, for which MKL reads memory faster than for dot products of rows; how much is measured by
    recipes/penn_treebank/onednn_rule.py. For longer calls it is of no use, and oneDNN's LSTM has to turn the weights
    round in each of them.

    Example:
        >>> layer = nn.Linear(3, 5)
        >>> column_major_(layer)
        >>> layer.weight.shape, layer.weight.stride()
        (torch.Size([5, 3]), (1, 5))
    """
    for module in network.modules():
        if isinstance(module, (nn.RNNBase, nn.Linear)):
            for parameter in module.parameters(recurse=False):
                if parameter.dim() == 2:
                    parameter.data = parameter.t().contiguous().t()
