"""A network as files: an .npz that the package's own code loads, the same in int8, and ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from l0rnn.extras import require
from recipes.g2p.symbols import BEGIN, END, LONGEST

_OPSET = 17
_IR = 8


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write float32 arrays as the package's `checkpoint20.npz` has them.

    Matrices are laid out by columns: the package multiplies by their transposes, and NumPy is a little faster so.
    """
    np.savez(path, **{name: np.asfortranarray(array, dtype=np.float32) for name, array in arrays.items()})  # type: ignore[arg-type]


def rounded(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Matrices in int8 with a float32 scale for each row, called `…_scale`; biases stay in float32."""
    found: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if array.ndim < 2:
            found[name] = array.astype(np.float32)
            continue
        scale = np.abs(array).max(axis=1, keepdims=True) / 127
        scale = np.where(scale > 0, scale, 1).astype(np.float32)
        found[name] = np.round(array / scale).astype(np.int8)
        found[f"{name}_scale"] = scale
    return found


def unrounded(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The float32 arrays that int8 arrays and their scales stand for."""
    return {
        name: array.astype(np.float32) * arrays.get(f"{name}_scale", np.float32(1))
        for name, array in arrays.items()
        if not name.endswith("_scale")
    }


def save_int8(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz in int8, for `pure_numpy.py`; the package's own code cannot read it."""
    np.savez(path, **rounded(arrays))  # type: ignore[arg-type]


def save_onnx(path: Path, arrays: Mapping[str, np.ndarray], *, int8: bool = False) -> None:
    """Write the whole of it, letters to phonemes, as one ONNX file.

    The graph takes the numbers of a word's letters with the end mark, `letters` of shape `(letter,)`, int64, and gives
    those of its phonemes without marks, `phonemes` of shape `(phoneme,)`. The decoder is a loop inside.

    Args:
        path: the file.
        arrays: weights with the package's names.
        int8: keep the matrices in int8, with a scale for each row; they are computed with in float32.

    Raises:
        ModuleNotFoundError: onnx is not installed.
    """
    onnx = require("onnx", "onnx")
    make, numpy_helper = onnx.helper, onnx.numpy_helper
    constants, unpacking = [], []

    def constant(name: str, array: np.ndarray) -> None:
        constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))

    def matrix(name: str, array: np.ndarray) -> None:
        """A matrix with one dimension of size 1 before its rows, as ONNX's GRU has it; or without, for others."""
        rows = array.ndim - 2
        if not int8:
            return constant(name, array)
        small = rounded({name: array.reshape(-1, array.shape[-1])})
        constant(f"{name}_int8", small[name].reshape(array.shape))
        constant(f"{name}_scale", small[f"{name}_scale"].ravel())
        inputs = [f"{name}_int8", f"{name}_scale"]
        unpacking.append(make.make_node("DequantizeLinear", inputs, [name], axis=rows))
        return None

    units = arrays["enc_w_hh"].shape[1]
    for side in ("enc", "dec"):
        matrix(f"{side}_emb", arrays[f"{side}_emb"])
        matrix(f"{side}_w", _update_first(arrays[f"{side}_w_ih"])[None])
        matrix(f"{side}_r", _update_first(arrays[f"{side}_w_hh"])[None])
        biases = [_update_first(arrays[f"{side}_b_{part}"]) for part in ("ih", "hh")]
        constant(f"{side}_b", np.concatenate(biases)[None])
    matrix("fc_w", arrays["fc_w"])
    constant("fc_b", arrays["fc_b"])
    for name, value in {"one": [1], "axis": [0], "end": [END], "begin": [BEGIN]}.items():
        constant(name, np.array(value))
    constant("longest", np.array(LONGEST))
    constant("go", np.array(True))

    def gru(side: str, features: str, state: str, last: str) -> list[object]:
        weights = [f"{side}_w", f"{side}_r", f"{side}_b"]
        inputs = [features, *weights, *(["", state] if state else [])]
        return [make.make_node("GRU", inputs, ["", last], hidden_size=units, linear_before_reset=1)]

    def value(name: str, kind: int, shape: list[object]) -> object:
        return make.make_tensor_value_info(name, kind, shape)

    number, flag, real = onnx.TensorProto.INT64, onnx.TensorProto.BOOL, onnx.TensorProto.FLOAT
    body = make.make_graph(
        [
            make.make_node("Gather", ["dec_emb", "before"], ["feature"]),  # (1, feature)
            make.make_node("Unsqueeze", ["feature", "axis"], ["input"]),
            *gru("dec", "input", "state", "next_state"),
            make.make_node("Squeeze", ["next_state", "axis"], ["hidden"]),  # (1, unit)
            make.make_node("Gemm", ["hidden", "fc_w", "fc_b"], ["logits"], transB=1),
            make.make_node("ArgMax", ["logits"], ["phoneme"], axis=1, keepdims=0),
            make.make_node("Identity", ["phoneme"], ["said"]),
            make.make_node("Equal", ["phoneme", "end"], ["is_end"]),
            make.make_node("Not", ["is_end"], ["is_phoneme"]),
            make.make_node("Squeeze", ["is_phoneme", "axis"], ["goes_on"]),
        ],
        "one_phoneme",
        [
            value("step", number, []),
            value("go_in", flag, []),
            value("before", number, [1]),
            value("state", real, [1, 1, units]),
        ],
        [
            value("goes_on", flag, []),
            value("phoneme", number, [1]),
            value("next_state", real, [1, 1, units]),
            value("said", number, [1]),
        ],
    )
    graph = make.make_graph(
        [
            *unpacking,
            make.make_node("Gather", ["enc_emb", "letters"], ["features"]),  # (letter, feature)
            make.make_node("Unsqueeze", ["features", "one"], ["sequence"]),  # (letter, 1, feature)
            *gru("enc", "sequence", "", "word"),
            make.make_node("Loop", ["longest", "go", "begin", "word"], ["last", "last_state", "rows"], body=body),
            make.make_node("Squeeze", ["rows", "one"], ["row"]),
            make.make_node("Equal", ["row", "end"], ["ends"]),
            make.make_node("Not", ["ends"], ["kept"]),
            make.make_node("Compress", ["row", "kept"], ["phonemes"], axis=0),
        ],
        "letters_to_phonemes",
        [value("letters", number, ["letter"])],
        [value("phonemes", number, ["phoneme"])],
        constants,
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", _OPSET)], producer_name="l0rnn")
    model.ir_version = _IR
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _update_first(array: np.ndarray) -> np.ndarray:
    """Rows of a GRU in ONNX's order: update, reset, new; torch and the package have reset first."""
    reset, update, new = np.split(array, 3)
    return np.concatenate([update, reset, new])
