"""A task: somebody's network, data, loss and evaluation, in a Python file."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from l0rnn.arguments import checked

NEEDED = ("network", "data", "loss", "evaluate")
PARTS = ("train", "valid", "test")
EPOCHS = 10


@dataclass(frozen=True)
class Task:
    """What a task file defines; what it leaves out has the default that stands here.

    Attributes:
        network: () → a new network, in torch.
        data: () → mapping of ``train``, ``valid`` and, if there is one, ``test`` to DataLoaders, or whatever else can
            be gone through once per epoch and gives batches.
        loss: (network, batch) → the loss of a batch, a scalar with a gradient.
        evaluate: (network, loader) → figures by name; the first is what is compared. Called in evaluation mode,
            without gradients.
        higher_is_better: whether a larger figure is a better one.
        example_inputs: batch → arguments of the network's forward; default: the first of a tuple or list, or the whole.
        optimizer: parameters → optimiser of the weights; default: Adam with learning rate 0.001.
        scheduler: optimiser → learning rate scheduler, stepped once per epoch; default: a constant rate.
        initialise: network → None: what `network` does to its weights beyond what torch's layers do by themselves, for
            the small network from scratch, see `l0rnn.surgery.fresh.fresh`.
        epochs: how often the training data are gone through.
        clip_norm: norm that gradients of the weights are clipped to; None for none.
        gate_learning_rate: of the gates' Adam, see `l0rnn.Pruner`.
        fixed: layers or axes that have to stay whole.
        tied: groups of axes whose units have to be removed together.
    """

    network: Callable[[], nn.Module]
    data: Callable[[], Mapping[str, Iterable[Any]]]
    loss: Callable[[nn.Module, Any], Tensor]
    evaluate: Callable[[nn.Module, Iterable[Any]], Mapping[str, float]]
    higher_is_better: bool = False
    example_inputs: Callable[[Any], Any] | None = None
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None
    initialise: Callable[[nn.Module], Any] | None = None
    epochs: int = EPOCHS
    clip_norm: float | None = None
    gate_learning_rate: float | None = None
    fixed: Sequence[str] = ()
    tied: Sequence[Sequence[str]] = ()

    def inputs(self, batch: Any) -> Any:
        """Arguments of the network's forward in a batch."""
        if self.example_inputs is not None:
            return self.example_inputs(batch)
        return batch[0] if isinstance(batch, (tuple, list)) and batch else batch

    def loaders(self) -> dict[str, Iterable[Any]]:
        """The data, checked.

        Raises:
            ValueError: if a part is missing, is empty, or can be gone through only once.
        """
        loaders = self.data()
        if not isinstance(loaders, Mapping) or not {"train", "valid"} <= set(loaders):
            found = ", ".join(map(str, loaders)) if isinstance(loaders, Mapping) else type(loaders).__name__
            raise ValueError(f"`data()` must return a mapping with `train` and `valid`, and `test` if any, got {found}")
        for part in PARTS:
            if part not in loaders:
                continue
            loader = loaders[part]
            if not hasattr(loader, "__iter__"):
                raise ValueError(f"`data()[{part!r}]` must give batches, got a {type(loader).__name__}")
            if iter(loader) is loader:
                raise ValueError(
                    f"`data()[{part!r}]` can be gone through only once, got a {type(loader).__name__}; give a "
                    "DataLoader, or a list of the batches"
                )
            first_batch(loader, part)
        return {part: loaders[part] for part in PARTS if part in loaders}

    def value(self, network: nn.Module, loader: Iterable[Any]) -> dict[str, float]:
        """The figures of `evaluate`, checked: in evaluation mode, without gradients; the mode is put back."""
        was_training = network.training
        network.eval()
        try:
            with torch.no_grad():
                figures = self.evaluate(network, loader)
        finally:
            network.train(was_training)
        if not isinstance(figures, Mapping) or not figures:
            raise ValueError(f"`evaluate` must return figures by name, such as {{'error': 0.1}}, got {figures!r:.80}")
        try:
            return {str(name): float(figure) for name, figure in figures.items()}
        except (TypeError, ValueError) as error:
            raise ValueError(f"`evaluate` must return numbers by name, got {dict(figures)!r:.80}") from error

    def checked_loss(self, network: nn.Module, batch: Any) -> Tensor:
        """The loss of a batch.

        Raises:
            ValueError: if it is no scalar with a gradient.
        """
        value = self.loss(network, batch)
        if not isinstance(value, Tensor) or value.dim() != 0 or not value.requires_grad:
            found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            found += ", without a gradient" if isinstance(value, Tensor) and not value.requires_grad else ""
            raise ValueError(f"`loss(network, batch)` must return a scalar tensor with a gradient, got {found}")
        return value

    def first_figure(self) -> str:
        """Build everything once, and take one loss and one value: what is wrong shows here, before any training.

        Returns:
            The name of the figure that is compared.

        Raises:
            ValueError: if something is not as it has to be; it names the function.
        """
        network, loaders = self.network(), self.loaders()
        if not isinstance(network, nn.Module):
            raise ValueError(f"`network()` must return a torch module, got a {type(network).__name__}")
        loss = float(self.checked_loss(network, first_batch(loaders["train"], "train")).detach())
        if not math.isfinite(loss):
            raise ValueError(f"`loss(network, batch)` is {loss} before the first step; look at the first batch")
        try:
            figures = self.value(network, [first_batch(loaders["valid"], "valid")])
        except (AttributeError, TypeError):  # it asks the loader for more than batches
            figures = self.value(network, loaders["valid"])
        return next(iter(figures))


