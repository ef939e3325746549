"""Checkpoints that a stranger wrote: refused with one error, before they cost memory, write a file or run anything."""

from __future__ import annotations

import copy
import io
import os
import pickle
import resource
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from l0rnn import Budget, L0GatedGRU, L0GatedLSTM, Penalty
from l0rnn.cli import main
from l0rnn.language.language_model import LanguageModel
from l0rnn.methods import GradualMagnitude, L0Gates
from l0rnn.models import CLASSES, load_model
from l0rnn.training.checkpoint_file import TensorHeader, read_header, settings_in, shapes_in
from l0rnn.training.resuming import model_in
from l0rnn.training.settings import refuse_foreign, settings_of
from l0rnn.training.shrunken import ShrunkenLanguageModel, load_shrunken

MIB = 2**20


def checkpoint_of(model: Any) -> dict[str, Any]:
    content = {
        "state_dict": model.state_dict(),
        "hyper_parameters": copy.deepcopy(dict(model.hparams)),
        "hparams_name": "kwargs",
        "pytorch-lightning_version": "2.6.0",
    }
    model.on_save_checkpoint(content)
    return content


@pytest.fixture
def content() -> dict[str, Any]:
    return checkpoint_of(L0GatedLSTM(20, 8, 1, objective=Budget(density=0.5), dropout=0.0))


@pytest.fixture
def shrunken() -> dict[str, Any]:
    return checkpoint_of(ShrunkenLanguageModel(LanguageModel(20, 4, [5, 3])))


def written(content: Any, path: Path) -> Path:
    torch.save(content, path / "model.ckpt")
    return path / "model.ckpt"


def test_one_that_is_right(content: dict[str, Any], tmp_path: Path) -> None:
    path = written(content, tmp_path)
    assert model_in(path) == "L0GatedLSTM"
    assert torch.equal(load_model(path).network.decoder.bias, content["state_dict"]["network.decoder.bias"])
    assert L0GatedLSTM.load_from_checkpoint(path).hparams["vocabulary_size"] == 20


@pytest.mark.parametrize(
    "model",
    [
        lambda: L0GatedGRU(20, 8, 2, objective=Penalty(0.1)),
        lambda: L0GatedLSTM(20, [8, 5], 2),
        lambda: L0GatedLSTM(20, 8, 3, tied=True, method=GradualMagnitude(0.5)),
        lambda: L0GatedLSTM(20, 8, 1, embedding_size=3, method=L0Gates(Budget(parameters=200))),
    ],
)
def test_others_that_are_right(model: Callable[[], Any], tmp_path: Path) -> None:
    load_model(written(checkpoint_of(model()), tmp_path))


def test_shrunken_ones_that_are_right(shrunken: dict[str, Any], tmp_path: Path) -> None:
    network = load_shrunken(written(shrunken, tmp_path))
    assert network is not None
    assert torch.equal(network.decoder.bias, shrunken["state_dict"]["network.decoder.bias"])
    tied = checkpoint_of(ShrunkenLanguageModel(LanguageModel(20, 4, 4, tied=True).bfloat16()))
    assert load_shrunken(written(tied, tmp_path)) is not None


