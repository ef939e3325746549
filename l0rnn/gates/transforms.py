"""Whether torch is differentiating in another way than backwards, as `torch.func` does."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def needs_plain_operations() -> bool:
    """Whether a function with a backward pass of its own has to give way to the operations that it stands for.

    The transforms of `torch.func` (``grad``, ``vmap``, ``jvp``, …) and forward-mode differentiation take apart what
    they meet. Torch's own layers let them; a function of ours that saves memory or time in training would not.

    Example:
        >>> needs_plain_operations()
        False
        >>> asked = []
        >>> _ = torch.func.grad(lambda x: asked.append(needs_plain_operations()) or x)(torch.tensor(1.0))
        >>> asked
        [True]
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0  # type: ignore[no-any-return]
