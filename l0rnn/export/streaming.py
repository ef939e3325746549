"""Run a network on whole sequences or step by step, in the same way whatever format it is in."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from l0rnn.export.describe import refuse_gates
from l0rnn.export.interface import Interface, State, example_input_of, flat, interface_of, nested
from l0rnn.export.steps import steps_of
from l0rnn.recurrent.single_steps import column_major_, onednn


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


class TorchStreamer(Streamer):
    """Steps through a network in torch; a copy of it, in evaluation mode on the CPU.

    oneDNN, whose LSTM re-packs its weights at every call, is off: a single step of a large network is several times as
    fast without. The copy's matrices lie in memory column by column, in the order in which a step reads them fastest,
    see `l0rnn.recurrent.single_steps.column_major_`. An LSTM language model is stepped through kernel by kernel, see
    `l0rnn.export.steps`, its decoder divided among the threads that torch has when the streamer is made. A change of
    the network's weights does not reach the copy.

    Args:
        network: a `LanguageModel`, a recurrent layer, or any network called as ``network(input)`` or
            ``network(input, state)``.
        example_input: an input that it runs on, `(time, batch, …)` or `(batch, time, …)`; None for a network of the
            first two kinds.
        vocabulary: the words of a language model.
        uses_onednn: whether to run in oneDNN all the same, on weights as they are, which may be faster for many
            sequences at once.

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
        uses_onednn: bool = False,
    ) -> None:
        refuse_gates(network)
        example_input = example_input_of(network) if example_input is None else example_input
        if example_input is None:
            raise ValueError(
                f"`example_input` must be given for a {type(network).__name__}: a tensor `(time, batch, …)`, or "
                "`(batch, time, …)` if its recurrent layers are batch_first"
            )
        if example_input.dim() < 2 or not example_input.numel():
            raise ValueError(
                f"`example_input` must have axes of time and batch, got shape {tuple(example_input.shape)}"
            )
        self.network = copy.deepcopy(network).cpu().eval()
        self.example_input = example_input.cpu()
        self.interface, self.nesting = interface_of(self.network, self.example_input)
        self.vocabulary = vocabulary
        self.uses_onednn = uses_onednn
        self._steps = None
        if not uses_onednn:
            column_major_(self.network)
            self._steps = steps_of(self.network, threads=torch.get_num_threads())

    def run(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """See `Streamer.run`."""
        if self._steps is not None and self._steps.takes(inputs):
            return self._steps(inputs, state)
        with torch.inference_mode(), onednn(self.uses_onednn):
            if not self.interface.states:
                found = self.network(inputs)
                return found[0] if isinstance(found, tuple) else found, ()
            given = None if state is None else nested(list(state), self.nesting)
            output, state = self.network(inputs, given)
        return output, tuple(flat(state))