class TestPaths:
    """Settings are built before weights are looked at, so nothing that opens a file may be among them."""

    def test_a_budget_writes_no_file(self, content: dict[str, Any], tmp_path: Path) -> None:
        target = tmp_path / "folder" / "written.json"
        budget = {"class": "Budget", "milliseconds": 1e9, "batch": 1, "steps": 1, "table": str(target)}
        content["hyper_parameters"]["method"]["objective"] = budget
        path = written(content, tmp_path)
        for load in (load_model, L0GatedLSTM.load_from_checkpoint):
            with pytest.raises(ValueError, match="Budget has no argument batch, milliseconds, steps, table"):
                load(path)
        assert not target.parent.exists()

    def test_a_method_reads_no_file(self, content: dict[str, Any], tmp_path: Path) -> None:
        method = {"class": "GradualMagnitude", "density": 0.5, "schedule": "two_slope", "dense": "/etc/passwd"}
        content["hyper_parameters"]["method"] = method
        with pytest.raises(ValueError, match="`dense` of a method in a checkpoint must be None, .* got '/etc/passwd'"):
            load_model(written(content, tmp_path))

    def test_no_name_of_an_argument_reaches_a_terminal(self, content: dict[str, Any], tmp_path: Path) -> None:
        content["hyper_parameters"]["method"]["objective"] = {"class": "Budget", "density": 0.5, "/tmp/x\x1b[2J": 1}
        with pytest.raises(ValueError, match="Budget has no argument") as caught:
            load_model(written(content, tmp_path))
        assert "\x1b" not in str(caught.value)

    def test_a_teacher_is_not_followed(self, shrunken: dict[str, Any], tmp_path: Path) -> None:
        shrunken["hyper_parameters"] |= {"teacher": "/etc/passwd", "noise": 0.5}
        path = written(shrunken, tmp_path)
        with pytest.raises(ValueError, match="names the file of a `teacher`, '/etc/passwd'"):
            ShrunkenLanguageModel.load_from_checkpoint(path)
        assert load_shrunken(path) is not None

    def test_every_class_that_takes_a_path_refuses_one(self) -> None:
        """Arguments that are texts without a choice of values, and might be paths, belong to a class with a rule."""
        import inspect
        import typing

        for name, kind in CLASSES.items():
            for argument, kind_of in typing.get_type_hints(kind.__init__).items():
                is_text = str in (kind_of, *typing.get_args(kind_of))
                if is_text and argument not in ("return", "device", "kind"):
                    assert hasattr(kind, "refuse_foreign"), f"{name}.{argument} may be a path"
            assert inspect.isclass(kind)

    def test_settings_that_hold_themselves(self) -> None:
        settings: dict[str, Any] = {"class": "L0Gates"}
        settings["objective"] = [settings]
        refuse_foreign(settings, CLASSES)

    def test_what_is_saved_passes(self) -> None:
        for instance in (Budget(0.5), GradualMagnitude(0.5), L0Gates(Budget(parameters=5))):
            refuse_foreign(settings_of(instance), CLASSES)


SIZES: list[tuple[str, Any, str]] = [
    (
        "vocabulary_size",
        10**8,
        r"embedding.weight' of shape \(100000000, 8\), but the weights there have \(20",
    ),
    ("vocabulary_size", 10**12, "`vocabulary_size` must be a whole number > 0, got 1000000000000"),
    ("vocabulary_size", "20", "`vocabulary_size` must be a whole number > 0, got '20'"),
    ("vocabulary_size", True, "`vocabulary_size` must be a whole number > 0, got True"),
    ("hidden_size", 10**6, "but the weights there have"),
    ("hidden_size", [10**6], "but the weights there have"),
    ("hidden_size", [8] * 10**6, "one width for each of 1 layers, got 1000000"),
    ("hidden_size", [], "`hidden_size` must be a whole number > 0, got None"),
    ("hidden_size", -1, "`hidden_size` must be a whole number > 0, got -1"),
    ("embedding_size", 10**7, "but the weights there have"),
    ("num_layers", 10_000, r"`num_layers` must be a number of layers that the \d+ weights allow, got 10000"),
    ("num_layers", 10**18, "`num_layers` must be"),
    ("num_layers", 1.0, "`num_layers` must be"),
    ("tied", 3, "`tied` must be bool"),
    ("dropout", "half", "does not hold what a L0GatedLSTM is built by"),
    ("learning_rate", None, "does not hold what a L0GatedLSTM is built by"),
    ("method", {"class": "os.system"}, "`class` of `method` must be one of"),
    ("method", {"class": "Budget", "density": 0.5}, "does not hold what a L0GatedLSTM is built by"),
    ("method", 3, "does not hold what a L0GatedLSTM is built by"),
    ("dropout", torch.zeros(3), "plain hyper-parameters, got a TensorHeader"),
]


