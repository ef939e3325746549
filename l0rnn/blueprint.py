"""A network as pruning sees it: unit axes, the weights that lie on them, and what each layer reads.

Built once from a network and its `Wiring`, and checked against every shape. Gating, cost, methods and surgery all work
from it, so none of them needs to know one layer type from another.
"""

from __future__ import annotations

from torch import nn

from l0rnn.axes import (
    EMBEDDING_PATTERNS,
    GATES_PER_CELL,
    LAYER_NORM_PATTERNS,
    LINEAR_PATTERNS,
    PROJECTED_PATTERNS,
    RECURRENT_PATTERNS,
    Axis,
    Blueprint,
    Weight,
    dimensions,
)
from l0rnn.recurrent.names import recurrent_output_keys, recurrent_parameter_name, recurrent_sizes
from l0rnn.recurrent.ragged_rnn import RaggedRNN
from l0rnn.wiring import OUTSIDE, Wiring
from l0rnn.wiring_checks import check_names, check_parameter, described_layers, shared_elsewhere

# layers that hand each unit on by itself, so their output has the axes of their input
ELEMENTWISE = (
    nn.Identity,
    nn.Dropout,
    nn.ReLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.GELU,
    nn.SiLU,
    nn.ELU,
    nn.LeakyReLU,
    nn.Hardtanh,
    nn.Softplus,
)
# those that a positive factor passes through
HOMOGENEOUS = (nn.Identity, nn.Dropout, nn.ReLU, nn.LeakyReLU)
RECURRENT = (nn.LSTM, nn.GRU, nn.RNN, RaggedRNN)
SUPPORTED = (*RECURRENT, nn.Linear, nn.Embedding, nn.LayerNorm, *ELEMENTWISE)


def draw_blueprint(network: nn.Module, wiring: Wiring) -> Blueprint:
    """Check a wiring against a network and write down its axes and weights.

    Args:
        network: modules of plain torch, or gated ones.
        wiring: what each layer reads.

    Returns:
        The blueprint.

    Raises:
        ValueError: if the wiring names an unknown layer, leaves a layer out, reads in a circle, or the units read do
            not add up to the width of the reader.
        TypeError: if the wiring declares a layer of a type that surgery does not know.

    Example:
        >>> network = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10))
        >>> blueprint = draw_blueprint(network, Wiring({"1": ["0"]}))
        >>> [axis.name for axis in blueprint.prunable()], blueprint.axes["1"].fixed
        (['0'], 'nothing in the wiring reads it, so it is an output of the network')
    """
    return _Draughtsman(network, wiring).draw()


