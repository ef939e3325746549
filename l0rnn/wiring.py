"""Who reads whose units: the one thing a network in plain torch has to declare before it can be pruned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

OUTSIDE = "outside"


def reads(*layers: str) -> list[str]:
    """The layers whose units another layer reads, concatenated in this order.

    ``reads("a", "b")`` is for a layer that reads ``torch.cat((a, b), -1)``; a block read four times is
    ``4 * reads("a")``; ``reads(OUTSIDE)`` is for a layer that reads the network's own input.

    Example:
        >>> reads("forward", "backward"), 2 * reads("contextual")
        (['forward', 'backward'], ['contextual', 'contextual'])
    """
    return list(layers)


@dataclass(frozen=True)
class Wiring:
    """For every layer with weights, the layers whose units it reads.

    Layers have the names that `network.named_modules()` gives them. Recurrent, Linear and LayerNorm layers are declared
    with what they read; an Embedding reads words, so it only appears as something that is read. Dropout and elementwise
    activations may be declared too, or left out: they hand units on. A recurrent layer stands for its output, both
    directions concatenated; what its layers read from one another is known. A Linear layer or Embedding that share
    their weight (tied) share their units.

    Args:
        reads: layer name → what it reads, from `reads`.
        fixed: layers, or whole submodules, that keep all their units and whose weights are left as they are, such as
            one of a type that surgery does not know. What they read, if declared, is kept as well.

    Example:
        >>> wiring = Wiring({"encoder": reads("embedding"), "decoder": reads("encoder")})
        >>> wiring.reads["decoder"]
        ['encoder']
    """

    reads: Mapping[str, list[str]]
    fixed: tuple[str, ...] = ()

    def __init__(self, reads: Mapping[str, list[str] | str], fixed: Iterable[str] = ()) -> None:
        lists = {name: [source] if isinstance(source, str) else list(source) for name, source in reads.items()}
        for name, sources in lists.items():
            if not sources:
                raise ValueError(
                    f"`reads` must name at least one layer for {name!r}, got none; "
                    f"use reads(OUTSIDE) for a layer that reads the network's input"
                )
        object.__setattr__(self, "reads", lists)
        object.__setattr__(self, "fixed", (fixed,) if isinstance(fixed, str) else tuple(fixed))

    def is_fixed(self, layer: str) -> bool:
        """Whether a layer is one of `fixed`, or inside one."""
        return any(layer == name or layer.startswith(f"{name}.") for name in self.fixed)