class TestSizes:
    @pytest.mark.parametrize(("name", "value", "message"), SIZES, ids=[f"{n}-{i}" for i, (n, *_) in enumerate(SIZES)])
    def test_hyper_parameters_that_the_weights_do_not_have(
        self, name: str, value: Any, message: str, content: dict[str, Any], tmp_path: Path
    ) -> None:
        content["hyper_parameters"][name] = value
        path = written(content, tmp_path)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.monotonic()
        with pytest.raises(ValueError, match=message) as caught:
            load_model(path)
        assert "\n" not in str(caught.value)
        assert time.monotonic() - started < 10
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * MIB / 1024

    def test_removed_units_do_not_make_any_size_right(self, content: dict[str, Any], tmp_path: Path) -> None:
        content["hyper_parameters"]["vocabulary_size"] = 10**9
        content["l0rnn"]["remaining"] = {"encoder.l0": torch.ones(8, dtype=torch.bool)}
        with pytest.raises(ValueError, match="more than any training removes"):
            load_model(written(content, tmp_path))

    def test_a_tensor_larger_than_what_is_stored(self, content: dict[str, Any], tmp_path: Path) -> None:
        content["l0rnn"]["remaining"] = {"encoder.l0": torch.ones(1, dtype=torch.bool).expand(10**9)}
        path = written(content, tmp_path)
        assert model_in(path) is None
        with pytest.raises(ValueError, match="not a checkpoint of L0GatedLSTM"):
            load_model(path)
        with pytest.raises(ValueError, match="larger than what is stored of it"):
            L0GatedLSTM.load_from_checkpoint(path)

    def test_zeros_that_are_packed(self, content: dict[str, Any], tmp_path: Path) -> None:
        plain = written(content, tmp_path)
        packed = tmp_path / "packed.ckpt"
        with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
            for part in source.infolist():
                target.writestr(part.filename, source.read(part))
        with pytest.raises(ValueError, match="is compressed, which torch never does"):
            read_header(packed)

    def test_widths_of_a_shrunken_model(self, shrunken: dict[str, Any], tmp_path: Path) -> None:
        layers = shrunken["hyper_parameters"]["network"]["layers"]
        for value in (10**8, 10**12, 5000):
            changed = copy.deepcopy(shrunken)
            changed["hyper_parameters"]["network"]["layers"]["decoder"]["out_features"] = value
            with pytest.raises(ValueError, match=r"out_features|does not match"):
                load_shrunken(written(changed, tmp_path))
        assert layers["decoder"]["out_features"] == 20

    @pytest.mark.parametrize("network", [None, 3, {}, {"network": "LanguageModel"}, {"network": 1, "layers": 2}])
    def test_a_shrunken_model_of_no_network(self, network: Any, shrunken: dict[str, Any], tmp_path: Path) -> None:
        shrunken["hyper_parameters"]["network"] = network
        with pytest.raises(ValueError, match="does not describe"):
            ShrunkenLanguageModel.load_from_checkpoint(written(shrunken, tmp_path))


