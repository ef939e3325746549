"""Write out a network as Python source that needs torch alone, and reads as if written by hand."""

from __future__ import annotations

from typing import Any

from torch import nn

from l0rnn.export.interface import Interface
from l0rnn.language.language_model import LanguageModel
from l0rnn.recurrent.names import RECURRENT
from l0rnn.recurrent.ragged_rnn import RaggedRNN

_HEAD = '''\
"""{title}, written by l0rnn {version}. It needs torch alone.

    from model import load

    network = load()
    output, state = network(inputs)             # {axes}
    output, state = network(more, state)        # go on from there{step}
"""

from pathlib import Path

import torch
from torch import nn


def load(path=Path(__file__).with_name("weights.pt")):
    """The network with its weights, in evaluation mode."""
    network = Network(){dtype}
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval()
'''

_STEP_HINT = "\n    output, state = network.step(one, state)    # one step of each sequence"
_STACK = '''\


class Stack(nn.Module):
    """Recurrent layers whose layers and directions may differ in width: for each layer a list of its directions."""

    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleList(directions) for directions in layers)

    def forward(self, data, state):
        finals = []
        for directions in self.layers:
            outputs = []
            for backwards, layer in enumerate(directions):
                row = len(finals)  # layer by layer, direction by direction
                output, final = layer(data.flip({time}) if backwards else data, {state_of})
                outputs.append(output.flip({time}) if backwards else output)
                finals.append(final)
            data = torch.cat(outputs, -1)
        return data, {final_state}
'''

_NETWORK = '''\


class Network(nn.Module):
    def __init__(self):
        super().__init__()
{layers}
    def forward(self, inputs, state=None):
        """The output and the state after the last step, a tuple of tensors as `initial_state` has it."""
        if state is None:
            state = self.initial_state(inputs.shape[{batch}])
{call}
'''

_STEP = '''\

    def step(self, inputs, state=None):
        """One step of each sequence: `inputs` and the output are without the axis of time."""
        output, state = self(inputs.unsqueeze({time}), state)
        return output.squeeze({time}), state
'''

_INITIAL_STATE = '''\

    def initial_state(self, batch=1):
        """The state before the first step."""
        shapes = [
{shapes}
        ]
        weight = next(self.parameters())
        return tuple(weight.new_zeros(shape) for shape in shapes)
'''


def torch_source(network: nn.Module, interface: Interface, *, version: str) -> str:
    """Source of a module with ``load()``, for a `LanguageModel` or a single recurrent layer.

    Args:
        network: to be written out.
        interface: how it is called.
        version: of l0rnn, for the file's docstring.

    Raises:
        ValueError: for other networks, whose forward pass only their own source has.

    Example:
        >>> import torch
        >>> from l0rnn.export.interface import interface_of
        >>> layer = nn.GRU(4, 3).eval()
        >>> source = torch_source(layer, interface_of(layer, torch.randn(5, 2, 4))[0], version="0")
        >>> [line.strip() for line in source.splitlines() if "encoder = " in line]
        ['self.encoder = nn.GRU(4, 3)']
    """
    check_class(network)
    is_model = type(network) is LanguageModel
    encoder: Any = network.encoder if is_model else network
    dtype = f".to(torch.{interface.state_dtype})" if interface.state_dtype != "float32" else ""
    axes = f"{interface.input} ({'batch, time' if interface.is_batch_first else 'time, batch'}{_tail(interface)})"
    parts = [
        _HEAD.format(
            title="A shrunken language model" if is_model else "A recurrent layer",
            version=version,
            axes=axes,
            dtype=dtype,
            step=_STEP_HINT * interface.is_streamable,
        )
    ]
    if isinstance(encoder, RaggedRNN):
        parts.append(_stack_source(encoder, interface))
    call = _call_source(encoder, "self.embedding(inputs)" if is_model else "inputs", is_model=is_model)
    lines = _layer_lines(network, encoder, is_model=is_model)
    layers = "".join(f"        {line}\n" for line in lines)
    parts.append(_NETWORK.format(layers=layers, batch=1 - interface.time_axis, call=call))
    if interface.is_streamable:
        parts.append(_STEP.format(time=interface.time_axis))
    shapes = [
        f"            ({', '.join(str(size or 'batch') for size in state.shape)}),  # {state.name}"
        for state in interface.states
    ]
    parts.append(_INITIAL_STATE.format(shapes="\n".join(shapes)))
    return "".join(parts)


