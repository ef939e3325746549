"""How an exported network is called, in every format alike: one input, one output, and a flat list of states.

A torch layer keeps its state in nested tuples. Outside torch there are only named tensors, so the state is laid flat,
in the order in which the tuples hold it: ``h`` and ``c`` `(layer·direction, batch, unit)` of a torch LSTM; of a
`RaggedRNN` first each layer's and direction's ``h`` `(batch, unit)`, then each one's ``c``.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.export.describe import DTYPES, outer_modules, vocabulary_size
from l0rnn.foreign_text import shown
from l0rnn.language.language_model import LanguageModel
from l0rnn.recurrent.names import RECURRENT, recurrent_sizes
from l0rnn.recurrent.ragged_rnn import RaggedRNN

State = tuple[Tensor, ...]
_MOST_UNITS = 10**8  # in the state of one sequence
_DTYPES = {"int64": torch.int64, **DTYPES}


@dataclass(frozen=True)
class StateTensor:
    """A tensor of the state.

    Attributes:
        name: of the input; the output is called ``next_`` and this.
        shape: its sizes, with None for the batch.
    """

    name: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Interface:
    """What goes in and what comes out.

    Attributes:
        input: name of the input.
        dtype: of the input: ``"int64"`` for word ids, else floating point.
        is_batch_first: whether the input is `(batch, time, …)` instead of `(time, batch, …)`.
        features: sizes of the input's further dimensions.
        words: ids must be below this number; None for an input that is not of words.
        output: name of the output.
        states: the state, laid flat; empty if the network takes none.
        state_dtype: of the state's tensors.
        is_streamable: whether going on step by step from the state gives what the whole sequence gives.
    """

    input: str
    dtype: str
    is_batch_first: bool
    features: tuple[int, ...]
    words: int | None
    output: str
    states: tuple[StateTensor, ...]
    state_dtype: str
    is_streamable: bool

    @property
    def time_axis(self) -> int:
        """The input's and output's axis of time."""
        return 1 if self.is_batch_first else 0

    def zero_state(self, batch: int = 1) -> State:
        """The state before the first step."""
        shapes = [tuple(batch if size is None else size for size in state.shape) for state in self.states]
        return tuple(torch.zeros(shape, dtype=_DTYPES[self.state_dtype]) for shape in shapes)

    def to_json(self) -> dict[str, Any]:
        """As ``config.json`` holds it."""
        states = [
            {"input": state.name, "output": f"next_{state.name}", "shape": [size or "batch" for size in state.shape]}
            for state in self.states
        ]
        axes = ["batch", "time"] if self.is_batch_first else ["time", "batch"]
        return {
            "input": {"name": self.input, "dtype": self.dtype, "axes": axes, "features": list(self.features)},
            "output": {"name": self.output},
            "states": states,
            "state_dtype": self.state_dtype,
            "words": self.words,
            "streamable": self.is_streamable,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Interface:
        """From the content of a ``config.json``.

        Raises:
            ValueError: if it does not describe an interface.
        """
        try:
            states = tuple(_state_tensor(state) for state in content["states"])
            inputs, words = content["input"], content["words"]
            found = cls(
                input=str(inputs["name"]),
                dtype=str(inputs["dtype"]),
                is_batch_first={"batch": True, "time": False}[inputs["axes"][0]],
                features=tuple(_size(size) for size in inputs["features"]),
                words=None if words is None else _size(words),
                output=str(content["output"]["name"]),
                states=states,
                state_dtype=str(content["state_dtype"]),
                is_streamable=content["streamable"] is True,
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"config.json does not describe input, output and states: {shown(error)}") from error
        if sum(math.prod(size or 1 for size in state.shape) for state in states) > _MOST_UNITS:
            raise ValueError(f"config.json must give states of at most {_MOST_UNITS:,} units in all for one sequence")
        if found.dtype not in _DTYPES or found.state_dtype not in DTYPES:
            raise ValueError(f"config.json must give input and states a dtype out of {', '.join(_DTYPES)}")
        return found


def _state_tensor(content: dict[str, Any]) -> StateTensor:
    shape = tuple(None if size == "batch" else _size(size) for size in content["shape"])
    if math.prod(size or 1 for size in shape) > _MOST_UNITS:
        raise ValueError(f"{shown(shape)} is not the shape of a state")
    return StateTensor(str(content["input"]), shape)


def _size(value: Any) -> int:
    if type(value) is not int or not 0 < value < 2**31:
        raise ValueError(f"{shown(value)} is not a size")
    return value


def interface_of(network: nn.Module, example_input: Tensor) -> tuple[Interface, Any]:
    """How a network is called, found by running it at two sizes.

    Args:
        network: called as ``network(input)``, or ``network(input, state)`` if it returns an output and a state; in
            evaluation mode, on the CPU.
        example_input: `(time, batch, …)`, or `(batch, time, …)` if its recurrent layers are ``batch_first``.

    Returns:
        The interface, and the nesting of the state for `nested`.

    Raises:
        ValueError: if the network does not run on the input, returns what it does not take back, or mixes
            ``batch_first`` and time first.

    Example:
        >>> interface, nesting = interface_of(nn.LSTM(3, 5).eval(), torch.randn(4, 2, 3))
        >>> interface.states
        (StateTensor(name='h', shape=(1, None, 5)), StateTensor(name='c', shape=(1, None, 5)))
    """
    recurrent = [(name, module) for name, module in outer_modules(network, RECURRENT) if isinstance(module, RECURRENT)]
    orders = {bool(module.batch_first) for _, module in recurrent}
    if len(orders) > 1:
        raise ValueError("`network` must have all its recurrent layers batch_first, or none")
    is_batch_first = orders == {True}
    runs = {}
    for batch, time in ((2, 3), (3, 4)):
        inputs = inputs_like(example_input, (batch, time), is_batch_first=is_batch_first)
        runs[batch, time] = _run(network, inputs)
    (small, first), (large, second) = runs[2, 3], runs[3, 4]
    states = flat(first), flat(second)
    names = _state_names([module for _, module in recurrent], len(states[0]))
    time_axis = 1 if is_batch_first else 0
    is_words = not example_input.is_floating_point()
    interface = Interface(
        input="tokens" if is_words else "input",
        dtype=_dtype_name(example_input),
        is_batch_first=is_batch_first,
        features=tuple(example_input.shape[2:]),
        words=(vocabulary_size(network) or int(example_input.max()) + 1) if is_words else None,
        output="logits" if is_words else "output",
        states=tuple(StateTensor(name, _shape(a, b)) for name, a, b in zip(names, *states, strict=True)),
        state_dtype=_dtype_name(states[0][0] if names else small),
        is_streamable=bool(names)
        and not any(module.bidirectional for _, module in recurrent)
        and small.dim() > 1
        and (small.shape[time_axis], large.shape[time_axis]) == (3, 4),
    )
    return interface, _nesting(first)


def example_input_of(network: nn.Module) -> Tensor | None:
    """An input that a network of a known class runs on, or None for other classes."""
    if isinstance(network, LanguageModel):
        words = network.embedding.num_embeddings
        ids = torch.randint(words, (8, 8), generator=torch.Generator().manual_seed(0))
        ids[0, 0] = words - 1  # the largest id says how many words there are
        return ids
    if isinstance(network, RECURRENT):
        weight = next(network.parameters())
        size = int(network.input_size)  # type: ignore[arg-type]
        return torch.randn(8, 8, size, generator=torch.Generator().manual_seed(0)).to(weight.dtype)
    return None


def inputs_like(example: Tensor, size: tuple[int, int], *, is_batch_first: bool, seed: int = 0) -> Tensor:
    """An input of another size, made of the example's own steps so that its values are ones the network may meet.

    Args:
        example: an input.
        size: batch and time.
        is_batch_first: whether it is `(batch, time, …)` instead of `(time, batch, …)`.
        seed: of the choice of steps.
    """
    batch, time = size
    generator = torch.Generator().manual_seed(seed)
    steps = example.flatten(0, 1)
    chosen = torch.randint(len(steps), (batch, time) if is_batch_first else (time, batch), generator=generator)
    return steps[chosen]


def flat(state: Any) -> list[Tensor]:
    """The tensors of a nested state in order.

    Example:
        >>> flat(((torch.tensor(1), torch.tensor(2)), torch.tensor(3)))
        [tensor(1), tensor(2), tensor(3)]
    """
    if state is None:
        return []
    return [state] if isinstance(state, Tensor) else [tensor for part in state for tensor in flat(part)]


def nested(tensors: list[Tensor], nesting: Any) -> Any:
    """The state as the network takes it, from its tensors in order; takes them off the list."""
    if nesting is None:
        return None
    return tensors.pop(0) if nesting == "tensor" else tuple(nested(tensors, part) for part in nesting)


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _nesting(state: Any) -> Any:
    if state is None or isinstance(state, Tensor):
        return None if state is None else "tensor"
    return tuple(_nesting(part) for part in state)


def _run(network: nn.Module, inputs: Tensor) -> tuple[Tensor, Any]:
    """Output, and state or None."""
    try:
        with torch.no_grad():
            found = network(inputs)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise ValueError(f"`network` does not run on an input of shape {tuple(inputs.shape)}: {error}") from error
    output, state = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    if not isinstance(output, Tensor):
        raise ValueError(f"`network` must return a tensor, or (tensor, state), got {type(found).__name__}")
    if state is not None and not _takes_state(network):
        raise ValueError(
            "`network` returns a pair, but is not called as network(input, state), so the second part would be lost; "
            "return one tensor, two outputs joined along the last axis, or take the state back as second argument"
        )
    return output, state


def _takes_state(network: nn.Module) -> bool:
    try:
        inspect.signature(network.forward).bind(None, None)
    except TypeError:
        return False
    return True


def _shape(small: Tensor, large: Tensor) -> tuple[int | None, ...]:
    """Sizes of a state, with None where they follow the batch (2 and 3)."""
    sizes = tuple(None if a != b else a for a, b in zip(small.shape, large.shape, strict=True))
    if sizes.count(None) != 1 or small.shape[sizes.index(None)] != 2:
        raise ValueError(
            f"`network` must return a state whose tensors have one axis that follows the batch, got "
            f"{tuple(small.shape)} for 2 sequences and {tuple(large.shape)} for 3"
        )
    return sizes


def _state_names(recurrent: list[nn.Module], count: int) -> list[str]:
    """``h``, ``c`` or ``h_l0``, ``h_l1``, … as in torch where there is one recurrent layer, else by number."""
    if len(recurrent) == 1:
        layer = recurrent[0]
        parts = ("h", "c") if layer.mode == "LSTM" else ("h",)
        keys = [f"_{key}" for key in recurrent_sizes(layer)] if isinstance(layer, RaggedRNN) else [""]
        names = [f"{part}{key}" for part in parts for key in keys]
        if len(names) == count:
            return names
    return [f"state_{index}" for index in range(count)]


class FlatCall(nn.Module):
    """Calls a network as `Interface` says, whatever its own form of state.

    Args:
        network: to be called.
        nesting: of its state, as `interface_of` returned it; None if it takes none.

    Example:
        >>> import torch
        >>> call = FlatCall(nn.LSTM(3, 5), ("tensor", "tensor"))
        >>> len(call(torch.randn(4, 2, 3), torch.zeros(1, 2, 5), torch.zeros(1, 2, 5)))
        3
    """

    def __init__(self, network: nn.Module, nesting: Any) -> None:
        super().__init__()
        self.network = network
        self.nesting = nesting

    def forward(self, input: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Output, and the state after the last step."""
        if self.nesting is None:
            found = self.network(input)
            return (found[0] if isinstance(found, tuple) else found,)
        output, state = self.network(input, nested(list(states), self.nesting))
        return (output, *flat(state))
