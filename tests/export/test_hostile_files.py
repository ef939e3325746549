"""Files of a wrong or hostile kind are refused with one clear error, before they cost memory or run anything."""

from __future__ import annotations

import json
import pickle
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from l0rnn.export import load_dense, open_streamer, save_dense
from tests.export.models import WORDS, language_model

MIB = 2**20


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_dense(language_model("LSTM", [5, 3]), tmp_path / "model", vocabulary=WORDS)


def set_in_config(directory: Path, keys: tuple[str, ...], value: Any) -> None:
    path = directory / "config.json"
    content = json.loads(path.read_text())
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(content))


def write_tensors(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def write_header(directory: Path, header: dict[str, Any], data: bytes = b"") -> None:
    text = json.dumps(header).encode()
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


CONFIGS: list[tuple[tuple[str, ...], Any, str]] = [
    # absurd sizes
    (("layers", "decoder", "out_features"), 10**12, "'out_features' of 'decoder' .* got 1000000000000"),
    (("layers", "encoder", "hidden_sizes"), [[10**12], [10**12]], "'hidden_sizes' of 'encoder'"),
    (("layers", "encoder", "hidden_sizes"), [[1]] * 20_000, "'hidden_sizes' of 'encoder'"),
    (("layers", "encoder", "hidden_sizes"), [[1]] * 5_000, "tensors, fewer than asked for"),
    (("layers", "encoder", "hidden_sizes"), [[2] * 5_000], "describes no RaggedRNN"),
    (("layers", "decoder", "out_features"), 10**400, "'out_features' of 'decoder'"),
    (("layers", "decoder", "out_features"), 700, "does not match .*decoder.weight' has shape"),
    # wrong types
    (("layers", "decoder", "out_features"), -3, "'out_features' of 'decoder' .* got -3"),
    (("layers", "decoder", "out_features"), 0, "got 0"),
    (("layers", "decoder", "out_features"), 11.0, r"got 11\.0"),
    (("layers", "decoder", "out_features"), True, "got True"),
    (("layers", "decoder", "out_features"), "11", "got '11'"),
    (("layers", "decoder", "out_features"), None, "got None"),
    (("layers", "decoder", "bias"), "yes", "'bias' of 'decoder' as true or false"),
    (("layers", "encoder", "mode"), "__import__('os')", "'mode' of 'encoder' as one of LSTM"),
    (("layers", "encoder", "mode"), ["LSTM"], "'mode' of 'encoder'"),
    (("layers", "encoder", "hidden_sizes"), [[5], ["3"]], "'hidden_sizes' of 'encoder'"),
    (("layers", "encoder", "hidden_sizes"), 5, "'hidden_sizes' of 'encoder'"),
    (("layers", "encoder", "hidden_sizes"), [[5], [3, 3]], "describes no RaggedRNN for 'encoder'"),
    (("layers", "encoder", "dropout"), 2, "'dropout' of 'encoder' as a number in"),
    (("layers", "embedding", "padding_idx"), 50, "describes no Embedding"),
    (("layers", "embedding", "dtype"), "complex64", "'dtype' of 'embedding' as one of float32"),
    (("layers", "embedding", "dtype"), "float64", "dtype float32 instead of .* float64"),
    (("layers", "embedding", "device"), "cuda", "exactly the arguments"),
    (("layers", "embedding", "type"), "Bilinear", "a type out of LSTM, GRU"),
    (("layers", "embedding", "type"), {"a": 1}, "a type out of LSTM, GRU"),
    (("layers", "embedding"), [1], "describe each layer by its arguments, but not so 'embedding'"),
    (("layers",), [], "must have 'layers' as a dict"),
    (("tied",), {"decoder.weight": 3}, "names of tied parameters"),
    (("tied",), {"decoder.weight": "embedding.weight"}, "'decoder.weight' is not asked for"),
    (("tied",), {"decoder.bias": "embedding.weight"}, "'decoder.bias' cannot be tied to 'embedding.weight'"),
    (("tied",), {"../x": "embedding.weight"}, r"'\.\./x' cannot be tied"),
    (("format",), 2, "has format 2, this version reads 1"),
    (("format",), True, "must be that of a model that l0rnn exported"),
    (("export",), "onnx", "is that of a 'onnx' export"),
    (("network",), "os.system", "must be given for a 'os.system'"),
    (("network",), 7, "must have 'network' as a str"),
    (("vocabulary",), "../../etc/passwd", "must have 'vocabulary' as a bool"),
    (("figures",), {"a": {"b": 1}}, "finite numbers or texts"),
    (("numbers",), [1], "must have 'numbers' as a dict"),
    (("numbers",), {"encoder.num_layers": 10**6}, "has 1000000 for 'encoder.num_layers', where `network` has None"),
    (("numbers",), {"training": 3}, "has 3 for 'training', where `network` has None"),
    # figures that are right each for itself, but not together
    (("widths", "embedding"), 4, "'widths' that are not those of its 'layers'"),
    # tricks in names
    (("layers", "../x"), {"type": "Dropout", "p": 0.5}, r"letters, digits, _ and dots, got '\.\./x'"),
    (("layers", "/etc/passwd"), {"type": "Dropout", "p": 0.5}, "letters, digits, _ and dots"),
    (("layers", "encoder..layers"), {"type": "Dropout", "p": 0.5}, "letters, digits, _ and dots"),
    (("layers", "a\nb"), {"type": "Dropout", "p": 0.5}, "letters, digits, _ and dots"),
    (("layers", "forward"), {"type": "Dropout", "p": 0.5}, "they differ in 'forward'"),
    (("layers", "__class__"), {"type": "Dropout", "p": 0.5}, "they differ in '__class__'"),
]


@pytest.mark.parametrize(("keys", "value", "message"), CONFIGS, ids=[f"{index}" for index in range(len(CONFIGS))])
def test_a_config_that_is_not_right(keys: tuple[str, ...], value: Any, message: str, model: Path) -> None:
    set_in_config(model, keys, value)
    with pytest.raises(ValueError, match=message) as caught:
        load_dense(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not plain JSON"),
        ("{", "not plain JSON"),
        ("[]", "must be that of a model that l0rnn exported"),
        ('{"format": NaN}', "it holds NaN"),
        ('{"format": -Infinity}', "it holds -Infinity"),
        ('{"format": 1e999}', "not finite"),
        ('{"format": 1, "format": 2}', "repeats a key"),
        ('{"format": ' + "9" * 10_000 + "}", "not plain JSON"),
        ("[" * 100_000, "not plain JSON"),
        ("\udcff", "not plain JSON"),
    ],
)
def test_a_config_that_is_not_json(text: str, message: str, model: Path) -> None:
    (model / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message):
        load_dense(model)