class TestFiles:
    @pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18), b"not a checkpoint", b"\x80\x04K\x01."])
    def test_another_file(self, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / "x"
        path.write_bytes(content)
        assert model_in(path) is None
        with pytest.raises(ValueError, match="is not a checkpoint"):
            read_header(path)

    def test_a_pipe(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(FileNotFoundError):
            read_header(tmp_path / "pipe")
        assert main(["bench", str(tmp_path / "pipe"), "--seconds", "0.01"]) == 2
        assert "does not exist" in capsys.readouterr().err

    def test_a_large_file_of_another_kind_is_refused_at_once(self, tmp_path: Path) -> None:
        path = written({"state_dict": {"weight": torch.zeros(64, MIB)}}, tmp_path)  # 256 MiB
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.monotonic()
        with pytest.raises(ValueError, match="is not a checkpoint of"):
            load_model(path)
        assert time.monotonic() - started < 2
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * MIB / 1024

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_weights_that_are_not_finite(self, value: float, content: dict[str, Any], tmp_path: Path) -> None:
        content["state_dict"]["network.decoder.bias"][3] = value
        with pytest.raises(ValueError, match=r"finite weights, but 'decoder.bias' holds NaN or infinity"):
            load_model(written(content, tmp_path))

    def test_shrunken_weights_that_are_not_finite(self, shrunken: dict[str, Any], tmp_path: Path) -> None:
        shrunken["state_dict"]["network.decoder.bias"][3] = float("nan")
        with pytest.raises(ValueError, match=r"finite weights, but 'decoder.bias' holds NaN or infinity"):
            load_shrunken(written(shrunken, tmp_path))


class Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = (function, arguments)

    def __reduce__(self) -> Any:
        return self.called


def archive(description: bytes, path: Path) -> Path:
    with zipfile.ZipFile(path / "x.ckpt", "w") as file:
        file.writestr("archive/data.pkl", description)
        file.writestr("archive/data/0", bytes(16))
    return path / "x.ckpt"


class TestPickles:
    @pytest.mark.parametrize(
        "call",
        [
            Call(os.system, "exit 1"),
            Call(bytearray, 10**12),
            Call(getattr, "", "join"),
            Call(torch.zeros, 10**12),
        ],
    )
    def test_one_that_calls(self, call: Call, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="which no checkpoint of plain data does"):
            read_header(archive(pickle.dumps({"a": call}, protocol=2), tmp_path))

    @pytest.mark.parametrize(
        "description",
        [
            b"\x80\x02r\xff\xff\xff\xff.",  # a place in the memo by which the reader in C would take 30 GB
            b"\x80\x02N" + b"\x85" * 10_000 + b".",
            b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
            b"\x80\x02ctorch\nFloatStorage\n}(X\x08\x00\x00\x00itemsizeK\x00ub.",
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}(X\x08\x00\x00\x00functionK\x00ub.",
            b"\x80\x02.",
            b"\x80\x02ctorch\nload\n.",
            b"\x80\x02cbuiltins\nset\n(K\x01K\x02tR.",
        ],
    )
    def test_one_that_tricks_its_reader(self, description: bytes, tmp_path: Path) -> None:
        path = archive(description, tmp_path)
        started = time.monotonic()
        try:
            shapes_in(read_header(path))
        except ValueError:
            pass
        else:
            pytest.fail("it was taken for a checkpoint")
        assert time.monotonic() - started < 5

    def test_tensors_that_are_not_there(self, tmp_path: Path) -> None:
        stream = io.BytesIO()
        torch.save({"a": torch.zeros(100)}, stream)
        with zipfile.ZipFile(stream) as file:
            name = next(name for name in file.namelist() if name.endswith("data.pkl"))
            description = file.read(name)
        with pytest.raises(ValueError, match="it stores 16 bytes of a tensor of 100 numbers"):
            read_header(archive(description, tmp_path))


def test_all_that_a_training_saves_is_understood(tmp_path: Path) -> None:
    content = {
        "tensors": [torch.zeros(2, dtype=dtype) for dtype in (torch.bfloat16, torch.int8, torch.complex64, torch.bool)],
        "views": torch.zeros(4, 6)[1:, ::2].t(),
        "parameter": torch.nn.Parameter(torch.zeros(3)),
        "odd": [torch.float32, torch.Size([2]), torch.device("cpu"), {1}, b"bytes", torch.zeros(2, dtype=torch.uint16)],
    }
    header = read_header(written(content, tmp_path))
    assert header["views"] == TensorHeader((3, 3), 4)
    assert header["parameter"].shape == (3,)
    with pytest.raises(ValueError, match="no weights"):
        shapes_in(header)
    with pytest.raises(ValueError, match="no hyper-parameters"):
        settings_in(header)
