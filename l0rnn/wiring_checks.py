"""Hold the names in a wiring against the modules of a network."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from l0rnn.wiring import OUTSIDE, Wiring

Modules = Mapping[str, nn.Module]
Types = tuple[type[nn.Module], ...]


def described_layers(modules: Modules, wiring: Wiring) -> list[str]:
    """Layers that a wiring describes: declared or read, and not fixed, in the network's own order."""
    named = set(wiring.reads) | {source for sources in wiring.reads.values() for source in sources}
    return [name for name in modules if name in named and not wiring.is_fixed(name)]


def check_names(modules: Modules, wiring: Wiring, supported: Types, *, must_read: Types) -> None:
    """Refuse a wiring that names unknown layers, declares unknown types, or leaves layers out.

    Args:
        modules: all modules of the network by name.
        wiring: the wiring.
        supported: types that may be declared.
        must_read: types that have to be declared with what they read.

    Raises:
        ValueError: on a name that does not exist, or a layer that is left out.
        TypeError: on a layer of a type that surgery does not know.
    """
    _check_existence(modules, wiring)
    described = described_layers(modules, wiring)
    for layer in described:
        if not isinstance(modules[layer], supported):
            raise TypeError(
                f"`wiring` declares {layer!r} ({type(modules[layer]).__name__}), which surgery does not know "
                f"(it knows LSTM, GRU, RNN, Linear, Embedding, LayerNorm and elementwise layers); "
                f"put it in `fixed` and what it reads stays whole"
            )
        if getattr(modules[layer], "max_norm", None) is not None:
            raise ValueError(
                f"{layer!r} has `max_norm`, which rescales its rows by all their units, so none can be cut; "
                "build it without, or put it in `fixed`"
            )
        if is_parametrized(modules[layer]):
            raise ValueError(
                f"{layer!r} is parametrized, so its weights are computed and cannot be cut; call "
                "torch.nn.utils.parametrize.remove_parametrizations on it first, or put it in `fixed`"
            )
    for name, module in modules.items():
        if wiring.is_fixed(name) or _is_inside(name, modules, supported):
            continue
        left_out = isinstance(module, must_read) and name not in wiring.reads
        if left_out or (isinstance(module, nn.Embedding) and name not in described):
            raise ValueError(
                f"`wiring` leaves out {name!r} ({type(module).__name__}); declare what it reads "
                f"(or, for an Embedding, who reads it), or put it in `fixed` to leave it as it is"
            )


def check_parameter(module: nn.Module, layer: str, parameter: str) -> None:
    """Refuse a layer that computes a weight instead of having it.

    Args:
        module: the layer.
        layer: its name.
        parameter: the weight's name in it.

    Raises:
        ValueError: if the weight is no parameter of the layer.
    """
    try:
        module.get_parameter(parameter)
    except AttributeError as error:
        raise ValueError(
            f"{layer!r} computes its {parameter!r}, as torch.nn.utils.weight_norm and spectral_norm make it do, so it "
            "cannot be cut; remove the norm first (torch.nn.utils.remove_weight_norm), or put the layer in `fixed`"
        ) from error


def shared_elsewhere(network: nn.Module, wiring: Wiring, described: Collection[str]) -> dict[str, str]:
    """Weights that a layer outside the wiring holds too, and goes on reading at their full size.

    Args:
        network: the network.
        wiring: its wiring.
        described: names of the weights that it describes.

    Returns:
        Weight → name of such a layer.
    """
    places = {name: network.get_submodule(name.rpartition(".")[0]) for name in described}
    known = {(id(module), name.rpartition(".")[2]) for name, module in places.items()}
    holders: dict[int, str] = {}
    for holder, module in network.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(recurse=False):
            if wiring.is_fixed(holder) or (id(module), name) not in known:
                holders.setdefault(id(parameter), holder or "network")
    found = {name: holders.get(id(network.get_parameter(name))) for name in described}
    return {name: holder for name, holder in found.items() if holder is not None}


def _check_existence(modules: Modules, wiring: Wiring) -> None:
    known = ", ".join(name for name in modules if name)
    for layer, sources in wiring.reads.items():
        for name in (layer, *sources):
            if name not in modules and name != OUTSIDE:
                raise ValueError(f"`wiring` names {name!r}, which the network does not have; it has: {known}")
    for name in wiring.fixed:
        if name not in modules:
            raise ValueError(f"`wiring.fixed` names {name!r}, which the network does not have; it has: {known}")


def _is_inside(name: str, modules: Modules, types: Types) -> bool:
    """Whether a module is part of a layer of one of these types."""
    parents = [name[:dot] for dot in range(len(name)) if name[dot] == "."]
    return any(isinstance(modules[parent], types) for parent in parents)
