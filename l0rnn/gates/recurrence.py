"""LSTM, GRU and RNN whose input and hidden units carry hard-concrete gates.

A gate scales what *reads* a unit: the input gate scales the input, the hidden gate scales column j of ``weight_hh``,
the columns of the next layer and the output. Nothing that *writes* a unit is touched, so removing a closed unit later
leaves every other number as it was. Because a gate is drawn once per forward pass, it folds into the weights and
torch's fused kernel runs; there is no loop over time.

Reference:
    Wen, Zhang, Bai, Xu: Structured Pruning of Recurrent Neural Networks through Neuron Selection (2019), arXiv
    1906.06847. Here biases and the rows that write a unit stay ungated (docs/architecture.md says why).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from l0rnn.arguments import checked
from l0rnn.gates.dropout import RecurrentDropout
from l0rnn.gates.folding import fold, fold_into_one_block
from l0rnn.gates.gates import Gates, GateView
from l0rnn.gates.hard_concrete import HardConcrete
from l0rnn.gates.kernels import KERNELS, call_kernel
from l0rnn.gates.open_units import OpenUnits
from l0rnn.recurrent.stack import run_stack
from l0rnn.tracing.trace import is_without_gates

GatedUnits = Literal["input", "hidden", "both"]
State = Any  # a tensor for GRU and RNN, a pair of tensors for LSTM: torch's own convention

GatedType = TypeVar("GatedType", bound="GatedRecurrence")


_OPTIONS = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")


class GatedRecurrence(nn.RNNBase):
    """What GatedLSTM, GatedGRU and GatedRNN share: torch's options and weights, plus gates and a folding forward.

    The gates are in `gates`, under the keys ``input``, ``l0``, ``l0_reverse``, ``l1``, … and, for an LSTM with
    ``proj_size``, ``l0_cell``, … for the units that only the projection reads.
    """

    gates: Any  # nn.ModuleDict of Gates of its own, or a dict of views on those of the network it is a part of
    is_wired = False  # True in a gated network, which draws the gates and lets each reader apply them
    input_gates: GateView | None = None  # of what a layer in a gated network reads
    recurrent_dropout = RecurrentDropout()  # in training; anything but the default is for `(time, batch, feature)` only
    skips_closed_units: bool | None = None  # None: where it pays; False: never, to measure what it gains; True: try to
    watch: Callable[[Sequence[str], Tensor, Tensor], None] | None = None  # is shown what each layer reads and gives

    def _add_gates(self, units: GatedUnits, open_probability: float, distribution: HardConcrete | None) -> None:
        sizes: dict[str, int] = {} if units == "hidden" else {"input": self.input_size}
        if units != "input":
            for key in self.layer_keys():
                sizes[key] = self.proj_size or self.hidden_size
                if self.proj_size:
                    sizes[f"{key}_cell"] = self.hidden_size
        like: Any = self.weight_hh_l0
        self.gates = nn.ModuleDict(
            {
                key: Gates(
                    size,
                    open_probability=open_probability,
                    distribution=distribution,
                    device=like.device,
                    dtype=like.dtype,
                )
                for key, size in sizes.items()
            }
        )

    def layer_keys(self) -> list[str]:
        """One key per layer and direction, in the order of torch's state: ``["l0", "l0_reverse", "l1", …]``."""
        directions = ("", "_reverse") if self.bidirectional else ("",)
        return [f"l{layer}{direction}" for layer in range(self.num_layers) for direction in directions]

    def layer_rows(self) -> list[list[str]]:
        """The keys of each layer: ``[["l0", "l0_reverse"], ["l1", "l1_reverse"], …]``."""
        keys, directions = self.layer_keys(), 2 if self.bidirectional else 1
        return [keys[start : start + directions] for start in range(0, len(keys), directions)]

    def output_keys(self) -> list[str]:
        """The keys of the last layer: the units of the output, in order."""
        return self.layer_rows()[-1]

    @classmethod
    @checked
    def from_dense(
        cls: type[GatedType],
        dense: nn.RNNBase,
        *,
        gates: GatedUnits = "both",
        open_probability: float = 0.93,
        distribution: HardConcrete | None = None,
    ) -> GatedType:
        """A gated layer on the weights of a torch layer; the parameters are shared, not copied.

        Args:
            dense: the `torch.nn` layer of the same cell.
            gates: which units carry gates.
            open_probability: initial P(gate ≠ 0).
            distribution: the hard concrete distribution.

        Raises:
            TypeError: if ``dense`` is a layer of another cell.
        """
        expected = cls.__bases__[1]
        if type(dense) is not expected:
            raise TypeError(
                f"`dense` must be a torch.nn.{expected.__name__} for {cls.__name__}.from_dense, "
                f"got {type(dense).__name__}; use `gate_layer`, which picks the class"
            )
        options: dict[str, Any] = {name: getattr(dense, name) for name in _OPTIONS}
        if dense.mode == "LSTM":
            options["proj_size"] = dense.proj_size
        if dense.mode.startswith("RNN_"):
            options["nonlinearity"] = dense.mode.removeprefix("RNN_").lower()
        if dense.num_layers == 1:
            options["dropout"] = 0.0  # torch warns about it each time; it acts only between layers
        make: Any = cls
        gated = make(**options, gates=gates, device="meta")
        gated.dropout = dense.dropout
        for name in dense._parameters:
            setattr(gated, name, getattr(dense, name))
        gated._init_flat_weights()
        gated._add_gates(gates, open_probability, distribution)
        return gated.train(dense.training)

    def forward(self, input: Tensor | PackedSequence, hx: State | None = None) -> tuple[Any, State]:  # type: ignore[override]
        """Run the gated layer; shapes, options and errors are those of the torch layer of the same cell.

        The output is gated, since other layers read it; the state is not, since it is the layer's own to carry on.

        Args:
            input: `(time, batch, feature)`, `(batch, time, feature)` with ``batch_first``, `(time, feature)`, or a
                PackedSequence.
            hx: the state, as for the torch layer; zeros when None.

        Returns:
            ``(output, state)`` as from the torch layer.
        """
        if is_without_gates():
            return super().forward(input, hx)  # type: ignore[misc, no-any-return]
        if not self.is_wired:
            for gates in self.gates.values():
                gates.draw()
        data, batch_sizes, is_batched = self._open(input)
        sorted_indices = input.sorted_indices if isinstance(input, PackedSequence) else None
        state = self._checked_state(data, hx, batch_sizes, is_batched, sorted_indices)
        input_values = self._input_values(data)
        data = data if input_values is None else fold(data, input_values)
        output, state = self._run(data, state, batch_sizes, input_values)
        if not self.is_wired:
            output = self._scale(output, self.output_keys())
        return self._close(input, output, state, is_batched)

    def _run(
        self, data: Tensor, state: tuple[Tensor, ...], batch_sizes: Tensor | None, input_values: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Torch's fused kernel: on the open units alone where that is less work, else on folded weights."""
        kernel = KERNELS[self.mode]
        if OpenUnits.may_pay(self, data, state[0].size(1)):
            open_units = OpenUnits(self, input_values)
            if open_units.pays():
                return open_units.run(data, state, batch_sizes, kernel)
        if data.device.type == "cpu" or self.watch is not None or (self.training and self.recurrent_dropout.is_locked):
            return self._run_by_layer(data, state, batch_sizes, kernel)
        weights = self.folded_weights()
        output, final = call_kernel(self, kernel, data, state, weights, batch_sizes, self.num_layers, self.dropout)
        return output, tuple(final)

    def _run_by_layer(
        self, data: Tensor, state: tuple[Tensor, ...], batch_sizes: Tensor | None, kernel: Any
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As the kernel over all layers, which on a CPU is a loop over them too.

        One at a time, the gates between two layers scale the few activations instead of a whole ``weight_ih``, and the
        folded weights of only one layer are in memory.
        """

        def run(before: Sequence[str], keys: Sequence[str], data: Tensor, state: Sequence[Tensor]) -> Any:
            if before:
                data = self.dropped(self._scale(data, before))
            weights = [weight for key in keys for weight in self._layer_weights(key)]
            output, ends = call_kernel(self, kernel, data, state, weights, batch_sizes)
            if self.watch is not None:
                self.watch(keys, data, output)
            return output, ends

        rows = self.layer_rows()
        layers = [[partial(run, before, keys)] for before, keys in zip([[], *rows], rows, strict=False)]
        states = zip(*(part.split(len(rows[0])) for part in state), strict=True)
        output, finals = run_stack(layers, data, states)
        return output, tuple(torch.cat(parts) for parts in zip(*finals, strict=True))

    def _input_values(self, data: Tensor) -> Tensor | None:
        """Gates of the input, `(feature,)`, or None where it has none."""
        if self.input_gates is not None:
            return self.input_gates.value.to(data.dtype)
        return self.gates["input"].value.to(data.dtype) if "input" in self.gates else None

    def folded_weights(self) -> list[Tensor]:
        """The weights in torch's order, with the gates of the current draw multiplied into the columns they scale."""
        rows = self.layer_rows()
        pairs = [
            pair
            for before, keys in zip([[], *rows], rows, strict=False)
            for key in keys
            for pair in self._weights_and_gates(key, before)
        ]
        if pairs[0][0].is_cuda:
            return fold_into_one_block(*zip(*pairs, strict=True))
        return [weight if gates is None else fold(weight, gates) for weight, gates in pairs]

    def _layer_weights(self, key: str) -> list[Tensor]:
        """Weights of one layer and direction, folded but for the gates of the layer before."""
        return [weight if gates is None else fold(weight, gates) for weight, gates in self._weights_and_gates(key)]

    def _weights_and_gates(self, key: str, previous: Sequence[str] = ()) -> list[tuple[Tensor, Tensor | None]]:
        """Each weight of one layer and direction with the gates of its columns; ``previous``: those of the input."""
        reads = {"weight_ih": previous, "weight_hh": [key], "weight_hr": [f"{key}_cell"]}
        weights = {kind: getattr(self, f"{kind}_{key}") for kind in self._kinds()}
        weights["weight_hh"] = self.dropped_weight(weights["weight_hh"])
        return [(weight, self._gates_under(reads.get(kind, ()), weight)) for kind, weight in weights.items()]

    def dropped(self, data: Tensor) -> Tensor:
        """What goes from one layer to the next, with dropout in training."""
        return self.recurrent_dropout.of_units(data, self.dropout) if self.training else data

    def dropped_weight(self, weight: Tensor) -> Tensor:
        """A weight from hidden to hidden units, with dropout in training."""
        return self.recurrent_dropout.of_weight(weight) if self.training else weight

    def _kinds(self) -> list[str]:
        biases = ["bias_ih", "bias_hh"] if self.bias else []
        return ["weight_ih", "weight_hh", *biases, *(["weight_hr"] if self.proj_size else [])]

    def _scale(self, tensor: Tensor, keys: Sequence[str]) -> Tensor:
        """Multiply the last dimension by the gates under these keys, if there are any."""
        gates = self._gates_under(keys, tensor)
        return tensor if gates is None else fold(tensor, gates)

    def _gates_under(self, keys: Sequence[str], like: Tensor) -> Tensor | None:
        """The gates under these keys side by side, `(unit,)` in the dtype of ``like``, or None if there are none."""
        values: list[Any] = [self.gates[key].value for key in keys if key in self.gates]
        if not values:
            return None
        return (values[0] if len(values) == 1 else torch.cat(values)).to(like.dtype)

    def _open(self, input: Tensor | PackedSequence) -> tuple[Tensor, Tensor | None, bool]:
        if isinstance(input, PackedSequence):
            return input.data, input.batch_sizes, True
        if input.dim() not in (2, 3):
            raise ValueError(f"`input` must have 2 dimensions (unbatched) or 3 (batched), got {input.dim()}")
        is_batched = input.dim() == 3
        return (input if is_batched else input.unsqueeze(self._batch_dimension)), None, is_batched

    def _checked_state(
        self,
        data: Tensor,
        hx: State | None,
        batch_sizes: Tensor | None,
        is_batched: bool,
        sorted_indices: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """The state as a tuple, batched and sorted as the data are; torch's own checks of sizes and dtypes."""
        if hx is None:
            batch = int(batch_sizes[0]) if batch_sizes is not None else data.size(self._batch_dimension)
            rows = len(self.layer_keys())
            sizes = [self.proj_size or self.hidden_size] + ([self.hidden_size] if self.mode == "LSTM" else [])
            state = tuple(data.new_zeros(rows, batch, size) for size in sizes)
        else:
            state = tuple(hx) if self.mode == "LSTM" else (hx,)
            dimensions = 3 if is_batched else 2
            if any(part.dim() != dimensions for part in state):
                got = tuple(part.dim() for part in state)
                raise RuntimeError(f"`hx` must have {dimensions} dimensions for this input, got {got}")
            if not is_batched:
                state = tuple(part.unsqueeze(1) for part in state)
        self.check_forward_args(data, state if self.mode == "LSTM" else state[0], batch_sizes)  # type: ignore[arg-type]
        if sorted_indices is not None and hx is not None:
            state = tuple(part.index_select(1, sorted_indices) for part in state)
        return state

    def _close(
        self, input: Tensor | PackedSequence, output: Tensor, state: tuple[Tensor, ...], is_batched: bool
    ) -> tuple[Tensor | PackedSequence, State]:
        result: Tensor | PackedSequence = output
        if isinstance(input, PackedSequence):
            result = PackedSequence(output, input.batch_sizes, input.sorted_indices, input.unsorted_indices)
            if input.unsorted_indices is not None:
                state = tuple(part.index_select(1, input.unsorted_indices) for part in state)
        elif not is_batched:
            result = output.squeeze(self._batch_dimension)
            state = tuple(part.squeeze(1) for part in state)
        return result, state if self.mode == "LSTM" else state[0]

    @property
    def _batch_dimension(self) -> int:
        return 0 if self.batch_first else 1


@checked
class GatedLSTM(GatedRecurrence, nn.LSTM):
    """`torch.nn.LSTM` with a gate on every input and hidden unit.

    Takes all options, inputs and states that `torch.nn.LSTM` takes, and keeps its weights under the same names.

    Args:
        input_size: units of the input.
        hidden_size: hidden units of each layer and direction.
        num_layers: layers.
        bias: whether the layers have biases.
        batch_first: whether inputs are `(batch, time, feature)`.
        dropout: dropout probability between layers.
        bidirectional: whether a second direction runs backwards.
        proj_size: units of the projected output; 0 for none.
        device: device of weights and gates.
        dtype: dtype of weights and gates.
        gates: which units carry gates: ``"input"``, ``"hidden"`` or ``"both"``.
        open_probability: initial P(gate ≠ 0) of every gate; 1 gives exactly the torch layer.
        distribution: the hard concrete distribution.

    Raises:
        ValueError: on sizes ≤ 0 and other options that torch refuses, or an unknown value of ``gates``.

    Example:
        >>> layer = GatedLSTM(4, 8, num_layers=2, open_probability=1.0)
        >>> output, (h, c) = layer(torch.randn(5, 3, 4))  # (time, batch, feature)
        >>> output.shape, h.shape
        (torch.Size([5, 3, 8]), torch.Size([2, 3, 8]))

    Reference:
        Wen et al. 2019 (arXiv 1906.06847), section 3.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        gates: GatedUnits = "both",
        open_probability: float = 0.93,
        distribution: HardConcrete | None = None,
    ) -> None:
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype
        )
        self._add_gates(gates, open_probability, distribution)


@checked
class GatedGRU(GatedRecurrence, nn.GRU):
    """`torch.nn.GRU` with a gate on every input and hidden unit; arguments as `GatedLSTM`, without ``proj_size``.

    Example:
        >>> output, h = GatedGRU(4, 8, bidirectional=True)(torch.randn(5, 3, 4))
        >>> output.shape, h.shape
        (torch.Size([5, 3, 16]), torch.Size([2, 3, 8]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        gates: GatedUnits = "both",
        open_probability: float = 0.93,
        distribution: HardConcrete | None = None,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
        )
        self._add_gates(gates, open_probability, distribution)


@checked
class GatedRNN(GatedRecurrence, nn.RNN):
    """`torch.nn.RNN` (tanh or relu) with a gate on every input and hidden unit; arguments as `GatedLSTM`.

    Example:
        >>> output, h = GatedRNN(4, 8, nonlinearity="relu", batch_first=True)(torch.randn(3, 5, 4))
        >>> output.shape, h.shape
        (torch.Size([3, 5, 8]), torch.Size([1, 3, 8]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        gates: GatedUnits = "both",
        open_probability: float = 0.93,
        distribution: HardConcrete | None = None,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            nonlinearity,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
        )
        self._add_gates(gates, open_probability, distribution)


_GATED_CLASSES: dict[type[nn.RNNBase], type[GatedRecurrence]] = {
    nn.LSTM: GatedLSTM,
    nn.GRU: GatedGRU,
    nn.RNN: GatedRNN,
}


def gate_in_network_(module: nn.RNNBase, gates: dict[str, GateView], input_gates: GateView | None) -> None:
    """Make a torch layer a gated one, in place, on gates that belong to the network it is a part of.

    Args:
        module: an nn.LSTM, nn.GRU or nn.RNN; it stays the same object, with its parameters and hooks.
        gates: views of the gates of its units, under the keys of `GatedRecurrence.gates`.
        input_gates: of what it reads, or None.
    """
    module.__class__ = _GATED_CLASSES[type(module)]  # type: ignore[assignment]
    module.__dict__.update(gates=gates, is_wired=True, input_gates=input_gates)


def ungate_(module: GatedRecurrence) -> None:
    """Take back `gate_in_network_`, or the gates that a layer was built with."""
    plain: Any = next(plain for plain, gated in _GATED_CLASSES.items() if type(module) is gated)
    module.__class__ = plain
    module._modules.pop("gates", None)
    for name in ("gates", "is_wired", "input_gates", "recurrent_dropout", "skips_closed_units"):
        module.__dict__.pop(name, None)


@checked
def gate_layer(
    dense: nn.LSTM | nn.GRU | nn.RNN,
    *,
    gates: GatedUnits = "both",
    open_probability: float = 0.93,
    distribution: HardConcrete | None = None,
) -> GatedRecurrence:
    """The gated layer of the same cell as a torch layer, on its weights: `GatedRecurrence.from_dense` for any cell.

    Raises:
        TypeError: if ``dense`` is not exactly an nn.LSTM, nn.GRU or nn.RNN.
    """
    gated = _GATED_CLASSES.get(type(dense))
    if gated is None:
        raise TypeError(f"`dense` must be an nn.LSTM, nn.GRU or nn.RNN, got {type(dense).__name__}")
    return gated.from_dense(dense, gates=gates, open_probability=open_probability, distribution=distribution)
