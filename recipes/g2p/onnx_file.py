"""The whole network, letters to phonemes, as one ONNX file with the decoder's loop inside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from l0rnn.extras import require
from recipes.g2p.files import rounded
from recipes.g2p.symbols import BEGIN, END, LONGEST

_OPSET, _IR = 17, 8  # old enough for every runtime of the last years


def save_onnx(path: Path, arrays: Mapping[str, np.ndarray], *, int8: bool = False) -> None:
    """Write an ONNX file.

    It takes the numbers of a word's letters with the end mark, `letters` of shape `(letter,)`, int64, and gives those
    of its phonemes without marks, `phonemes` of shape `(phoneme,)`.

    Args:
        path: the file.
        arrays: weights with the package's names.
        int8: keep the matrices in int8, with a scale for each row; they are computed with in float32.

    Raises:
        ModuleNotFoundError: onnx is not installed.
    """
    onnx = require("onnx", "onnx")
    model = _Graph(onnx, arrays, int8).model()
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


class _Graph:
    """Constants and nodes of the graph of some arrays."""

    def __init__(self, onnx: Any, arrays: Mapping[str, np.ndarray], int8: bool) -> None:
        self.onnx, self.int8 = onnx, int8
        self.units = arrays["enc_w_hh"].shape[1]
        self.constants: list[Any] = []
        self.unpacking: list[Any] = []
        for side in ("enc", "dec"):
            self._matrix(f"{side}_emb", arrays[f"{side}_emb"])
            self._matrix(f"{side}_w", _update_first(arrays[f"{side}_w_ih"])[None])
            self._matrix(f"{side}_r", _update_first(arrays[f"{side}_w_hh"])[None])
            biases = [_update_first(arrays[f"{side}_b_{part}"]) for part in ("ih", "hh")]
            self._constant(f"{side}_b", np.concatenate(biases)[None])
        self._matrix("fc_w", arrays["fc_w"])
        self._constant("fc_b", arrays["fc_b"])
        for name, value in {"zero": [0], "one": [1], "end": [END], "begin": [BEGIN], "longest": LONGEST}.items():
            self._constant(name, np.array(value))
        self._constant("go", np.array(True))

    def model(self) -> Any:
        nodes = [
            *self.unpacking,
            self._node("Gather", ["enc_emb", "letters"], "features"),  # (letter, feature)
            self._node("Unsqueeze", ["features", "one"], "sequence"),  # (letter, 1, feature)
            self._gru("enc", "sequence", "", "word"),
            self._node("Loop", ["longest", "go", "begin", "word"], "last", "last_state", "rows", body=self._body()),
            self._node("Squeeze", ["rows", "one"], "row"),
            self._node("Equal", ["row", "end"], "ends"),
            self._node("Not", ["ends"], "kept"),
            self._node("Compress", ["row", "kept"], "phonemes", axis=0),
        ]
        number = self.onnx.TensorProto.INT64
        inputs, outputs = [self._value("letters", number, "letter")], [self._value("phonemes", number, "phoneme")]
        helper = self.onnx.helper
        graph = helper.make_graph(nodes, "letters_to_phonemes", inputs, outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="l0rnn")
        model.ir_version = _IR
        return model

    def _body(self) -> Any:
        """One phoneme: what a turn of the loop does with the phoneme before and the state."""
        nodes = [
            self._node("Gather", ["dec_emb", "before"], "feature"),  # (1, feature)
            self._node("Unsqueeze", ["feature", "zero"], "input"),
            self._gru("dec", "input", "state", "next_state"),
            self._node("Squeeze", ["next_state", "zero"], "hidden"),  # (1, unit)
            self._node("Gemm", ["hidden", "fc_w", "fc_b"], "logits", transB=1),
            self._node("ArgMax", ["logits"], "phoneme", axis=1, keepdims=0),
            self._node("Identity", ["phoneme"], "said"),
            self._node("Equal", ["phoneme", "end"], "is_end"),
            self._node("Not", ["is_end"], "is_phoneme"),
            self._node("Squeeze", ["is_phoneme", "zero"], "goes_on"),
        ]
        kinds = self.onnx.TensorProto
        state = (1, 1, self.units)
        inputs = [
            self._value("turn", kinds.INT64),
            self._value("going", kinds.BOOL),
            self._value("before", kinds.INT64, 1),
            self._value("state", kinds.FLOAT, *state),
        ]
        outputs = [
            self._value("goes_on", kinds.BOOL),
            self._value("phoneme", kinds.INT64, 1),
            self._value("next_state", kinds.FLOAT, *state),
            self._value("said", kinds.INT64, 1),
        ]
        return self.onnx.helper.make_graph(nodes, "one_phoneme", inputs, outputs)

    def _constant(self, name: str, array: np.ndarray) -> None:
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(array, order="C"), name))

    def _matrix(self, name: str, array: np.ndarray) -> None:
        """A matrix, perhaps with a dimension of size 1 before its rows, as ONNX's GRU has it."""
        if not self.int8:
            return self._constant(name, array)
        small = rounded({name: array.reshape(-1, array.shape[-1])})
        self._constant(f"{name}_int8", small[name].reshape(array.shape))
        self._constant(f"{name}_scale", small[f"{name}_scale"].ravel())
        inputs = [f"{name}_int8", f"{name}_scale"]
        self.unpacking.append(self._node("DequantizeLinear", inputs, name, axis=array.ndim - 2))
        return None

    def _gru(self, side: str, features: str, state: str, last: str) -> Any:
        inputs = [features, f"{side}_w", f"{side}_r", f"{side}_b", *(["", state] if state else [])]
        return self._node("GRU", inputs, "", last, hidden_size=self.units, linear_before_reset=1)

    def _node(self, kind: str, inputs: list[str], *outputs: str, **attributes: Any) -> Any:
        return self.onnx.helper.make_node(kind, inputs, list(outputs), **attributes)

    def _value(self, name: str, kind: int, *shape: int | str) -> Any:
        return self.onnx.helper.make_tensor_value_info(name, kind, list(shape))


def _update_first(array: np.ndarray) -> np.ndarray:
    """Rows of a GRU in ONNX's order: update, reset, new; torch and the package have reset first."""
    reset, update, new = np.split(array, 3)
    return np.concatenate([update, reset, new])
