"""What is in a checkpoint, read from the headers of its file alone, before anything of the sizes in it is made.

A checkpoint is a zip archive of raw tensors and of one pickle that says where they are. Here that pickle is read by a
reader of its own, which knows the few names that checkpoints consist of and gives each tensor as its shape. Nothing a
stranger writes into it can run code, take memory or name a file to be opened.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from l0rnn.foreign_text import printable, shown

MOST_PICKLE = 64 * 2**20  # bytes of the part that is not tensors; that of a large model has some 100,000
_PICKLE = "data.pkl"
_ITEMSIZES = {
    f"{name}Storage": size
    for size, names in {
        1: ("Byte", "Char", "Bool"),
        2: ("Half", "BFloat16", "Short"),
        4: ("Float", "Int"),
        8: ("Double", "Long", "ComplexFloat"),
        16: ("ComplexDouble",),
    }.items()
    for name in names
}


# These are named tuples since a pickle may change the attributes of any object that can change.
class TensorHeader(NamedTuple):
    """What is known of a tensor without its numbers: its shape, and bytes per number."""

    shape: tuple[int, ...]
    itemsize: int


def read_header(path: str | Path) -> Any:
    """The content of a checkpoint with a `TensorHeader` in the place of each tensor.

    Raises:
        FileNotFoundError: if there is no such file, or it is a pipe, say.
        ValueError: if it is no checkpoint that torch writes, is damaged, or holds a tensor that is larger than what is
            stored of it.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.ckpt"
        >>> torch.save({"state_dict": {"weight": torch.zeros(2, 3)}}, path)
        >>> read_header(path)
        {'state_dict': {'weight': TensorHeader(shape=(2, 3), itemsize=4)}}
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`checkpoint` {path} does not exist; `l0rnn fit` writes one")
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = _stored_sizes(archive, path.stat().st_size)
            found = [name for name in sizes if name.endswith(f"/{_PICKLE}")]
            if len(found) != 1 or sizes[found[0]] > MOST_PICKLE:
                raise ValueError("it holds no description of tensors as torch writes it")
            folder = found[0].removesuffix(_PICKLE)
            return _Reader(archive.read(found[0]), sizes, folder).load()
    # a pickle may call for anything that Python has, and a reader of it may fail in as many ways
    except (zipfile.BadZipFile, pickle.UnpicklingError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a checkpoint, or is damaged: {printable(error)}") from error
    except (AttributeError, EOFError, NotImplementedError, RuntimeError, AssertionError) as error:
        raise ValueError(f"{path} is not a checkpoint, or is damaged: {printable(error)}") from error


def shapes_in(header: Any) -> dict[str, tuple[int, ...]]:
    """Name → shape of the weights and buffers in a header.

    Raises:
        ValueError: if it has none.

    Example:
        >>> shapes_in({"state_dict": {"weight": TensorHeader((2, 3), 4)}})
        {'weight': (2, 3)}
    """
    state = header.get("state_dict") if isinstance(header, Mapping) else None
    if not isinstance(state, Mapping) or not state:
        raise ValueError("the checkpoint has no weights, `state_dict`")
    wrong = [name for name, part in state.items() if not (isinstance(name, str) and isinstance(part, TensorHeader))]
    if wrong:
        raise ValueError(f"the checkpoint must have tensors in its `state_dict`, but not so {shown(wrong[0])}")
    return {name: part.shape for name, part in state.items()}


def settings_in(header: Any) -> dict[str, Any]:
    """The hyper-parameters in a header, which are plain data.

    Raises:
        ValueError: if there are none, or a tensor is among them.
    """
    settings = header.get("hyper_parameters") if isinstance(header, Mapping) else None
    if not isinstance(settings, Mapping) or not all(isinstance(name, str) for name in settings):
        raise ValueError("the checkpoint has no hyper-parameters to build the model by")
    for part in _parts(settings):
        if type(part) not in (str, int, float, bool, type(None), list, tuple, dict, OrderedDict):
            raise ValueError(f"the checkpoint must have plain hyper-parameters, got a {type(part).__name__}")
    return dict(settings)


def _parts(content: Any) -> Iterator[Any]:
    """Everything in nested dicts and lists, each once: a list may hold itself."""
    waiting, seen = [content], set()
    while waiting:
        part = waiting.pop()
        yield part
        if isinstance(part, (Mapping, list, tuple)) and id(part) not in seen:
            seen.add(id(part))
            waiting.extend([*part.keys(), *part.values()] if isinstance(part, Mapping) else part)


def _stored_sizes(archive: zipfile.ZipFile, size: int) -> dict[str, int]:
    """Bytes of each part; packed ones, which torch never writes, would unpack to a thousand times the file."""
    parts = archive.infolist()
    packed = [part.filename for part in parts if part.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise ValueError(f"its part {shown(packed[0])} is compressed, which torch never does")
    if sum(part.file_size for part in parts) > size:
        raise ValueError("its parts are larger than the file")
    return {part.filename: part.file_size for part in parts}


class _Reader(pickle._Unpickler):  # type: ignore[name-defined, misc]
    """Python's own reader of pickles, with the few names of a checkpoint, each of which stands for something harmless.

    The one in C would take memory by the numbers that it reads.
    """

    def __init__(self, content: bytes, sizes: Mapping[str, int], folder: str) -> None:
        super().__init__(io.BytesIO(content))
        self._sizes, self._folder = sizes, folder

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _ITEMSIZES:
            return _Named(_ITEMSIZES[name])
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return _Named(getattr(torch, name).itemsize)
        if (module, name) == ("torch.storage", "UntypedStorage"):
            return _Named(1)
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) in _MEANINGS:
            return _Called(_MEANINGS[module, name])
        raise ValueError(f"it needs {shown(f'{module}.{name}')}, which no checkpoint of plain data does")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage, key, _, count = pid
        if kind != "storage" or not isinstance(storage, _Named) or type(count) is not int or count < 0:
            raise ValueError("it describes a tensor in another way than torch")
        stored = self._sizes.get(f"{self._folder}data/{key}")
        if stored is None or stored < count * storage.itemsize:
            raise ValueError(f"it stores {stored or 0:,} bytes of a tensor of {count:,} numbers")
        return _Storage(count * storage.itemsize, storage.itemsize)


class _Storage(NamedTuple):
    nbytes: int
    itemsize: int


class _Named(NamedTuple):
    """What stands for a class or dtype of torch."""

    itemsize: int


class _Called(NamedTuple):
    """What stands for a function of torch."""

    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> TensorHeader:
    itemsize = next((part.itemsize for part in rest if isinstance(part, _Named)), storage.itemsize)
    numbers = [offset, *size, *stride]
    if not all(type(number) is int and number >= 0 for number in numbers) or len(size) != len(stride):
        raise ValueError("it describes a tensor in another way than torch")
    if len(size) > 64 or (offset + math.prod(size)) * itemsize > storage.nbytes:
        raise ValueError(f"a tensor of shape {shown(tuple(size))} is larger than what is stored of it")
    return TensorHeader(tuple(size), itemsize)


def _first(*arguments: Any) -> Any:
    return arguments[0]


_MEANINGS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch", "Size"): tuple,
    ("torch", "device"): lambda *arguments: ":".join(map(str, arguments)),
    ("_codecs", "encode"): lambda *arguments: b"",
    ("builtins", "set"): lambda *arguments: frozenset(*arguments),
    ("__builtin__", "set"): lambda *arguments: frozenset(*arguments),
}
