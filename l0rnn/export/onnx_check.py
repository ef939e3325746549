"""Read an ONNX file that a stranger may have written: everything in it is looked at before a runtime sees any of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from l0rnn.extras import require
from l0rnn.foreign_text import printable, shown

MOST_BYTES = 2**31  # the limit of the file's encoding
_DOMAINS = {"", "ai.onnx", "com.microsoft"}
_READ_FILES = {"EPContext"}  # operators that name a file in an attribute


def read_onnx(path: Path) -> tuple[bytes, bool]:
    """The bytes of an ONNX file that stands for itself, and whether it has loops, which may have no end.

    The bytes that were checked are what a runtime is to be given: a file could be another one a moment later.

    Raises:
        FileNotFoundError: if it is no file, but a pipe or a device, say.
        ValueError: if it is not an ONNX file, takes weights from another file, or has operators from elsewhere.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; name a directory that export_onnx wrote")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes, more than an ONNX file can have")
    onnx = require("onnx", "onnx")
    content = path.read_bytes()
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # of protobuf, which has several implementations
        raise ValueError(f"{path.name} is not an ONNX file: {printable(error)}") from error
    if len(model.functions) > 0:  # nested in each other they double in size at every level, or never end
        raise ValueError(
            f"{path.name} must be made of operators alone, but has the function {shown(model.functions[0].name)}; "
            "inline functions before it is saved (onnx.inliner)"
        )
    graphs = 0
    for part in _messages(model):
        if isinstance(part, onnx.TensorProto):
            # a place in another file is refused wherever a tensor may be: runtimes read it for each of them
            if part.data_location == onnx.TensorProto.EXTERNAL or len(part.external_data) > 0:
                raise ValueError(f"{path.name} must hold its own weights, but {shown(part.name)} is in another file")
        elif isinstance(part, onnx.NodeProto):
            if part.domain not in _DOMAINS:
                raise ValueError(
                    f"{path.name} must be made of ONNX's own operators, but has one of {shown(part.domain)}"
                )
            if part.op_type in _READ_FILES:
                raise ValueError(f"{path.name} must need no other file, but has the operator {shown(part.op_type)}")
        graphs += isinstance(part, onnx.GraphProto)
    return content, graphs > 1


def _messages(message: Any) -> Iterator[Any]:
    """All parts of a protobuf message, at whatever depth and in whichever field, those of newer versions too."""
    waiting = [message]
    while waiting:
        current = waiting.pop()
        yield current
        for field, value in current.ListFields():
            if field.message_type is not None:
                # a single one has no length, and all fields of ONNX that hold several are lists, none is a map
                waiting.extend([value] if hasattr(value, "ListFields") else value)