def check_class(network: nn.Module) -> None:
    """Check that the forward pass of a network is one that can be written out.

    Raises:
        ValueError: if not.
    """
    if type(network) is not LanguageModel and not isinstance(network, RECURRENT):
        raise ValueError(
            f"`network` must be a LanguageModel or a recurrent layer to be written as a torch file, got a "
            f"{type(network).__name__}, whose forward pass only its own source has; use native, onnx or program"
        )


def _tail(interface: Interface) -> str:
    return "".join(f", {size}" for size in interface.features)


def _stack_source(encoder: RaggedRNN, interface: Interface) -> str:
    rows = encoder.num_layers * (2 if encoder.bidirectional else 1)
    if encoder.mode == "LSTM":
        state_of = f"(state[row][None], state[{rows} + row][None])"
        final_state = "tuple(part[0] for parts in zip(*finals) for part in parts)"
    else:
        state_of = "state[row][None]"
        final_state = "tuple(final[0] for final in finals)"
    return _STACK.format(time=interface.time_axis, state_of=state_of, final_state=final_state)


def _call_source(encoder: nn.Module, inputs: str, *, is_model: bool) -> str:
    is_single = not isinstance(encoder, RaggedRNN) and encoder.mode != "LSTM"  # torch has its state without a tuple
    output = "self.decoder(output)" if is_model else "output"
    if is_single:
        lines = [f"output, final = self.encoder({inputs}, state[0])", f"return {output}, (final,)"]
    else:
        lines = [f"output, state = self.encoder({inputs}, state)", f"return {output}, state"]
    return "\n".join(f"        {line}" for line in lines)


def _layer_lines(network: nn.Module, encoder: nn.Module, *, is_model: bool) -> list[str]:
    lines = []
    if is_model:
        embedding = network.get_submodule("embedding")
        lines.append(f"self.embedding = nn.Embedding({embedding.num_embeddings}, {embedding.embedding_dim})")
    if isinstance(encoder, RaggedRNN):
        stack: Any = encoder.layers
        rows = [[_recurrent_source(layer, encoder) for layer in directions] for directions in stack]
        listed = [f"        [{', '.join(row)}]," for row in rows]
        lines += ["self.encoder = Stack(", "    [", *listed, "    ]", ")"]
    else:
        lines.append(f"self.encoder = {_recurrent_source(encoder, encoder)}")
    if is_model:
        decoder = network.get_submodule("decoder")
        bias = "" if decoder.bias is not None else ", bias=False"
        lines.append(f"self.decoder = nn.Linear({decoder.in_features}, {decoder.out_features}{bias})")
        if decoder.weight is embedding.weight:
            lines.append("self.decoder.weight = self.embedding.weight")
    return lines


def _recurrent_source(layer: nn.Module, encoder: nn.Module) -> str:
    """The constructor call of a torch layer, with the arguments that differ from torch's defaults."""
    cell = str(layer.mode).split("_")[0]
    options: dict[str, Any] = {
        "num_layers": (layer.num_layers, 1),
        "nonlinearity": (getattr(layer, "nonlinearity", "tanh"), "tanh"),
        "bias": (bool(layer.bias), True),
        "batch_first": (bool(encoder.batch_first), False),
        "bidirectional": (bool(layer.bidirectional), False),
        "proj_size": (layer.proj_size, 0),
    }
    named = [f"{name}={value!r}".replace("'", '"') for name, (value, default) in options.items() if value != default]
    return f"nn.{cell}({', '.join([str(layer.input_size), str(layer.hidden_size), *named])})"