def test_a_config_that_is_far_too_large(model: Path) -> None:
    with (model / "config.json").open("wb") as file:
        file.truncate(10**12)  # a sparse file: it takes no room on the disk
    with pytest.raises(ValueError, match="has 1,000,000,000,000 bytes, more than"):
        load_dense(model)


def test_more_layers_than_any_network_has(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["layers"] = {f"layer{index}": {"type": "Dropout", "p": 0.5} for index in range(10_001)}
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="at most 10,000 layers, got 10,001"):
        load_dense(model)


def test_layers_without_end_in_an_ordinary_lstm(tmp_path: Path) -> None:
    model = save_dense(language_model(), tmp_path / "model")
    set_in_config(model, ("layers", "encoder", "num_layers"), 10**9)
    with pytest.raises(ValueError, match="a number of layers up to 10,000"):
        load_dense(model)


def test_embedding_and_decoder_with_different_words(tmp_path: Path) -> None:
    network = language_model()
    network.decoder = torch.nn.Linear(6, 7)
    with pytest.raises(ValueError, match="embedding and decoder the same number of words"):
        save_dense(network, tmp_path / "model")


def test_widths_that_do_not_meet(tmp_path: Path) -> None:
    network = language_model()
    network.decoder = torch.nn.Linear(5, 11)
    with pytest.raises(ValueError, match="layers that read one another the same width, got"):
        save_dense(network, tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("decoder.weight"), "'decoder.weight' is missing"),
        (lambda tensors: tensors.update(other=torch.zeros(2)), "'other' is not asked for"),
        (lambda tensors: tensors.update({"../../x": torch.zeros(2)}), r"'\.\./\.\./x' is not asked for"),
        (lambda tensors: tensors.update({"/etc/passwd": torch.zeros(2)}), "'/etc/passwd' is not asked for"),
        (lambda tensors: tensors.update({"decoder.bias": torch.zeros(12)}), r"shape \(12,\)"),
        (lambda tensors: tensors.update({"decoder.bias": torch.zeros(11, dtype=torch.int64)}), "dtype int64 instead"),
        (lambda tensors: tensors.update({"decoder.bias": torch.zeros(11).half()}), "dtype float16 instead of"),
        (lambda tensors: tensors.clear(), "is missing; and 8 more"),
        (lambda tensors: tensors.update({"x" * 1000: torch.zeros(2)}), r"x\.\.\. is not asked for"),
    ],
)
def test_tensors_that_do_not_match(
    change: Callable[[dict[str, torch.Tensor]], object], message: str, model: Path
) -> None:
    write_tensors(model, change)
    with pytest.raises(ValueError, match=f"model.safetensors does not match config.json: .*{message}"):
        load_dense(model)


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 0.5, 0.99])
def test_a_truncated_file(kept: float, model: Path) -> None:
    content = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(content[: int(kept if kept > 1 else kept * len(content))])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_dense(model)


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}, b""),
        ({"a": {"dtype": "F32", "shape": [10**12, 10**12], "data_offsets": [0, 4]}}, b"1234"),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"),
        ({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"12345678"),
        ({"a": 3}, b""),
    ],
)
def test_a_header_that_lies(header: dict[str, Any], data: bytes, model: Path) -> None:
    write_header(model, header, data)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_dense(model)


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize("write", [pickle.dump, torch.save])
def test_a_pickle_under_another_name(write: Callable[..., None], model: Path) -> None:
    with (model / "model.safetensors").open("wb") as file:
        write({"decoder.weight": Bomb()}, file)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_dense(model)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files(name: str, model: Path) -> None:
    (model / name).unlink()
    with pytest.raises(FileNotFoundError, match="does not exist; name a directory that"):
        load_dense(model)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["one"], "the 11 words that the model knows, got 1"),
        ({"a": 1}, "must be a list of words"),
        ([*WORDS[:-1], "\x1b[2J"], "control characters"),
    ],
)
def test_a_vocabulary_that_is_not_right(content: Any, message: str, model: Path) -> None:
    (model / "vocabulary.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"vocabulary.json is not right: .*{message}"):
        load_dense(model)
    with pytest.raises(ValueError, match="vocabulary.json is not right"):
        open_streamer(model)


def test_nothing_costs_memory_before_it_is_refused(model: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux
    for size in (10**6, 10**9, 10**12):
        set_in_config(model, ("layers", "encoder", "hidden_sizes"), [[size], [size]])
        with pytest.raises(ValueError, match="hidden_sizes"):
            load_dense(model)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * MIB / 1024


def test_python_in_a_model_directory_is_never_run(model: Path) -> None:
    for name in ("__init__.py", "model.py", "config.py", "conftest.py"):
        (model / name).write_text("raise SystemExit('it was run')")
    load_dense(model)
    open_streamer(model)