class _Draughtsman:
    """Builds one blueprint; lives only during `draw_blueprint`."""

    def __init__(self, network: nn.Module, wiring: Wiring) -> None:
        self.network = network
        self.wiring = wiring
        self.modules = dict(network.named_modules())
        self.blueprint = Blueprint()
        self.open_layers: list[str] = []

    def draw(self) -> Blueprint:
        check_names(self.modules, self.wiring, SUPPORTED, must_read=(*RECURRENT, nn.Linear, nn.LayerNorm))
        layers = described_layers(self.modules, self.wiring)
        for layer in layers:
            self._outputs(layer)
        for layer in layers:
            self._add_weights(layer)
        self._fix_axes()
        self._count_the_rest()
        return self.blueprint

    def _outputs(self, layer: str) -> tuple[str, ...]:
        """Axes of a layer's output; adds the axes it produces, and those of what it reads, to the blueprint."""
        if layer in self.blueprint.outputs:
            return self.blueprint.outputs[layer]
        if layer in self.open_layers:
            circle = " → ".join([*self.open_layers[self.open_layers.index(layer) :], layer])
            raise ValueError(f"`wiring` reads in a circle: {circle}; declare each layer with what it reads in one pass")
        self.open_layers.append(layer)
        module = self.modules[layer]
        tied = self._tied_linear(module)
        if isinstance(module, (nn.LayerNorm, *ELEMENTWISE)):
            outputs = self._inputs(layer)
            if isinstance(module, nn.LayerNorm):
                self.blueprint.normalised.update(outputs)
        elif tied is not None:
            self.blueprint.tied[layer] = tied
            outputs = self._inputs(tied)
        elif isinstance(module, RECURRENT):
            outputs = self._recurrent_axes(layer, module)
        else:
            width = module.embedding_dim if isinstance(module, nn.Embedding) else module.out_features
            outputs = (self._axis(layer, int(width), layer),)  # type: ignore[arg-type]
        self.blueprint.outputs[layer] = outputs
        self.open_layers.pop()
        return outputs

    def _tied_linear(self, module: nn.Module) -> str | None:
        if not isinstance(module, nn.Embedding):
            return None
        return next(
            (
                name
                for name in self.wiring.reads
                if isinstance(self.modules[name], nn.Linear)
                and self.modules[name].weight is module.weight
                and not self.wiring.is_fixed(name)
            ),
            None,
        )

    def _inputs(self, layer: str) -> tuple[str, ...]:
        """Axes that a layer reads, checked against its input width."""
        if layer in self.blueprint.inputs:
            return self.blueprint.inputs[layer]
        width = _input_width(self.modules[layer])
        sources = self.wiring.reads.get(layer)
        if sources is None:
            raise ValueError(f"`wiring` must say what {layer!r} reads, since another layer reads its units through it")
        axes: list[str] = []
        prescaled: list[bool] = []
        for source in sources:
            found = self._source_axes(layer, source, width)
            axes.extend(found)
            prescaled.extend([self._is_prescaled(source)] * len(found))
        total = sum(self.blueprint.axes[axis].size for axis in axes)
        if width is not None and total != width:
            parts = " + ".join(f"{axis} ({self.blueprint.axes[axis].size})" for axis in axes)
            raise ValueError(f"`wiring` gives {layer!r} {total} units to read, {parts}, but it reads {width}")
        self.blueprint.inputs[layer] = tuple(axes)
        self.blueprint.prescaled[layer] = tuple(prescaled)
        return self.blueprint.inputs[layer]

    def _is_prescaled(self, source: str) -> bool:
        if source in self.blueprint.tied:
            return True
        hands_on = source != OUTSIDE and isinstance(self.modules[source], (nn.LayerNorm, *ELEMENTWISE))
        return hands_on and any(self.blueprint.prescaled.get(source, ()))

    def _source_axes(self, layer: str, source: str, width: int | None) -> tuple[str, ...]:
        if source != OUTSIDE and not self.wiring.is_fixed(source):
            return self._outputs(source)
        known = {axis.name: axis.size for axis in self.blueprint.axes.values()}
        others = [name for name in self.wiring.reads[layer] if name == OUTSIDE or self.wiring.is_fixed(name)]
        if width is None or len(others) > 1:
            raise ValueError(
                f"`wiring` cannot tell how wide {source!r} is where {layer!r} reads it; "
                "only one source of a layer may be outside or fixed"
            )
        rest = [name for name in self.wiring.reads[layer] if name != source]
        size = width - sum(known[axis] for name in rest for axis in self._outputs(name))
        if size <= 0:
            raise ValueError(f"`wiring` gives {layer!r} more units to read than its {width}")
        why = "its units come from outside the network" if source == OUTSIDE else f"the wiring fixes {source!r}"
        return (self._axis(f"{source}→{layer}", size, source, why),)

    def _axis(self, name: str, size: int, layer: str, fixed: str | None = None) -> str:
        self.blueprint.axes[name] = Axis(name, size, layer, fixed)
        return name

    def _recurrent_axes(self, layer: str, module: nn.Module) -> tuple[str, ...]:
        for key, (hidden, projection) in recurrent_sizes(module).items():
            self._axis(f"{layer}.{key}", projection or hidden, layer)
            if projection:
                self._axis(f"{layer}.{key}_cell", hidden, layer)
        return tuple(f"{layer}.{key}" for key in recurrent_output_keys(module))

    def _add_weights(self, layer: str) -> None:
        module = self.modules[layer]
        if isinstance(module, RECURRENT):
            self._add_recurrent_weights(layer, module)
        elif isinstance(module, nn.Linear):
            self._add(layer, module, LINEAR_PATTERNS, unit=self._outputs(layer), feature=self._inputs(layer))
        elif isinstance(module, nn.LayerNorm):
            self._add(layer, module, LAYER_NORM_PATTERNS, unit=self._outputs(layer))
        elif isinstance(module, nn.Embedding) and layer not in self.blueprint.tied:
            words = self._axis(f"{layer}.words", module.num_embeddings, layer, "its units are the vocabulary")
            self._add(layer, module, EMBEDDING_PATTERNS, word=(words,), unit=self._outputs(layer))

    def _add(self, layer: str, module: nn.Module, patterns: dict[str, str], **axes: tuple[str, ...]) -> None:
        for kind, pattern in patterns.items():
            if getattr(module, kind, None) is not None:
                self._append(layer, kind, pattern, axes)

    def _append(
        self,
        layer: str,
        kind: str,
        pattern: str,
        axes: dict[str, tuple[str, ...]],
        *,
        key: str = "",
        parameter: str = "",
    ) -> None:
        names, parameter = dimensions(pattern), parameter or kind
        check_parameter(self.modules[layer], layer, parameter)
        along = {name: axes[name] for name in names if name != "gate"}
        gates = GATES_PER_CELL[str(self.modules[layer].mode)] if "gate" in names else 1
        self.blueprint.weights.append(Weight(layer, kind, key, parameter, pattern, along, gates))

    def _add_recurrent_weights(self, layer: str, module: nn.Module) -> None:
        previous = self._inputs(layer)
        sizes = recurrent_sizes(module)
        patterns = PROJECTED_PATTERNS if any(projection for _, projection in sizes.values()) else RECURRENT_PATTERNS
        for depth in range(int(module.num_layers)):  # type: ignore[arg-type]
            keys = [key for key in sizes if key.split("_")[0] == f"l{depth}"]
            for key in keys:
                own = (f"{layer}.{key}",)
                axes = {"feature": previous, "unit": own, "previous": own, "cell": (f"{layer}.{key}_cell",)}
                for kind, pattern in patterns.items():
                    if kind.startswith("bias") and not module.bias:
                        continue
                    parameter = recurrent_parameter_name(module, key, kind)
                    self._append(layer, kind, pattern, axes, key=key, parameter=parameter)
            previous = tuple(f"{layer}.{key}" for key in keys)

    def _fix_axes(self) -> None:
        """Mark the axes that must stay whole, with the reason."""
        read = {axis for axes in self.blueprint.inputs.values() for axis in axes}
        for layer, sources in self.wiring.reads.items():
            if self.wiring.is_fixed(layer):
                for source in sources:
                    if source != OUTSIDE and not self.wiring.is_fixed(source):
                        for axis in self._outputs(source):
                            self._fix(axis, f"{layer!r}, which the wiring fixes, reads it")
        for layer, prescaled in self.blueprint.prescaled.items():
            module = self.modules[layer]
            if isinstance(module, (nn.LayerNorm, *ELEMENTWISE)) and not isinstance(module, HOMOGENEOUS):
                for axis, is_scaled in zip(self.blueprint.inputs[layer], prescaled, strict=True):
                    if is_scaled:
                        self._fix(axis, f"{layer!r} reads it from a tied embedding, whose weight cannot take its gates")
        described = [weight.name for weight in self.blueprint.weights]
        described += [f"{embedding}.weight" for embedding in self.blueprint.tied]
        shared = shared_elsewhere(self.network, self.wiring, described)
        for weight in self.blueprint.weights:
            for axis in {axis for axes in weight.axes.values() for axis in axes if weight.name in shared}:
                self._fix(axis, f"{shared[weight.name]!r}, whose weights stay as they are, shares {weight.name!r}")
        inner = {f"{axis.layer}.{key}" for axis in self.blueprint.axes.values() for key in self._inner_keys(axis.layer)}
        for axis in list(self.blueprint.axes.values()):
            if axis.name not in read | inner:
                self._fix(axis.name, "nothing in the wiring reads it, so it is an output of the network")

    def _inner_keys(self, layer: str) -> list[str]:
        """Axes that only the recurrent layer itself reads: all but those of its output."""
        module = self.modules.get(layer)
        if not isinstance(module, RECURRENT):
            return []
        outputs = recurrent_output_keys(module)
        sizes = recurrent_sizes(module)
        return [key for key in sizes if key not in outputs] + [f"{key}_cell" for key, (_, p) in sizes.items() if p]

    def _fix(self, name: str, why: str) -> None:
        axis = self.blueprint.axes[name]
        if axis.fixed is None:
            self.blueprint.axes[name] = Axis(axis.name, axis.size, axis.layer, why)

    def _count_the_rest(self) -> None:
        described = {weight.name for weight in self.blueprint.weights}
        described |= {f"{embedding}.weight" for embedding in self.blueprint.tied}
        for name, parameter in self.network.named_parameters():
            layer, _, kind = name.rpartition(".")
            if name in described or kind == "log_alpha":
                continue
            self.blueprint.other_parameters += parameter.numel()
            module = type(self.modules[layer]).__name__
            why = "the wiring fixes it" if self.wiring.is_fixed(layer) else f"surgery does not know a {module}"
            self.blueprint.undescribed[layer or "network"] = why


def _input_width(module: nn.Module) -> int | None:
    if isinstance(module, RECURRENT):
        return int(module.input_size)  # type: ignore[arg-type]
    if isinstance(module, nn.Linear):
        return module.in_features
    if isinstance(module, nn.LayerNorm):
        if len(module.normalized_shape) != 1:
            raise ValueError(f"a LayerNorm must normalise the last dimension alone, got {module.normalized_shape}")
        return module.normalized_shape[0]
    return None