def first_batch(loader: Iterable[Any], part: str) -> Any:
    """The first batch of a loader; random numbers go on as if nobody had asked.

    Raises:
        ValueError: if there is none.

    Example:
        >>> first_batch([1, 2], "train")
        1
    """
    with torch.random.fork_rng(devices=[]):
        for batch in loader:
            return batch
    raise ValueError(f"`data()[{part!r}]` must have at least one batch, got an empty {type(loader).__name__}")


@checked
def load_task(path: Path) -> Task:
    """Run a task file and take what it defines.

    Args:
        path: a Python file, which defines at least `network`, `data`, `loss` and `evaluate`, see `Task`.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it defines too little, or something as another kind.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "line.py"
        >>> _ = path.write_text("def network(): ...")
        >>> load_task(path)
        Traceback (most recent call last):
        ...
        ValueError: .../line.py must define `data`, `loss`, `evaluate`: it defines `network`
    """
    if not path.is_file():
        raise FileNotFoundError(f"the task file {path} does not exist")
    module = _module(path)
    optional = [name for name in Task.__dataclass_fields__ if name not in NEEDED]
    found = {name: getattr(module, name) for name in (*NEEDED, *optional) if hasattr(module, name)}
    missing = [name for name in NEEDED if not callable(found.get(name))]
    if missing:
        there = ", ".join(f"`{name}`" for name in found if name not in missing) or "nothing of the kind"
        raise ValueError(f"{path} must define {', '.join(f'`{name}`' for name in missing)}: it defines {there}")
    for name in ("example_inputs", "optimizer", "scheduler", "initialise"):
        if name in found and not callable(found[name]):
            raise ValueError(f"`{name}` of {path} must be a function, got {found[name]!r:.80}")
    epochs = found.get("epochs", EPOCHS)
    if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 1:
        raise ValueError(f"`epochs` of {path} must be a whole number > 0, got {epochs!r:.80}")
    return Task(**found)


def task_hash(path: Path) -> str:
    """Short hash of a task file's text: another text is another experiment.

    Raises:
        FileNotFoundError: if there is none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the task file {path} does not exist")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:10]


def _module(path: Path) -> ModuleType:
    # under a name of its own, so that what pickles its classes finds them; what lies beside it can be imported
    name = f"l0rnn_task_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:6]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"the task must be a Python file, got {path}")
    module = importlib.util.module_from_spec(spec)
    for folder in (str(path.resolve().parent), str(Path.cwd())):
        if folder not in sys.path:
            sys.path.append(folder)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
