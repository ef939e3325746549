"""Training steps of a language model as CUDA graphs, so that the host only says "again".

A step of 2 x 1500 is some hundreds of small kernels, and the host cannot start them as fast as a card is done with
them. Captured once, they are started together. All that changes from step to step is on the device: the place in the
text, the carried state, the price of a gate. All that the host decides (learning rate, dropout, target of a budget,
which units there are) is a number in the captured step, so the step is captured anew when it changes.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from l0rnn.training.batches import detached
from l0rnn.training.module import PrunableModule
from l0rnn.training.optimizer import single_optimizers

PRODUCTS = {"float32": "highest", "tf32": "high"}  # in torch's words
WARM_UP = 3  # steps outside a graph, in which libraries set themselves up for new shapes


class CapturedSteps:
    """Training steps over consecutive segments of a text: captured on a GPU, one by one elsewhere.

    Args:
        model: the module to train, on the device of ``tokens``.
        optimizer: of its parameters, as `PrunableModule.configure_optimizers` makes it.
        tokens: the text, `(time, batch)` int64.
        steps: time steps of a segment.
        clip: largest norm of all gradients together; None for any.

    Attributes:
        state: the carried recurrent state; zero in the beginning.
        loss: sum of the losses since `restart`, float64.
        position: time step of the text that comes next.
        progress: fraction of the training done, for the method; `renew` after a change.
    """

    def __init__(self, model: PrunableModule, optimizer: Any, tokens: Tensor, steps: int, clip: float | None) -> None:
        self.model, self.optimizer, self.tokens, self.steps, self.clip = model, optimizer, tokens, steps, clip
        self.is_cuda = tokens.is_cuda
        self.position = torch.zeros((), dtype=torch.int64, device=tokens.device)
        self.loss = torch.zeros((), dtype=torch.float64, device=tokens.device)
        self.progress = 0.0
        self.state: Any = None
        self._segment = torch.arange(steps + 1, device=tokens.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._is_warm = False
        if self.is_cuda:
            self._stream = torch.cuda.Stream()
            for part in single_optimizers(optimizer):
                for group in part.param_groups:
                    if "capturable" in group:  # Adam's; SGD counts nothing
                        group["capturable"] = True

    def __len__(self) -> int:
        """Segments of full length in the text."""
        return (len(self.tokens) - 1) // self.steps

    def restart(self) -> None:
        """Go to the beginning of the text, with a state of zeros."""
        self.position.zero_()
        self.loss.zero_()
        if self.state is not None:
            for part in tree_leaves(self.state):
                part.zero_()

    def renew(self, *, has_new_shapes: bool = False) -> None:
        """Capture the step anew before the next one, since the host has changed something in it."""
        self._graph = None
        if has_new_shapes:
            self._is_warm = False
            self.optimizer.zero_grad()

    def run(self, count: int, is_asked: Callable[[], bool] = lambda: False) -> int:
        """Train on the next ``count`` segments of full length.

        Args:
            count: how many.
            is_asked: whether to stop, looked at after each step where steps are not captured.

        Returns:
            How many it has been.
        """
        if self.state is None:
            self.state = self._zero_state()
        if not self.is_cuda:
            for done in range(1, count + 1):
                self._step(self.steps)
                if is_asked():
                    return done
            return count
        asked_for = count
        if not self._is_warm:
            with self._aside():
                for _ in range(min(WARM_UP, count)):
                    self._step(self.steps)
            self._is_warm = True
            count = max(0, count - WARM_UP)
        if count and self._graph is None:
            self._graph = self._captured()
        for _ in range(count):
            self._graph.replay()  # type: ignore[union-attr]
        return asked_for

    def finish(self) -> bool:
        """Train on what is left of the text, if anything."""
        left = len(self.tokens) - 1 - len(self) * self.steps
        if left:
            self._step(left)
        return bool(left)

    def _step(self, length: int) -> None:
        """Everything in here happens on the device."""
        segment = self.tokens.index_select(0, self.position + self._segment[: length + 1])
        self.optimizer.zero_grad()
        loss, state = self.model._loss((segment[:-1], segment[1:]), self.state)
        (loss + self.model.method.penalty()).backward()
        if self.clip is not None:
            parameters = [weight for group in self.optimizer.param_groups for weight in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.clip)
        self.optimizer.step()
        self.model.method.follow_(self.progress)
        for kept, new in zip(tree_leaves(self.state), tree_leaves(state), strict=True):
            kept.copy_(new)
        self.loss += loss.detach()
        self.position += length

    @torch.no_grad()
    def _zero_state(self) -> Any:
        segment = self.tokens[: self.steps + 1]
        _, state = self.model._loss((segment[:-1], segment[1:]), None)
        return tree_map(torch.zeros_like, detached(state))

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """On a stream of its own, which a capture needs; the current one waits for it."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    def _captured(self) -> torch.cuda.CUDAGraph:
        torch.cuda.empty_cache()  # the memory of the graph before is not given to this one otherwise
        graph = torch.cuda.CUDAGraph()
        gc.disable()  # a graph that is thrown away in the middle of a capture would spoil it
        try:
            with self._aside():
                graph.capture_begin(capture_error_mode="thread_local")
                self._step(self.steps)
                graph.capture_end()
        finally:
            gc.enable()
        return graph


@contextmanager
def products(precision: str) -> Iterator[None]:
    """To what matrix products may round their factors: ``float32`` (not at all) or ``tf32``, on a GPU.

    Sums stay in float32. What a device does not have, it leaves out: `rounding` says what it does.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision(PRODUCTS[precision])
    torch.backends.cudnn.allow_tf32 = precision != "float32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def rounding(precision: str, device: torch.device) -> str:
    """What becomes of `products` on a device: ``float32``, unless it rounds."""
    factor = torch.linspace(1, 2, 512 * 512, device=device).reshape(512, 512)
    with products("float32"):
        exact = factor @ factor
    with products(precision):
        is_rounded = not torch.equal(factor @ factor, exact)
    return precision if is_rounded else "float32"
